package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
)

func TestRoundTrip(t *testing.T) {
	for _, encryption := range []Encryption{Age, None} {
		t.Run(string(encryption), func(t *testing.T) {
			w := newWorld(t, encryption)
			first := w.add(t, "prod", backend(t, 0))
			second, err := w.tryAdd(t.Context(), "prod", first.Timeline, backend(t, 1))
			must(t, err)
			if first.Sequence != 1 || second.Sequence != 2 || second.Previous == "" || first.Previous != "" || first.ID == second.ID {
				t.Errorf("numbering %d %q, %d %q", first.Sequence, first.Previous, second.Sequence, second.Previous)
			}
			r := w.again(t)
			points, strange, err := r.Points(t.Context(), "prod")
			must(t, err)
			if len(points) != 2 || len(strange) != 0 || points[0] != first.Point() || points[1] != second.Point() {
				t.Fatalf("points %+v, strange %v", points, strange)
			}
			for i, want := range []Manifest{first, second} {
				m, err := r.Manifest(t.Context(), points[i])
				must(t, err)
				if diff := cmp.Diff(want, m); diff != "" {
					t.Errorf("manifest (-stored +read):\n%s", diff)
				}
				var got bytes.Buffer
				info, index, err := r.Fetch(t.Context(), m, w.identity, &got, nil)
				must(t, err)
				if !bytes.Equal(got.Bytes(), backend(t, i)) || ContentOf(info) != want.Content || index == nil {
					t.Errorf("snapshot %d: %d bytes of %d", i, got.Len(), len(backend(t, i)))
				}
				must(t, r.CheckStored(t.Context(), m, nil))
				must(t, r.CheckListed(t.Context(), m))
			}
			result, _, err := r.Check(t.Context(), nil)
			must(t, err)
			if result.Snapshots != 2 || result.Unclaimed != 0 || len(result.Problems) != 0 || result.Bytes != first.Object.Size+second.Object.Size {
				t.Errorf("check %+v", result)
			}
			for text, want := range map[string]Point{"latest": points[1], first.ID.Long(): points[0], second.ID.String(): points[1]} {
				if got, err := r.Find(t.Context(), "prod", text); err != nil || got != want {
					t.Errorf("find %q: %+v, %v", text, got, err)
				}
			}
			if _, err := r.Find(t.Context(), "prod", "2020-01-01T00:00:00Z"); !errors.Is(err, ErrNoPoint) {
				t.Errorf("find nothing: %v", err)
			}
		})
	}
}

// TestNothingSecretInPlainSight looks for what the cluster holds in everything that is stored.
func TestNothingSecretInPlainSight(t *testing.T) {
	w := newWorld(t, Age)
	w.add(t, "prod", backend(t, 1))
	for _, name := range w.names(t) {
		if content := w.read(t, name); bytes.Contains(content, []byte("registry")) || strings.Contains(name, "registry") {
			t.Errorf("object %q shows a key", name)
		}
	}
}

func TestOnlyTheRightKeyReads(t *testing.T) {
	w := newWorld(t, Age)
	m := w.add(t, "prod", backend(t, 0))
	text, _, err := seal.GenerateIdentity(seal.X25519)
	must(t, err)
	other, err := seal.ReadIdentities(writeFile(t, text))
	must(t, err)
	var got bytes.Buffer
	if _, _, err := w.Fetch(t.Context(), m, other, &got, nil); !errors.Is(err, seal.ErrNoIdentity) || errors.Is(err, ErrDamaged) || got.Len() > 0 {
		t.Errorf("another key: %v, %d bytes", err, got.Len())
	}
	must(t, w.CheckStored(t.Context(), m, nil)) // what is stored can be checked without
}

func TestInitRefuses(t *testing.T) {
	w := newWorld(t, None)
	if _, err := Init(t.Context(), w.store, w.root, None, nil); !errors.Is(err, store.ErrExists) {
		t.Errorf("a second repository: %v", err)
	}
	if _, err := Init(t.Context(), overwriting{w.store}, w.root, None, nil); err == nil {
		t.Error("over a store that has one")
	}
	fresh := newWorld(t, None)
	for _, name := range fresh.names(t) {
		must(t, fresh.store.Delete(t.Context(), name))
	}
	if _, err := Init(t.Context(), overwriting{fresh.store}, w.root, None, nil); err == nil || !strings.Contains(err.Error(), "put if absent") {
		t.Errorf("a store that overwrites: %v", err)
	}
	if contains(fresh.names(t), documentName) {
		t.Error("a refused init left a repository")
	}
}

