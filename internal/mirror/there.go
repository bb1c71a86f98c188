package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
)

// there is what the second repository has of the cluster.
type there struct {
	cluster string
	// tops are those that count, by timeline and first revision, and last is the last revision of each timeline.
	tops map[repository.Timeline][]repository.Segment
	last map[repository.Timeline]history.Revision
	// names are the places that are taken, by whatever.
	names map[repository.SegmentPoint]bool
	// pruned are runs that were removed on purpose.
	pruned []repository.RemovedSegments
}

func (c *copier) lookThere(ctx context.Context) (*there, error) {
	t := &there{
		cluster: c.As, names: map[repository.SegmentPoint]bool{},
		tops: map[repository.Timeline][]repository.Segment{}, last: map[repository.Timeline]history.Revision{},
	}
	// What cannot be believed there is for list to tell; here it only takes a place.
	segments, _, err := look(ctx, c.To, c.As)
	if err != nil {
		return nil, err
	}
	for _, s := range segments {
		t.tops[s.Timeline] = append(t.tops[s.Timeline], s)
		t.last[s.Timeline] = max(t.last[s.Timeline], s.Last)
	}
	for line, list := range t.tops {
		t.tops[line] = merge.Tops(list)
	}
	points, _, err := c.To.SegmentPoints(ctx, c.As, "")
	if err != nil {
		return nil, err
	}
	for _, p := range points {
		t.names[p] = true
	}
	removed, err := c.To.RemovedRevisions(ctx, c.As)
	if err != nil {
		return nil, err
	}
	t.pruned = slices.DeleteFunc(removed, func(r repository.RemovedSegments) bool { return r.Count == 0 }) // those of snapshots
	// What the snapshots reach is there, too.
	snapshots, _, err := c.To.Points(ctx, c.As)
	for _, p := range snapshots {
		t.last[p.Timeline] = max(t.last[p.Timeline], p.Last)
	}
	return t, err
}

// same tells whether two segments of one place hold the same. The encoding is canonical, so that a merge which was done twice
// gives the same bytes.
func same(a, b repository.Segment) bool {
	return a.Plain == b.Plain && a.Range() == b.Range() && a.Events == b.Events
}

// at gives the place of a segment of the source in the second repository.
func (t *there) at(s repository.Segment) repository.SegmentPoint {
	p := s.Point()
	p.Cluster = t.cluster
	return p
}

// conflict tells whether what is there of a timeline is of another archive. Copies are of this one when what has the same name
// is the same; an archive of its own that has the same revisions is, unless the segments are the same, or were copied from
// there. What only goes on with another history shows at its first segment. wanted are as merge.Tops gives them.
func (t *there) conflict(wanted []repository.Segment, repositoryID string) error {
	if len(wanted) == 0 {
		return nil
	}
	for _, have := range t.tops[wanted[0].Timeline] {
		first := sort.Search(len(wanted), func(i int) bool { return wanted[i].Last >= have.First })
		for _, s := range wanted[first:] {
			if s.First > have.Last {
				break
			}
			if from := s.Source.Copied; same(s, have) || from != nil && from.Repository == repositoryID {
				continue
			}
			if t.at(s) == have.Point() || have.Source.Copied == nil {
				return fmt.Errorf("%s of the source is not %s, signed by %s: %w", s.Point(), have.Point(), have.Signer.Short(), ErrOtherArchive)
			}
		}
	}
	return nil
}

// missing leaves those that are to be copied, and counts the others. wanted are as merge.Tops gives them.
func (t *there) missing(wanted []repository.Segment, done *Copied) (todo []repository.Segment) {
	have := t.tops[done.Timeline]
	next := 0
	var reach [repository.SegmentDay + 1]history.Revision // the last revision that each level has come to
	for _, s := range wanted {
		for ; next < len(have) && have[next].First <= s.First; next++ {
			reach[have[next].Level] = max(reach[have[next].Level], have[next].Last)
		}
		switch {
		case slices.Max(reach[s.Level:]) >= s.Last:
			done.There++
		case slices.ContainsFunc(t.pruned, func(r repository.RemovedSegments) bool {
			return r.Timeline == s.Timeline && r.Level == s.Level && r.First <= s.First && s.Last <= r.Last
		}):
			done.Pruned++
		default:
			todo = append(todo, s)
		}
	}
	return todo
}

// placeOf tells whether the place of a segment is free, although nothing that is believed there has its revisions. What is in
// it and cannot be believed keeps it, and is named.
func (c *copier) placeOf(ctx context.Context, s repository.Segment, t *there, done *Copied) (free bool, err error) {
	if !t.names[t.at(s)] {
		return true, nil
	}
	read := c.To.Segment(ctx, t.at(s))
	switch {
	case errors.Is(read.Err, store.ErrNotFound):
		return true, nil
	case errors.Is(read.Err, repository.ErrForged):
		c.bad = append(c.bad, fmt.Errorf("%s is not copied, as its place in the second repository is taken: %w", s.Point(), read.Err))
		return false, nil
	case read.Err != nil:
		return false, read.Err
	case !same(read.Segment, s):
		return false, fmt.Errorf("%s is something else there, signed by %s: %w", s.Point(), read.Segment.Signer.Short(), ErrOtherArchive)
	}
	// Somebody else copies, too, and put it after the look.
	done.There, done.Last = done.There+1, max(done.Last, s.Last)
	return false, nil
}
