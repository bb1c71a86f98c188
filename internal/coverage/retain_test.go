package coverage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// numbered gives snapshots ids in their order.
func numbered(list ...repository.Manifest) []repository.Manifest {
	for i := range list {
		list[i].ID = repository.ID{Time: list[i].Started, Random: fmt.Sprintf("%08x", i)}
	}
	return list
}

func level(l int, s repository.Segment) repository.Segment {
	s.Level = l
	return s
}

// inexact is of an archiver that had not seen each revision come.
func inexact(s repository.Segment) repository.Segment {
	s.Exact = false
	return s
}

// on puts it on the other timeline.
func on(s repository.Segment) repository.Segment {
	s.Timeline = other
	return s
}

func TestRetain(t *testing.T) {
	const day = 86400
	otherLife := snapshot(0, 5, 95, 95)
	otherLife.Timeline = other
	// A revision a second: revision n came at second n.
	for name, tt := range map[string]struct {
		snapshots []repository.Manifest
		segments  []repository.Segment
		now       float64 // seconds; the window is 50
		doubted   int     // snapshot of this number
		needed    string
		removed   string
	}{
		"no archive": {[]repository.Manifest{snapshot(0, 10, 10, 10), snapshot(0, 90, 90, 90)}, nil, 100, -1, "", ""},
		"old and young": {[]repository.Manifest{snapshot(9, 10, 10, 10), snapshot(29, 30, 30, 30), snapshot(59, 60, 60, 60)},
			[]repository.Segment{live(11, 20, 11), live(21, 30, 21), live(31, 40, 31), live(41, 60, 41), live(61, 100, 61)}, 100, -1,
			"1: base of the archive from revision 41", "11-20: older than the window, 21-30: older than the window"},
		"a history instead of a chain": {[]repository.Manifest{snapshot(9, 10, 10, 10), snapshot(35, 60, 60, 60)},
			[]repository.Segment{live(11, 20, 11), live(21, 39, 21), live(40, 50, 40), live(51, 100, 51)}, 100, -1,
			"1: base of the archive from revision 50", "11-20: older than the window, 21-39: older than the window"},
		"a hole": {[]repository.Manifest{snapshot(9, 10, 10, 10), snapshot(79, 80, 80, 80)},
			[]repository.Segment{live(11, 70, 11), live(81, 100, 81)}, 100, -1,
			"0: base of the archive from revision 11, 1: base of the archive from revision 79", ""},
		"a damaged base": {[]repository.Manifest{snapshot(9, 10, 10, 10), snapshot(29, 30, 30, 30), snapshot(59, 60, 60, 60)},
			[]repository.Segment{live(11, 20, 11), live(21, 30, 21), live(31, 40, 31), live(41, 60, 41), live(61, 100, 61)}, 100, 1,
			"0: base of the archive from revision 41", ""},
		"nothing but a damaged one": {[]repository.Manifest{snapshot(9, 10, 10, 10)}, []repository.Segment{live(11, 100, 11)}, 100, 0,
			"0: base of the archive from revision 11", ""},
		"merged": {[]repository.Manifest{snapshot(9, 10, 10, 10)},
			[]repository.Segment{live(11, 20, 11), live(21, 30, 21), level(1, live(11, 30, 11)), level(1, live(31, 100, 31)), level(2, live(11, 100, 11)), live(101, 110, 101)}, 110, -1,
			"0: base of the archive from revision 11", "11-30: merged into revisions 11 to 100, level 2, 11-20: merged into revisions 11 to 100, level 2, 21-30: merged into revisions 11 to 100, level 2, 31-100: merged into revisions 11 to 100, level 2"},
		"merged in part": {[]repository.Manifest{snapshot(9, 10, 10, 10)},
			[]repository.Segment{live(11, 20, 11), live(21, 40, 21), level(1, live(11, 30, 11))}, 40, -1,
			"0: base of the archive from revision 9", "11-20: merged into revisions 11 to 30, level 1"},
		"no base":              {nil, []repository.Segment{live(11, 20, 11), live(21, 100, 21)}, 100, -1, "", ""},
		"no base after a hole": {[]repository.Manifest{snapshot(9, 10, 10, 10)}, []repository.Segment{live(15, 20, 11), live(21, 30, 21), live(31, 100, 31)}, 100, -1, "", ""},
		"archiving stopped": {[]repository.Manifest{snapshot(9, 10, 10, 10)}, []repository.Segment{live(11, 20, 11), live(21, 30, 21)}, 30 * day, -1,
			"0: base of the archive from revision 9", ""},
		"the newest is ahead of us": {[]repository.Manifest{snapshot(9, 10, 10, 10)}, []repository.Segment{live(11, 20, 11), live(21, 30, 30*day)}, 30, -1,
			"0: base of the archive from revision 9", ""},
		"it alone tells when": {[]repository.Manifest{snapshot(9, 10, 10, 10), snapshot(9, 65, 65, 65), snapshot(9, 80, 80, 80)},
			[]repository.Segment{live(11, 60, 11), live(81, 110, 81)}, 110, -1,
			"1: it alone tells when revision 65 was there, 2: base of the archive from revision 60", ""},
		"it tells that nothing came": {[]repository.Manifest{snapshot(9, 10, 10, 10), snapshot(9, 60, 65, 65), snapshot(9, 80, 80, 80)},
			[]repository.Segment{live(11, 60, 11), live(81, 110, 81)}, 110, -1,
			"1: it alone tells when revision 60 was there, 2: base of the archive from revision 60", ""},
		"it tells more than a segment": {[]repository.Manifest{snapshot(9, 10, 10, 10), snapshot(9, 65, 65, 65), snapshot(9, 80, 80, 80)},
			[]repository.Segment{live(11, 60, 11), inexact(live(61, 80, 61)), live(81, 110, 81)}, 110, -1,
			"1: it alone tells when revision 65 was there, 2: base of the archive from revision 60", ""},
		"an earlier life": {[]repository.Manifest{snapshot(0, 10, 10, 10), snapshot(19, 20, 20, 20), otherLife},
			[]repository.Segment{live(11, 20, 11), on(live(6, 200, 96))}, 290, -1,
			"2: base of the archive from revision 6", "11-20: older than the window"},
		"an earlier life, not yet over": {[]repository.Manifest{snapshot(0, 10, 10, 10), snapshot(19, 20, 20, 20), otherLife},
			[]repository.Segment{live(11, 20, 11), on(live(6, 15, 96))}, 105, -1,
			"1: base of the archive from revision 20, 2: base of the archive from revision 1", ""},
	} {
		snapshots := numbered(tt.snapshots...)
		w := Window{Now: at(tt.now), Length: 50 * time.Second, Doubted: map[repository.ID]bool{}}
		if tt.doubted >= 0 {
			w.Doubted[snapshots[tt.doubted].ID] = true
		}
		got := Retain(snapshots, tt.segments, w)
		var needed, removed []string
		for i, m := range snapshots {
			if why := got.Needed[m.ID]; why != "" {
				needed = append(needed, fmt.Sprintf("%d: %s", i, why))
			}
		}
		for _, d := range got.Segments {
			if !d.Keep {
				removed = append(removed, fmt.Sprintf("%s: %s", d.Segment.Range(), d.Reason))
			}
		}
		if diff := cmp.Diff(tt.needed, strings.Join(needed, ", ")); diff != "" {
			t.Errorf("%s: needed (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(tt.removed, strings.Join(removed, ", ")); diff != "" {
			t.Errorf("%s: removed (-want +got):\n%s", name, diff)
		}
	}
}

// TestYoungLiveStays: a live segment keeps others from its place for a while, merged or not.
func TestYoungLiveStays(t *testing.T) {
	for age, stays := range map[time.Duration]bool{0: true, repository.LiveAtLeast: true, repository.LiveAtLeast + liveMargin: false} {
		s := live(11, 20, 11)
		s.Completed = at(20)
		got := Retain(numbered(snapshot(9, 10, 10, 10)), []repository.Segment{s, level(1, s)}, Window{Now: at(20).Add(age), Length: time.Hour})
		for _, d := range got.Segments {
			if d.Keep != (stays || d.Segment.Level == 1) || d.Keep != (d.Cover == nil) {
				t.Errorf("age %s: %+v", age, d)
			}
		}
	}
}

// archived is a random history and what an archive has of it: live segments with holes, merged ones with their times, and
// snapshots.
func archived(r *rand.Rand) *world {
	w := randomWorld(r)
	w.segments, w.spans = nil, map[string][]history.Span{}
	last := history.Revision(len(w.came) - 1)
	var run []repository.Segment
	add := func(lvl int, parts ...repository.Segment) {
		s := repository.Segment{Timeline: line, Level: lvl, First: parts[0].First, Last: parts[len(parts)-1].Last, Exact: true, Object: repository.Object{Size: 10}}
		var spans []history.Span
		for _, p := range parts {
			spans = append(spans, w.spans[key(p)]...)
		}
		w.spans[key(s)] = spans
		s.FirstTime, s.LastTime = spans[0].From, spans[len(spans)-1].To
		for _, span := range spans {
			s.Exact = s.Exact && span.Exact()
		}
		w.segments = append(w.segments, s)
	}
	merge := func() {
		for lvl := 1; lvl <= 3; lvl++ {
			for i := 0; i < len(run); {
				n := min(len(run)-i, 1+r.IntN(3*lvl))
				if r.IntN(3) > 0 && n > 1 {
					add(lvl, run[i:i+n]...)
				}
				i += n
			}
		}
		run = nil
	}
	for first := history.Revision(2 + r.IntN(5)); first <= last; {
		if r.IntN(12) == 0 {
			merge()
			first += history.Revision(1 + r.IntN(6))
			continue
		}
		s := repository.Segment{Timeline: line, First: first, Last: min(last, first+history.Revision(r.IntN(5)))}
		if w.spans[key(s)] = w.randomSpans(r, s); r.IntN(3) > 0 { // most are seen as they came
			var spans []history.Span
			for at := s.First; at <= s.Last; at++ {
				spans = append(spans, history.Span{Range: history.Range{First: at, Last: at}, From: w.came[at], To: w.came[at]})
			}
			w.spans[key(s)] = spans
		}
		add(0, s)
		run = append(run, s)
		first = s.Last + 1
	}
	merge()
	w.snapshots = numbered(w.snapshots...)
	return w
}

// pruned is what a removal leaves, which was cut off or not.
func (w *world) pruned(r *rand.Rand, retained Retained, doubted map[repository.ID]bool) *world {
	after := &world{came: w.came, spans: w.spans}
	partly := r.IntN(2) == 0
	newest := Of(w.snapshots, nil, nil)[0].Snapshots
	for _, m := range w.snapshots {
		// The newest and what is in doubt stay by other rules.
		if retained.Needed[m.ID] != "" || doubted[m.ID] || m.ID == newest[len(newest)-1].ID || partly && r.IntN(2) == 0 {
			after.snapshots = append(after.snapshots, m)
		}
	}
	for _, d := range retained.Segments {
		if d.Keep || partly && r.IntN(2) == 0 {
			after.segments = append(after.segments, d.Segment)
		}
	}
	return after
}

// TestRetainKeepsTheWindow: whatever is stored, and however far a removal came, every revision and every time of the window
// that could be restored before can be restored after.
func TestRetainKeepsTheWindow(t *testing.T) {
	var removedSegments, removedSnapshots, revisions, moments int
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 11))
		w := archived(r)
		times := func(s repository.Segment) ([]history.Span, error) { return w.spans[key(s)], nil }
		end := w.came[len(w.came)-1]
		window := Window{Now: end.Add(time.Duration(r.IntN(3)) * time.Second), Length: time.Duration(r.IntN(40)) * time.Second, Doubted: map[repository.ID]bool{}}
		for _, m := range w.snapshots {
			if r.IntN(8) == 0 {
				window.Doubted[m.ID] = true
			}
		}
		got := Retain(w.snapshots, w.segments, window)
		if len(w.segments) == 0 {
			continue
		}
		start := window.start(Of(w.snapshots, w.segments, nil))
		after := w.pruned(r, got, window.Doubted)
		if r.IntN(2) == 0 { // and once more
			after = after.pruned(r, Retain(after.snapshots, after.segments, window), window.Doubted)
		}
		removedSegments += len(w.segments) - len(after.segments)
		removedSnapshots += len(w.snapshots) - len(after.snapshots)
		if len(got.Segments) != len(w.segments) {
			t.Fatalf("seed %d: %d decisions about %d segments", seed, len(got.Segments), len(w.segments))
		}
		first := w.at(start)
		for revision := max(first, 1); int(revision) < len(w.came); revision++ {
			if w.restorable(revision) {
				revisions++
				if !after.restorable(revision) {
					t.Fatalf("seed %d: revision %s came at %s, the window begins at %s, and it cannot be restored any more; %+v", seed, revision, Stamp(w.came[revision]), Stamp(start), got.Needed)
				}
			}
		}
		before, now := Of(w.snapshots, w.segments, nil), Of(after.snapshots, after.segments, nil)
		for range 60 {
			when := start.Add(time.Duration(r.Int64N(int64(max(end.Sub(start), 0)+5*time.Second)) / 1e6 * 1e6))
			old, err := Resolve(before, Target{Time: when}, times)
			if err != nil {
				continue
			}
			moments++
			new, err := Resolve(now, Target{Time: when}, times)
			if err != nil || new.Revision != old.Revision {
				t.Fatalf("seed %d: at %s it was revision %s, and now it is %s, %v", seed, Stamp(when), old.Revision, new.Revision, err)
			}
		}
		for _, d := range got.Segments {
			if d.Cover != nil && (d.Keep || d.Cover.Level <= d.Segment.Level || d.Cover.First > d.Segment.First || d.Cover.Last < d.Segment.Last ||
				!slices.ContainsFunc(got.Segments, func(o Decision) bool { return o.Keep && o.Segment.Point() == d.Cover.Point() })) {
				t.Fatalf("seed %d: %s is covered by %s", seed, d.Segment.Range(), d.Cover.Range())
			}
		}
	}
	t.Logf("%d segments and %d snapshots removed, %d revisions and %d times held", removedSegments, removedSnapshots, revisions, moments)
	if removedSegments < 5_000 || removedSnapshots < 200 || revisions < 6_000 || moments < 8_000 {
		t.Error("that is too few to tell anything")
	}
}
