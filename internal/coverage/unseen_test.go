package coverage

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// blind is live with times that are only bounds.
func blind(first, last history.Revision, from float64) repository.Segment {
	s := live(first, last, from)
	s.Exact = false
	return s
}

func TestUnseen(t *testing.T) {
	day := blind(31, 60, 40)
	day.Level = repository.SegmentDay
	base := snapshot(5, 10, 9, 10)
	for name, tt := range map[string]struct {
		snapshots []repository.Manifest
		segments  []repository.Segment
		most      int
		want      string
		more      int
	}{
		"nothing":                 {},
		"a snapshot":              {[]repository.Manifest{base}, nil, 9, "5-10 until 10", 0},
		"seen live":               {[]repository.Manifest{base}, []repository.Segment{live(5, 30, 5)}, 9, "", 0},
		"by segments":             {[]repository.Manifest{base}, []repository.Segment{live(5, 20, 5), blind(21, 25, 30), blind(26, 30, 34), live(31, 40, 50), blind(41, 42, 70)}, 9, "21-30 from 30 until 38, 41-42 from 70 until 71", 0},
		"idle between":            {[]repository.Manifest{base}, []repository.Segment{live(5, 20, 5), blind(21, 25, 30), blind(26, 30, 50)}, 9, "21-25 from 30 until 34, 26-30 from 50 until 54", 0},
		"the last ones":           {[]repository.Manifest{base}, []repository.Segment{live(5, 20, 5), blind(21, 25, 30), live(26, 26, 40), blind(27, 30, 50)}, 1, "27-30 from 50 until 53", 1},
		"by a snapshot":           {[]repository.Manifest{base, snapshot(10, 40, 60, 61)}, []repository.Segment{live(5, 20, 5), live(41, 50, 70)}, 9, "21-40 from 20 until 61", 0},
		"merged":                  {[]repository.Manifest{base}, []repository.Segment{live(5, 30, 5), day}, 9, "part of 31-60 from 40 until 69", 0},
		"what cannot be restored": {[]repository.Manifest{base}, []repository.Segment{blind(20, 30, 5)}, 9, "5-10 until 10", 0},
		"half of it can be":       {[]repository.Manifest{snapshot(0, 10, 0, 1), snapshot(22, 25, 45, 46)}, []repository.Segment{live(1, 10, 0), blind(15, 30, 40)}, 9, "22-30 from 40 until 55", 0},
	} {
		var texts []string
		more := 0
		for _, line := range Of(tt.snapshots, tt.segments, nil) {
			var runs []Unseen
			runs, more = line.Unseen(tt.most)
			for _, u := range runs {
				text := u.Range.String()
				if u.Part {
					text = "part of " + text
				}
				if !u.From.IsZero() {
					text += fmt.Sprintf(" from %g", u.From.Sub(epoch).Seconds())
				}
				texts = append(texts, text+fmt.Sprintf(" until %g", u.To.Sub(epoch).Seconds()))
			}
		}
		if got := strings.Join(texts, ", "); got != tt.want || more != tt.more {
			t.Errorf("%s: %q and %d more, want %q", name, got, more, tt.want)
		}
	}
}

// TestSpansBy gives what spanOf does.
func TestSpansBy(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var segments []repository.Segment
		first := history.Revision(1)
		for range random.IntN(8) {
			first += history.Revision(random.IntN(4))
			s := live(first, first+history.Revision(random.IntN(5)), float64(random.IntN(100)))
			s.Exact = random.IntN(2) == 0
			segments, first = append(segments, s), s.Last+1
		}
		list := Of([]repository.Manifest{snapshot(1, history.Revision(1+random.IntN(20)), float64(random.IntN(100)), 100)}, segments, []Seen{{line, history.Revision(random.IntN(30)), at(float64(random.IntN(100)))}})
		spans, err := list[0].spans(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		knots := list[0].knots(spans)
		when := spansBy(knots)
		for r := history.Revision(1); r < first+5; r++ {
			if got, want := when(r), spanOf(knots, r); got != want {
				t.Fatalf("revision %s: %v, want %v", r, got, want)
			}
		}
	}
}

// TestNobodySaw: a time that is refused says what can be reached by number.
func TestNobodySaw(t *testing.T) {
	for want, segments := range map[string][]repository.Segment{
		"revisions 31 to 33 came about around that time, and nobody saw when (--revision reaches each of them)": {live(11, 30, 11), blind(31, 33, 50), live(34, 34, 60)},
		"revision 31 came about around that time, and nobody saw when (--revision reaches it)":                  {live(11, 30, 11), {Timeline: line, First: 31, Last: 31, FirstTime: at(50), LastTime: at(55)}, live(32, 32, 60)},
		"revisions 16 to 30 came about around that time, and nobody saw when;":                                  {live(11, 15, 11), blind(31, 33, 54)},
	} {
		list := Of([]repository.Manifest{snapshot(5, 10, 9, 10)}, segments, nil)
		_, err := Resolve(list, Target{Time: at(50.5)}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
