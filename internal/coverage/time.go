package coverage

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// A timeline is a staircase: revisions go up with time. What is known of it are spans out of segments, where each revision
// came as it was seen, and out of snapshots: the cluster had the snapshot's revision when it was completed, and no later one
// when it was started. And there is what archivers saw: that the cluster had a revision at a time, and no later one. All bounds hold for everything below or above, since time does not go back along a timeline.

// spans gives what segments tell, ascending and disjoint. Of those that inside is true for it asks times; of others it gives
// one span for all revisions.
func (t Timeline) spans(inside func(repository.Segment) bool, times Times) ([]history.Span, error) {
	var list []history.Span
	done := history.Revision(0)
	for _, i := range t.telling() {
		s := t.Segments[i]
		spans := outline(s)
		if times != nil && inside(s) {
			var err error
			if spans, err = times(s); err != nil {
				return nil, err
			}
		}
		for _, span := range spans {
			if span.First = max(span.First, done+1); span.First <= span.Last {
				list, done = append(list, span), span.Last
			}
		}
	}
	return list, nil
}

// outline is what the manifest of a segment tells of times.
func outline(s repository.Segment) []history.Span {
	span := func(first, last history.Revision, from, to time.Time) history.Span {
		return history.Span{Range: history.Range{First: first, Last: last}, From: from, To: to}
	}
	if !s.Exact || s.First == s.Last {
		return []history.Span{span(s.First, s.Last, s.FirstTime, s.LastTime)}
	}
	return []history.Span{
		span(s.First, s.First, s.FirstTime, s.FirstTime), span(s.First+1, s.Last-1, s.FirstTime, s.LastTime), span(s.Last, s.Last, s.LastTime, s.LastTime),
	}
}

// telling are the places of segments that tell of every revision that any tells of, ascending.
func (t Timeline) telling() []int {
	var list []int
	for i := 0; i < len(t.Segments); {
		from := t.Segments[i].First - 1
		part := t.path(from, math.MaxInt64)
		if len(part) == 0 {
			i++
			continue
		}
		// path also takes what begins before; that is in the list already.
		list = append(list, part...)
		last := t.Segments[part[len(part)-1]].Last
		for i < len(t.Segments) && t.Segments[i].First <= last+1 {
			i++
		}
	}
	return list
}

// knot is a revision of which something is known.
type knot struct {
	revision history.Revision
	// there is when the revision was surely there, at the latest; zero when this knot does not tell.
	there time.Time
	// notNext is when the next revision was surely not there yet, at the latest; zero when this knot does not tell.
	notNext time.Time
}

// knots gives what is known, ascending by revision. Out of the span of revisions a to b: a was not there before it, b was
// there after it, and what follows b was not there before b.
func (t Timeline) knots(spans []history.Span) []knot {
	var list []knot
	for _, s := range spans {
		list = append(list, knot{revision: s.First - 1, notNext: s.From}, knot{revision: s.Last, there: s.To, notNext: s.From})
	}
	for _, m := range t.Snapshots {
		if m.Source.File == nil && !m.Source.Adopted { // the clock of what was imported is hearsay
			list = append(list, knot{revision: m.Content.Revision, there: m.Completed, notNext: m.Started})
		}
	}
	for _, s := range t.seen {
		list = append(list, knot{revision: s.Revision, there: s.At, notNext: s.At})
	}
	slices.SortStableFunc(list, func(a, b knot) int { return cmp.Compare(a.revision, b.revision) })
	// Clocks are set back now and then, time along a timeline is not: what came after something came later than it.
	var floor time.Time
	for i, k := range list {
		if !k.there.IsZero() && k.there.Before(floor) {
			list[i].there = floor
		}
		if next := i + 1; next == len(list) || list[next].revision > k.revision {
			for j := i; j >= 0 && list[j].revision == k.revision; j-- {
				if list[j].notNext.After(floor) {
					floor = list[j].notNext
				}
			}
		}
	}
	return list
}

// timeOf tells when a revision came about.
func (t Timeline) timeOf(r history.Revision, times Times) (history.Span, error) {
	spans, err := t.spans(func(s repository.Segment) bool { return s.First <= r && r <= s.Last && !s.FirstTime.Equal(s.LastTime) }, times)
	if err != nil {
		return history.Span{}, err
	}
	return spanOf(t.knots(spans), r), nil
}

