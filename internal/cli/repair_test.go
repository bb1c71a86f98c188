package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
)

// lose removes the manifest of a live segment, as an accident would.
func (w *archived) lose(s repository.Segment) {
	w.t.Helper()
	must(w.t, w.store.Delete(w.t.Context(), fmt.Sprintf("clusters/prod/archive/%s/0/%020d.json", s.Timeline, s.First)))
}

// twin puts data of a segment once more, by another name.
func (w *archived) twin(s repository.Segment, digits string) (id string) {
	w.t.Helper()
	body, err := w.store.Open(w.t.Context(), s.Object.Name, 0, -1)
	must(w.t, err)
	content, err := io.ReadAll(body)
	must(w.t, err)
	must(w.t, body.Close())
	name := regexp.MustCompile(`-[0-9a-f]{16}\.`).ReplaceAllString(s.Object.Name, "-"+digits+".")
	_, err = w.store.Put(w.t.Context(), name, bytes.NewReader(content), store.PutOptions{})
	must(w.t, err)
	return repository.LostID(name)
}

// age makes everything in the store as old as that.
func (w *archived) age(by time.Duration) {
	w.t.Helper()
	then := time.Now().Add(-by)
	must(w.t, filepath.WalkDir(filepath.Join(w.dir, "repo", "clusters", "prod", "segments"), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, then, then)
	}))
}

// ids are those of some segments.
func ids(segments ...repository.Segment) (list []string) {
	for _, s := range segments {
		list = append(list, repository.LostID(s.Object.Name))
	}
	return list
}

// TestRepairSegments: data of segments whose manifests are lost is told, spared, and adopted; what is in the way of others is not.
func TestRepairSegments(t *testing.T) {
	w := newArchived(t)
	key := filepath.Join(w.dir, "key.txt")
	timeline := w.written[0].Timeline
	all := w.restored(2)
	repair := []string{"repo", "repair", "--identity", key, "--grace", "0s"}
	at := func(r history.Revision) repository.Segment { return w.written[r-2] }

	// Of 33, 34 and 41, the last one, the manifests are lost, 36 has data twice, and 10 is covered by the snapshot.
	for _, r := range []history.Revision{10, 33, 34, 41} {
		w.lose(at(r))
	}
	copied := w.twin(at(36), "00112233445566ff")
	if code, out, _ := w.run("list"); code != 3 || !strings.Contains(out, "33-34") {
		t.Fatalf("list: exit code %d\n%s", code, out)
	}
	if out := w.ok("repo", "repair", "--identity", key); strings.Contains(out, "segments/") {
		t.Errorf("young data was looked at: %s", out)
	}
	out := w.ok(repair...)
	for _, want := range []string{
		"revisions 10-10, " + at(10).FirstTime.Format("2006-01-02T15:04:05.000Z") + " to ",
		"covered by the history of snapshots, which does not tell when each came about; --adopt " + ids(at(10))[0] + " adds it to the archive again\n",
		"missing in the archive; --adopt " + ids(at(33))[0] + " adds it to the archive again\n", "missing in the archive; --adopt " + ids(at(34))[0] + " adds",
		"revisions 36-36, ", "covered: segment 36-36 has its revisions; prune removes it\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("without %q: %s", want, out)
		}
	}
	if n := strings.Count(out, "a whole segment"); n != 5 || len(w.segments()) != 36 {
		t.Errorf("%d told, %d segments left", n, len(w.segments()))
	}

	// As long as revisions are missing, prune keeps all data of segments.
	w.age(48 * time.Hour)
	w.ok("key", "enroll", "--root-key", filepath.Join(w.dir, "root.key"), "--role", "prune")
	if code, _, talk := w.run("prune", "--yes", "--keep-archive", "2400h"); code != 0 || !strings.Contains(talk, "5 data objects are without a manifest") {
		t.Errorf("prune: exit code %d, %s", code, talk)
	}

	// What has no place is refused, and what has one is adopted all the same.
	code, out, talk := w.run(append(repair, "--adopt", copied, "--adopt", ids(at(33))[0])...)
	if code != 1 || !strings.Contains(talk, "was not adopted, revisions 36-36: segment 36-36 has its revisions") || !strings.Contains(out, "adopted as a segment of cluster prod, timeline "+string(timeline)+", revisions 33-33\n") {
		t.Errorf("exit code %d, %s%s", code, out, talk)
	}
	if strings.Contains(talk, "no data of that id") {
		t.Errorf("refused twice: %s", talk)
	}
	if out := w.ok(append(repair, "--adopt", "missing")...); strings.Count(out, "adopted as a segment") != 2 || !strings.Contains(out, "revisions 34-34\n") || !strings.Contains(out, "revisions 41-41\n") {
		t.Errorf("the missing ones: %s", out)
	}
	if code, _, talk := w.run(append(repair, "--adopt", ids(at(34))[0])...); code != 1 || !strings.Contains(talk, "no data of that id") {
		t.Errorf("twice: exit code %d, %s", code, talk)
	}
	w.ok(append(repair, "--adopt", ids(at(10))[0])...)
	if diff := cmp.Diff(all, w.restored(2)); diff != "" {
		t.Errorf("restored: %s", diff)
	}
	list := w.ok("list")
	if strings.Contains(list, "MISSING") || !strings.Contains(list, "newest     revision 41;") || !strings.Contains(list, "last heard of at revision 40,") {
		t.Errorf("list: %s", list)
	}
	w.ok("verify", "--identity", key)
	w.ok("repo", "check")

	// A day that was made of it is marked, too.
	w.ok("merge", "--identity", key)
	day := slices.IndexFunc(w.segments(), func(s repository.Segment) bool { return s.Level == repository.SegmentDay && s.Range().Contains(10) })
	if day < 0 || w.segments()[day].Last == 10 || !w.segments()[day].Source.Adopted {
		t.Errorf("merged: %d", day)
	}

	// Now only the copy goes, and what was adopted is found where it is.
	if _, _, talk := w.run("prune", "--yes", "--keep-archive", "2400h"); strings.Contains(talk, "without a manifest") {
		t.Errorf("prune: %s", talk)
	}
	if out := w.ok(repair...); strings.Contains(out, "segments/") {
		t.Errorf("left: %s", out)
	}
	if diff := cmp.Diff(all, w.restored(2)); diff != "" {
		t.Errorf("after prune: %s", diff)
	}
}

