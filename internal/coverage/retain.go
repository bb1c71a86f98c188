package coverage

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Window is the time in which every revision stays restorable.
type Window struct {
	Now time.Time
	// Length is how far back from the newest that is known, and not from a Now that is ahead of it: when archiving stops,
	// what there is stays.
	Length time.Duration
	// Doubted are snapshots that cannot be relied on, such as those that were found damaged. They are the base of something
	// only where there is no other.
	Doubted map[repository.ID]bool
}

// Retained is what a window keeps of an archive.
type Retained struct {
	// Needed are snapshots that must stay for it, with the reason. What becomes of the others is for other rules to say.
	Needed map[repository.ID]string
	// Segments has a decision about each segment, by timeline, first revision and level.
	Segments []Decision
}

// Decision is what becomes of a segment.
type Decision struct {
	Segment repository.Segment
	Keep    bool
	// Reason is why, a few words.
	Reason string
	// Cover is the segment of a higher level that is to be kept and has all of this one; nil when it goes because it is old.
	// Whoever removes it has looked before whether the cover is whole.
	Cover *repository.Segment
}

// liveMargin is added to the time that a live segment stays, so that a plan is still right when it is carried out.
const liveMargin = 5 * time.Minute

// Retain tells what must stay so that every revision and every time of the window that can be restored now can be restored
// afterwards, whichever of the rest is gone. What it needs is given: all believed snapshots and segments of a cluster.
//
// The window begins with the revision that the cluster had at its start, as far as manifests tell, or one before it. A
// timeline without segments is no archive, and left to the rules for snapshots. Kept are, of a timeline:
//
//	one snapshot from which the first revision of the window is reached, and one more after each hole
//	snapshots of the window that alone tell when their revision was there
//	all segments that go beyond the first of these snapshots, or that are of the window
//
// but for those that are inside of one of a higher level. Where nothing leads to the window of the timeline that the cluster is
// in, nothing is old: a snapshot may be missing that is found again.
// A live segment stays for repository.LiveAtLeast.
func Retain(snapshots []repository.Manifest, segments []repository.Segment, w Window) Retained {
	r := Retained{Needed: map[repository.ID]string{}}
	timelines := Of(snapshots, segments, nil)
	start := w.start(timelines)
	for i, t := range timelines {
		if len(t.Segments) == 0 {
			continue
		}
		// At the start of the window the cluster was in the last timeline that had begun.
		current := i+1 == len(timelines) || timelines[i+1].Begin().After(start)
		first := t.first(start, current)
		old := r.bases(t, first, w.Doubted)
		if current && t.Last() < first {
			old = 0 // there is no base: it may be found again
		}
		r.witnesses(t, first)
		r.decide(t, old, w.Now)
	}
	return r
}

