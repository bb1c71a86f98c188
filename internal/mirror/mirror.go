// Package mirror copies the archive of a cluster to a second repository, so that every moment that the first one can restore can
// be restored from the second.
//
// It is to segments what backup.Copy is to snapshots, and is called by the command line after these. What it knows is in the two
// repositories alone: a copy that was cut off goes on the next time, and several may copy at once, since a manifest is put if
// absent and whoever comes second accepts what is the same. The source may be archived, merged and pruned meanwhile.
//
// Segments are copied in the order of their revisions, a manifest never before that of the segment before it. So what is there
// is at any time what the source had at an earlier one.
//
// Leases and drills are about the first repository and are not copied. What a second site has to know of leases is told: where the
// archive began, and that nothing came after its last revision until a time, in leases that are released and say that they are
// copies.
//
// Not promised: that what is there already is still whole. verify tells.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Options of Archive. From and To, with the cluster's name in each, are required.
type Options struct {
	From, To    *repository.Repository
	Cluster, As string
	// Reseal decrypts with Identities, checks all that is in a segment, and encrypts to the recipients of To. Otherwise the
	// stored bytes are copied as they are.
	Reseal     bool
	Identities []seal.Identity
	// RetainUntil locks the objects in stores that can; zero does not.
	RetainUntil time.Time
	// Bases, which may be nil, copies the snapshots that are not there yet. It is called when it is known which segments are
	// to be copied, and before any is: so what leads to them is there first.
	Bases func(context.Context) error
	// Observe, which may be nil, is told how many stored bytes are to be copied, and gives what they are written to as they
	// are read, by one goroutine at a time. It may be called again.
	Observe func(bytes int64) io.Writer
}

// Copied is what was done for one timeline.
type Copied struct {
	Timeline repository.Timeline
	// Segments were copied, with Bytes as they are stored there.
	Segments int
	Bytes    int64
	// There were there already, on their own or within a merged one. Pruned were there, and were removed on purpose.
	There, Pruned int
	Gaps, Hashes  int
	// Last is the last revision that is there, in a snapshot or a segment; 0 when there is none.
	Last history.Revision
}

// ErrOtherArchive means that the second repository has segments of a timeline that are not those of the first: somebody archives
// there, too, or it is the copy of another repository. Nothing of the timeline is copied then.
var ErrOtherArchive = errors.New("the second repository has other segments of this timeline")

// rounds is how often is looked again when segments were merged and pruned in the source after a look.
const rounds = 3

// Archive copies what is not there yet of the archive of a cluster, by timeline. Bad is what of the source cannot be believed and
// was not copied, and what is there already and is something else (ErrOtherArchive); the rest is copied all the same. What cannot
// be opened for lack of a key is an error, as is a writer that is not enrolled in To; what was copied before it stays.
func Archive(ctx context.Context, w *repository.Writer, o Options) (copied []Copied, bad []error, err error) {
	c := &copier{Options: o, writer: w, by: map[repository.Timeline]*Copied{}, mine: map[repository.SegmentPoint]bool{}}
	for range rounds {
		c.bad, c.gone = nil, false
		if err = c.round(ctx); err != nil || !c.gone {
			break
		}
	}
	if err == nil && c.gone {
		err = errors.New("segments are pruned in the source while they are copied; copy again")
	}
	for _, t := range c.order {
		copied = append(copied, *c.by[t])
	}
	if err != nil {
		err = fmt.Errorf("copy the archive of %s: %w", o.Cluster, err)
	}
	return copied, c.bad, err
}

// copier is one Archive.
type copier struct {
	Options
	writer *repository.Writer
	to     []seal.Recipient // with Reseal

	observed lockedWriter
	order    []repository.Timeline
	by       map[repository.Timeline]*Copied
	bad      []error
	// mine are the segments that were copied, by their place in the source.
	mine map[repository.SegmentPoint]bool
	// gone tells that a segment was pruned after the look, so that what has its revisions now is looked for.
	gone bool
}

func (c *copier) round(ctx context.Context) error {
	timelines, err := c.From.ArchivedTimelines(ctx, c.Cluster)
	if err != nil || len(timelines) == 0 {
		return err
	}
	if _, err := c.To.Enrolled(ctx, c.writer.Public().Fingerprint(), repository.RoleBackup); err != nil {
		return fmt.Errorf("signing key of this host: %w", err)
	}
	if c.Reseal {
		if c.to, err = c.To.SegmentSealTo(ctx); err != nil {
			return err
		}
	}
	// Before the segments: what a lease says is archived is there then.
	leases := map[repository.Timeline]*repository.NoteRead[repository.Lease]{}
	for _, t := range timelines {
		if leases[t], err = c.From.LastLease(ctx, c.Cluster, t); err != nil {
			return err
		}
	}
	segments, strays, err := look(ctx, c.From, c.Cluster)
	if err != nil {
		return err
	}
	c.bad = append(c.bad, strays...)
	if c.Bases != nil {
		if err := c.Bases(ctx); err != nil {
			return err
		}
	}
	there, err := c.lookThere(ctx)
	if err != nil {
		return err
	}
	for _, t := range timelines {
		if c.by[t] == nil {
			c.by[t], c.order = &Copied{Timeline: t}, append(c.order, t)
		}
		wanted := merge.Tops(of(segments, t))
		if err := c.timeline(ctx, c.by[t], wanted, there, leases[t]); err != nil {
			return err
		}
	}
	return nil
}

