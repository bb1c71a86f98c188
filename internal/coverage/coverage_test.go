package coverage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

const (
	line  = repository.Timeline("00000000000000aa")
	other = repository.Timeline("00000000000000bb")
)

var epoch = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// at is so many seconds after the beginning.
func at(seconds float64) time.Time {
	return epoch.Add(time.Duration(seconds * float64(time.Second))).Truncate(time.Millisecond)
}

func snapshot(compact, revision history.Revision, started, completed float64) repository.Manifest {
	m := repository.Manifest{Timeline: line, Started: at(started), Completed: at(completed)}
	m.Content.CompactRevision, m.Content.Revision, m.Object.Size = compact, revision, 1000
	return m
}

// live is a segment whose revisions came one a second, the first at the given one.
func live(first, last history.Revision, from float64) repository.Segment {
	return repository.Segment{Timeline: line, First: first, Last: last, FirstTime: at(from), LastTime: at(from + float64(last-first)),
		Exact: true, Object: repository.Object{Size: 10}}
}

// eachSecond gives the times of what live makes.
func eachSecond(s repository.Segment) (spans []history.Span, err error) {
	for r := s.First; r <= s.Last; r++ {
		when := s.FirstTime.Add(time.Duration(r-s.First) * time.Second)
		spans = append(spans, history.Span{Range: history.Range{First: r, Last: r}, From: when, To: when})
	}
	return spans, nil
}

func TestCoverage(t *testing.T) {
	for name, tt := range map[string]struct {
		snapshots              []repository.Manifest
		segments               []repository.Segment
		covered, gaps, orphans string
	}{
		"nothing":                      {},
		"a snapshot":                   {snapshots: []repository.Manifest{snapshot(5, 10, 0, 1)}, covered: "5-10"},
		"a snapshot without history":   {snapshots: []repository.Manifest{snapshot(0, 10, 0, 1)}, covered: "1-10"},
		"segments go on":               {[]repository.Manifest{snapshot(5, 10, 0, 1)}, []repository.Segment{live(11, 12, 2), live(13, 20, 4)}, "5-20", "", ""},
		"segments overlap":             {[]repository.Manifest{snapshot(5, 10, 0, 1)}, []repository.Segment{live(8, 12, 2), live(11, 20, 4)}, "5-20", "", ""},
		"a hole before the segment":    {[]repository.Manifest{snapshot(5, 10, 0, 1)}, []repository.Segment{live(12, 20, 4)}, "5-10", "", "12-20"},
		"the next snapshot fills it":   {[]repository.Manifest{snapshot(5, 10, 0, 1), snapshot(9, 11, 2, 3)}, []repository.Segment{live(12, 20, 4)}, "5-20", "", ""},
		"a gap":                        {[]repository.Manifest{snapshot(5, 10, 0, 1), snapshot(30, 40, 20, 21)}, []repository.Segment{live(11, 20, 4)}, "5-20 30-40", "21-29", ""},
		"orphans end where it goes on": {[]repository.Manifest{snapshot(0, 10, 0, 1), snapshot(22, 25, 9, 9)}, []repository.Segment{live(15, 30, 4)}, "1-10 22-30", "11-21", "15-21"},
		"merged beside live":           {[]repository.Manifest{snapshot(5, 10, 0, 1)}, []repository.Segment{live(11, 12, 2), live(11, 30, 2), live(13, 14, 4)}, "5-30", "", ""},
	} {
		list := Of(tt.snapshots, tt.segments, nil)
		if len(list) > 1 {
			t.Fatalf("%s: %d timelines", name, len(list))
		}
		var got Timeline
		if len(list) == 1 {
			got = list[0]
		}
		text := func(ranges []history.Range) string { return strings.Trim(fmt.Sprint(ranges), "[]") }
		if text(got.Covered) != tt.covered || text(got.Gaps()) != tt.gaps || text(got.Orphans) != tt.orphans {
			t.Errorf("%s: covered %s, gaps %s, orphans %s", name, text(got.Covered), text(got.Gaps()), text(got.Orphans))
		}
	}
}

// stored is a snapshot at revision 10, segments of 11 to 30, one revision a second from second 11 on, a hole, a snapshot with
// the revisions 50 to 60 and a segment from there to 70.
func stored() []Timeline {
	return Of([]repository.Manifest{snapshot(5, 10, 9, 10), snapshot(50, 60, 100, 101)},
		[]repository.Segment{live(11, 20, 11), live(21, 30, 21), live(61, 70, 105)}, nil)
}

