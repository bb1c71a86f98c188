package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	// atOnce is how many segments are copied at a time: most are small, and stores answer in tens of milliseconds.
	atOnce = 8
	// chunkBytes bounds these: data whose manifest has to wait for others must not wait for long.
	chunkBytes = 64 << 20
)

// chunk is how many segments are copied together.
func chunk(todo []repository.Segment) int {
	bytes := todo[0].Object.Size
	n := 1
	for n < min(len(todo), atOnce) && bytes+todo[n].Object.Size <= chunkBytes {
		bytes += todo[n].Object.Size
		n++
	}
	return n
}

// chunk copies some segments: their data at once, their manifests in order. Damaged are those that were not copied, and that
// c.bad names.
func (c *copier) chunk(ctx context.Context, done *Copied, some []repository.Segment) (damaged []repository.Segment, err error) {
	made := make([]repository.Segment, len(some))
	errs := make([]error, len(some))
	var group errgroup.Group
	for i, s := range some {
		group.Go(func() error {
			made[i], errs[i] = c.data(ctx, s)
			return nil
		})
	}
	_ = group.Wait() // no error comes out of it
	for i, s := range some {
		err := errs[i]
		if err == nil {
			err = c.publish(ctx, done, made[i])
			c.mine[s.Point()] = err == nil
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return damaged, context.Cause(ctx)
		case errors.Is(err, errForgedPlace):
			c.bad = append(c.bad, err)
		case c.isGone(ctx, err, s):
			c.gone = true
		case isDamage(err):
			c.bad = append(c.bad, fmt.Errorf("%s of cluster %s is not copied: %w", s.Point(), c.Cluster, err))
			damaged = append(damaged, s)
		default:
			return damaged, err
		}
	}
	return damaged, nil
}

// ofSource is an error of reading a segment of the source.
type ofSource struct{ error }

func (e ofSource) Unwrap() error { return e.error }

// isGone tells whether a segment could not be read as it was pruned meanwhile: then its manifest went first.
func (c *copier) isGone(ctx context.Context, err error, s repository.Segment) bool {
	_, is := errors.AsType[ofSource](err)
	return is && errors.Is(err, store.ErrNotFound) && errors.Is(c.From.Segment(ctx, s.Point()).Err, store.ErrNotFound)
}

// isDamage tells whether an error is about what the source has of one segment, so that the others can still be copied.
func isDamage(err error) bool {
	if _, is := errors.AsType[ofSource](err); !is {
		return false
	}
	for _, class := range []error{repository.ErrDamaged, repository.ErrForged, store.ErrNotFound, seal.ErrCorrupt, seal.ErrNotEncrypted, segment.ErrCorrupt} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// data copies the data of a segment, and gives the manifest that is to be put.
func (c *copier) data(ctx context.Context, s repository.Segment) (repository.Segment, error) {
	read := c.From.Segment(ctx, s.Point())
	if read.Err != nil {
		return s, ofSource{read.Err}
	}
	s = read.Segment
	recipients := s.Object.Recipients
	write := func(to io.Writer) error { return c.From.CopyStoredSegment(ctx, s, to, &c.observed) }
	if c.Reseal {
		recipients = nil
		for _, r := range c.to {
			recipients = append(recipients, r.KeyID())
		}
		write = func(to io.Writer) error { return c.reseal(ctx, s, to) }
	}
	object, err := c.To.NewSegmentData(c.As, s.Timeline, s.First, recipients)
	if err != nil {
		return s, err
	}
	retain := c.RetainUntil.UTC().Truncate(time.Second) // as it will be in the manifest
	object, err = c.To.StreamSegmentData(ctx, object, retain, func(to io.Writer) error {
		if err := write(to); err != nil {
			return ofSource{err}
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	next := s
	next.Cluster, next.Object, next.RetainUntil = c.As, object, retain
	next.Session = "" // no archiver of that repository
	next.Source.Copied = &repository.Copied{Repository: s.Repository, Manifest: read.SHA256, Signer: s.Signer}
	next.Completed = time.Now()
	if next.Completed.Before(next.Started) {
		next.Completed = next.Started // by a clock that is ahead
	}
	return next, nil
}

// errForgedPlace is about one segment, as damage in the source is.
var errForgedPlace = errors.New("its place in the second repository is taken")

// publish puts the manifest of a copy. That somebody else was faster with the same is as good.
func (c *copier) publish(ctx context.Context, done *Copied, s repository.Segment) error {
	_, err := c.To.PublishSegment(ctx, c.writer, s)
	taken, is := errors.AsType[*repository.Taken](err)
	switch {
	case is && same(taken.Winner, s):
		done.There++
	case is:
		return fmt.Errorf("%s is something else there, signed by %s: %w", s.Point(), taken.Winner.Signer.Short(), ErrOtherArchive)
	case errors.Is(err, repository.ErrForged):
		return fmt.Errorf("%s is not copied, as %w: %w", s.Point(), errForgedPlace, err)
	case err != nil:
		return err
	default:
		done.Segments++
		done.Bytes += s.Object.Size
	}
	done.Last = max(done.Last, s.Last)
	return nil
}

// reseal decrypts a segment, checks all that is in it, and writes it encrypted to the recipients of the second repository.
func (c *copier) reseal(ctx context.Context, s repository.Segment, to io.Writer) (err error) {
	stored, err := c.From.StoredSegment(ctx, s)
	if err != nil {
		return err
	}
	content, err := repository.UnsealSegmentLean(s, teed{io.TeeReader(stored, &c.observed), stored}, c.Identities)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	sealer, err := seal.NewWriter(to, seal.Options{Recipients: c.to, Concurrency: 1, FrameSize: merge.FrameOf(s.Level)})
	if err != nil {
		return err
	}
	if err := check(io.TeeReader(content, sealer), s); err != nil {
		sealer.Abort()
		return err
	}
	return sealer.Close()
}

type teed struct {
	io.Reader
	io.Closer
}

// check reads a segment to its end: that each revision has its events, and all is as the manifest says.
func check(plain io.Reader, s repository.Segment) error {
	reader, err := segment.NewReader(plain, s.Plain.Size)
	if err != nil {
		return err
	}
	for {
		if _, err := reader.Next(); errors.Is(err, io.EOF) {
			return s.Holds(reader.Summary())
		} else if err != nil {
			return err
		}
	}
}
