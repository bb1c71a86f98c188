package coverage

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Target is what a person wants to go back to: exactly one of a revision, a time, or, with neither, the latest revision.
type Target struct {
	Revision history.Revision
	Time     time.Time
	// Timeline chooses one; "" lets revision or time choose.
	Timeline repository.Timeline
}

// String says it as a person would.
func (t Target) String() string {
	switch {
	case t.Revision > 0:
		return "revision " + t.Revision.String()
	case !t.Time.IsZero():
		return "time " + Stamp(t.Time)
	}
	return "the latest revision"
}

// Stamp shows a time: UTC, RFC 3339, milliseconds.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// Chain is what leads to a revision: one snapshot, and segments that join it without a hole.
type Chain struct {
	Timeline repository.Timeline
	Revision history.Revision
	// Time is when the revision came about, as far as is known.
	Time     history.Span
	Base     repository.Manifest
	Segments []repository.Segment
	// Newest is the last revision of the timeline that can be restored, Highest the highest that is known on any timeline.
	Newest, Highest history.Revision
}

// Size is what must be read from the store, in bytes.
func (c Chain) Size() int64 {
	size := c.Base.Object.Size
	for _, s := range c.Segments {
		size += s.Object.Size
	}
	return size
}

// Events is how many events the segments hold.
func (c Chain) Events() (n int64) {
	for _, s := range c.Segments {
		n += s.Events
	}
	return n
}

// Moment is a revision that can be restored, and when it came about.
type Moment struct {
	Timeline repository.Timeline
	history.Span
}

// String shows revision and time.
func (m Moment) String() string { return "revision " + m.First.String() + m.when() }

// beside is String, with the timeline unless it is the one that is talked of.
func (m Moment) beside(timeline repository.Timeline) string {
	if timeline == "" || m.Timeline == timeline {
		return m.String()
	}
	return fmt.Sprintf("revision %s of timeline %s%s", m.First, m.Timeline, m.when())
}

// when shows the time, as what follows a revision.
func (m Moment) when() string {
	switch {
	case m.To.IsZero():
		return ", nobody knows of when"
	case m.From.IsZero():
		return ", not after " + Stamp(m.To)
	case m.Exact():
		return " at " + Stamp(m.To)
	}
	return fmt.Sprintf(" between %s and %s", Stamp(m.From), Stamp(m.To))
}

// Unreachable means that a target cannot be reached exactly. Before and After are the nearest moments that can be, nil when
// there is none on that side. Timeline is the one that a time falls on; a moment can be of the one before or after it.
type Unreachable struct {
	Target        Target
	Timeline      repository.Timeline
	Why           string
	Before, After *Moment
}

// Error says why, and what can be reached.
func (u *Unreachable) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s cannot be reached exactly: %s", u.Target, u.Why)
	if u.Before != nil {
		fmt.Fprintf(&b, "; nearest before: %s", u.Before.beside(u.Timeline))
	}
	if u.After != nil {
		fmt.Fprintf(&b, "; nearest after: %s", u.After.beside(u.Timeline))
	}
	return b.String()
}

// Times gives the times within a segment, which its manifest does not hold.
type Times func(repository.Segment) ([]history.Span, error)

// Resolve finds the chain to a target. Errors are *Unreachable, and those of times.
func Resolve(timelines []Timeline, target Target, times Times) (Chain, error) {
	var of []Timeline
	for _, t := range timelines {
		if (target.Timeline == "" || t.ID == target.Timeline) && len(t.Covered) > 0 {
			of = append(of, t)
		}
	}
	if len(of) == 0 {
		why := "nothing is stored that can be restored"
		if names := restorable(timelines); target.Timeline != "" && len(names) > 0 {
			why = fmt.Sprintf("nothing of timeline %s can be restored; of these something can: %s", target.Timeline, strings.Join(names, " "))
		}
		return Chain{}, &Unreachable{Target: target, Why: why}
	}
	var chain Chain
	var err error
	switch {
	case target.Revision > 0:
		chain, err = resolveRevision(of, target, times)
	case !target.Time.IsZero():
		chain, err = resolveTime(of, target, times)
	default:
		newest := of[len(of)-1]
		chain, err = newest.chain(newest.Last(), times)
	}
	if err != nil {
		return Chain{}, err
	}
	for _, t := range timelines {
		chain.Highest = max(chain.Highest, t.Highest())
	}
	return chain, nil
}

