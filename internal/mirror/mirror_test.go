package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const line repository.Timeline = "0123456789abcdef"

// began is when the first revision came about: yesterday, so that it can be merged.
var began = time.Now().UTC().Truncate(24 * time.Hour).Add(-12 * time.Hour)

// site is a repository with its keys.
type site struct {
	*repository.Repository
	store    *faultstore.Store
	root     repository.Key
	writer   *repository.Writer
	identity []seal.Identity
}

func newSite(t testing.TB, encryption repository.Encryption) *site {
	t.Helper()
	s := &site{store: faultstore.New(mem.New())}
	var err error
	s.root, err = repository.NewKey()
	must(t, err)
	var owners []seal.Recipient
	if encryption == repository.Age {
		text, recipient, err := seal.GenerateIdentity(seal.X25519)
		must(t, err)
		file := filepath.Join(t.TempDir(), "key")
		must(t, os.WriteFile(file, []byte(text), 0o600))
		s.identity, err = seal.ReadIdentities(file)
		must(t, err)
		owners = append(owners, recipient)
	}
	s.Repository, err = repository.Init(t.Context(), s.store, s.root, encryption, owners)
	must(t, err)
	s.writer = s.newWriter(t, repository.RoleBackup, repository.RolePrune)
	return s
}

func (s *site) newWriter(t testing.TB, roles ...repository.Role) *repository.Writer {
	t.Helper()
	w, err := repository.OpenWriter(t.TempDir())
	must(t, err)
	for _, role := range roles {
		must(t, s.Enroll(t.Context(), s.root, w.Public(), role, "test"))
	}
	return w
}

// live stores a segment of some revisions of the cluster, whose values are text and the revision.
func (s *site) live(t testing.TB, first, last history.Revision, text string) repository.Segment {
	t.Helper()
	b := segment.NewBuilder()
	for r := first; r <= last; r++ {
		came := began.Add(time.Duration(r) * time.Second)
		must(t, b.Add([]history.Event{{Revision: r, Key: fmt.Appendf(nil, "/k%d", r%5), Value: fmt.Appendf(nil, "%s %d", text, r), CreateRevision: 1, Version: int64(r)}}, came, came))
	}
	to, err := s.SegmentSealTo(t.Context())
	must(t, err)
	var ids []string
	for _, r := range to {
		ids = append(ids, r.KeyID())
	}
	var out bytes.Buffer
	sealer, err := seal.NewWriter(&out, seal.Options{Recipients: to})
	must(t, err)
	summary, err := b.Encode(sealer, nil)
	must(t, errors.Join(err, sealer.Close()))
	sum := sha256.Sum256(out.Bytes())
	m := repository.Segment{
		Cluster: "prod", Timeline: line, First: first, Last: last, Events: summary.Events, Exact: true, Term: 5, Session: repository.NewSession(),
		FirstTime: began.Add(time.Duration(first) * time.Second), LastTime: began.Add(time.Duration(last) * time.Second),
		Plain:   repository.Plain{Size: summary.Size, SHA256: hex.EncodeToString(summary.SHA256[:])},
		Started: time.Now().Add(-3 * time.Hour), Completed: time.Now().Add(-3 * time.Hour),
	}
	m.Object, err = s.NewSegmentData("prod", line, first, ids)
	must(t, err)
	m.Object.Size, m.Object.SHA256 = int64(out.Len()), hex.EncodeToString(sum[:])
	m.Object, err = s.PutSegmentData(t.Context(), m.Object, bytes.NewReader(out.Bytes()), time.Time{})
	must(t, err)
	m, err = s.PublishSegment(t.Context(), s.writer, m)
	must(t, err)
	return m
}

// lives stores so many segments of two revisions, from revision 2 on.
func (s *site) lives(t testing.TB, n int) (list []repository.Segment) {
	t.Helper()
	for i := range n {
		first := history.Revision(2 + 2*i)
		list = append(list, s.live(t, first, first+1, "value"))
	}
	return list
}

// merged merges segments into one of a level.
func (s *site) merged(t testing.TB, level int, inputs ...repository.Segment) repository.Segment {
	t.Helper()
	result, err := merge.Run(t.Context(), s.Repository, s.writer, merge.Merge{Level: level, Period: began, Inputs: inputs}, merge.Options{Identities: s.identity, Dir: t.TempDir()})
	must(t, err)
	return result.Segment
}

