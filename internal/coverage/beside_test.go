package coverage

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/repository"
)

// TestBesideTimelines: what is near a time on no timeline is on those around it.
func TestBesideTimelines(t *testing.T) {
	young := snapshot(15, 20, 50, 51)
	young.Timeline = other
	list := Of([]repository.Manifest{young, snapshot(5, 10, 9, 10)}, []repository.Segment{live(11, 30, 11)}, nil)
	for when, want := range map[float64]string{
		40:   "what is known ends at 2026-11-22T10:00:30.000Z; nearest before: revision 30 at 2026-11-22T10:00:30.000Z; nearest after: revision 20 of timeline 00000000000000bb, not after 2026-11-22T10:00:51.000Z",
		50.5: "it is before everything that is stored; nearest before: revision 30 of timeline 00000000000000aa at 2026-11-22T10:00:30.000Z; nearest after: revision 15, not after 2026-11-22T10:00:51.000Z",
		60:   "what is known ends at 2026-11-22T10:00:50.000Z; nearest before: revision 20, not after 2026-11-22T10:00:51.000Z",
		8:    "it is before everything that is stored; nearest after: revision 5, not after 2026-11-22T10:00:10.000Z",
	} {
		_, err := Resolve(list, Target{Time: at(when)}, eachSecond)
		if u, is := errors.AsType[*Unreachable](err); !is || !strings.HasSuffix(u.Error(), "exactly: "+want) {
			t.Errorf("at %g: %v, want %s", when, err, want)
		}
	}
	_, err := Resolve(list, Target{Time: at(40), Timeline: line}, eachSecond)
	if u, is := errors.AsType[*Unreachable](err); !is || u.After != nil {
		t.Errorf("of one timeline alone: %v", err)
	}
}
