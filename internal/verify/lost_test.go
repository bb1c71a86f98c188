package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

const lostLine repository.Timeline = "0123456789abcdef"

// losing is a repository in which data of segments lies without manifests.
type losing struct {
	*repository.Repository
	store  *faultstore.Store
	root   repository.Key
	writer *repository.Writer
	owners []owner
	made   int
}

type owner struct {
	recipient  seal.Recipient
	identities []seal.Identity
}

func newOwner(t *testing.T) owner {
	t.Helper()
	text, recipient, err := seal.GenerateIdentity(seal.X25519)
	must(t, err)
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	identities, err := seal.ReadIdentities(file)
	must(t, err)
	return owner{recipient, identities}
}

func newLosing(t *testing.T, encryption repository.Encryption, owners int) *losing {
	t.Helper()
	w := &losing{store: faultstore.New(mem.New())}
	var recipients []seal.Recipient
	for range owners {
		w.owners = append(w.owners, newOwner(t))
		recipients = append(recipients, w.owners[len(w.owners)-1].recipient)
	}
	var err error
	w.root, err = repository.NewKey()
	must(t, err)
	w.Repository, err = repository.Init(t.Context(), w.store, w.root, encryption, recipients)
	must(t, err)
	w.writer, err = repository.OpenWriter(t.TempDir())
	must(t, err)
	must(t, w.Enroll(t.Context(), w.root, w.writer.Public(), repository.RoleBackup, "test"))
	return w
}

var came = time.Date(2026, 11, 22, 10, 0, 0, 123e6, time.UTC)

// plainSegment is a segment with two events a revision, one of them on a lease; the last revision is known by bounds alone.
func plainSegment(t *testing.T, first, last history.Revision, exact bool) ([]byte, segment.Summary) {
	t.Helper()
	b := segment.NewBuilder()
	for r := first; r <= last; r++ {
		from := came.Add(time.Duration(r-first) * time.Second)
		to := from
		if r == last && !exact {
			to = to.Add(time.Minute)
		}
		must(t, b.Add([]history.Event{
			{Revision: r, Key: fmt.Appendf(nil, "/a/%d", r), Value: []byte("one"), CreateRevision: r, Version: 1, Lease: 7},
			{Revision: r, Sub: 1, Key: []byte("/b"), Value: fmt.Append(nil, r), CreateRevision: 1, Version: int64(r)},
		}, from, to))
	}
	var out bytes.Buffer
	summary, err := b.Encode(&out, []history.Lease{{ID: 7, TTL: 60}})
	must(t, err)
	return out.Bytes(), summary
}

// sealed seals bytes to the owners.
func (w *losing) sealed(t *testing.T, plain []byte) []byte {
	t.Helper()
	to, err := w.SegmentSealTo(t.Context())
	must(t, err)
	var out bytes.Buffer
	sealer, err := seal.NewWriter(&out, seal.Options{Recipients: to})
	must(t, err)
	_, err = sealer.Write(plain)
	must(t, errors.Join(err, sealer.Close()))
	return out.Bytes()
}

// lose puts data without a manifest, and gives it as Unclaimed does.
func (w *losing) lose(t *testing.T, first history.Revision, stored []byte) repository.Unclaimed {
	t.Helper()
	w.made++
	name := fmt.Sprintf("clusters/prod/segments/%s/%020d-%016x.zst", lostLine, first, w.made)
	if w.Document().Encryption == repository.Age {
		name += ".age"
	}
	_, err := w.store.Put(t.Context(), name, bytes.NewReader(stored), store.PutOptions{})
	must(t, err)
	return w.unclaimed(t, name)
}

func (w *losing) unclaimed(t *testing.T, name string) repository.Unclaimed {
	t.Helper()
	list, err := w.Unclaimed(t.Context(), "prod")
	must(t, err)
	i := slices.IndexFunc(list, func(o repository.Unclaimed) bool { return o.Name == name })
	if i < 0 || !list[i].Segment {
		t.Fatalf("%q is not among the unclaimed: %v", name, list)
	}
	return list[i]
}