func TestResolve(t *testing.T) {
	for name, tt := range map[string]struct {
		target   Target
		revision history.Revision
		segments int
		refused  string
	}{
		"latest":               {Target{}, 70, 1, ""},
		"in a segment":         {Target{Revision: 25}, 25, 2, ""},
		"in a history":         {Target{Revision: 55}, 55, 0, ""},
		"a snapshot's own":     {Target{Revision: 10}, 10, 0, ""},
		"before everything":    {Target{Revision: 4}, 0, 0, "before everything that is stored; nearest after: revision 5, not after 2026-11-22T10:00:10.000Z"},
		"in the hole":          {Target{Revision: 40}, 0, 0, "revisions 31 to 49 are missing; nearest before: revision 30 at 2026-11-22T10:00:30.000Z; nearest after: revision 50 between 2026-11-22T10:00:30.000Z and 2026-11-22T10:01:41.000Z"},
		"after everything":     {Target{Revision: 71}, 0, 0, "after everything that is stored; nearest before: revision 70 at 2026-11-22T10:01:54.000Z"},
		"when one came":        {Target{Time: at(25)}, 25, 2, ""},
		"before the next came": {Target{Time: at(25.999)}, 25, 2, ""},
		"between two segments": {Target{Time: at(20.5)}, 20, 1, ""},
		"before the last":      {Target{Time: at(113.999)}, 69, 1, ""},
		"with the last":        {Target{Time: at(114)}, 0, 0, "what is known ends at 2026-11-22T10:01:54.000Z; nearest before: revision 70"}, // another may have come with it
		"in the future":        {Target{Time: at(115)}, 0, 0, "what is known ends at 2026-11-22T10:01:54.000Z; nearest before: revision 70"},
		"before the first":     {Target{Time: at(8)}, 0, 0, "before everything that is stored; nearest after: revision 5"},
		"while it was taken":   {Target{Time: at(9.5)}, 0, 0, "before everything that is stored; nearest after: revision 5"},
		"nobody saw when":      {Target{Time: at(31)}, 0, 0, "revisions 31 to 60 came about around that time, and nobody saw when (--revision reaches each of 50-60); nearest before: revision 30 at 2026-11-22T10:00:30.000Z; nearest after: revision 61 at 2026-11-22T10:01:45.000Z"},
		"after it was taken":   {Target{Time: at(102)}, 60, 0, ""},
		"no such timeline":     {Target{Timeline: other}, 0, 0, "nothing of timeline 00000000000000bb can be restored; of these something can: 00000000000000aa"},
	} {
		chain, err := Resolve(stored(), tt.target, eachSecond)
		if tt.refused != "" {
			if u, is := errors.AsType[*Unreachable](err); !is || !strings.Contains(u.Error(), tt.refused) {
				t.Errorf("%s: %v, %v", name, chain.Revision, err)
			}
			continue
		}
		if err != nil || chain.Revision != tt.revision || len(chain.Segments) != tt.segments || chain.Newest != 70 || chain.Highest != 70 {
			t.Errorf("%s: %+v, %v", name, chain, err)
		}
	}
}

func TestTimelines(t *testing.T) {
	young := snapshot(0, 20, 50, 51)
	young.Timeline = other
	more := live(21, 40, 60)
	more.Timeline = other
	list := Of([]repository.Manifest{young, snapshot(5, 10, 9, 10)}, []repository.Segment{more, live(11, 30, 11)},
		[]Seen{{line, 30, at(45)}, {other, 39, at(78.5)}, {other, 40, at(100)}})
	if list[0].ID != line || list[1].ID != other || !list[0].AsOf.Equal(at(45)) || !list[1].AsOf.Equal(at(100)) {
		t.Fatalf("order %s, %s, as of %s, %s", list[0].ID, list[1].ID, list[0].AsOf, list[1].AsOf)
	}
	for name, tt := range map[string]struct {
		target   Target
		timeline repository.Timeline
		revision history.Revision
	}{
		"latest":              {Target{}, other, 40},
		"the other's latest":  {Target{Timeline: line}, line, 30},
		"only there":          {Target{Revision: 35}, other, 35},
		"on both":             {Target{Revision: 15, Timeline: line}, line, 15},
		"idle":                {Target{Time: at(44)}, line, 30},
		"idle, the second":    {Target{Time: at(99)}, other, 40},
		"time of the old one": {Target{Time: at(15)}, line, 15},
	} {
		chain, err := Resolve(list, tt.target, eachSecond)
		if err != nil || chain.Timeline != tt.timeline || chain.Revision != tt.revision || chain.Highest != 40 {
			t.Errorf("%s: %s at %s, highest %s, %v", name, chain.Timeline, chain.Revision, chain.Highest, err)
		}
	}
	if _, err := Resolve(list, Target{Revision: 15}, eachSecond); err == nil || !strings.Contains(err.Error(), "must be asked for with one of them") {
		t.Errorf("a revision of two lives: %v", err)
	}
}

