package coverage

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Cause is why revisions between others cannot be restored.
type Cause string

// The causes. Only Missing is something that somebody should look at who did not know.
const (
	// Lost: etcd had compacted them before they were archived, and the archiver wrote that down.
	Lost Cause = "lost"
	// Removed: they were pruned, and that was written down.
	Removed Cause = "removed"
	// Never: they are from before there was an archive.
	Never Cause = "never archived"
	// Missing: they should be there.
	Missing Cause = "missing"
)

// Hole is a run of revisions that are not there, between revisions that are.
type Hole struct {
	history.Range
	Cause Cause
	// Reason is what was written down; "" when nothing was.
	Reason string
	// Since is when that was: when a loss was noticed. Of others it is when the next revision that is there had come about.
	Since time.Time
}

// Holes explains what is missing between revisions that are covered or in segments, by what was noted. One gap can be of several
// holes.
func (t Timeline) Holes(noted []repository.Gap, removed []repository.RemovedSegments) []Hole {
	left := between(union(slices.Concat(t.Covered, t.Orphans)))
	var holes []Hole
	take := func(r history.Range, hole Hole) {
		for _, gap := range left {
			if both := (history.Range{First: max(gap.First, r.First), Last: min(gap.Last, r.Last)}); both.First <= both.Last {
				hole.Range = both
				holes = append(holes, hole)
			}
		}
		left = without(left, []history.Range{r})
	}
	for _, g := range noted {
		if g.Timeline == t.ID {
			take(history.Range{First: g.First, Last: g.Last}, Hole{Cause: Lost, Reason: g.Reason, Since: g.Noticed})
		}
	}
	for _, r := range removed {
		if r.Timeline == t.ID {
			take(history.Range{First: r.First, Last: r.Last}, Hole{Cause: Removed, Reason: r.Reason})
		}
	}
	// Nothing that is older than the first segment was ever archived, as far as anybody knows.
	end := t.Last()
	if len(t.Segments) > 0 {
		end = t.Segments[0].First - 1
	}
	if end > 0 {
		take(history.Range{First: 1, Last: end}, Hole{Cause: Never})
	}
	for _, gap := range left {
		holes = append(holes, Hole{Range: gap, Cause: Missing})
	}
	for i, h := range holes {
		if h.Since.IsZero() {
			holes[i].Since = t.When(t.next(h.Last)).To
		}
	}
	slices.SortFunc(holes, func(a, b Hole) int { return cmp.Compare(a.First, b.First) })
	return holes
}

// next is the first revision after one that is covered.
func (t Timeline) next(r history.Revision) history.Revision {
	for _, covered := range t.Covered {
		if covered.Last > r {
			return max(covered.First, r+1)
		}
	}
	return t.Last()
}

// When tells between which times a revision came about, as far as manifests tell without a look into segments. From is zero
// when nothing is known of before it.
func (t Timeline) When(r history.Revision) history.Span {
	span, _ := t.timeOf(r, nil) // only times gives an error
	return span
}

// Archived tells whether a range is covered by segments beyond what its snapshots have of themselves.
func (t Timeline) Archived(r history.Range) bool {
	return slices.ContainsFunc(t.Segments, func(s repository.Segment) bool { return s.First <= r.Last && s.Last >= r.First })
}

// Onward leads a chain on to a later revision, from the same snapshot; false when nothing leads there without a hole.
func (t Timeline) Onward(c Chain, to history.Revision) (Chain, bool) {
	own := rangeOf(c.Base)
	if to < c.Revision {
		return c, false
	}
	c.Revision, c.Segments, c.Time = to, nil, t.When(to)
	if to <= own.Last {
		return c, own.Contains(to)
	}
	c.Segments = t.path(own.Last, to)
	n := len(c.Segments)
	return c, n > 0 && c.Segments[n-1].Last >= to
}