// overwriting is a store that ignores the condition of a put.
type overwriting struct{ store.Store }

func (s overwriting) Put(ctx context.Context, name string, content io.Reader, o store.PutOptions) (store.Object, error) {
	if err := s.Store.(store.Deleter).Delete(ctx, name); err != nil {
		return store.Object{}, err
	}
	return s.Store.Put(ctx, name, content, o)
}

func TestOpenTrusts(t *testing.T) {
	w := newWorld(t, None)
	if _, err := Open(t.Context(), w.store, ""); err != nil {
		t.Errorf("first use: %v", err)
	}
	if _, err := Open(t.Context(), w.store, Fingerprint(strings.Repeat("0", 64))); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another root key: %v", err)
	}
	good := w.read(t, documentName)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		w.replace(t, documentName, bad)
		if _, err := Open(t.Context(), w.store, w.Root()); err == nil {
			t.Fatalf("a flipped bit in byte %d of %d passes:\n%s", i, len(good), bad)
		}
	}
	for cut := range good {
		w.replace(t, documentName, good[:cut])
		if _, err := Open(t.Context(), w.store, w.Root()); err == nil {
			t.Fatalf("cut at byte %d of %d it passes", cut, len(good))
		}
	}
	w.replace(t, documentName, nil)
	if _, err := Open(t.Context(), w.store, w.Root()); !errors.Is(err, ErrNoRepository) {
		t.Errorf("nothing there: %v", err)
	}
	newer := w.document
	newer.Format = "holdfast-repository/2"
	signed, err := sign(newer, w.root)
	must(t, err)
	w.replace(t, documentName, signed)
	if _, err := Open(t.Context(), w.store, w.Root()); err == nil || !strings.Contains(err.Error(), `"holdfast-repository/2"`) {
		t.Errorf("a newer format: %v", err)
	}
}

// TestManifestIsBelievedOnlyWhole flips every bit position of one manifest, a byte at a time.
func TestManifestIsBelievedOnlyWhole(t *testing.T) {
	w := newWorld(t, None)
	m := w.add(t, "prod", backend(t, 0))
	name := m.Point().manifestName()
	good := w.read(t, name)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 4
		w.replace(t, name, bad)
		if _, err := w.Manifest(t.Context(), m.Point()); err == nil {
			t.Fatalf("a flipped bit in byte %d passes:\n%s", i, bad)
		}
	}
	w.replace(t, name, append(bytes.Clone(good), '\n'))
	if _, err := w.Manifest(t.Context(), m.Point()); !errors.Is(err, ErrForged) {
		t.Errorf("a line more: %v", err)
	}
}

