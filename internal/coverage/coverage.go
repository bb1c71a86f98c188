// Package coverage tells what can be restored: which revisions of a cluster the stored snapshots and segments cover, when
// these came about, and which of them lead to a target.
//
// It sits between repository, whose manifests it is given, and whoever plans a restore or shows what there is. It is pure: no
// clock, no store; only Resolve may ask for the times within a segment. Its values are safe to share.
//
// Not promised: that a part is whole. Reading it tells.
package coverage

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Timeline is one life of a cluster, and what is stored of it.
type Timeline struct {
	ID repository.Timeline
	// Snapshots and Segments are those that can be believed, snapshots by their last revision, segments by their first.
	Snapshots []repository.Manifest
	Segments  []repository.Segment
	// Covered are the revisions that can be restored: disjoint, ascending, with a revision missing between two.
	Covered []history.Range
	// Orphans are revisions that are stored in segments and cannot be restored, as no snapshot leads to them.
	Orphans []history.Range
	// AsOf is until when nothing came after the last revision, as far as is known.
	AsOf time.Time

	// seen is what archivers said beside it.
	seen []Seen
}

// Seen is that at a time a cluster had a revision and no later one.
type Seen struct {
	Timeline repository.Timeline
	Revision history.Revision
	At       time.Time
}

// Of sorts what is stored of a cluster into its timelines, in the order of their beginnings. Seen are observations of the
// archiver beside what it stored.
func Of(snapshots []repository.Manifest, segments []repository.Segment, seen []Seen) []Timeline {
	by := map[repository.Timeline]*Timeline{}
	at := func(id repository.Timeline) *Timeline {
		if by[id] == nil {
			by[id] = &Timeline{ID: id}
		}
		return by[id]
	}
	for _, m := range snapshots {
		t := at(m.Timeline)
		t.Snapshots = append(t.Snapshots, m)
	}
	count := map[repository.Timeline]int{}
	for i := range segments {
		count[segments[i].Timeline]++
	}
	for id, n := range count {
		at(id).Segments = make([]repository.Segment, 0, n)
	}
	for _, s := range segments {
		t := by[s.Timeline]
		t.Segments = append(t.Segments, s)
	}
	list := make([]Timeline, 0, len(by))
	for _, t := range by {
		slices.SortFunc(t.Snapshots, func(a, b repository.Manifest) int {
			return cmp.Or(cmp.Compare(a.Content.Revision, b.Content.Revision), a.Started.Compare(b.Started))
		})
		slices.SortFunc(t.Segments, func(a, b repository.Segment) int {
			return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(b.Last, a.Last))
		})
		for _, s := range seen {
			if s.Timeline == t.ID && s.Revision > 0 && !s.At.IsZero() {
				t.seen = append(t.seen, s)
			}
		}
		t.cover()
		t.asOf()
		list = append(list, *t)
	}
	slices.SortFunc(list, func(a, b Timeline) int {
		return cmp.Or(a.Begin().Compare(b.Begin()), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// cover computes what can be restored.
func (t *Timeline) cover() {
	var ranges []history.Range
	for _, m := range t.Snapshots {
		r := rangeOf(m)
		r.Last = t.reach(r.Last)
		ranges = append(ranges, r)
	}
	t.Covered = union(ranges)
	var stored []history.Range
	for _, s := range t.Segments {
		stored = append(stored, history.Range{First: s.First, Last: s.Last})
	}
	t.Orphans = without(union(stored), t.Covered)
}

// asOf computes until when nothing came after the last revision: until then nothing came after it or an earlier one. That a later
// one, which is lost, was the last one then says the opposite. What came after it came no earlier than it did.
func (t *Timeline) asOf() {
	if t.Last() == 0 {
		return
	}
	spans, _ := t.spans(nil, nil) // it asks nobody for times, and fails only by these
	for _, k := range t.knots(spans) {
		if k.revision <= t.Last() && k.notNext.After(t.AsOf) {
			t.AsOf = k.notNext
		}
	}
}

// rangeOf is what can be restored from a snapshot alone.
func rangeOf(m repository.Manifest) history.Range {
	return history.Range{First: m.Point().First, Last: m.Content.Revision}
}

// reach is how far segments lead on from a revision without a hole.
func (t *Timeline) reach(from history.Revision) history.Revision {
	if path := t.path(from, math.MaxInt64); len(path) > 0 {
		return t.Segments[path[len(path)-1]].Last
	}
	return from
}

// path gives the fewest segments that lead from a revision on, as far as they do and no further than needed for to: their
// places in Segments, as a segment has some hundred bytes and there may be a hundred thousand of them.
func (t *Timeline) path(from, to history.Revision) []int {
	var path []int
	best := -1
	for i := 0; from < to; {
		for ; i < len(t.Segments) && t.Segments[i].First <= from+1; i++ {
			if best < 0 || t.Segments[i].Last > t.Segments[best].Last {
				best = i
			}
		}
		if best < 0 || t.Segments[best].Last <= from {
			break
		}
		path = append(path, best)
		from = t.Segments[best].Last
	}
	return path
}

// at gives the segments at some places; nil of none.
func (t *Timeline) at(path []int) []repository.Segment {
	if len(path) == 0 {
		return nil
	}
	list := make([]repository.Segment, len(path))
	for i, place := range path {
		list[i] = t.Segments[place]
	}
	return list
}

// Last is the last revision that is covered; 0 when there is none.
func (t Timeline) Last() history.Revision {
	if len(t.Covered) == 0 {
		return 0
	}
	return t.Covered[len(t.Covered)-1].Last
}

// Begin is the first time that anything is known of.
func (t Timeline) Begin() time.Time {
	var begin time.Time
	earlier := func(at time.Time) {
		if begin.IsZero() || at.Before(begin) {
			begin = at
		}
	}
	for _, m := range t.Snapshots {
		earlier(m.Started)
	}
	for _, s := range t.Segments {
		earlier(s.FirstTime)
	}
	return begin
}

// Gaps are the holes between what is covered.
func (t Timeline) Gaps() []history.Range { return between(t.Covered) }

// between gives the holes between ranges, which are as union gives them.
func between(ranges []history.Range) []history.Range {
	var gaps []history.Range
	for i, r := range ranges[:max(len(ranges)-1, 0)] {
		gaps = append(gaps, history.Range{First: r.Last + 1, Last: ranges[i+1].First - 1})
	}
	return gaps
}

// Lost are the revisions that this timeline covers and a later look at it does not.
func (t Timeline) Lost(now Timeline) []history.Range { return without(t.Covered, now.Covered) }

// union joins ranges that overlap or touch.
func union(ranges []history.Range) []history.Range {
	slices.SortFunc(ranges, func(a, b history.Range) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	var joined []history.Range
	for _, r := range ranges {
		if n := len(joined); n > 0 && r.First <= joined[n-1].Last+1 {
			joined[n-1].Last = max(joined[n-1].Last, r.Last)
			continue
		}
		joined = append(joined, r)
	}
	return joined
}

// without takes revisions away from ranges; both lists are as union gives them.
func without(ranges, away []history.Range) []history.Range {
	var left []history.Range
	for _, r := range ranges {
		for _, a := range away {
			if a.Last < r.First || a.First > r.Last {
				continue
			}
			if a.First > r.First {
				left = append(left, history.Range{First: r.First, Last: a.First - 1})
			}
			r.First = a.Last + 1
		}
		if r.First <= r.Last {
			left = append(left, r)
		}
	}
	return left
}
