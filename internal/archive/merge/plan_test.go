package merge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

const (
	line  = repository.Timeline("00000000000000aa")
	other = repository.Timeline("00000000000000bb")
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// at reads a time of 2026-11-26, or with a day before it.
func at(text string) time.Time {
	if !strings.Contains(text, " ") {
		text = "26 " + text
	}
	t, err := time.Parse("2006-01-2 15:04:05", "2026-11-"+text)
	if err != nil {
		panic(err)
	}
	return t
}

// of is a segment of a level, of some revisions, that began at a time.
func of(level int, first, last history.Revision, when string) repository.Segment {
	return repository.Segment{Cluster: "prod", Timeline: line, Level: level, First: first, Last: last, FirstTime: at(when), LastTime: at(when),
		Plain: repository.Plain{Size: 1000}, Object: repository.Object{Encryption: repository.Age, Recipients: []string{"ours"}}}
}

func live(first, last history.Revision, when string) repository.Segment {
	return of(repository.SegmentLive, first, last, when)
}

// text says what a plan is: level, period, and the inputs.
func text(plan []Merge) string {
	var lines []string
	for _, m := range plan {
		line := fmt.Sprintf("%d %s:", m.Level, m.Period.Format("02 15:04"))
		for _, s := range m.Inputs {
			line += fmt.Sprintf(" %s", s.Range())
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestPlan(t *testing.T) {
	strange := live(3, 4, "10:00:02")
	strange.Object.Recipients = []string{"theirs"}
	elsewhere := live(3, 4, "10:00:02")
	elsewhere.Timeline = other
	two := []repository.Segment{live(1, 2, "10:00:01"), live(3, 4, "10:00:02")}
	for name, tt := range map[string]struct {
		now       string
		wholeDays bool
		segments  []repository.Segment
		want      string
	}{
		"nothing":                          {"12:00:00", false, nil, ""},
		"a minute":                         {"10:01:15", false, two, "1 26 10:00: 1-2 3-4"},
		"it has not settled":               {"10:01:14", false, two, ""},
		"they come in any order":           {"10:01:15", false, []repository.Segment{two[1], two[0]}, "1 26 10:00: 1-2 3-4"},
		"one of a minute":                  {"10:01:15", false, two[:1], ""},
		"the next minute is another":       {"10:02:14", false, append(two, live(5, 6, "10:01:00"), live(7, 7, "10:01:59")), "1 26 10:00: 1-2 3-4"},
		"it belongs to where it began":     {"10:02:15", false, []repository.Segment{live(1, 2, "10:00:59"), live(3, 4, "10:01:00"), live(5, 5, "10:01:59")}, "1 26 10:01: 3-4 5-5"},
		"an hour, straight":                {"11:00:15", false, append(two, live(5, 6, "10:01:00"), live(7, 7, "10:59:59")), "2 26 10:00: 1-2 3-4 5-6 7-7"},
		"an hour that has not settled":     {"11:00:14", false, append(two, live(5, 6, "10:30:00"), live(7, 7, "10:30:59")), "1 26 10:00: 1-2 3-4\n1 26 10:30: 5-6 7-7"},
		"an hour of minutes":               {"11:00:15", false, append(two, of(1, 1, 4, "10:00:01"), live(5, 6, "10:01:00")), "2 26 10:00: 1-4 5-6"},
		"a day, straight":                  {"27 00:00:15", false, append(two, of(2, 1, 4, "10:00:01"), live(5, 6, "23:01:00")), "3 26 00:00: 1-4 5-6"},
		"a day of one":                     {"27 00:00:15", false, two[:1], "3 26 00:00: 1-2"},
		"a day that is done":               {"27 10:00:00", false, append(two, of(3, 1, 4, "10:00:01")), ""},
		"more came after the minute":       {"10:30:00", false, append(two, of(1, 1, 4, "10:00:01"), live(5, 6, "10:00:40"), live(7, 8, "10:00:50")), "1 26 10:00: 5-6 7-8"},
		"one more came after the minute":   {"10:30:00", false, append(two, of(1, 1, 4, "10:00:01"), live(5, 6, "10:00:40")), ""},
		"more came after the day":          {"27 10:30:00", false, append(two, of(3, 1, 4, "10:00:01"), live(5, 6, "10:00:40")), "3 26 00:00: 5-6"},
		"a hole":                           {"10:01:15", false, append(two, live(6, 7, "10:00:10"), live(8, 9, "10:00:11"), live(11, 12, "10:00:13")), "1 26 10:00: 1-2 3-4\n1 26 10:00: 6-7 8-9"},
		"a hole, and a day":                {"27 10:00:00", false, append(two, live(6, 7, "10:00:10")), "3 26 00:00: 1-2 3-4\n3 26 00:00: 6-7"},
		"sealed to others":                 {"10:01:15", false, []repository.Segment{two[0], strange, live(5, 6, "10:00:03"), live(7, 8, "10:00:04")}, "1 26 10:00: 5-6 7-8"},
		"two timelines":                    {"10:01:15", false, []repository.Segment{two[0], elsewhere}, ""},
		"the clock went back":              {"10:05:15", false, []repository.Segment{live(1, 2, "10:04:01"), live(3, 4, "10:00:00"), live(5, 6, "10:00:01")}, "1 26 10:04: 1-2 3-4 5-6"},
		"the clock is ahead":               {"10:05:15", false, []repository.Segment{live(1, 2, "12:04:01"), live(3, 4, "10:00:00")}, ""},
		"whole days, and it has not ended": {"23:59:00", true, two, ""},
		"whole days":                       {"27 00:00:15", true, append(two, live(5, 6, "27 00:00:01"), live(7, 8, "27 00:00:02")), "3 26 00:00: 1-2 3-4"},
		"days in a row":                    {"28 10:00:00", false, []repository.Segment{live(1, 2, "25 23:59:59"), live(3, 4, "26 00:00:00"), live(5, 6, "27 00:00:02")}, "3 25 00:00: 1-2\n3 26 00:00: 3-4\n3 27 00:00: 5-6"},
		"overlapping":                      {"10:01:15", false, []repository.Segment{live(1, 5, "10:00:01"), live(3, 7, "10:00:02"), live(8, 9, "10:00:03")}, "1 26 10:00: 3-7 8-9"},
		"a larger one of the same level":   {"11:00:15", false, []repository.Segment{of(1, 1, 4, "10:00:01"), of(1, 1, 2, "10:00:01"), of(1, 3, 4, "10:00:02"), live(5, 6, "10:00:03")}, "2 26 10:00: 1-4 5-6"},
	} {
		rules := Rules{Now: at(tt.now), WholeDays: tt.wholeDays, CanOpen: func(s repository.Segment) bool { return s.Object.Recipients[0] == "ours" }}
		if diff := cmp.Diff(tt.want, text(Plan(tt.segments, rules))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestTooManyForOne: what is too much for one merge goes by way of the smaller periods, and where even that is too much it
// becomes several.
func TestTooManyForOne(t *testing.T) {
	var segments []repository.Segment
	add := func(n int, from string, step time.Duration, size int64) {
		start := at(from)
		for i := range n {
			r := history.Revision(len(segments) + 1)
			s := live(r, r, "00:00:00")
			s.FirstTime, s.Plain.Size = start.Add(time.Duration(i)*step), size
			segments = append(segments, s)
		}
	}
	add(14400, "06:00:00", time.Second, 1000)      // four hours, 60 a minute
	add(300, "12:00:00", 100*time.Millisecond, 10) // half a minute with more than a merge takes
	add(90, "13:00:00", time.Second/2, 8<<20)      // few, and large: 6.5 MiB each
	add(1, "27 00:00:00", 1, 10)
	rules := Rules{Now: at("27 10:00:00")}
	all := All(segments, rules)
	counts := map[int]int{}
	for _, m := range all {
		counts[m.Level]++
		if len(m.Inputs) > mostInputs {
			t.Errorf("%d inputs", len(m.Inputs))
		}
		var memory int64
		for _, s := range m.Inputs {
			memory += cost(s)
		}
		if memory > mostMemory {
			t.Errorf("%d bytes", memory)
		}
	}
	if want := map[int]int{1: 240 + 3 + 7, 2: 6, 3: 1}; !cmp.Equal(counts, want) {
		t.Errorf("merges by level %v, want %v", counts, want)
	}
	if last := all[len(all)-1]; last.Level != repository.SegmentDay || last.Range() != (history.Range{First: 1, Last: 14790}) {
		t.Errorf("the last is %s, level %d", last.Range(), last.Level)
	}
}

// TestRandomPlans: whatever is there, plans come to an end, merge only what joins, each revision once at a level, and leave of
// an ended day nothing that was not merged into it.
func TestRandomPlans(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 9))
		var segments []repository.Segment
		next, when := history.Revision(1), at("24 00:00:00")
		for range r.IntN(400) {
			if r.IntN(30) == 0 {
				next += history.Revision(1 + r.IntN(5))
			}
			s := live(next, next+history.Revision(r.IntN(4)), "00:00:00")
			when = when.Add(time.Duration(r.ExpFloat64() * float64(5*time.Minute)))
			s.FirstTime, s.Plain.Size = when, 1+r.Int64N(20<<20)
			if r.IntN(40) == 0 {
				s.FirstTime = when.Add(-time.Duration(r.IntN(1000)) * time.Minute)
			}
			if r.IntN(30) == 0 {
				s.Object.Recipients = []string{"theirs"}
			}
			segments, next = append(segments, s), s.Last+1
		}
		// Merged up to a moment, and then all of it.
		ours := func(s repository.Segment) bool { return s.Object.Recipients[0] == "ours" }
		for _, now := range []time.Time{at("24 00:00:00").Add(time.Duration(r.IntN(40*3600)) * time.Second), at("30 00:00:00")} {
			for _, m := range All(segments, Rules{Now: now, CanOpen: ours}) {
				end := m.Inputs[0].First - 1
				for _, s := range m.Inputs {
					if s.First != end+1 || !ours(s) || s.Level >= m.Level {
						t.Fatalf("seed %d: %s after %d in %s", seed, s.Range(), end, text([]Merge{m}))
					}
					end = s.Last
				}
				if now.Before(m.Period.Add(lengthOf(m.Level) + settle)) {
					t.Fatalf("seed %d: %s has not ended", seed, text([]Merge{m}))
				}
				segments = append(segments, m.outline())
			}
		}
		days := map[history.Revision]int{}
		for _, s := range segments {
			for r := s.First; s.Level == repository.SegmentDay && r <= s.Last; r++ {
				days[r]++
			}
		}
		for _, s := range segments {
			want := 0
			if ours(s) {
				want = 1
			}
			if days[s.First] != want {
				t.Fatalf("seed %d: revision %s is in %d days, want %d", seed, s.First, days[s.First], want)
			}
		}
		if left := All(segments, Rules{Now: at("30 00:00:00"), CanOpen: ours}); len(left) > 0 {
			t.Fatalf("seed %d: still to do: %s", seed, text(left))
		}
	}
}

func TestTops(t *testing.T) {
	list := []repository.Segment{live(1, 2, "10:00:00"), of(1, 1, 4, "10:00:00"), live(5, 9, "10:00:00"), of(2, 5, 7, "10:00:00"), of(3, 1, 4, "10:00:00"), live(6, 6, "10:00:00"), live(20, 20, "10:00:00")}
	var got []string
	for _, s := range Tops(list) {
		got = append(got, fmt.Sprintf("%d:%s", s.Level, s.Range()))
	}
	if want := []string{"3:1-4", "0:5-9", "2:5-7", "0:20-20"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