// spanOf tells by knots when a revision came about.
func spanOf(knots []knot, r history.Revision) history.Span {
	span := history.Span{Range: history.Range{First: r, Last: r}}
	for _, k := range knots {
		// The revision is after everything that was not there yet, ...
		if k.revision < r && k.notNext.After(span.From) {
			span.From = k.notNext
		}
		// ... and before everything at or above it that was there.
		if k.revision >= r && !k.there.IsZero() && (span.To.IsZero() || k.there.Before(span.To)) {
			span.To = k.there
		}
	}
	if span.To.IsZero() || span.To.Before(span.From) {
		span.To = span.From
	}
	return span
}

// resolveTime finds the last revision that came about not after a time, on the last timeline that had begun then. Where there is
// nothing near on that one, the ones beside it have it.
func resolveTime(of []Timeline, target Target, times Times) (Chain, error) {
	at := 0
	for i, t := range of {
		if !t.Begin().After(target.Time) {
			at = i
		}
	}
	chain, err := of[at].resolveTime(target, times)
	if u, is := errors.AsType[*Unreachable](err); is {
		if u.Before == nil && at > 0 {
			u.Before = of[at-1].moment(of[at-1].Last(), times)
		}
		if u.After == nil && at+1 < len(of) {
			next := of[at+1] // its first snapshot is the first that is known to have been there
			u.After = next.moment(next.Snapshots[0].Content.Revision, times)
		}
	}
	return chain, err
}

// resolveTime finds it on one timeline.
func (t Timeline) resolveTime(target Target, times Times) (Chain, error) {
	at := target.Time
	inside := func(s repository.Segment) bool { return !s.FirstTime.After(at) && !at.After(s.LastTime) }
	spans, err := t.spans(inside, times)
	if err != nil {
		return Chain{}, err
	}
	// low is the highest revision that was surely there, high the highest that can have been there.
	low, high := history.Revision(0), t.Highest()
	knots := t.knots(spans)
	for _, k := range knots {
		if !k.there.IsZero() && !k.there.After(at) {
			low = max(low, k.revision)
		}
	}
	beyond := true // nothing tells that the last revision was still the last one at that time
	for _, k := range knots {
		if k.notNext.After(at) {
			high, beyond = min(high, k.revision), false
		}
	}
	switch {
	case low == 0 || high < t.Covered[0].First:
		return Chain{}, t.refuse(target, "it is before everything that is stored", 0, t.Covered[0].First, times)
	case beyond:
		return Chain{}, t.refuse(target, fmt.Sprintf("what is known ends at %s", Stamp(t.AsOf)), t.Last(), 0, times)
	case low < high:
		return Chain{}, t.refuse(target, t.nobodySaw(history.Range{First: low + 1, Last: high}), low, high+1, times)
	}
	for i, r := range t.Covered {
		if r.Contains(low) {
			return t.chain(low, times)
		}
		if r.First > low {
			before := history.Revision(0)
			if i > 0 {
				before = t.Covered[i-1].Last
			}
			return Chain{}, t.refuse(target, fmt.Sprintf("revision %s, which it was then, is missing", low), before, r.First, times)
		}
	}
	return Chain{}, t.refuse(target, "it is after everything that can be restored", t.Last(), 0, times)
}

// nobodySaw says of revisions that nobody knows when each of them came about, and which of them can be reached all the same.
func (t Timeline) nobodySaw(r history.Range) string {
	why, them := fmt.Sprintf("revisions %s to %s came about around that time, and nobody saw when", r.First, r.Last), "each of them"
	if r.First == r.Last {
		why, them = fmt.Sprintf("revision %s came about around that time, and nobody saw when", r.First), "it"
	}
	var stored []string
	for _, covered := range t.Covered {
		both := history.Range{First: max(covered.First, r.First), Last: min(covered.Last, r.Last)}
		switch {
		case both.Len() == 0:
		case both == r:
			return fmt.Sprintf("%s (--revision reaches %s)", why, them)
		default:
			stored = append(stored, both.String())
		}
	}
	if len(stored) > mostWindows {
		stored = append([]string{"others"}, stored[len(stored)-mostWindows:]...)
	}
	if len(stored) > 0 {
		why += fmt.Sprintf(" (--revision reaches each of %s)", strings.Join(stored, ", "))
	}
	return why
}

// mostWindows is how many runs of revisions are named in an error.
const mostWindows = 5

// refuse tells what can be reached on both sides; 0 is for none.
func (t Timeline) refuse(target Target, why string, before, after history.Revision, times Times) error {
	u := &Unreachable{Target: target, Timeline: t.ID, Why: why}
	if before > 0 {
		for _, r := range slices.Backward(t.Covered) {
			if r.First <= before {
				u.Before = t.moment(min(before, r.Last), times)
				break
			}
		}
	}
	if after > 0 {
		for _, r := range t.Covered {
			if r.Last >= after {
				u.After = t.moment(max(after, r.First), times)
				break
			}
		}
	}
	return u
}