// TestForgery is done by somebody who may write everything in the store and has no key.
func TestForgery(t *testing.T) {
	w := newWorld(t, None)
	first := w.add(t, "prod", backend(t, 0))
	other := w.add(t, "test", backend(t, 1))
	signed := w.read(t, first.Point().manifestName())

	t.Run("signed by a stranger", func(t *testing.T) {
		stranger, err := NewKey()
		must(t, err)
		forged := first
		forged.Signer, forged.Content.Revision = stranger.Public().Fingerprint(), 1000
		text, err := sign(forged, stranger)
		must(t, err)
		w.replace(t, forged.Point().manifestName(), text)
		defer w.replace(t, forged.Point().manifestName(), nil)
		if _, err := w.Manifest(t.Context(), forged.Point()); !errors.Is(err, ErrForged) || !errors.Is(err, ErrNotEnrolled) {
			t.Errorf("without enrolment: %v", err)
		}
		self, err := sign(Enrolment{Format: signerFormat, Repository: w.document.Repository, Key: stranger.Public(), Role: RoleBackup, Name: "me"}, stranger)
		must(t, err)
		w.replace(t, signerName(stranger.Public().Fingerprint(), RoleBackup), self)
		defer w.replace(t, signerName(stranger.Public().Fingerprint(), RoleBackup), nil)
		if _, err := w.again(t).Manifest(t.Context(), forged.Point()); !errors.Is(err, ErrForged) {
			t.Errorf("enrolled by itself: %v", err)
		}
	})
	t.Run("an old manifest under another name", func(t *testing.T) {
		moved := first.Point()
		moved.Last += 1000
		w.replace(t, moved.manifestName(), signed)
		defer w.replace(t, moved.manifestName(), nil)
		if _, err := w.Manifest(t.Context(), moved); !errors.Is(err, ErrForged) {
			t.Errorf("another revision: %v", err)
		}
		moved = first.Point()
		moved.Cluster = "test"
		w.replace(t, moved.manifestName(), signed)
		defer w.replace(t, moved.manifestName(), nil)
		if _, err := w.Manifest(t.Context(), moved); !errors.Is(err, ErrForged) {
			t.Errorf("another cluster: %v", err)
		}
	})
	t.Run("of another repository", func(t *testing.T) {
		stranger := newWorld(t, None)
		m := stranger.add(t, "prod", backend(t, 0))
		w.replace(t, m.Point().manifestName(), stranger.read(t, m.Point().manifestName()))
		defer w.replace(t, m.Point().manifestName(), nil)
		enrolment := signerName(m.Signer, RoleBackup)
		w.replace(t, enrolment, stranger.read(t, enrolment))
		defer w.replace(t, enrolment, nil)
		if _, err := w.again(t).Manifest(t.Context(), m.Point()); !errors.Is(err, ErrForged) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("swapped data", func(t *testing.T) {
		a, b := w.read(t, first.Object.Name), w.read(t, other.Object.Name)
		w.replace(t, first.Object.Name, b)
		defer w.replace(t, first.Object.Name, a)
		var got bytes.Buffer
		if _, _, err := w.Fetch(t.Context(), first, nil, &got, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("got %v", err)
		}
		if err := w.CheckStored(t.Context(), first, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("stored: %v", err)
		}
	})
}

// TestDamagedData cuts, flips and lengthens the data of one snapshot, at many places.
func TestDamagedData(t *testing.T) {
	for _, encryption := range []Encryption{Age, None} {
		w := newWorld(t, encryption)
		m := w.add(t, "prod", backend(t, 0))
		good := w.read(t, m.Object.Name)
		try := func(what string, bad []byte) {
			t.Helper()
			w.replace(t, m.Object.Name, bad)
			if _, _, err := w.Fetch(t.Context(), m, w.identity, new(bytes.Buffer), nil); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s, %s: %v", encryption, what, err)
			}
			if err := w.CheckStored(t.Context(), m, nil); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s, %s, stored: %v", encryption, what, err)
			}
		}
		for i := 0; i < len(good); i += 1 + len(good)/50 {
			bad := bytes.Clone(good)
			bad[i] ^= 0x10
			try(fmt.Sprintf("flip at %d", i), bad)
			try(fmt.Sprintf("cut at %d", i), good[:i])
		}
		try("a byte more", append(bytes.Clone(good), 0))
		// A manifest that is wrong about the size gets no more written than it says.
		w.replace(t, m.Object.Name, good)
		for _, size := range []int64{1, m.Content.Size - 4096, m.Content.Size - 1, m.Content.Size + 4096} {
			wrong := m
			wrong.Content.Size = size
			var got bytes.Buffer
			if _, _, err := w.Fetch(t.Context(), wrong, w.identity, &got, nil); err == nil || int64(got.Len()) > size {
				t.Errorf("%s, a size of %d in the manifest: %d bytes were written, %v", encryption, size, got.Len(), err)
			}
		}
		w.replace(t, m.Object.Name, nil)
		if _, _, err := w.Fetch(t.Context(), m, w.identity, new(bytes.Buffer), nil); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s, gone: %v", encryption, err)
		}
		result, _, err := w.Check(t.Context(), nil)
		must(t, err)
		if len(result.Problems) != 1 || !strings.Contains(result.Problems[0], m.Object.Name) {
			t.Errorf("check says %q", result.Problems)
		}
	}
}

func TestMissingManifestShows(t *testing.T) {
	w := newWorld(t, None)
	var all []Manifest
	for range 4 {
		all = append(all, w.add(t, "prod", backend(t, 0)))
	}
	name := func(i int) string { return all[i].Point().manifestName() }
	problems := func() []string {
		t.Helper()
		result, _, err := w.again(t).Check(t.Context(), nil)
		must(t, err)
		return result.Problems
	}
	if got := problems(); len(got) != 0 {
		t.Fatalf("before: %q", got)
	}
	kept := w.read(t, name(1))
	w.replace(t, name(1), nil)
	if got := problems(); len(got) != 1 || !strings.Contains(got[0], "manifest number 2: it is missing") {
		t.Errorf("one removed: %q", got)
	}
	second := w.read(t, name(2))
	w.replace(t, name(2), nil)
	if got := problems(); len(got) != 1 || !strings.Contains(got[0], "number 2: it and those up to 3 are missing") {
		t.Errorf("two removed: %q", got)
	}
	w.replace(t, name(1), kept)
	w.replace(t, name(2), second)
	if got := problems(); len(got) != 0 {
		t.Errorf("put back: %q", got)
	}
	// The key signs a second manifest of the same number: a copy of its state was used.
	doubled := all[3]
	doubled.ID = newID(doubled.ID.Time)
	doubled.Object.Name = dataName("prod", doubled.ID, false)
	signed, err := sign(doubled, w.writer.key)
	must(t, err)
	w.replace(t, doubled.Point().manifestName(), signed)
	if got := problems(); len(got) != 2 { // and its data is not there
		t.Errorf("doubled: %q", got)
	}
}