// TestLostSegment: what a manifest says of a segment is found out from the data alone, adopted once, and reads as before.
func TestLostSegment(t *testing.T) {
	for _, tt := range []struct {
		encryption repository.Encryption
		exact      bool
	}{{repository.Age, true}, {repository.Age, false}, {repository.None, true}} {
		owners := 0
		if tt.encryption == repository.Age {
			owners = 3
		}
		w := newLosing(t, tt.encryption, owners)
		plain, summary := plainSegment(t, 5, 9, tt.exact)
		stored := w.sealed(t, plain)
		object := w.lose(t, 5, stored)
		var given []seal.Identity
		var opened []string
		if owners > 0 { // two of the three that can, and one that cannot; one of them twice
			given = slices.Concat(newOwner(t).identities, w.owners[2].identities, w.owners[0].identities, w.owners[2].identities)
			opened = []string{w.owners[2].recipient.KeyID(), w.owners[0].recipient.KeyID()}
		}
		var observed bytes.Buffer
		s, problem, err := LostSegment(t.Context(), w.Repository, "prod", object, Options{Identities: given, Observe: &observed})
		must(t, err)
		lastTime := came.Add(4 * time.Second)
		if !tt.exact {
			lastTime = lastTime.Add(time.Minute)
		}
		want := repository.Segment{
			Cluster: "prod", Timeline: lostLine, First: 5, Last: 9, Events: 10, FirstTime: came, LastTime: lastTime, Exact: tt.exact, Leases: 1,
			Plain:  repository.Plain{Size: int64(len(plain)), SHA256: fmt.Sprintf("%x", summary.SHA256)},
			Object: repository.Object{Name: object.Name, Size: int64(len(stored)), SHA256: fmt.Sprintf("%x", sha256.Sum256(stored)), Encryption: tt.encryption, Recipients: opened},
		}
		if problem != "" || !reflect.DeepEqual(s, want) {
			t.Fatalf("problem %q, found\n%+v, want\n%+v", problem, s, want)
		}
		if !bytes.Equal(observed.Bytes(), stored) {
			t.Errorf("observed %d bytes of %d", observed.Len(), len(stored))
		}
		adopted, err := w.AdoptSegment(t.Context(), w.writer, s)
		must(t, err)
		read := w.Segment(t.Context(), adopted.Point())
		must(t, read.Err)
		m := read.Segment
		if m.Signer != w.writer.Public().Fingerprint() || !m.Source.Adopted || m.Session != "" || m.Level != repository.SegmentLive || m.Term != 0 ||
			!m.Started.Equal(came) || time.Since(m.Completed) > time.Minute || m.Completed.After(time.Now()) {
			t.Errorf("manifest %+v", m)
		}
		if m.Range() != s.Range() || m.Plain != s.Plain || !reflect.DeepEqual(m.Object, s.Object) || m.Events != 10 || m.Leases != 1 || m.Exact != tt.exact {
			t.Errorf("manifest %+v of %+v", m, s)
		}
		if problem, err := Segment(t.Context(), w.Repository, m, repository.LevelChecksum, Options{Identities: given}); problem != "" || err != nil {
			t.Errorf("verify: %q, %v", problem, err)
		}
		if list, err := w.Unclaimed(t.Context(), "prod"); err != nil || len(list) > 0 {
			t.Errorf("unclaimed %v, %v", list, err)
		}
		time.Sleep(2 * time.Millisecond) // within a millisecond it would be the same manifest, which does no harm
		_, err = w.AdoptSegment(t.Context(), w.writer, s)
		if taken, is := errors.AsType[*repository.Taken](err); !is || taken.Winner.Object.Name != object.Name {
			t.Errorf("adopted twice: %v", err)
		}
	}
}

