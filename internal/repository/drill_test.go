package repository

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
)

func drillOf(revision history.Revision) Drill {
	return Drill{
		Cluster: "prod", Timeline: line, Revision: revision, Snapshot: newID(time.Now()), Segments: 3, First: 1, Last: revision + 5, Passed: true, Compared: true,
		Hash: 7, CompactRevision: 2, Keys: 4, Started: time.Now(), Seconds: 1.5,
	}
}

// TestDrills: what a drill found is kept, signed by who may verify, and found again by its revision.
func TestDrills(t *testing.T) {
	w := newWorld(t, None)
	var want []Drill
	for _, revision := range []history.Revision{10, 20} {
		d, err := w.PutDrill(t.Context(), w.writer, drillOf(revision))
		must(t, err)
		want = append(want, d)
	}
	bad := drillOf(30)
	bad.Passed, bad.Compared, bad.Problem = false, false, strings.Repeat("x", 2*mostProblem)
	d, err := w.PutDrill(t.Context(), w.writer, bad)
	must(t, err)
	want = append(want, d)
	r := w.again(t)
	reads, strange, err := r.Drills(t.Context(), "prod", line)
	must(t, err)
	if diff := cmp.Diff(want, notesIn(t, reads)); diff != "" || len(strange) > 0 {
		t.Errorf("drills (-want +got):\n%s, strange %q", diff, strange)
	}
	if !want[0].Proves() || want[2].Proves() || len(want[2].Problem) != mostProblem {
		t.Errorf("what drills prove: %+v", want)
	}
	if result, _, err := r.Check(t.Context(), nil); err != nil || len(result.Problems) > 0 {
		t.Errorf("check says %q, %v", result.Problems, err)
	}

	// It stays believed when its signer is revoked, and one at another place is not.
	moved := want[0]
	moved.Revision++
	w.replace(t, moved.name(), w.read(t, want[0].name()))
	if _, err := w.Revoke(t.Context(), w.root, w.writer.Public().Fingerprint(), false); err != nil {
		t.Fatal(err)
	}
	r = w.again(t)
	reads, _, err = r.Drills(t.Context(), "prod", line)
	must(t, err)
	if len(reads) != 4 || reads[0].Err != nil || !errors.Is(reads[1].Err, ErrForged) || reads[2].Err != nil {
		t.Errorf("after a revocation: %+v", reads)
	}
	if result, _, err := r.Check(t.Context(), nil); err != nil || len(result.Problems) != 1 {
		t.Errorf("check says %q, %v", result.Problems, err)
	}
}

// TestDrillsRefuse what does not fit together, and who may not verify.
func TestDrillsRefuse(t *testing.T) {
	w := newWorld(t, None)
	if _, err := w.PutDrill(t.Context(), newSigner(t, w, RoleBackup), drillOf(10)); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("without the role: %v", err)
	}
	before := w.names(t)
	for what, change := range map[string]func(*Drill){
		"no revision": func(d *Drill) { d.Revision, d.First = 0, 0 }, "one before its history": func(d *Drill) { d.First = 11 }, "one after its end": func(d *Drill) { d.Last = 9 },
		"a failure without problem": func(d *Drill) { d.Passed, d.Compared = false, false }, "a problem that passed": func(d *Drill) { d.Problem = "x" },
		"a comparison that was none": func(d *Drill) { d.Uncompared = "x" }, "no snapshot": func(d *Drill) { d.Snapshot = ID{} }, "no time": func(d *Drill) { d.Started = time.Time{} },
		"a cluster": func(d *Drill) { d.Cluster = "a/b" }, "a timeline": func(d *Drill) { d.Timeline = "x" },
	} {
		d := drillOf(10)
		change(&d)
		if _, err := w.PutDrill(t.Context(), w.writer, d); err == nil {
			t.Errorf("a drill with %s passes", what)
		}
	}
	if after := w.names(t); !slices.Equal(before, after) {
		t.Errorf("left: %q", after)
	}
}

// TestHashesFrom gives the first ones at or after a revision.
func TestHashesFrom(t *testing.T) {
	w := newWorld(t, None)
	for _, revision := range []history.Revision{5, 7, 7, 9} {
		_, err := w.PutHashes(t.Context(), w.writer, Hashes{Cluster: "prod", Timeline: line, Revision: revision, Taken: time.Now(), Members: []MemberHash{{MemberID: "1"}}, Equal: true})
		must(t, err)
	}
	for from, want := range map[history.Revision][]history.Revision{1: {5, 7, 7}, 5: {5, 7, 7}, 6: {7, 7, 9}, 7: {7, 7, 9}, 8: {9}, 10: nil} {
		reads, err := w.HashesFrom(t.Context(), "prod", line, from, 3)
		must(t, err)
		var got []history.Revision
		for _, h := range notesIn(t, reads) {
			got = append(got, h.Revision)
		}
		if !slices.Equal(got, want) {
			t.Errorf("from %s: %v, want %v", from, got, want)
		}
	}
	if _, err := w.HashesFrom(t.Context(), "prod", "x", 1, 3); err == nil {
		t.Error("a timeline passes")
	}
}

// TestSegmentObjects: what is stored of a segment is looked at in a listing, and read without a key.
func TestSegmentObjects(t *testing.T) {
	w := newWorld(t, Age)
	var segments []Segment
	for i := range 3 {
		s := w.live(t, history.Revision(1+10*i), history.Revision(10+10*i))
		segments = append(segments, s)
	}
	check := func(what string, listed, stored []bool) {
		t.Helper()
		found, err := w.CheckSegmentsListed(t.Context(), "prod", segments)
		must(t, err)
		for i, s := range segments {
			if err := w.CheckSegmentStored(t.Context(), s, nil); (err == nil) != stored[i] || (found[i] == nil) != listed[i] {
				t.Errorf("%s: segment %s: listed %v, stored %v", what, s.Range(), found[i], err)
			}
		}
	}
	check("sound", []bool{true, true, true}, []bool{true, true, true})
	damaged := w.read(t, segments[0].Object.Name)
	damaged[len(damaged)/2] ^= 1
	w.replace(t, segments[0].Object.Name, damaged)
	w.replace(t, segments[1].Object.Name, damaged[:len(damaged)-1])
	must(t, w.store.Delete(t.Context(), segments[2].Object.Name))
	check("damaged", []bool{true, false, false}, []bool{false, false, false})
}