// start is where the window begins. A clock that is ahead makes nothing old, be it that of an archiver or ours: both would
// have to be.
func (w Window) start(timelines []Timeline) time.Time {
	var newest time.Time
	for _, t := range timelines {
		for _, s := range t.Segments {
			newest = later(newest, s.LastTime)
		}
		for _, m := range t.Snapshots {
			newest = later(newest, m.Completed)
		}
	}
	if newest.After(w.Now) {
		newest = w.Now
	}
	return newest.Add(-w.Length)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// first is the first revision of the window: in a timeline that is not current any more all that may have come after its
// start, otherwise also the one that the cluster had then.
func (t Timeline) first(start time.Time, current bool) history.Revision {
	spans, _ := t.spans(nil, nil) // it asks nobody for times, and fails only by these
	surely := history.Revision(0)
	for _, k := range t.knots(spans) {
		if !k.there.IsZero() && !k.there.After(start) {
			surely = max(surely, k.revision)
		}
	}
	if current {
		return max(surely, 1)
	}
	return surely + 1
}

// bases chooses the snapshots that lead to every revision from first on that can be restored. It gives the last revision
// that no chain to these needs a segment for.
func (r *Retained) bases(t Timeline, first history.Revision, doubted map[repository.ID]bool) (old history.Revision) {
	old = first - 1
	for _, covered := range t.Covered {
		for at := max(first, covered.First); at <= covered.Last; {
			base, last := t.base(at, doubted)
			if reason := fmt.Sprintf("base of the archive from revision %d", at); r.Needed[base.ID] == "" {
				r.Needed[base.ID] = reason
			}
			old = min(old, base.Content.Revision)
			at = last + 1
		}
	}
	return old
}

// base gives the newest snapshot that leads to a revision, of those that lead on the furthest, and how far it does.
func (t Timeline) base(at history.Revision, doubted map[repository.ID]bool) (best repository.Manifest, last history.Revision) {
	better := func(m repository.Manifest, reach history.Revision) bool {
		switch {
		case last == 0:
			return true
		case doubted[m.ID] != doubted[best.ID]:
			return doubted[best.ID]
		}
		return cmp.Or(cmp.Compare(reach, last), cmp.Compare(m.Content.Revision, best.Content.Revision)) >= 0
	}
	for _, m := range t.Snapshots { // by revision
		own := rangeOf(m)
		if reach := t.reach(own.Last); own.First <= at && at <= reach && better(m, reach) {
			best, last = m, reach
		}
	}
	return best, last
}

// witnesses keeps snapshots of the window of which the segments do not tell when their revision was there, and for how long.
func (r *Retained) witnesses(t Timeline, first history.Revision) {
	var exact []history.Range
	for _, s := range t.Segments {
		if s.Exact {
			exact = append(exact, s.Range())
		}
	}
	exact = union(exact)
	told := func(at history.Revision) bool {
		return slices.ContainsFunc(exact, func(r history.Range) bool { return r.Contains(at) })
	}
	for _, m := range t.Snapshots {
		at := m.Content.Revision
		if at < first || m.Source.File != nil || m.Source.Adopted || told(at) && told(at+1) || r.Needed[m.ID] != "" {
			continue
		}
		r.Needed[m.ID] = fmt.Sprintf("it alone tells when revision %d was there", at)
	}
}

// decide decides about the segments of a timeline: those that end not after old are not needed.
func (r *Retained) decide(t Timeline, old history.Revision, now time.Time) {
	segments := slices.Clone(t.Segments)
	slices.SortFunc(segments, func(a, b repository.Segment) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(b.Level, a.Level), cmp.Compare(b.Last, a.Last))
	})
	// The tops of each level, so that the highest that holds a segment is found.
	covers := map[int][]repository.Segment{}
	for _, s := range segments {
		if list := covers[s.Level]; s.Level > repository.SegmentLive && (len(list) == 0 || s.Last > list[len(list)-1].Last) {
			covers[s.Level] = append(list, s)
		}
	}
	for _, s := range segments {
		d := Decision{Segment: s, Keep: true, Reason: "of the window, or on the way to it"}
		cover := coverOf(covers, s)
		switch {
		case s.Level == repository.SegmentLive && now.Before(s.Completed.Add(repository.LiveAtLeast+liveMargin)):
			d.Reason = "younger than " + repository.LiveAtLeast.String()
		case s.Last <= old:
			d.Keep, d.Reason = false, "older than the window"
		case cover != nil:
			d.Keep, d.Cover = false, cover
			d.Reason = fmt.Sprintf("merged into revisions %d to %d, level %d", cover.First, cover.Last, cover.Level)
		}
		r.Segments = append(r.Segments, d)
	}
}

// coverOf gives the segment of the highest level above that of another that has all of it.
func coverOf(covers map[int][]repository.Segment, s repository.Segment) *repository.Segment {
	for level := repository.SegmentDay; level > s.Level; level-- {
		list := covers[level]
		// Both first and last revisions ascend in it; the first one that ends late enough begins the earliest of those.
		i, _ := slices.BinarySearchFunc(list, s.Last, func(c repository.Segment, last history.Revision) int { return cmp.Compare(c.Last, last) })
		if i < len(list) && list[i].First <= s.First {
			return &list[i]
		}
	}
	return nil
}
