package merge

import (
	"context"
	"errors"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Look reads the segments of a cluster that planning needs: all days, and of the rest what is not inside of a merged one.
// Strays are manifests that cannot be believed, which nothing is merged with. What could not be read is an error.
func Look(ctx context.Context, repo *repository.Repository, cluster string) (segments []repository.Segment, strays []error, err error) {
	points, _, err := repo.SegmentPoints(ctx, cluster, "")
	if err != nil {
		return nil, nil, err
	}
	// From the top, so that only those hide others that were believed.
	var seen hidden
	for level := repository.SegmentDay; level >= repository.SegmentLive; level-- {
		var wanted []repository.SegmentPoint
		for _, p := range points {
			if p.Level == level && !seen.hides(p) {
				wanted = append(wanted, p)
			}
		}
		reads, err := repo.SegmentsOf(ctx, wanted)
		if err != nil {
			return nil, nil, err
		}
		for _, read := range reads {
			switch {
			case errors.Is(read.Err, repository.ErrForged):
				strays = append(strays, read.Err)
			case read.Err != nil:
				return nil, nil, read.Err
			default:
				segments = append(segments, read.Segment)
			}
		}
		seen = seen.with(segments)
	}
	return segments, strays, nil
}

// hidden are the merged revisions of each timeline.
type hidden map[repository.Timeline][]history.Range

// with adds segments, which are as Tops wants them after that.
func (hidden) with(segments []repository.Segment) hidden {
	of := map[repository.Timeline][]repository.Segment{}
	for _, s := range segments {
		of[s.Timeline] = append(of[s.Timeline], s)
	}
	h := hidden{}
	for t, list := range of {
		for _, s := range Tops(list) {
			h[t] = append(h[t], s.Range())
		}
	}
	return h
}

// hides tells whether a segment is inside of a merged one, as far as its name tells: a live one that begins in it also ends
// in it, since it was there before the merged one.
func (h hidden) hides(p repository.SegmentPoint) bool {
	ranges := h[p.Timeline]
	// Tops are sorted by their first revision, and by their last one too, but for odd ones, which hide less.
	low, high := 0, len(ranges)
	for low < high {
		if middle := (low + high) / 2; ranges[middle].Last < max(p.First, p.Last) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low < len(ranges) && ranges[low].Contains(p.First) && ranges[low].Contains(max(p.First, p.Last))
}
