package merge

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

const (
	// mostInputs bounds how many segments are merged at once: each is an open object of the store. A minute has 60.
	mostInputs = 128
	// mostMemory bounds what they take, in bytes.
	mostMemory = 96 << 20
	// settle is how long after the end of a period its segments are taken to be there: they are made every second, and the
	// store takes them one at a time. What comes later is merged later.
	settle = 15 * time.Second
)

// Merge is one segment that is to be made of others.
type Merge struct {
	// Level is that of what is made, repository.SegmentMinute to repository.SegmentDay.
	Level int
	// Period is the start of the minute, hour or day, in UTC.
	Period time.Time
	// Inputs are of one timeline; each begins with the revision after the last one of the one before.
	Inputs []repository.Segment
}

// Range is the revisions of what is made.
func (m Merge) Range() history.Range {
	return history.Range{First: m.Inputs[0].First, Last: m.Inputs[len(m.Inputs)-1].Last}
}

// Timeline is that of the inputs.
func (m Merge) Timeline() repository.Timeline { return m.Inputs[0].Timeline }

// Point is the place of what is made.
func (m Merge) Point() repository.SegmentPoint {
	r := m.Range()
	return repository.SegmentPoint{Cluster: m.Inputs[0].Cluster, Timeline: m.Timeline(), Level: m.Level, First: r.First, Last: r.Last}
}

// Rules say what is due.
type Rules struct {
	Now time.Time
	// CanOpen tells which segments can be read; nil means all. The others are left alone, and nothing is merged across them.
	CanOpen func(repository.Segment) bool
	// WholeDays leaves days that have not ended alone. It is for whoever is not the archiver: what it makes of minutes and
	// hours could not be read by the archiver, which would be kept from merging the day.
	WholeDays bool
}

// Plan tells what is to be merged now, in order. When it is done there may be more: minutes come before their hour where an
// hour is too much for one merge.
//
// A segment belongs to the minute, hour and day in which its first revision came about; along a timeline that time never goes
// back here, whatever clocks did. Merged are runs of segments that join without a hole. A run of a period becomes one segment
// as a whole, if it is not too large, and otherwise by way of the periods inside of it. Where already merged and live segments
// have the same revisions, the merged ones count. A single segment is merged only into a day, whose segments are sealed to
// fewer keys.
func Plan(segments []repository.Segment, rules Rules) []Merge {
	timelines := map[repository.Timeline][]repository.Segment{}
	for _, s := range segments {
		timelines[s.Timeline] = append(timelines[s.Timeline], s)
	}
	var plan []Merge
	for _, of := range timelines {
		p := planner{rules: rules}
		plan = append(plan, p.runs(Tops(of))...)
	}
	slices.SortFunc(plan, func(a, b Merge) int {
		return cmp.Or(cmp.Compare(a.Timeline(), b.Timeline()), cmp.Compare(a.Inputs[0].First, b.Inputs[0].First))
	})
	return plan
}

// All is Plan, and what follows when that was done, and so on until nothing is due.
func All(segments []repository.Segment, rules Rules) []Merge {
	segments = slices.Clone(segments)
	var all []Merge
	for {
		plan := Plan(segments, rules)
		if len(plan) == 0 {
			return all
		}
		all = append(all, plan...)
		for _, m := range plan {
			segments = append(segments, m.outline())
		}
	}
}

// outline is what will be made, as far as planning needs it.
func (m Merge) outline() repository.Segment {
	s := m.Inputs[0]
	s.Level, s.Last, s.LastTime = m.Level, m.Range().Last, m.Inputs[len(m.Inputs)-1].LastTime
	s.Plain.Size, s.Object.Size = 0, 0
	for _, in := range m.Inputs {
		s.Plain.Size += in.Plain.Size
		s.Object.Size += in.Object.Size
	}
	return s
}

// Tops gives the segments of a timeline that are not inside of one of a higher level, by their first revision.
func Tops(segments []repository.Segment) []repository.Segment {
	sorted := slices.Clone(segments)
	slices.SortFunc(sorted, func(a, b repository.Segment) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(b.Last, a.Last), cmp.Compare(b.Level, a.Level))
	})
	var reach [repository.SegmentDay + 1]history.Revision // the last revision that segments of a level have come to
	inside := func(s repository.Segment) bool {
		for _, last := range reach[s.Level:] {
			if last >= s.Last {
				return true
			}
		}
		return false
	}
	tops := sorted[:0]
	for _, s := range sorted {
		if !inside(s) {
			reach[s.Level] = s.Last
			tops = append(tops, s)
		}
	}
	return tops
}