// copyTo copies everything, with the writer of the second site.
func (s *site) copyTo(t testing.TB, to *site, change ...func(*Options)) (Copied, []error, error) {
	t.Helper()
	o := Options{From: s.Repository, To: to.Repository, Cluster: "prod", As: "prod"}
	for _, c := range change {
		c(&o)
	}
	copied, bad, err := Archive(t.Context(), to.writer, o)
	if len(copied) == 0 {
		return Copied{}, bad, err
	}
	return copied[0], bad, err
}

// good is copyTo of which nothing is bad.
func (s *site) good(t testing.TB, to *site, change ...func(*Options)) Copied {
	t.Helper()
	copied, bad, err := s.copyTo(t, to, change...)
	must(t, errors.Join(append(bad, err)...))
	return copied
}

// points lists the segments.
func (s *site) points(t testing.TB, cluster string) (list []string) {
	t.Helper()
	points, strange, err := s.SegmentPoints(t.Context(), cluster, "")
	must(t, err)
	if len(strange) > 0 {
		t.Errorf("strange: %q", strange)
	}
	for _, p := range points {
		list = append(list, fmt.Sprintf("%d/%d-%d", p.Level, p.First, p.Last))
	}
	return list
}

// events reads the top segments of a cluster, as a restore would.
func (s *site) events(t testing.TB, cluster string, identities []seal.Identity) (list []string) {
	t.Helper()
	segments, strays, err := merge.Look(t.Context(), s.Repository, cluster)
	must(t, errors.Join(append(strays, err)...))
	for _, m := range merge.Tops(segments) {
		content, err := s.OpenSegment(t.Context(), m, identities)
		must(t, err)
		reader, err := segment.NewReader(content, m.Plain.Size)
		must(t, err)
		for {
			e, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			list = append(list, fmt.Sprintf("%06d %s=%s", e.Revision, e.Key, e.Value))
		}
		must(t, content.Close())
	}
	slices.Sort(list)
	return list
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// object reads an object as it is stored.
func (s *site) object(t testing.TB, name string) []byte {
	t.Helper()
	body, err := s.store.Open(t.Context(), name, 0, -1)
	must(t, err)
	content, err := io.ReadAll(body)
	must(t, errors.Join(err, body.Close()))
	return content
}

// replace puts other bytes in the place of an object, as somebody with all rights to the store could.
func (s *site) replace(t testing.TB, name string, content []byte) {
	t.Helper()
	must(t, s.store.Delete(t.Context(), name))
	if content != nil {
		_, err := store.PutBytes(t.Context(), s.store, name, content, store.PutOptions{})
		must(t, err)
	}
}

func damage(content []byte) []byte {
	content = bytes.Clone(content)
	content[len(content)/2] ^= 1
	return content
}

// TestVerbatim: the stored bytes are the same, no key is needed, the manifest says where it is from; the second time nothing is
// copied, and afterwards only what is new. A merged segment comes on top.
func TestVerbatim(t *testing.T) {
	a, b := newSite(t, repository.Age), newSite(t, repository.Age)
	lives := a.lives(t, 20)
	got := a.good(t, b)
	equal(t, "copied", got, Copied{Timeline: line, Segments: 20, Bytes: got.Bytes, Last: 41})
	for _, s := range lives {
		read := b.Segment(t.Context(), s.Point())
		must(t, read.Err)
		m := read.Segment
		original := a.Segment(t.Context(), s.Point())
		equal(t, "copied", m.Source.Copied, &repository.Copied{Repository: a.Document().Repository, Manifest: original.SHA256, Signer: a.writer.Public().Fingerprint()})
		if m.Signer != b.writer.Public().Fingerprint() || m.Session != "" || m.Repository != b.Document().Repository {
			t.Errorf("manifest of the copy: %+v", m)
		}
		if !bytes.Equal(a.object(t, s.Object.Name), b.object(t, m.Object.Name)) {
			t.Errorf("%s has other bytes", s.Point())
		}
	}
	puts := b.store.Calls(faultstore.Put)
	equal(t, "again", a.good(t, b), Copied{Timeline: line, There: 20, Last: 41})
	if again := b.store.Calls(faultstore.Put); again != puts {
		t.Errorf("%d objects were put although all was there", again-puts)
	}
	a.live(t, 42, 43, "value")
	got = a.good(t, b)
	equal(t, "what is new", got, Copied{Timeline: line, Segments: 1, Bytes: got.Bytes, There: 20, Last: 43})
	before := b.events(t, "prod", a.identity)
	a.merged(t, repository.SegmentDay, lives...)
	got = a.good(t, b)
	equal(t, "merged", got, Copied{Timeline: line, Segments: 1, Bytes: got.Bytes, There: 1, Last: 43})
	equal(t, "events", b.events(t, "prod", a.identity), before)
	equal(t, "events", before, a.events(t, "prod", a.identity))
	result, _, err := b.Check(t.Context(), repository.Heads{})
	must(t, err)
	if len(result.Problems) > 0 || result.Unclaimed > 0 {
		t.Errorf("check: %+v", result)
	}
}

// TestReseal: who could read the first one cannot read the second one, and the other way round; the name is another one.
func TestReseal(t *testing.T) {
	a, b := newSite(t, repository.Age), newSite(t, repository.Age)
	lives := a.lives(t, 10)
	a.merged(t, repository.SegmentHour, lives[:6]...)
	reseal := func(o *Options) { o.Reseal, o.Identities, o.As = true, a.identity, "far" }
	got := a.good(t, b, reseal)
	equal(t, "copied", got, Copied{Timeline: line, Segments: 5, Bytes: got.Bytes, Last: 21})
	equal(t, "events", b.events(t, "far", b.identity), a.events(t, "prod", a.identity))
	equal(t, "segments by the old name", b.points(t, "prod"), []string(nil))
	equal(t, "again", a.good(t, b, reseal), Copied{Timeline: line, There: 5, Last: 21})
	// To an unencrypted one and without the key.
	plain := newSite(t, repository.None)
	if _, _, err := a.copyTo(t, plain); !errors.Is(err, backup.ErrOtherEncryption) {
		t.Errorf("error %v", err)
	}
	if _, _, err := a.copyTo(t, plain, func(o *Options) { o.Reseal, o.Identities = true, b.identity }); !errors.Is(err, seal.ErrNoIdentity) {
		t.Errorf("error %v", err)
	}
	equal(t, "segments", plain.points(t, "prod"), []string(nil))
	a.good(t, plain, func(o *Options) { o.Reseal, o.Identities = true, a.identity })
	equal(t, "events", plain.events(t, "prod", nil), a.events(t, "prod", a.identity))
}

// TestResealChecks: a manifest that was signed about something else than what is sealed is not copied with --reseal, and an
// honest one is.
func TestResealChecks(t *testing.T) {
	a, b := newSite(t, repository.Age), newSite(t, repository.Age)
	s := a.live(t, 2, 5, "value")
	must(t, a.store.Delete(t.Context(), manifestOf(s)))
	lie := s
	lie.LastTime = lie.LastTime.Add(time.Minute)
	_, err := a.PublishSegment(t.Context(), a.writer, lie)
	must(t, err)
	a.live(t, 6, 7, "value")
	_, bad, err := a.copyTo(t, b, func(o *Options) { o.Reseal, o.Identities = true, a.identity })
	must(t, err)
	if len(bad) != 1 || !errors.Is(bad[0], repository.ErrDamaged) || !strings.Contains(bad[0].Error(), "other times than its manifest says") {
		t.Errorf("bad: %v", bad)
	}
	equal(t, "segments", b.points(t, "prod"), []string{"0/6-0"})
}

// manifestOf is the name of the manifest of a live segment.
func manifestOf(s repository.Segment) string {
	return fmt.Sprintf("clusters/prod/archive/%s/0/%020d.json", s.Timeline, s.First)
}

// TestBadSource: what is forged or damaged is named and not copied, also when what is wrong is a merged one whose inputs are
// there, and the rest is.
func TestBadSource(t *testing.T) {
	a, b := newSite(t, repository.Age), newSite(t, repository.Age)
	lives := a.lives(t, 12)
	merged := a.merged(t, repository.SegmentMinute, lives[4:7]...)
	a.replace(t, merged.Object.Name, damage(a.object(t, merged.Object.Name)))
	a.replace(t, lives[0].Object.Name, damage(a.object(t, lives[0].Object.Name)))
	a.replace(t, lives[1].Object.Name, nil)
	a.replace(t, lives[2].Object.Name, append(a.object(t, lives[2].Object.Name), 0))
	a.replace(t, manifestOf(lives[3]), damage(a.object(t, manifestOf(lives[3]))))
	must(t, a.store.Delete(t.Context(), lives[5].Object.Name))
	copied, bad, err := a.copyTo(t, b)
	must(t, err)
	equal(t, "segments", b.points(t, "prod"), []string{"0/10-0", "0/14-0", "0/16-0", "0/18-0", "0/20-0", "0/22-0", "0/24-0"})
	equal(t, "copied", copied, Copied{Timeline: line, Segments: 7, Bytes: copied.Bytes, Last: 25})
	var texts []string
	for _, err := range bad {
		texts = append(texts, err.Error())
	}
	for _, want := range []string{"segment from revision 2 ", "segment from revision 4 ", "segment from revision 6 ", "0/00000000000000000008.json", "segment 10-15, level 1", "segment from revision 12 "} {
		if n := len(slices.DeleteFunc(slices.Clone(texts), func(text string) bool { return !strings.Contains(text, want) })); n != 1 {
			t.Errorf("%q is in %d of %q", want, n, texts)
		}
	}
	if len(texts) != 6 {
		t.Errorf("bad: %q", texts)
	}
	if list := b.unclaimed(t); len(list) > 0 {
		t.Errorf("of what was not copied there is %v", list)
	}
}

func (s *site) unclaimed(t testing.TB) []repository.Unclaimed {
	t.Helper()
	list, err := s.Unclaimed(t.Context(), "prod")
	must(t, err)
	return list
}

// TestInterrupted: wherever the second store fails, what is there is the beginning of the archive, and the next copy completes
// it.
func TestInterrupted(t *testing.T) {
	a := newSite(t, repository.None)
	lives := a.lives(t, 9)
	_, err := a.PutHashes(t.Context(), a.writer, hashesAt(19))
	must(t, err)
	a.merged(t, repository.SegmentMinute, lives[:3]...)
	want := a.events(t, "prod", nil)
	for _, kind := range []faultstore.Kind{faultstore.Fail, faultstore.Lose, faultstore.Cut} {
		for n := 1; ; n++ {
			b := newSite(t, repository.None)
			b.store.Add(faultstore.Fault{On: faultstore.Put, Do: kind, Skip: n - 1, Times: 1})
			_, bad, err := a.copyTo(t, b)
			if len(bad) > 0 {
				t.Fatalf("put %d: %v", n, bad)
			}
			if err == nil && n > 16 {
				break
			}
			b.store.Clear()
			have := b.events(t, "prod", nil)
			if !slices.Equal(have, want[:len(have)]) {
				t.Errorf("events after put %d: %q", n, have)
			}
			a.good(t, b)
			equal(t, fmt.Sprintf("events at last, put %d", n), b.events(t, "prod", nil), want)
			if len(b.hashes(t)) != 1 {
				t.Errorf("put %d: %d hashes", n, len(b.hashes(t)))
			}
		}
	}
}

func hashesAt(r history.Revision) repository.Hashes {
	return repository.Hashes{Cluster: "prod", Timeline: line, Revision: r, Taken: began.Add(time.Hour), Equal: true,
		Members: []repository.MemberHash{{MemberID: "1", Name: "one", Hash: 7, CompactRevision: 1}}}
}

func (s *site) hashes(t testing.TB) (list []repository.Hashes) {
	t.Helper()
	reads, _, err := s.Hashes(t.Context(), "prod", line, 0)
	must(t, err)
	for _, read := range reads {
		must(t, read.Err)
		list = append(list, read.Note)
	}
	return list
}

// TestNotes: gaps and hashes come along once, hashes not beyond what is there, leases not; what the last lease knows of the time
// after the last revision is told as a copy.
func TestNotes(t *testing.T) {
	a, b := newSite(t, repository.None), newSite(t, repository.None)
	a.lives(t, 3)
	for _, r := range []history.Revision{5, 7, 9} {
		_, err := a.PutHashes(t.Context(), a.writer, hashesAt(r))
		must(t, err)
	}
	gap, err := a.PutGap(t.Context(), a.writer, repository.Gap{Cluster: "prod", Timeline: line, First: 100, Last: 200, Noticed: began, Reason: "compacted"})
	must(t, err)
	asOf := began.Add(30 * time.Minute)
	_, err = a.PutLease(t.Context(), a.writer, repository.Lease{Cluster: "prod", Timeline: line, Session: repository.NewSession(), Revision: 1})
	must(t, err)
	lease, err := a.PutLease(t.Context(), a.writer, repository.Lease{Cluster: "prod", Timeline: line, Session: repository.NewSession(), Revision: 7, AsOf: asOf})
	must(t, err)
	copied := a.good(t, b)
	equal(t, "copied", copied, Copied{Timeline: line, Segments: 3, Bytes: copied.Bytes, Gaps: 1, Hashes: 2, Last: 7})
	hashes := b.hashes(t)
	if len(hashes) != 2 || hashes[1].Revision != 7 || hashes[1].Copied == nil || hashes[1].Members[0].Hash != 7 {
		t.Errorf("hashes: %+v", hashes)
	}
	gaps, _, err := b.Gaps(t.Context(), "prod", line)
	must(t, err)
	if len(gaps) != 1 || gaps[0].Err != nil || gaps[0].Note.ID != gap.ID || gaps[0].Note.Reason != "compacted" || gaps[0].Note.Copied.Signer != gap.Signer {
		t.Errorf("gaps: %+v", gaps)
	}
	last, err := b.LastLease(t.Context(), "prod", line)
	must(t, err)
	if last == nil || last.Err != nil || !last.Note.Release || last.Note.Revision != 7 || !last.Note.AsOf.Equal(lease.AsOf) || last.Note.Copied == nil || last.Note.Session == lease.Session {
		t.Errorf("lease: %+v", last)
	}
	equal(t, "again", a.good(t, b), Copied{Timeline: line, There: 3, Last: 7})
	leases, _, err := b.Leases(t.Context(), "prod", line, repository.ID{}, 0)
	must(t, err)
	if len(leases) != 2 || leases[0].Note.Revision != 1 || !leases[0].Note.Release || leases[0].Note.Copied == nil {
		t.Errorf("leases: %+v", leases)
	}
	// The last word of a copy may not say that an archiver is at work.
	if _, err := b.PutLease(t.Context(), b.writer, repository.Lease{Cluster: "prod", Timeline: line, Session: repository.NewSession(), Copied: &repository.Copied{}}); err == nil {
		t.Error("a copied lease was held")
	}
}

// TestTwice: two hosts copy at once, and there is one copy.
func TestTwice(t *testing.T) {
	a, b := newSite(t, repository.Age), newSite(t, repository.Age)
	a.lives(t, 30)
	_, err := a.PutHashes(t.Context(), a.writer, hashesAt(9))
	must(t, err)
	others := []*repository.Writer{b.writer, b.newWriter(t, repository.RoleBackup), b.newWriter(t, repository.RoleBackup)}
	var group sync.WaitGroup
	sums := make([]int, len(others))
	for i, w := range others {
		group.Go(func() {
			copied, bad, err := Archive(context.Background(), w, Options{From: a.Repository, To: b.Repository, Cluster: "prod", As: "prod"})
			if err := errors.Join(append(bad, err)...); err != nil {
				t.Error(err)
				return
			}
			sums[i] = copied[0].Segments
			if n := copied[0].Segments + copied[0].There; n != 30 {
				t.Errorf("%d segments of 30", n)
			}
		})
	}
	group.Wait()
	if sums[0]+sums[1]+sums[2] != 30 {
		t.Errorf("copied %v of 30", sums)
	}
	equal(t, "events", b.events(t, "prod", a.identity), a.events(t, "prod", a.identity))
	if len(b.hashes(t)) != 1 {
		t.Error("hashes are there twice")
	}
}

// TestOtherContent: another history by the same name is refused and named, and nothing of it is mixed.
func TestOtherContent(t *testing.T) {
	a, b := newSite(t, repository.None), newSite(t, repository.None)
	lives := a.lives(t, 3)
	a.good(t, b)
	b.live(t, 8, 8, "there")
	b.live(t, 9, 12, "there")
	before := b.points(t, "prod")
	lives = append(lives, a.live(t, 8, 9, "here"), a.live(t, 10, 11, "here"))
	refused := func(what, name string) {
		t.Helper()
		_, bad, err := a.copyTo(t, b)
		must(t, err)
		if len(bad) != 1 || !errors.Is(bad[0], ErrOtherArchive) || !strings.Contains(bad[0].Error(), name) {
			t.Errorf("%s: %v", what, bad)
		}
		equal(t, what, b.points(t, "prod"), before)
	}
	refused("same name", "segment from revision 8 ")
	a.merged(t, repository.SegmentDay, lives...)
	refused("merged", "segment 2-11, level 3")
	// A third site's copy of another history.
	c := newSite(t, repository.None)
	c.live(t, 2, 3, "third")
	d := newSite(t, repository.None)
	c.good(t, d)
	e := newSite(t, repository.None)
	e.live(t, 2, 3, "fifth")
	if _, bad, err := e.copyTo(t, d); err != nil || len(bad) != 1 || !errors.Is(bad[0], ErrOtherArchive) {
		t.Errorf("third: %v, %v", bad, err)
	}
}

// TestForgedPlace: what a stranger put in a place of the second repository keeps it, is named, and hinders nothing else.
func TestForgedPlace(t *testing.T) {
	a, b := newSite(t, repository.None), newSite(t, repository.None)
	lives := a.lives(t, 4)
	_, err := store.PutBytes(t.Context(), b.store, manifestOf(lives[1]), []byte("{}\n{}\n"), store.PutOptions{})
	must(t, err)
	_, bad, err := a.copyTo(t, b)
	must(t, err)
	if len(bad) != 1 || !errors.Is(bad[0], repository.ErrForged) || !strings.Contains(bad[0].Error(), "segment from revision 4 ") {
		t.Errorf("bad: %v", bad)
	}
	if n := len(b.unclaimed(t)); n > 0 {
		t.Errorf("%d data objects without manifest", n)
	}
	a.merged(t, repository.SegmentHour, lives...)
	a.good(t, b)
	equal(t, "events", b.events(t, "prod", nil), a.events(t, "prod", nil))
}

// TestBack: the copy gives the first site back what it has lost, and no more.
func TestBack(t *testing.T) {
	a, b := newSite(t, repository.Age), newSite(t, repository.Age)
	lives := a.lives(t, 6)
	want := a.events(t, "prod", a.identity)
	a.good(t, b)
	must(t, a.store.Delete(t.Context(), manifestOf(lives[2])))
	must(t, a.store.Delete(t.Context(), lives[2].Object.Name))
	got := b.good(t, a)
	equal(t, "copied", got, Copied{Timeline: line, Segments: 1, Bytes: got.Bytes, There: 5, Last: 13})
	equal(t, "events", a.events(t, "prod", a.identity), want)
}

// TestPruned: what was pruned in the source while it was copied is taken from what it was merged into; what was pruned there on
// purpose is not copied again; what the source has pruned before it was copied is a gap with its reason.
func TestPruned(t *testing.T) {
	a, b := newSite(t, repository.None), newSite(t, repository.None)
	lives := a.lives(t, 8)
	pruned := false
	got := a.good(t, b, func(o *Options) {
		o.Bases = func(ctx context.Context) error {
			if !pruned {
				pruned = true
				a.merged(t, repository.SegmentHour, lives[:4]...)
				a.remove(t, "merged", lives[:4]...)
			}
			return nil
		}
	})
	equal(t, "segments", b.points(t, "prod"), []string{"0/10-0", "0/12-0", "0/14-0", "0/16-0", "2/2-9"})
	equal(t, "copied", got, Copied{Timeline: line, Segments: 5, Bytes: got.Bytes, Last: 17})

	b.remove(t, "older than the window", manifests(t, b, "prod")[repository.SegmentPoint{Cluster: "prod", Timeline: line, Level: repository.SegmentHour, First: 2, Last: 9}].Segment)
	equal(t, "not again", a.good(t, b), Copied{Timeline: line, There: 4, Pruned: 1, Last: 17})

	more := []repository.Segment{a.live(t, 18, 19, "value"), a.live(t, 20, 21, "value")}
	a.remove(t, "older than the window", more[0])
	got = a.good(t, b)
	equal(t, "with a gap", got, Copied{Timeline: line, Segments: 1, Bytes: got.Bytes, There: 4, Pruned: 1, Last: 21})
	gaps, _, err := b.Gaps(t.Context(), "prod", line)
	must(t, err)
	if len(gaps) != 1 || gaps[0].Note.First != 18 || gaps[0].Note.Last != 19 || !strings.Contains(gaps[0].Note.Reason, "before it was copied: older than the window") {
		t.Errorf("gaps: %+v", gaps)
	}
	a.good(t, b)
	if gaps, _, err := b.Gaps(t.Context(), "prod", line); err != nil || len(gaps) != 1 {
		t.Errorf("%d gaps, %v", len(gaps), err)
	}
}

// manifests reads all manifests of segments.
func manifests(t testing.TB, s *site, cluster string) map[repository.SegmentPoint]repository.SegmentRead {
	t.Helper()
	points, _, err := s.SegmentPoints(t.Context(), cluster, "")
	must(t, err)
	reads, err := s.SegmentsOf(t.Context(), points)
	must(t, err)
	all := map[repository.SegmentPoint]repository.SegmentRead{}
	for _, read := range reads {
		must(t, read.Err)
		all[read.Point] = read
	}
	return all
}

// remove prunes segments.
func (s *site) remove(t testing.TB, reason string, segments ...repository.Segment) {
	t.Helper()
	var victims []repository.SegmentVictim
	for _, m := range segments {
		victims = append(victims, repository.SegmentVictim{Read: s.Segment(t.Context(), m.Point()), Reason: reason})
	}
	_, err := s.RemoveSegments(t.Context(), s.writer, victims)
	must(t, err)
}

// TestRetain: data and manifests are locked, as the manifests say.
func TestRetain(t *testing.T) {
	a, b := newSite(t, repository.None), newSite(t, repository.None)
	s := a.lives(t, 1)[0]
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	a.good(t, b, func(o *Options) { o.RetainUntil = until.Add(time.Millisecond) })
	read := b.Segment(t.Context(), s.Point())
	must(t, read.Err)
	if !read.Segment.RetainUntil.Equal(until) {
		t.Errorf("retained until %s", read.Segment.RetainUntil)
	}
	for _, name := range []string{manifestOf(s), read.Segment.Object.Name} {
		if err := b.store.Delete(t.Context(), name); !errors.As(err, new(store.Locked)) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
}

// TestAsOther: two clusters of the first are two of the second by other names, and a timeline is no reason to mix them.
func TestAsOther(t *testing.T) {
	a, b := newSite(t, repository.None), newSite(t, repository.None)
	a.lives(t, 2)
	a.good(t, b, func(o *Options) { o.As = "one" })
	a.live(t, 6, 7, "value")
	a.good(t, b, func(o *Options) { o.As = "two" })
	equal(t, "one", b.points(t, "one"), []string{"0/2-0", "0/4-0"})
	equal(t, "two", b.points(t, "two"), []string{"0/2-0", "0/4-0", "0/6-0"})
}

// TestNotEnrolled: a host that may not sign there copies nothing.
func TestNotEnrolled(t *testing.T) {
	a, b := newSite(t, repository.None), newSite(t, repository.None)
	a.lives(t, 1)
	b.writer = b.newWriter(t, repository.RoleVerify)
	puts := b.store.Calls(faultstore.Put)
	if _, _, err := a.copyTo(t, b); !errors.Is(err, repository.ErrNotEnrolled) {
		t.Errorf("error %v", err)
	}
	if b.store.Calls(faultstore.Put) != puts {
		t.Error("something was put")
	}
}