// restorable names the timelines that cover anything.
func restorable(timelines []Timeline) (names []string) {
	for _, t := range timelines {
		if len(t.Covered) > 0 {
			names = append(names, string(t.ID))
		}
	}
	return names
}

// Highest is the highest revision that anything is known of.
func (t Timeline) Highest() (r history.Revision) {
	r = t.Last()
	for _, s := range t.Segments {
		r = max(r, s.Last)
	}
	for _, s := range t.seen {
		r = max(r, s.Revision)
	}
	return r
}

// chain is the one to a revision that is covered: from the newest snapshot that is not after it, as users and roles are as they
// were there; or else from the one after it, with its history, that has the least to read.
func (t Timeline) chain(r history.Revision, times Times) (Chain, error) {
	var best *Chain
	var path []int
	least := int64(math.MaxInt64)
	for _, m := range slices.Backward(t.Snapshots) {
		var through []int
		size := m.Object.Size
		switch own := rangeOf(m); {
		case own.Last == r:
			size = -1 // whatever its size; of several the first that comes by, which is the newest
		case own.Contains(r):
		case own.Last < r && least <= 0:
			continue // a newer one leads there
		case own.Last < r:
			through = t.path(own.Last, r)
			if n := len(through); n == 0 || t.Segments[through[n-1]].Last < r {
				continue
			}
			size = 0 // before any that is after it
		default:
			continue
		}
		if size < least {
			best, path, least = &Chain{Timeline: t.ID, Revision: r, Base: m, Newest: t.Last()}, through, size
		}
	}
	if best == nil {
		return Chain{}, &Unreachable{Target: Target{Revision: r}, Why: "no snapshot leads to it"}
	}
	best.Segments = t.at(path)
	var err error
	best.Time, err = t.timeOf(r, times)
	return *best, err
}

// resolveRevision finds a revision. That several lives of the cluster have it must be decided by a person.
func resolveRevision(of []Timeline, target Target, times Times) (Chain, error) {
	var having []Timeline
	for _, t := range of {
		if slices.ContainsFunc(t.Covered, func(r history.Range) bool { return r.Contains(target.Revision) }) {
			having = append(having, t)
		}
	}
	switch len(having) {
	case 1:
		return having[0].chain(target.Revision, times)
	case 0:
		return Chain{}, beside(of, target, times)
	}
	var names []string
	for _, t := range having {
		names = append(names, string(t.ID))
	}
	return Chain{}, &Unreachable{Target: target, Why: "it is on the timelines " + strings.Join(names, " and ") + ", and must be asked for with one of them"}
}

// beside tells what can be reached beside a revision that cannot, on the newest timeline.
func beside(of []Timeline, target Target, times Times) error {
	t := of[len(of)-1]
	u := &Unreachable{Target: target}
	for _, r := range t.Covered {
		if r.Last < target.Revision {
			u.Before = t.moment(r.Last, times)
		}
		if r.First > target.Revision && u.After == nil {
			u.After = t.moment(r.First, times)
		}
	}
	switch {
	case u.Before == nil:
		u.Why = "it is before everything that is stored"
	case u.After == nil:
		u.Why = "it is after everything that is stored"
	default:
		u.Why = fmt.Sprintf("revisions %s to %s are missing", u.Before.First+1, u.After.First-1)
	}
	return u
}

// moment tells when a revision came about. Times within a segment that cannot be read are left as wide as its manifest has
// them.
func (t Timeline) moment(r history.Revision, times Times) *Moment {
	span, err := t.timeOf(r, times)
	if err != nil {
		span, _ = t.timeOf(r, nil)
	}
	return &Moment{Timeline: t.ID, Span: span}
}
