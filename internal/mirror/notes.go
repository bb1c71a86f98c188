package mirror

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// explain notes as gaps what is missing in the second repository since it was pruned in the first before it was copied: the
// record of that removal is there, and only there. Where something of the source could not be copied, the reason may be another.
func (c *copier) explain(ctx context.Context, t repository.Timeline, segments []repository.Segment) error {
	if len(c.bad) > 0 || c.gone {
		return nil
	}
	removed, err := c.From.RemovedRevisions(ctx, c.Cluster)
	if removed = slices.DeleteFunc(removed, func(r repository.RemovedSegments) bool { return r.Timeline != t }); err != nil || len(removed) == 0 {
		return err
	}
	missing, err := c.missing(ctx, t, segments)
	if err != nil {
		return err
	}
	for _, hole := range missing {
		for _, gap := range during(hole.Range, removed) {
			gap.Cluster, gap.Timeline, gap.Noticed = c.As, t, time.Now()
			if _, err := c.To.PutGap(ctx, c.writer, gap); err != nil {
				return err
			}
		}
	}
	return nil
}

// missing are the holes of a timeline there, with these segments, that nothing there explains.
func (c *copier) missing(ctx context.Context, t repository.Timeline, segments []repository.Segment) ([]coverage.Hole, error) {
	reads, _, err := c.To.Snapshots(ctx, c.As)
	if err != nil {
		return nil, err
	}
	var snapshots []repository.Manifest
	for _, read := range reads {
		if read.Err == nil && read.Manifest.Timeline == t {
			snapshots = append(snapshots, read.Manifest)
		}
	}
	list := coverage.Of(snapshots, segments, nil)
	if len(list) == 0 || len(list[0].Holes(coverage.Notes{})) == 0 {
		return nil, nil
	}
	var notes coverage.Notes
	gaps, _, err := c.To.Gaps(ctx, c.As, t)
	if err != nil {
		return nil, err
	}
	for _, read := range gaps {
		if read.Err == nil {
			notes.Gaps = append(notes.Gaps, read.Note)
		}
	}
	if notes.Removed, err = c.To.RemovedRevisions(ctx, c.As); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list[0].Holes(notes), func(h coverage.Hole) bool { return h.Cause != coverage.Missing }), nil
}

// during gives the parts of a hole that were removed on purpose, each once, by revision.
func during(hole history.Range, removed []repository.RemovedSegments) (gaps []repository.Gap) {
	removed = slices.Clone(removed)
	slices.SortFunc(removed, func(a, b repository.RemovedSegments) int { return int(min(max(a.First-b.First, -1), 1)) })
	for _, r := range removed {
		first, last := max(r.First, hole.First), min(r.Last, hole.Last)
		if first > last {
			continue
		}
		gaps = append(gaps, repository.Gap{First: first, Last: last, Reason: reasonOf(r)})
		hole.First = last + 1
	}
	return gaps
}

// reasonOf is why revisions that were removed are not there.
func reasonOf(r repository.RemovedSegments) string {
	const most = 300 // a reason with this before it would be too long for a gap
	return fmt.Sprintf("removed from the first repository before it was copied: %s", r.Reason[:min(len(r.Reason), most)])
}

// beginning tells there where the archive began, once: what is missing of its first segments would seem to be older than it.
func (c *copier) beginning(ctx context.Context, t repository.Timeline) error {
	first, err := c.From.FirstLease(ctx, c.Cluster, t)
	if err != nil || first == nil {
		return err
	}
	have, err := c.To.FirstLease(ctx, c.As, t)
	if err != nil || have != nil {
		return err
	}
	return c.putLease(ctx, *first, time.Time{})
}

// asOf tells there what the source knows of the time after the last revision: that nothing came until then.
func (c *copier) asOf(ctx context.Context, done *Copied, read *repository.NoteRead[repository.Lease]) error {
	if read == nil || read.Err != nil || read.Note.AsOf.IsZero() || read.Note.Revision != done.Last {
		return nil
	}
	lease := read.Note
	last, err := c.To.LastLease(ctx, c.As, done.Timeline)
	if err != nil {
		return err
	}
	if last != nil && last.Err == nil && (!last.Note.Release || last.Note.Revision >= lease.Revision && !last.Note.AsOf.Before(lease.AsOf)) {
		return nil
	}
	return c.putLease(ctx, *read, lease.AsOf)
}

// putLease puts a lease there that has the revision of one of the source.
func (c *copier) putLease(ctx context.Context, read repository.NoteRead[repository.Lease], asOf time.Time) error {
	lease := read.Note
	_, err := c.To.PutLease(ctx, c.writer, repository.Lease{
		Cluster: c.As, Timeline: lease.Timeline, Session: repository.NewSession(), Revision: lease.Revision, AsOf: asOf, Release: true,
		Copied: &repository.Copied{Repository: lease.Repository, Manifest: read.SHA256, Signer: lease.Signer},
	})
	return err
}
