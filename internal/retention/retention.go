// Package retention decides which snapshots of a cluster are kept, and says why of each.
//
// It is pure: it looks at nothing and removes nothing. Whoever prunes reads the snapshots, asks Apply, and shows the answer
// to a person before anything goes. It is safe for concurrent use.
//
// The order of snapshots is that of their history, which revisions prove, and never that of clocks. So a clock that jumped
// can make it keep too much, and can not make it give up the newest.
package retention

import (
	"fmt"
	"slices"
	"time"
)

// Item is one snapshot.
type Item struct {
	// Time is when its backup began, by the clock of the host that made it.
	Time time.Time
	// Pinned means that a person wants it kept.
	Pinned bool
	// Proven means that a drill has proven it.
	Proven bool
	// Needed is what the snapshot is needed for, such as to restore from an archive; "" when for nothing.
	Needed string
	// Doubt is why the snapshot cannot be relied on, such as that it was found damaged; "" when it can. It is kept, for a
	// person to look at, and takes the place of no other.
	Doubt string
}

// Policy says how many snapshots are kept. For the periods it is the newest snapshot of each of the last so many periods that
// have one. Days begin at midnight UTC, weeks on Mondays. A zero keeps none by that rule.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	// Within keeps everything that is younger than that, compared with the newest snapshot.
	Within time.Duration
}

// IsZero tells whether no rule keeps anything.
func (p Policy) IsZero() bool { return p == Policy{} }

// Decision is what is to become of a snapshot.
type Decision struct {
	Keep bool
	// Reasons are why it is kept, each a few words; none for one that is not.
	Reasons []string
}

// mostAhead is how far a clock may be ahead of ours before what it says is doubted.
const mostAhead = time.Hour

// period is one of the rules that keep the newest snapshot of a stretch of time.
type period struct {
	name string
	keep int
	// of names the stretch that a moment is in.
	of func(time.Time) string
}

func (p Policy) periods() []period {
	format := func(layout string) func(time.Time) string {
		return func(t time.Time) string { return t.Format(layout) }
	}
	week := func(t time.Time) string {
		year, week := t.ISOWeek()
		return fmt.Sprintf("%d-W%02d", year, week)
	}
	return []period{
		{"hourly", p.Hourly, format("2006-01-02T15")}, {"daily", p.Daily, format("2006-01-02")}, {"weekly", p.Weekly, week},
		{"monthly", p.Monthly, format("2006-01")}, {"yearly", p.Yearly, format("2006")},
	}
}

// Apply decides about the snapshots of one cluster, which are given in the order of history, oldest first; the decisions have
// the same order. Whatever the policy, it keeps the newest, the last proven one, those with a pin, those
// that are needed and those in doubt.
func (p Policy) Apply(items []Item, now time.Time) []Decision {
	decisions := make([]Decision, len(items))
	keep := func(i int, reason string) {
		decisions[i].Keep = true
		decisions[i].Reasons = append(decisions[i].Reasons, reason)
	}
	var sound []int // what the rules count
	for i, item := range items {
		if item.Pinned {
			keep(i, "pinned")
		}
		if item.Needed != "" {
			keep(i, item.Needed)
		}
		if item.Doubt != "" {
			keep(i, "in doubt: "+item.Doubt)
			continue
		}
		sound = append(sound, i)
	}
	if len(sound) == 0 {
		return decisions
	}
	newest := sound[len(sound)-1]
	keep(newest, "the newest")
	for _, i := range backward(sound) {
		if items[i].Proven {
			keep(i, "the last proven")
			break
		}
	}
	p.within(items, sound, now, keep)
	for place, i := range backward(sound) {
		if place < p.Last {
			keep(i, fmt.Sprintf("last %d", place+1))
		}
	}
	for _, rule := range p.periods() {
		seen := map[string]bool{}
		for _, i := range backward(sound) {
			if stretch := rule.of(items[i].Time.UTC()); len(seen) < rule.keep && !seen[stretch] {
				seen[stretch] = true
				keep(i, rule.name+" "+stretch)
			}
		}
	}
	return decisions
}

// within keeps what is young. What a clock that was ahead said cannot make others old.
func (p Policy) within(items []Item, sound []int, now time.Time, keep func(int, string)) {
	reference := items[sound[len(sound)-1]].Time
	ahead := reference.After(now.Add(mostAhead))
	for _, i := range sound {
		switch moment := items[i].Time; {
		case moment.After(now.Add(mostAhead)):
			keep(i, "in doubt: its time is yet to come")
		case p.Within > 0 && ahead:
			keep(i, "in doubt: the newest has a time that is yet to come")
		case p.Within > 0 && moment.After(reference.Add(-p.Within)):
			keep(i, "within "+p.Within.String())
		}
	}
}

// backward gives the indexes from the newest on.
func backward(indexes []int) []int {
	list := slices.Clone(indexes)
	slices.Reverse(list)
	return list
}
