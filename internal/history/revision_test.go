package history

import (
	"math"
	"testing"
)

func TestRangeWords(t *testing.T) {
	for r, want := range map[Range]string{{First: 12, Last: 34}: "revisions 12 to 34", {First: 5, Last: 5}: "revision 5"} {
		if got := r.Words(); got != want {
			t.Errorf("%s: %q, want %q", r, got, want)
		}
	}
}

func TestRevision(t *testing.T) {
	for r, want := range map[Revision]string{0: "0", 1: "1", 1_000_000_000: "1000000000", math.MaxInt64: "9223372036854775807"} {
		if r.String() != want || r.IsZero() != (r == 0) {
			t.Errorf("%d: text %q, zero %v", int64(r), r, r.IsZero())
		}
	}
}