// look is merge.Look, again when what it has listed was pruned before it was read.
func look(ctx context.Context, repo *repository.Repository, cluster string) (segments []repository.Segment, strays []error, err error) {
	for range rounds {
		if segments, strays, err = merge.Look(ctx, repo, cluster); !errors.Is(err, store.ErrNotFound) {
			break
		}
	}
	return segments, strays, err
}

func of(segments []repository.Segment, t repository.Timeline) (list []repository.Segment) {
	for _, s := range segments {
		if s.Timeline == t {
			list = append(list, s)
		}
	}
	return list
}

// timeline copies what is not there yet of one timeline, in an order in which what is there is right at any time.
func (c *copier) timeline(ctx context.Context, done *Copied, wanted []repository.Segment, there *there, lease *repository.NoteRead[repository.Lease]) error {
	err := there.conflict(wanted, c.To.Document().Repository)
	if err == nil {
		err = c.copyTimeline(ctx, done, wanted, there, lease)
	}
	if errors.Is(err, ErrOtherArchive) {
		c.bad = append(c.bad, fmt.Errorf("timeline %s of cluster %s is not copied: %w", done.Timeline, c.Cluster, err))
		return nil
	}
	return err
}

func (c *copier) copyTimeline(ctx context.Context, done *Copied, wanted []repository.Segment, there *there, lease *repository.NoteRead[repository.Lease]) error {
	// What says why revisions are missing comes before those behind them.
	gaps, bad, err := c.To.CopyGaps(ctx, c.writer, c.From, c.Cluster, c.As, done.Timeline)
	done.Gaps, c.bad = done.Gaps+gaps, append(c.bad, bad...)
	if err != nil {
		return err
	}
	if err := c.beginning(ctx, done.Timeline); err != nil {
		return err
	}
	done.There, done.Pruned, done.Last = 0, 0, max(done.Last, there.last[done.Timeline])
	if err := c.segments(ctx, done, wanted, there); err != nil {
		return err
	}
	// A hash of a later revision would say that those up to it are missing.
	hashes, bad, err := c.To.CopyHashes(ctx, c.writer, c.From, c.Cluster, c.As, done.Timeline, done.Last)
	done.Hashes, c.bad = done.Hashes+hashes, append(c.bad, bad...)
	if err != nil {
		return err
	}
	if err := c.explain(ctx, done.Timeline, append(wanted, there.tops[done.Timeline]...)); err != nil {
		return err
	}
	return c.asOf(ctx, done, lease)
}

// segments copies those that are not there.
func (c *copier) segments(ctx context.Context, done *Copied, wanted []repository.Segment, there *there) error {
	var todo []repository.Segment
	var bytes int64
	for _, s := range there.missing(c.notMine(wanted), done) {
		if !c.Reseal && s.Object.Encryption != c.To.Document().Encryption {
			return fmt.Errorf("%s: %w", s.Point(), backup.ErrOtherEncryption)
		}
		free, err := c.placeOf(ctx, s, there, done)
		if err != nil {
			return err
		}
		if free {
			todo, bytes = append(todo, s), bytes+s.Object.Size
		}
	}
	if c.Observe != nil && bytes > 0 {
		defer func(out io.Writer) { c.observed.out = out }(c.observed.out)
		c.observed.out = c.Observe(bytes)
	}
	for len(todo) > 0 {
		n := chunk(todo)
		damaged, err := c.chunk(ctx, done, todo[:n])
		if err != nil {
			return err
		}
		for _, s := range damaged {
			parts, err := c.inside(ctx, s)
			if err != nil {
				return err
			}
			if err := c.segments(ctx, done, parts, there); err != nil {
				return err
			}
		}
		todo = todo[n:]
	}
	return nil
}

// notMine leaves what was not copied in an earlier round.
func (c *copier) notMine(wanted []repository.Segment) []repository.Segment {
	return slices.DeleteFunc(slices.Clone(wanted), func(s repository.Segment) bool { return c.mine[s.Point()] })
}

// inside gives what a merged segment that is damaged was made of, as far as it is there.
func (c *copier) inside(ctx context.Context, s repository.Segment) ([]repository.Segment, error) {
	points, _, err := c.From.SegmentPoints(ctx, c.Cluster, s.Timeline)
	if err != nil {
		return nil, err
	}
	points = slices.DeleteFunc(points, func(p repository.SegmentPoint) bool {
		return p.Level >= s.Level || !s.Range().Contains(p.First) || !s.Range().Contains(max(p.First, p.Last))
	})
	reads, err := c.From.SegmentsOf(ctx, points)
	if err != nil {
		return nil, err
	}
	var parts []repository.Segment
	for _, read := range reads {
		switch {
		case errors.Is(read.Err, repository.ErrForged):
			c.bad = append(c.bad, read.Err)
		case errors.Is(read.Err, store.ErrNotFound): // it was pruned meanwhile
		case read.Err != nil:
			return nil, read.Err
		default:
			parts = append(parts, read.Segment)
		}
	}
	return merge.Tops(parts), nil
}

// lockedWriter is a writer for several goroutines, which may have nothing behind it.
type lockedWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out == nil {
		return len(p), nil
	}
	return w.out.Write(p)
}