// TestAsOf: after a restart the last segment tells only between which times its revisions came; what is known of the time
// before is still known.
func TestAsOf(t *testing.T) {
	late := live(31, 33, 40)
	late.Exact = false
	list := Of([]repository.Manifest{snapshot(5, 10, 9, 10)}, []repository.Segment{live(11, 30, 11), late}, nil)
	if !list[0].AsOf.Equal(at(40)) {
		t.Errorf("as of %s", Stamp(list[0].AsOf))
	}
	if chain, err := Resolve(list, Target{Time: at(39)}, eachSecond); err != nil || chain.Revision != 30 {
		t.Errorf("before it: revision %s, %v", chain.Revision, err)
	}
	imported := snapshot(5, 10, 9, 10)
	imported.Source.File = &repository.File{}
	list = Of([]repository.Manifest{imported}, nil, nil)
	if chain, err := Resolve(list, Target{}, eachSecond); err != nil || !list[0].AsOf.IsZero() || !chain.Time.To.IsZero() {
		t.Errorf("imported: as of %s, %+v, %v", Stamp(list[0].AsOf), chain.Time, err)
	}
	if m := list[0].moment(10, eachSecond); m.String() != "revision 10, nobody knows of when" {
		t.Errorf("it is shown as %q", m)
	}
}

// TestAsOfSeen: what was the last revision at a time had nothing after it then, nor had a later one; of an earlier one that says
// nothing.
func TestAsOfSeen(t *testing.T) {
	late := live(31, 33, 40)
	late.Exact = false
	snapshots := []repository.Manifest{snapshot(5, 10, 9, 10)}
	for name, tt := range map[string]struct {
		segments []repository.Segment
		seen     []Seen
		asOf     float64
		idle     map[float64]history.Revision // 0 is refused
	}{
		"of the last":   {[]repository.Segment{live(11, 30, 11)}, []Seen{{line, 30, at(50)}}, 50, map[float64]history.Revision{49: 30, 50: 0}},
		"of one before": {[]repository.Segment{live(11, 30, 11), late}, []Seen{{line, 30, at(39)}}, 40, map[float64]history.Revision{39: 30, 39.9: 30, 40.5: 31}},
		"of one before, after the last is said to have come": {[]repository.Segment{live(11, 30, 11), late}, []Seen{{line, 30, at(41)}}, 41,
			map[float64]history.Revision{40.5: 30, 41.5: 32, 42: 0}},
		"of several": {[]repository.Segment{live(11, 30, 11), late}, []Seen{{line, 33, at(60)}, {line, 30, at(38)}, {line, 10, at(10.5)}, {other, 33, at(99)}, {line, 33, time.Time{}}}, 60,
			map[float64]history.Revision{37: 30, 10.2: 10, 59: 33, 60: 0}},
		"of one that is lost": {[]repository.Segment{live(11, 30, 11)}, []Seen{{line, 40, at(60)}}, 30, map[float64]history.Revision{29: 29, 45: 0, 60: 0, 61: 0}},
		"of one that is lost, and before": {[]repository.Segment{live(11, 30, 11)}, []Seen{{line, 40, at(60)}, {line, 30, at(35)}}, 35,
			map[float64]history.Revision{34: 30, 36: 0, 61: 0}},
		"in a hole": {[]repository.Segment{live(11, 30, 11), live(50, 60, 70)}, []Seen{{line, 40, at(60)}, {line, 30, at(35)}}, 35, map[float64]history.Revision{34: 30, 36: 0, 61: 0}},
	} {
		list := Of(snapshots, tt.segments, tt.seen)
		if !list[0].AsOf.Equal(at(tt.asOf)) {
			t.Errorf("%s: as of %s, want %s", name, Stamp(list[0].AsOf), Stamp(at(tt.asOf)))
		}
		for when, want := range tt.idle {
			chain, err := Resolve(list, Target{Time: at(when)}, eachSecond)
			if want == 0 && err == nil || want > 0 && (err != nil || chain.Revision != want) {
				t.Errorf("%s: at %g it is revision %s, %v; want %s", name, when, chain.Revision, err, want)
			}
		}
	}
}