type planner struct{ rules Rules }

// timed is a segment with the time that it belongs to.
type timed struct {
	repository.Segment
	at time.Time
}

// runs plans a timeline.
func (p planner) runs(tops []repository.Segment) []Merge {
	var run []timed
	var plan []Merge
	var at time.Time
	for _, s := range tops {
		if s.FirstTime.After(at) {
			at = s.FirstTime.UTC()
		}
		joins := len(run) > 0 && run[len(run)-1].Last+1 == s.First
		useful := s.Level < repository.SegmentDay && (p.rules.CanOpen == nil || p.rules.CanOpen(s))
		if !joins || !useful {
			plan = append(plan, p.days(run)...)
			run = nil
		}
		if useful {
			run = append(run, timed{s, at})
		}
	}
	return append(plan, p.days(run)...)
}

func (p planner) days(run []timed) (plan []Merge) {
	for _, day := range split(run, repository.SegmentDay) {
		if !p.rules.WholeDays || p.ended(day, repository.SegmentDay) {
			plan = append(plan, p.period(day, repository.SegmentDay)...)
		}
	}
	return plan
}

// split cuts a run where the period changes.
func split(run []timed, level int) (parts [][]timed) {
	for len(run) > 0 {
		n := 1
		for n < len(run) && periodOf(run[n].at, level).Equal(periodOf(run[0].at, level)) {
			n++
		}
		parts, run = append(parts, run[:n]), run[n:]
	}
	return parts
}

func periodOf(at time.Time, level int) time.Time { return at.Truncate(lengthOf(level)) }

func lengthOf(level int) time.Duration {
	switch level {
	case repository.SegmentMinute:
		return time.Minute
	case repository.SegmentHour:
		return time.Hour
	}
	return 24 * time.Hour
}

func (p planner) ended(run []timed, level int) bool {
	return !p.rules.Now.Before(periodOf(run[0].at, level).Add(lengthOf(level) + settle))
}

// period plans the run of one period.
func (p planner) period(run []timed, level int) (plan []Merge) {
	if level < repository.SegmentMinute {
		return nil
	}
	for len(run) > 0 {
		// What is of this level already was merged before the rest came.
		n := 0
		for n < len(run) && run[n].Level < level {
			n++
		}
		if n > 0 {
			plan = append(plan, p.rest(run[:n], level)...)
		}
		run = run[min(n+1, len(run)):]
	}
	return plan
}

// rest plans what is of lower levels.
func (p planner) rest(run []timed, level int) (plan []Merge) {
	ended := p.ended(run, level)
	if ended && (fits(run) || level == repository.SegmentMinute) {
		return chunks(run, level)
	}
	for _, part := range split(run, level-1) {
		plan = append(plan, p.period(part, level-1)...)
	}
	if len(plan) == 0 && ended {
		return chunks(run, level)
	}
	return plan
}

// chunks makes merges of a run, one if it fits.
func chunks(run []timed, level int) (plan []Merge) {
	for len(run) > 0 {
		n := 1
		for n < len(run) && fits(run[:n+1]) {
			n++
		}
		if n > 1 || level == repository.SegmentDay {
			m := Merge{Level: level, Period: periodOf(run[0].at, level)}
			for _, t := range run[:n] {
				m.Inputs = append(m.Inputs, t.Segment)
			}
			plan = append(plan, m)
		}
		run = run[n:]
	}
	return plan
}

// fits tells whether one merge can take a run.
func fits(run []timed) bool {
	var memory int64
	for _, t := range run {
		memory += cost(t.Segment)
	}
	return len(run) <= mostInputs && memory <= mostMemory
}

// cost is what an open input takes at most, in bytes.
func cost(s repository.Segment) int64 {
	const buffers = 512 << 10 // of the store, of age and of zstd, and the plain bytes
	return buffers + 6*min(int64(FrameOf(s.Level)), s.Plain.Size) + 8*s.Range().Len()
}
