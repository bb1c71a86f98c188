package coverage

import (
	"cmp"
	"math"
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
	// Never: no archiver was at work then.
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

// Notes are what is written down about an archive beside what it holds. Those of other timelines do not count.
type Notes struct {
	Gaps    []repository.Gap
	Removed []repository.RemovedSegments
	// From is where an archiver is known to have begun, Until the furthest that one has come; 0 when nobody said.
	From, Until history.Revision
}

// Holes explains what is missing between revisions that are covered or in segments, and up to where an archiver had come. One
// gap can be of several holes.
func (t Timeline) Holes(n Notes) []Hole {
	there := union(slices.Concat(t.Covered, t.Orphans))
	left := between(there)
	from, until := t.archivedBetween(n)
	if len(there) > 0 && until > there[len(there)-1].Last {
		left = append(left, history.Range{First: there[len(there)-1].Last + 1, Last: until})
	}
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
	for _, g := range n.Gaps {
		if g.Timeline == t.ID {
			take(history.Range{First: g.First, Last: g.Last}, Hole{Cause: Lost, Reason: g.Reason, Since: g.Noticed})
		}
	}
	for _, r := range n.Removed {
		if r.Timeline == t.ID {
			take(history.Range{First: r.First, Last: r.Last}, Hole{Cause: Removed, Reason: r.Reason})
		}
	}
	if from > 0 {
		take(history.Range{First: 1, Last: from}, Hole{Cause: Never})
	}
	take(history.Range{First: until + 1, Last: math.MaxInt64 - 1}, Hole{Cause: Never})
	for _, gap := range left {
		holes = append(holes, Hole{Range: gap, Cause: Missing})
	}
	for i, h := range holes {
		if h.Since.IsZero() {
			holes[i].Since = t.When(t.next(h.Last)).To
		}
	}
	slices.SortFunc(holes, func(a, b Hole) int { return cmp.Compare(a.First, b.First) })
	var joined []Hole
	for _, h := range holes {
		if n := len(joined); n > 0 && joined[n-1].Last+1 == h.First && joined[n-1].Cause == h.Cause && joined[n-1].Reason == h.Reason {
			joined[n-1].Last, joined[n-1].Since = h.Last, h.Since
			continue
		}
		joined = append(joined, h)
	}
	return joined
}

// archivedBetween is where archivers began and how far they have come, by segments and by what they said.
func (t Timeline) archivedBetween(n Notes) (from, until history.Revision) {
	from, until = n.From, n.Until
	for _, s := range t.Segments {
		if from == 0 || s.First-1 < from {
			from = s.First - 1
		}
		until = max(until, s.Last)
	}
	return from, until
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
	c.Segments = t.at(t.path(own.Last, to))
	n := len(c.Segments)
	return c, n > 0 && c.Segments[n-1].Last >= to
}