// TestClockSetBack: a snapshot whose clock was an hour behind makes nothing seem older than what came before it.
func TestClockSetBack(t *testing.T) {
	list := Of([]repository.Manifest{snapshot(5, 10, 9, 10), snapshot(20, 30, -3600, -3599)}, []repository.Segment{live(11, 20, 11), live(31, 40, 41)}, nil)
	chain, err := Resolve(list, Target{Time: at(15)}, eachSecond)
	if err != nil || chain.Revision != 15 {
		t.Errorf("revision %s, %v", chain.Revision, err)
	}
	if chain, err := Resolve(list, Target{Time: at(-3000)}, eachSecond); err == nil {
		t.Errorf("before the beginning: revision %s", chain.Revision)
	}
}

// TestNewestBase: users and roles are those of the snapshot that a chain begins with, so that it is the newest one that is not
// after the target, whatever there is to read.
func TestNewestBase(t *testing.T) {
	merged := live(11, 30, 11)
	merged.Object.Size = 12
	list := Of([]repository.Manifest{snapshot(5, 10, 9, 10), snapshot(5, 29, 29, 30)}, []repository.Segment{live(11, 20, 11), live(21, 30, 21), merged}, nil)
	if chain, err := Resolve(list, Target{Revision: 30}, eachSecond); err != nil || chain.Base.Content.Revision != 29 || len(chain.Segments) != 1 {
		t.Errorf("%+v, %v", chain, err)
	}
	if chain, err := Resolve(list, Target{Revision: 29}, eachSecond); err != nil || chain.Base.Content.Revision != 29 || len(chain.Segments) != 0 {
		t.Errorf("a snapshot's own revision: %+v, %v", chain, err)
	}
	list[0].Snapshots[1].Object.Size = 1_000_000
	if chain, err := Resolve(list, Target{Revision: 30}, eachSecond); err != nil || chain.Base.Content.Revision != 29 || chain.Size() != 1_000_012 {
		t.Errorf("base %s, %d bytes, %v", chain.Base.Content.Revision, chain.Size(), err)
	}
}

// world is a history whose truth is known, and what was stored of it.
type world struct {
	came      []time.Time // of each revision, by its number
	snapshots []repository.Manifest
	segments  []repository.Segment
	spans     map[string][]history.Span
}

func key(s repository.Segment) string { return fmt.Sprint(s.First, s.Last, s.Level) }

func randomWorld(r *rand.Rand) *world {
	w := &world{came: []time.Time{{}, epoch}, spans: map[string][]history.Span{}}
	now := epoch
	for range 60 {
		now = now.Add(time.Duration(r.IntN(4)) * 500 * time.Millisecond)
		w.came = append(w.came, now)
	}
	last := history.Revision(len(w.came) - 1)
	for range 1 + r.IntN(4) {
		started := epoch.Add(time.Duration(r.Int64N(int64(now.Sub(epoch)) + 1)))
		completed := started.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
		lowest, highest := w.at(started), w.at(completed)
		revision := lowest + history.Revision(r.Int64N(int64(highest-lowest)+1))
		m := snapshot(1+history.Revision(r.Int64N(int64(revision))), revision, 0, 0)
		m.Started, m.Completed = started, completed
		w.snapshots = append(w.snapshots, m)
	}
	for range r.IntN(12) {
		first := 2 + history.Revision(r.Int64N(int64(last)-1))
		s := repository.Segment{Timeline: line, First: first, Last: min(last, first+history.Revision(r.IntN(20))), Level: r.IntN(3), Object: repository.Object{Size: 1 + r.Int64N(100)}}
		w.spans[key(s)] = w.randomSpans(r, s)
		spans := w.spans[key(s)]
		s.FirstTime, s.LastTime = spans[0].From, spans[len(spans)-1].To
		w.segments = append(w.segments, s)
	}
	return w
}

