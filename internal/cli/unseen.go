package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/coverage"
)

// listedUnseen is a run of revisions that can be restored by number only; docs/contracts/repository.md has the JSON form.
type listedUnseen struct {
	First int64 `json:"first"`
	Last  int64 `json:"last"`
	// From is left out when nothing is known of the time before, To when nothing is known at all.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Part tells that only some of them were not seen.
	Part bool `json:"part,omitempty"`
}

const (
	// mostUnseen is how many runs of revisions that nobody saw a list has, mostUnseenLines how many a person is shown.
	mostUnseen      = 100
	mostUnseenLines = 3
)

// stampOr is Stamp, and "" of a time that is not known.
func stampOr(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return coverage.Stamp(t)
}

// unseen are lines about the last runs of revisions that are reached by number only. What was there before the archive began is
// not told: the table says from when on times are known.
func (l archivedLine) unseen() (lines []string) {
	runs, more := l.line.Unseen(mostUnseen)
	runs = slices.DeleteFunc(runs, func(u coverage.Unseen) bool { return u.From.IsZero() })
	if n := len(runs) - mostUnseenLines; n > 0 {
		runs, more = runs[n:], more+n
	}
	for _, u := range runs {
		what := fmt.Sprintf("revisions %s to %s", u.First, u.Last)
		switch {
		case u.Part:
			what = "some of " + what
		case u.First == u.Last:
			what = "revision " + u.First.String()
		}
		lines = append(lines, fmt.Sprintf("%s by --revision only: nobody saw when between %s and %s", what, coverage.Stamp(u.From), coverage.Stamp(u.To)))
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("and of %s before these", plural(more, "run")))
	}
	return lines
}
