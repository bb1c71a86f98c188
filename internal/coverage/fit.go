package coverage

import (
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Fit is how a segment whose manifest was lost would fit into what is stored.
type Fit struct {
	// Missing are those of its revisions that neither a segment nor the history of a snapshot has.
	Missing []history.Range
	// Overlaps are the segments that have some of its revisions, as Timeline.Segments has them.
	Overlaps []repository.Segment
}

// Fit looks for the place of revisions. Whether a snapshot leads to what is stored does not count.
func (t Timeline) Fit(r history.Range) (f Fit) {
	there := make([]history.Range, 0, len(t.Snapshots))
	for _, m := range t.Snapshots {
		there = append(there, rangeOf(m))
	}
	for _, s := range t.Segments {
		if s.First <= r.Last && r.First <= s.Last {
			f.Overlaps = append(f.Overlaps, s)
			there = append(there, s.Range())
		}
	}
	f.Missing = without([]history.Range{r}, union(there))
	return f
}