func (w *world) randomSpans(r *rand.Rand, s repository.Segment) (spans []history.Span) {
	for first := s.First; first <= s.Last; {
		span := history.Span{Range: history.Range{First: first, Last: first}, From: w.came[first], To: w.came[first]}
		if r.IntN(4) == 0 {
			span.Last = min(s.Last, first+history.Revision(r.IntN(5)))
			span.From, span.To = w.came[first].Add(-time.Duration(r.IntN(100))*time.Millisecond), w.came[span.Last].Add(time.Duration(r.IntN(100))*time.Millisecond)
		}
		// Along a segment times do not go back.
		if n := len(spans); n > 0 {
			span.From, span.To = later(span.From, spans[n-1].From), later(span.To, spans[n-1].To)
			if span.From.After(w.came[first]) { // the bound of the one before was late: both are not exact then
				span.From = spans[n-1].From
			}
		}
		spans, first = append(spans, span), span.Last+1
	}
	return spans
}

// at is the revision that the cluster had at a time.
func (w *world) at(when time.Time) history.Revision {
	n := 0
	for n+1 < len(w.came) && !w.came[n+1].After(when) {
		n++
	}
	return history.Revision(n)
}

// restorable is told by brute force.
func (w *world) restorable(r history.Revision) bool {
	return slices.ContainsFunc(w.snapshots, func(m repository.Manifest) bool {
		if rangeOf(m).Contains(r) {
			return true
		}
		for next := m.Content.Revision + 1; next <= r; next++ {
			if !slices.ContainsFunc(w.segments, func(s repository.Segment) bool { return s.Range().Contains(next) }) {
				return false
			}
		}
		return m.Content.Revision < r
	})
}

// TestRandomHistories holds what is resolved against the truth: a target is reached exactly or refused, and a revision is
// refused only when nothing leads to it.
func TestRandomHistories(t *testing.T) {
	reached := 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 4))
		w := randomWorld(r)
		times := func(s repository.Segment) ([]history.Span, error) { return w.spans[key(s)], nil }
		list := Of(w.snapshots, w.segments, nil)
		check := func(what string, c Chain) {
			base := rangeOf(c.Base)
			if len(c.Segments) == 0 && !base.Contains(c.Revision) {
				t.Errorf("seed %d, %s: the chain does not reach revision %s", seed, what, c.Revision)
			}
			end := base.Last
			for _, s := range c.Segments {
				if s.First > end+1 || s.Last <= end {
					t.Errorf("seed %d, %s: segment %s after revision %s", seed, what, s.Range(), end)
				}
				end = s.Last
			}
			if len(c.Segments) > 0 && end < c.Revision {
				t.Errorf("seed %d, %s: the chain ends at %s, before %s", seed, what, end, c.Revision)
			}
			if came := w.came[c.Revision]; c.Revision > 1 && (came.Before(c.Time.From) || came.After(c.Time.To)) {
				t.Errorf("seed %d, %s: revision %s came at %s, and is said to have come between %s and %s", seed, what, c.Revision, Stamp(came), Stamp(c.Time.From), Stamp(c.Time.To))
			}
		}
		for revision := history.Revision(1); int(revision) < len(w.came)+2; revision++ {
			c, err := Resolve(list, Target{Revision: revision}, times)
			if want := w.restorable(revision); (err == nil) != want {
				t.Fatalf("seed %d: revision %s can be restored: %v; %v", seed, revision, want, err)
			}
			if err == nil {
				check("revision", c)
			}
		}
		for range 100 {
			when := epoch.Add(time.Duration(r.IntN(40_000))*time.Millisecond - 2*time.Second)
			c, err := Resolve(list, Target{Time: when}, times)
			if err != nil {
				continue
			}
			reached++
			check("time", c)
			if want := w.at(when); c.Revision != want {
				t.Fatalf("seed %d: at %s it was revision %s, resolved is %s", seed, Stamp(when), want, c.Revision)
			}
		}
	}
	if reached < 10_000 {
		t.Errorf("only %d times were reached", reached)
	}
}
