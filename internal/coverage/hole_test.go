package coverage

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// TestHoles: each revision that cannot be restored has one cause, and the one that was written down counts first.
func TestHoles(t *testing.T) {
	snapshots := []repository.Manifest{snapshot(0, 5, 1, 2), snapshot(10, 10, 10, 11), snapshot(20, 20, 20, 21), snapshot(60, 60, 60, 61)}
	segments := []repository.Segment{live(11, 12, 11), live(21, 30, 21), live(41, 45, 41)}
	list := Of(snapshots, segments, nil)[0]
	if got := fmt.Sprint(list.Gaps()); got != "[6-9 13-19 31-59]" {
		t.Fatalf("gaps %s", got)
	}
	noted := []repository.Gap{
		{Timeline: line, First: 13, Last: 15, Noticed: at(70), Reason: "compacted"}, {Timeline: line, First: 14, Last: 16, Noticed: at(80), Reason: "again"},
		{Timeline: other, First: 1, Last: 100, Reason: "not ours"}, {Timeline: line, First: 22, Last: 23, Reason: "it came later all the same"},
	}
	removed := []repository.RemovedSegments{{Timeline: line, First: 12, Last: 17, Reason: "old"}, {Timeline: other, First: 1, Last: 100, Reason: "not ours"}}
	var got []string
	for _, h := range list.Holes(Notes{Gaps: noted, Removed: removed}) {
		got = append(got, fmt.Sprintf("%s %s %q %s", h.Range, h.Cause, h.Reason, h.Since.Format("05")))
	}
	want := []string{`6-9 never archived "" 11`, `13-15 lost "compacted" 10`, `16-16 lost "again" 20`, `17-17 removed "old" 21`, `18-19 missing "" 21`, `31-40 missing "" 01`, `46-59 never archived "" 01`}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("holes\n%q, want\n%q", got, want)
	}
	if !list.Archived(history.Range{First: 5, Last: 11}) || list.Archived(history.Range{First: 46, Last: 60}) {
		t.Error("what is archived is told wrong")
	}
	// Without segments, what archivers said tells what there was: nothing, or all from where they began.
	for notes, want := range map[[2]history.Revision]string{
		{0, 0}: "[6-9 never archived 11-19 never archived 21-59 never archived]", {8, 8}: "[6-9 never archived 11-19 never archived 21-59 never archived]",
		{7, 12}:  "[6-7 never archived 8-9 missing 11-12 missing 13-19 never archived 21-59 never archived]",
		{60, 62}: "[6-9 never archived 11-19 never archived 21-59 never archived 61-62 missing]",
	} {
		var got []string
		for _, h := range Of(snapshots, nil, nil)[0].Holes(Notes{From: notes[0], Until: notes[1]}) {
			got = append(got, h.Range.String()+" "+string(h.Cause))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("archived from %s until %s: %s", notes[0], notes[1], got)
		}
	}
}

// TestHolesCoverGaps: of random timelines and notes, the holes are exactly what is not there, each revision once.
func TestHolesCoverGaps(t *testing.T) {
	holes := 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 5))
		w := randomWorld(r)
		list := Of(w.snapshots, w.segments, nil)[0]
		var noted []repository.Gap
		var removed []repository.RemovedSegments
		for range r.IntN(5) {
			first := 1 + history.Revision(r.IntN(60))
			noted = append(noted, repository.Gap{Timeline: line, First: first, Last: first + history.Revision(r.IntN(10))})
			first = 1 + history.Revision(r.IntN(60))
			removed = append(removed, repository.RemovedSegments{Timeline: line, First: first, Last: first + history.Revision(r.IntN(10))})
		}
		told := map[history.Revision]int{}
		for _, h := range list.Holes(Notes{Gaps: noted, Removed: removed}) {
			holes++
			for x := h.First; x <= h.Last; x++ {
				told[x]++
			}
		}
		missing := 0
		for _, gap := range between(union(append(list.Covered[:len(list.Covered):len(list.Covered)], list.Orphans...))) {
			for x := gap.First; x <= gap.Last; x++ {
				if missing++; told[x] != 1 {
					t.Errorf("seed %d: revision %s is in %d holes", seed, x, told[x])
				}
			}
		}
		if len(told) != missing {
			t.Errorf("seed %d: %d revisions are in holes, %d are missing", seed, len(told), missing)
		}
	}
	if holes < 100 {
		t.Errorf("only %d holes", holes)
	}
}

// TestOnward: a chain goes on from its snapshot as far as nothing is missing, and what it gives is a chain.
func TestOnward(t *testing.T) {
	list := Of([]repository.Manifest{snapshot(3, 5, 1, 2), snapshot(20, 20, 20, 21)}, []repository.Segment{live(6, 12, 6), live(13, 15, 13), live(21, 22, 21)}, nil)
	line := list[0]
	c, err := Resolve(list, Target{Revision: 4}, eachSecond)
	if err != nil {
		t.Fatal(err)
	}
	for to, segments := range map[history.Revision]int{4: 0, 5: 0, 6: 1, 12: 1, 13: 2, 15: 2, 3: -1, 16: -1, 20: -1, 21: -1} {
		on, led := line.Onward(c, to)
		if led != (segments >= 0) || led && (on.Revision != to || len(on.Segments) != segments || on.Base.Content != c.Base.Content) {
			t.Errorf("onward to %s: %v, %d segments", to, led, len(on.Segments))
		}
	}
}