// TestLostSegmentDamaged: what is no whole segment is told, and is no error; nothing is believed of it.
func TestLostSegmentDamaged(t *testing.T) {
	w := newLosing(t, repository.Age, 1)
	plain, _ := plainSegment(t, 5, 9, true)
	good := w.sealed(t, plain)
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	newer := bytes.Clone(plain)
	newer[7] = 9
	for name, tt := range map[string]struct {
		first  history.Revision
		stored []byte
		want   string
	}{
		"empty":                  {5, nil, "is empty"},
		"cut in the header":      {5, good[:40], ""},
		"cut in the data":        {5, good[:len(good)-20], ""},
		"a bit of the header":    {5, flipped(good, 3), ""},
		"a bit of the data":      {5, flipped(good, len(good)-10), ""},
		"more at the end":        {5, append(bytes.Clone(good), 0), ""},
		"not encrypted":          {5, plain, ""},
		"no segment":             {5, w.sealed(t, []byte("something else")), "it does not start as a segment"},
		"nothing in it":          {5, w.sealed(t, nil), ""},
		"a segment cut off":      {5, w.sealed(t, plain[:len(plain)-1]), ""},
		"a segment and more":     {5, w.sealed(t, append(bytes.Clone(plain), 0)), ""},
		"a bit of the segment":   {5, w.sealed(t, flipped(plain, len(plain)/2)), ""},
		"a newer segment":        {5, w.sealed(t, newer), "newer format"},
		"another first revision": {6, good, "named by revision 6 and holds 5-9"},
		"much out of little":     {5, w.sealed(t, make([]byte, 64<<20)), "unpacks to more than"},
	} {
		object := w.lose(t, tt.first, tt.stored)
		_, problem, err := LostSegment(t.Context(), w.Repository, "prod", object, Options{Identities: w.owners[0].identities})
		if err != nil || problem == "" || !strings.Contains(problem, tt.want) || strings.Contains(problem, "/a/") {
			t.Errorf("%s: problem %q, error %v", name, problem, err)
		}
	}
	object := w.lose(t, 5, good)
	if _, problem, err := LostSegment(t.Context(), w.Repository, "prod", object, Options{Identities: newOwner(t).identities}); err != nil || !strings.Contains(problem, "encrypted to other keys") {
		t.Errorf("another key: problem %q, error %v", problem, err)
	}
	if _, problem, err := LostSegment(t.Context(), w.Repository, "prod", object, Options{}); err != nil || problem == "" {
		t.Errorf("no key: problem %q, error %v", problem, err)
	}
	for _, name := range []string{
		"clusters/prod/segments/" + string(lostLine) + "/junk", strings.TrimSuffix(object.Name, ".age"),
		strings.Replace(object.Name, "prod", "other", 1), strings.Replace(object.Name, "/0000", "/000", 1),
	} {
		if _, problem, err := LostSegment(t.Context(), w.Repository, "prod", repository.Unclaimed{Name: name, Segment: true}, Options{Identities: w.owners[0].identities}); err != nil || problem == "" {
			t.Errorf("%s: problem %q, error %v", name, problem, err)
		}
	}
	// A store that does not answer says nothing about the data, whenever that is.
	for skip := range 3 {
		w.store.Add(faultstore.Fault{On: faultstore.Open, Name: object.Name, Skip: skip})
		if _, problem, err := LostSegment(t.Context(), w.Repository, "prod", object, Options{Identities: w.owners[0].identities}); problem != "" || !errors.Is(err, faultstore.ErrInjected) {
			t.Errorf("call %d of the store failed: problem %q, error %v", skip, problem, err)
		}
		w.store.Clear()
		w.store.Add(faultstore.Fault{On: faultstore.Open, Name: object.Name, Skip: skip, Do: faultstore.Cut, At: 100})
		if _, problem, err := LostSegment(t.Context(), w.Repository, "prod", object, Options{Identities: w.owners[0].identities}); problem != "" || !errors.Is(err, faultstore.ErrInjected) {
			t.Errorf("call %d of the store was cut: problem %q, error %v", skip, problem, err)
		}
		w.store.Clear()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, problem, err := LostSegment(ctx, w.Repository, "prod", object, Options{Identities: w.owners[0].identities}); problem != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("ended: problem %q, error %v", problem, err)
	}
	// What is gone by now is told.
	must(t, w.store.Delete(t.Context(), object.Name))
	if _, problem, err := LostSegment(t.Context(), w.Repository, "prod", object, Options{Identities: w.owners[0].identities}); err != nil || problem == "" {
		t.Errorf("gone: problem %q, error %v", problem, err)
	}
}

