package coverage

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Unseen is a run of revisions that can be restored and that nobody saw as they came: each is reached by its number, and no time
// from From on and before To is. From is zero when nothing is known of the time before, To when nothing is known at all.
type Unseen struct {
	history.Span
	// Part tells that only some of the revisions were not seen: it is a merged segment, whose manifest does not say which.
	Part bool
}

// Unseen gives the last runs, so many of them, ascending, and how many more there are before them. It is what manifests tell.
func (t Timeline) Unseen(most int) (runs []Unseen, more int) {
	spans, _ := t.spans(nil, nil) // it asks nobody for times, and fails only by these
	when := spansBy(t.knots(spans))
	for _, u := range t.unseen() {
		u.From, u.To = when(u.First).From, when(u.Last).To
		if n := len(runs); n > 0 && u.First == runs[n-1].Last+1 && u.Part == runs[n-1].Part && !runs[n-1].From.IsZero() && !u.From.After(runs[n-1].To) {
			runs[n-1].Last, runs[n-1].To = u.Last, u.To
			continue
		}
		runs = append(runs, u)
	}
	more = max(len(runs)-most, 0)
	return runs[more:], more
}

// unseen gives the runs as segments and snapshots have them, ascending and disjoint, without times.
func (t Timeline) unseen() (runs []Unseen) {
	var told []history.Range
	done := history.Revision(0)
	for _, i := range t.telling() {
		s := t.Segments[i]
		own := history.Range{First: max(s.First, done+1), Last: s.Last}
		done = max(done, s.Last)
		told = append(told, s.Range())
		for _, r := range t.Covered {
			both := history.Range{First: max(own.First, r.First), Last: min(own.Last, r.Last)}
			if !s.Exact && both.Len() > 0 {
				runs = append(runs, Unseen{Span: history.Span{Range: both}, Part: s.Level > repository.SegmentLive})
			}
		}
	}
	for _, r := range without(t.Covered, union(told)) {
		runs = append(runs, Unseen{Span: history.Span{Range: r}})
	}
	slices.SortFunc(runs, func(a, b Unseen) int { return cmp.Compare(a.First, b.First) })
	return runs
}

// spansBy is spanOf for many revisions.
func spansBy(knots []knot) func(history.Revision) history.Span {
	// Before the knot at a place nothing is later than from there, and from that place on nothing is earlier than to.
	from, to := make([]time.Time, len(knots)+1), make([]time.Time, len(knots)+1)
	for i, k := range knots {
		from[i+1] = later(from[i], k.notNext)
	}
	for i, k := range slices.Backward(knots) {
		if to[i] = to[i+1]; !k.there.IsZero() && (to[i].IsZero() || k.there.Before(to[i])) {
			to[i] = k.there
		}
	}
	return func(r history.Revision) history.Span {
		i, _ := slices.BinarySearchFunc(knots, r, func(k knot, r history.Revision) int { return cmp.Compare(k.revision, r) })
		span := history.Span{Range: history.Range{First: r, Last: r}, From: from[i], To: to[i]}
		if span.To.IsZero() || span.To.Before(span.From) {
			span.To = span.From
		}
		return span
	}
}
