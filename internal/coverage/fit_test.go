package coverage

import (
	"fmt"
	"testing"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// TestFit: what a lost segment would add, and which segments are in its way.
func TestFit(t *testing.T) {
	snapshots := []repository.Manifest{snapshot(0, 5, 1, 2), snapshot(10, 12, 10, 11)}
	segments := []repository.Segment{live(11, 14, 11), live(20, 30, 20), level(1, live(18, 30, 18)), live(60, 60, 60)}
	timeline := Of(snapshots, segments, nil)[0]
	for _, tt := range []struct {
		first, last       history.Revision
		missing, overlaps string
	}{
		{6, 9, "[6-9]", "[]"},
		{5, 10, "[6-9]", "[]"},
		{2, 5, "[]", "[]"},
		{11, 14, "[]", "[11-14]"},
		{15, 17, "[15-17]", "[]"},
		{15, 18, "[15-17]", "[18-30]"},
		{14, 21, "[15-17]", "[11-14 18-30 20-30]"},
		{20, 20, "[]", "[18-30 20-30]"},
		{31, 59, "[31-59]", "[]"},
		{12, 100, "[15-17 31-59 61-100]", "[11-14 18-30 20-30 60-60]"},
		{61, 61, "[61-61]", "[]"},
	} {
		r := history.Range{First: tt.first, Last: tt.last}
		f := timeline.Fit(r)
		overlaps := []history.Range{}
		for _, s := range f.Overlaps {
			overlaps = append(overlaps, s.Range())
		}
		if fmt.Sprint(f.Missing) != tt.missing || fmt.Sprint(overlaps) != tt.overlaps {
			t.Errorf("%s: missing %s, overlaps %s; want %s and %s", r, f.Missing, overlaps, tt.missing, tt.overlaps)
		}
	}
	if f := (Timeline{}).Fit(history.Range{First: 1, Last: 2}); fmt.Sprint(f.Missing) != "[1-2]" || len(f.Overlaps) > 0 {
		t.Errorf("where nothing is: %v", f)
	}
}