// TestAdoptSegmentRefused: a place that is taken stays what it is, and a key that may not sign takes none.
func TestAdoptSegmentRefused(t *testing.T) {
	w := newLosing(t, repository.None, 0)
	// Nobody can read what is encrypted where nothing should be.
	foreign := newLosing(t, repository.Age, 1)
	if _, problem, err := LostSegment(t.Context(), w.Repository, "prod", w.lose(t, 1, foreign.sealed(t, []byte("x"))), Options{}); err != nil || problem == "" {
		t.Errorf("encrypted: problem %q, error %v", problem, err)
	}
	find := func(object repository.Unclaimed) repository.Segment {
		t.Helper()
		s, problem, err := LostSegment(t.Context(), w.Repository, "prod", object, Options{})
		if err != nil || problem != "" {
			t.Fatal(problem, err)
		}
		return s
	}
	long, _ := plainSegment(t, 5, 9, true)
	short, _ := plainSegment(t, 5, 6, true)
	first, second := find(w.lose(t, 5, w.sealed(t, long))), find(w.lose(t, 5, w.sealed(t, short)))
	stranger, err := repository.OpenWriter(t.TempDir())
	must(t, err)
	if _, err := w.AdoptSegment(t.Context(), stranger, first); !errors.Is(err, repository.ErrNotEnrolled) {
		t.Errorf("a key that may not: %v", err)
	}
	before, err := w.AdoptSegment(t.Context(), w.writer, first)
	must(t, err)
	_, err = w.AdoptSegment(t.Context(), w.writer, second)
	if taken, is := errors.AsType[*repository.Taken](err); !is || taken.Winner.Last != 9 {
		t.Errorf("a place that is taken: %v", err)
	}
	if after := w.Segment(t.Context(), before.Point()); after.Err != nil || !reflect.DeepEqual(after.Segment, before) {
		t.Errorf("%+v, %v", after.Segment, after.Err)
	}
	// Something that nobody can believe keeps the place for good.
	other, _ := plainSegment(t, 20, 21, true)
	lost := find(w.lose(t, 20, w.sealed(t, other)))
	_, err = w.store.Put(t.Context(), fmt.Sprintf("clusters/prod/archive/%s/0/%020d.json", lostLine, 20), strings.NewReader("{}\n{}\n"), store.PutOptions{})
	must(t, err)
	if _, err := w.AdoptSegment(t.Context(), w.writer, lost); !errors.Is(err, repository.ErrForged) {
		t.Errorf("a forged one in its place: %v", err)
	}
	// A clock that went back: it was not begun after it was completed.
	b := segment.NewBuilder()
	later := time.Now().Add(time.Hour)
	must(t, b.Add([]history.Event{{Revision: 30, Key: []byte("k"), CreateRevision: 30, Version: 1}}, later, later))
	var out bytes.Buffer
	_, err = b.Encode(&out, nil)
	must(t, err)
	s, err := w.AdoptSegment(t.Context(), w.writer, find(w.lose(t, 30, w.sealed(t, out.Bytes()))))
	if err != nil || s.Started.After(s.Completed) {
		t.Errorf("from the future: %+v, %v", s, err)
	}
	// Data that went meanwhile is not adopted in silence.
	at40, _ := plainSegment(t, 40, 40, true)
	object := w.lose(t, 40, w.sealed(t, at40))
	gone := find(object)
	must(t, w.store.Delete(t.Context(), object.Name))
	if _, err := w.AdoptSegment(t.Context(), w.writer, gone); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("gone: %v", err)
	}
}