// TestRepairRivals: when several data hold the missing revisions, those that are the same are one, and of others one must be named.
func TestRepairRivals(t *testing.T) {
	w := newArchived(t)
	repair := []string{"repo", "repair", "--identity", filepath.Join(w.dir, "key.txt"), "--grace", "0s"}
	at := func(r history.Revision) repository.Segment { return w.written[r-2] }
	w.lose(at(33))
	w.twin(at(33), "00112233445566ff")
	w.lose(at(35))
	w.live(at(35).Timeline, 35, time.Now().Add(-time.Minute)) // the same revision, at another time
	other := w.written[len(w.written)-1]
	w.lose(other)
	w.lose(at(40)) // its data was damaged, too
	file := filepath.Join(w.dir, "repo", at(40).Object.Name)
	content, err := os.ReadFile(file)
	must(t, err)
	content[len(content)-1] ^= 1
	must(t, os.WriteFile(file, content, 0o600))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "junk"), []byte("junk"), 0o600))

	// 37 was removed on purpose, and data was left.
	w.ok("key", "enroll", "--root-key", filepath.Join(w.dir, "root.key"), "--role", "prune")
	removed := w.twin(at(37), "00112233445566ff")
	_, err = w.repo.RemoveSegments(t.Context(), w.writer, []repository.SegmentVictim{{Read: w.repo.Segment(t.Context(), at(37).Point()), Reason: "too old"}})
	must(t, err)

	code, out, talk := w.run(append(repair, "--adopt", "missing")...)
	if !strings.Contains(out, "which were removed: too old; --adopt "+removed) {
		t.Errorf("removed: %s", out)
	}
	if code != 1 || strings.Count(out, "adopted as a segment") != 1 || strings.Count(out, "covered: segment 33-33 has its revisions") != 1 {
		t.Errorf("exit code %d, %s%s", code, out, talk)
	}
	for _, id := range ids(at(35), other) {
		if !strings.Contains(talk, fmt.Sprintf("%q was not adopted, revisions 35-35: other data", id)) || !strings.Contains(out, "some of them, too; --adopt "+id) {
			t.Errorf("of %s: %s%s", id, out, talk)
		}
	}
	if !regexp.MustCompile(regexp.QuoteMeta(at(40).Object.Name)+`, [^ ]+ B: no whole segment: `).MatchString(out) || !strings.Contains(out, "junk, 4 B: no whole segment: ") {
		t.Errorf("damaged: %s", out)
	}
	// Named both, the first has the place.
	code, out, talk = w.run(append(repair, "--adopt", ids(at(35))[0], "--adopt", ids(other)[0])...)
	if code != 1 || strings.Count(out, "adopted as a segment") != 1 || strings.Count(talk, "segment 35-35 has its revisions") != 1 {
		t.Errorf("exit code %d, %s%s", code, out, talk)
	}
	has := slices.ContainsFunc(w.segments(), func(s repository.Segment) bool { return s.First == 35 && s.Source.Adopted })
	if !has {
		t.Error("35 is not adopted")
	}
}