func TestUploadGivenUp(t *testing.T) {
	w := newWorld(t, Age)
	before := w.names(t)
	upload, err := w.Upload(t.Context(), "prod", UploadOptions{})
	must(t, err)
	_, err = upload.Write(backend(t, 0))
	must(t, err)
	upload.Abort()
	upload.Abort() // twice is as good
	if _, err := upload.Publish(t.Context(), w.writer, Manifest{}); err == nil {
		t.Error("an upload that was given up was published")
	}
	if diff := cmp.Diff(before, w.names(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	upload, err = w.Upload(ctx, "prod", UploadOptions{})
	must(t, err)
	cancel()
	_, writeErr := upload.Write(bytes.Repeat([]byte{1}, 32<<20))
	if err := errors.Join(writeErr, upload.Finish()); err == nil {
		t.Error("an upload ended well after its context had ended")
	}
	if diff := cmp.Diff(before, w.names(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// lostAnswer is a store whose put of a manifest works and then gives an error, as when the connection breaks.
type lostAnswer struct {
	store.Store
	lose bool
}

func (s *lostAnswer) Put(ctx context.Context, name string, content io.Reader, o store.PutOptions) (store.Object, error) {
	object, err := s.Store.Put(ctx, name, content, o)
	if s.lose && strings.Contains(name, manifestPart) && err == nil {
		s.lose = false
		return store.Object{}, errors.New("connection reset by peer")
	}
	return object, err
}

// TestNumberingSurvives is about what a writer knows of its own manifests after a crash or a loss.
func TestNumberingSurvives(t *testing.T) {
	w := newWorld(t, None)
	w.add(t, "prod", backend(t, 0))
	headFile := filepath.Join(w.dir, w.document.Repository+".json")
	one, err := os.ReadFile(headFile)
	must(t, err)
	w.add(t, "test", backend(t, 0))

	// The process died between the put and the record of it: the pending manifest counts.
	var h head
	must(t, json.Unmarshal(one, &h))
	reads, err := w.Manifests(t.Context(), pointsOf(t, w, "test"))
	must(t, err)
	h.Pending = &pending{Name: reads[0].Point.manifestName(), SHA256: reads[0].SHA256}
	must(t, w.writer.saveHead(w.Repository, h))
	if m := w.add(t, "prod", backend(t, 0)); m.Sequence != 3 || m.Previous != reads[0].SHA256 {
		t.Errorf("after a crash behind the put: number %d", m.Sequence)
	}
	// It died before the put: the pending one does not count.
	h = head{Sequence: 3, SHA256: last(t, w).SHA256, Pending: &pending{Name: "clusters/prod/manifests/none", SHA256: "0"}}
	must(t, w.writer.saveHead(w.Repository, h))
	if m := w.add(t, "prod", backend(t, 0)); m.Sequence != 4 {
		t.Errorf("after a crash before the put: number %d", m.Sequence)
	}
	must(t, os.Remove(headFile))
	if m := w.add(t, "prod", backend(t, 0)); m.Sequence != 5 {
		t.Errorf("without its file: number %d", m.Sequence)
	}
	flaky := &lostAnswer{Store: w.store, lose: true}
	w.Repository, err = Open(t.Context(), flaky, w.Root())
	must(t, err)
	_, err = w.tryAdd(t.Context(), "prod", "", backend(t, 0))
	if m := w.add(t, "prod", backend(t, 0)); m.Sequence != 7 {
		t.Errorf("after a lost answer (%v): number %d", err, m.Sequence)
	}
	result, _, err := w.Check(t.Context(), nil)
	must(t, err)
	if len(result.Problems) > 0 {
		t.Errorf("check: %q", result.Problems)
	}
}

func TestClustersAreInOrder(t *testing.T) {
	w := newWorld(t, None)
	want := []string{"a", "a-b", "a.b", "a0", "b"}
	for _, name := range []string{"b", "a0", "a-b", "a", "a.b"} {
		w.add(t, name, backend(t, 0))
	}
	got, err := w.Clusters(t.Context())
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("clusters (-want +got):\n%s", diff)
	}
}

func pointsOf(t *testing.T, w *world, cluster string) []Point {
	t.Helper()
	points, _, err := w.Points(t.Context(), cluster)
	must(t, err)
	return points
}

// last gives the manifest with the highest number of cluster prod.
func last(t *testing.T, w *world) Read {
	t.Helper()
	reads, err := w.Manifests(t.Context(), pointsOf(t, w, "prod"))
	must(t, err)
	found := reads[0]
	for _, read := range reads {
		if read.Manifest.Sequence > found.Manifest.Sequence {
			found = read
		}
	}
	return found
}

// TestWritersAtOnce lets several processes of one host, each with its own view of the folder, publish at the same time.
func TestWritersAtOnce(t *testing.T) {
	w := newWorld(t, None)
	backend(t, 0)
	var group sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		group.Go(func() {
			writer, err := OpenWriter(w.dir)
			if err != nil {
				errs[i] = err
				return
			}
			own := *w
			own.writer = writer
			_, errs[i] = own.tryAdd(t.Context(), fmt.Sprintf("c%d", i%2), "", backend(t, 0))
		})
	}
	group.Wait()
	must(t, errors.Join(errs...))
	result, _, err := w.Check(t.Context(), nil)
	must(t, err)
	if result.Snapshots != len(errs) || result.Clusters != 2 || len(result.Problems) > 0 {
		t.Errorf("check %+v", result)
	}
}

func TestWriterKeyIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "signer")
	w, err := OpenWriter(dir)
	must(t, err)
	again, err := OpenWriter(dir)
	must(t, err)
	if again.Public().Fingerprint() != w.Public().Fingerprint() {
		t.Error("the second time it is another key")
	}
	info, err := os.Stat(w.KeyFile())
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	must(t, os.Chmod(w.KeyFile(), 0o644))
	if _, err := OpenWriter(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
	must(t, os.Chmod(w.KeyFile(), 0o600))
	text, err := os.ReadFile(w.KeyFile())
	must(t, err)
	must(t, os.WriteFile(w.KeyFile(), text[:len(text)/2], 0o600))
	if _, err := OpenWriter(dir); err == nil || strings.Contains(err.Error(), string(text[30:60])) {
		t.Errorf("half a key: %v", err)
	}
}

func TestEnrollNeedsTheRootKey(t *testing.T) {
	w := newWorld(t, None)
	other, err := NewKey()
	must(t, err)
	if err := w.Enroll(t.Context(), other, other.Public(), RoleBackup, "me"); err == nil {
		t.Error("a stranger enrolled itself")
	}
	must(t, w.Enroll(t.Context(), w.root, w.writer.Public(), RoleBackup, "again"))
	if err := w.Enroll(t.Context(), w.root, w.writer.Public(), "boss", "me"); err == nil {
		t.Error("an unknown role passes")
	}
	w.replace(t, signersFolder+"rubbish.json", []byte("rubbish"))
	signers, strange, err := w.Signers(t.Context())
	must(t, err)
	if len(signers) != len(Roles()) || signers[0].Enrolment.Name != "test" || len(strange) != 1 {
		t.Errorf("signers %+v, strange %q", signers, strange)
	}
}

func TestTrustFolder(t *testing.T) {
	p := TrustFolder{Dir: filepath.Join(t.TempDir(), "trust")}
	if _, found, err := p.Get("file:///a"); found || err != nil {
		t.Errorf("nothing yet: %v, %v", found, err)
	}
	want := Trust{Location: "file:///a", Repository: "id", Root: Fingerprint(strings.Repeat("a", 64))}
	must(t, p.Set(want))
	if got, found, err := p.Get("file:///a"); got != want || !found || err != nil {
		t.Errorf("got %+v, %v, %v", got, found, err)
	}
	must(t, os.WriteFile(p.File("file:///a"), []byte("{}"), 0o600))
	if _, _, err := p.Get("file:///a"); err == nil {
		t.Error("a damaged pin passes")
	}
}

// FuzzManifest gives readers whatever a store might.
func FuzzManifest(f *testing.F) {
	f.Add([]byte("{}\n{}\n"))
	f.Add([]byte(`{"format":"holdfast-manifest/1"}` + "\n" + `{"signer":"` + strings.Repeat("0", 64) + `","signature":""}` + "\n"))
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, signed []byte) {
		line, signature, err := split(signed)
		if err == nil && verify(line, signature, key.Public()) == nil {
			t.Errorf("a signature that nobody made passes: %q", signed)
		}
		_, _ = parsePoint(string(signed))
	})
}