// TestRepairOverlap: what has revisions of other segments is not adopted, and not in the way of what fits.
func TestRepairOverlap(t *testing.T) {
	w := newArchived(t)
	repair := []string{"repo", "repair", "--identity", filepath.Join(w.dir, "key.txt"), "--grace", "0s"}
	fits := w.written[38-2]
	w.lose(fits)
	w.span(fits.Timeline, 38, 39, time.Now())
	long := w.written[len(w.written)-1]
	w.lose(long)
	all := len(w.segments())
	code, out, talk := w.run(append(repair, "--adopt", ids(long)[0])...)
	if code != 1 || !strings.Contains(talk, "was not adopted, revisions 38-39: segment 39-39 has some of its revisions") || len(w.segments()) != all {
		t.Errorf("exit code %d, %s%s", code, out, talk)
	}
	if out := w.ok(repair...); !strings.Contains(out, "of which 38-38 are missing, but it cannot be adopted: segment 39-39 has some of its revisions\n") ||
		!strings.Contains(out, "missing in the archive; --adopt "+ids(fits)[0]+" ") {
		t.Errorf("told: %s", out)
	}
	if out := w.ok(append(repair, "--adopt", "missing")...); strings.Count(out, "adopted as a segment") != 1 || !strings.Contains(out, "revisions 38-38\n") {
		t.Errorf("adopted: %s", out)
	}
	if out := w.ok(repair...); !strings.Contains(out, "covered: segment 38-38 and others have its revisions; prune removes it\n") {
		t.Errorf("afterwards: %s", out)
	}
}

// TestRepairMerged: what was merged of others that are gone is adopted as a live segment, whatever it was, and merged again.
func TestRepairMerged(t *testing.T) {
	w := newArchived(t)
	key := filepath.Join(w.dir, "key.txt")
	all := w.restored(2)
	w.ok("merge", "--identity", key)
	day := w.segments()[40]
	lost := fmt.Sprintf("clusters/prod/archive/%s/3/%020d-%020d.json", day.Timeline, day.First, day.Last)
	if day.Level != repository.SegmentDay || day.First == day.Last {
		t.Fatalf("%+v", day)
	}
	repair := []string{"repo", "repair", "--identity", key, "--grace", "0s"}

	// As long as what it was merged from is there, it is covered.
	must(t, w.store.Delete(t.Context(), lost))
	if out := w.ok(append(repair, "--adopt", "missing")...); !strings.Contains(out, "revisions "+day.Range().String()+", ") || !strings.Contains(out, "and others have its revisions; prune removes it\n") {
		t.Errorf("covered: %s", out)
	}
	w.ok("merge", "--identity", key)
	w.ok("key", "enroll", "--root-key", filepath.Join(w.dir, "root.key"), "--role", "prune")
	w.ok("prune", "--yes", "--keep-archive", "2400h")
	must(t, w.store.Delete(t.Context(), lost))
	// The snapshot has their revisions, so they are not missed; the two data are the same.
	out := w.ok(append(repair, "--adopt", "missing")...)
	if strings.Contains(out, "adopted") || strings.Count(out, "covered by the history of snapshots") != 2 {
		t.Errorf("not named: %s", out)
	}
	id := regexp.MustCompile("--adopt ([^ ]+) ").FindStringSubmatch(out)[1]
	out = w.ok(append(repair, "--adopt", id)...)
	if strings.Count(out, "adopted as a segment") != 1 || strings.Count(out, "covered: segment "+day.Range().String()+" has its revisions") != 1 {
		t.Errorf("named: %s", out)
	}
	w.ok("repo", "check")
	w.ok("verify", "--identity", key)
	if diff := cmp.Diff(all, w.restored(2)); diff != "" {
		t.Errorf("adopted: %s", diff)
	}
	w.ok("merge", "--identity", key)
	i := slices.IndexFunc(w.segments(), func(s repository.Segment) bool { return s.Point() == day.Point() })
	if i < 0 || !w.segments()[i].Source.Adopted {
		t.Error("it is not merged again, or not marked as made of what was adopted")
	}
	if diff := cmp.Diff(all, w.restored(2)); diff != "" {
		t.Errorf("merged again: %s", diff)
	}
}
