package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
)

// saveEvery is how often the state is written down while segments are published. An older one costs a restart no more than
// to skip what it finds archived.
const saveEvery = 10 * time.Second

// publishAll publishes what comes into the spool, in order, until read is closed and nothing is left that can be published.
func (a *archiver) publishAll(ctx context.Context, read <-chan struct{}) error {
	var saved time.Time // the first one is written down at once: with it the line can be proved
	for {
		d, found, changed := a.spool.oldest()
		if !found || d.Segment.Timeline == "" {
			select {
			case <-changed:
				continue
			case <-read:
				if d, found, _ := a.spool.oldest(); !found || d.Segment.Timeline == "" {
					return nil
				}
				continue
			}
		}
		if err := a.retry(ctx, Storing, func() error { return a.publish(ctx) }); err != nil {
			if ctx.Err() != nil {
				a.ail(Storing, err) // it is in the spool, and the next run goes on there
				return nil
			}
			return err
		}
		if time.Since(saved) > saveEvery {
			if err := a.saveState(); err != nil {
				return err
			}
			saved = time.Now()
		}
	}
}

// publish sends the oldest segment, which is then confirmed: the position moves.
func (a *archiver) publish(ctx context.Context) (err error) {
	d, _, _ := a.spool.oldest() // as an earlier try has left it
	if d.Segment.Object.Name == "" {
		named, err := a.repo.NewSegmentData(a.Cluster, d.Segment.Timeline, d.Segment.First, d.Segment.Object.Recipients)
		if err != nil {
			return err
		}
		d.Segment.Object.Name, d.Segment.Completed = named.Name, time.Now()
		if d.Segment.Completed.Before(d.Segment.Started) { // the clock was set back
			d.Segment.Completed = d.Segment.Started
		}
		if err := a.spool.name(d); err != nil {
			return err
		}
	}
	file, err := a.spool.open(d)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errSpoilt, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	put, err := a.repo.PutSegmentData(ctx, d.Segment.Object, file, time.Time{})
	if _, is := errors.AsType[*repository.Mismatch](err); is {
		return fmt.Errorf("%w: %w", errSpoilt, err)
	}
	if err != nil {
		return err
	}
	if put.Name != d.Segment.Object.Name {
		d.Segment.Object = put
		if err := a.spool.name(d); err != nil {
			return err
		}
	}
	stored, err := a.repo.PublishSegment(ctx, a.writer, d.Segment)
	var taken *repository.Taken
	switch {
	case errors.As(err, &taken) && taken.Winner.Plain == d.Segment.Plain:
		stored, err = taken.Winner, nil // an earlier try of this archiver, or the same events by another one
	case errors.As(err, &taken):
		return fmt.Errorf("%w: revisions %d to %d are there", errSuperseded, taken.Winner.First, taken.Winner.Last)
	case errors.Is(err, repository.ErrForged):
		// Nothing can ever be published in that place, so the line goes on behind it.
		return fmt.Errorf("%w, and what is there cannot be believed: %w", errSuperseded, err)
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	// A snapshot can have come further than what was read before it.
	if stored.Timeline != a.state.Timeline || d.End.Revision > a.state.Position.Revision {
		a.state.Timeline, a.state.Position = stored.Timeline, d.End
	}
	if stored.Timeline == a.line {
		a.lineEnd = max(a.lineEnd, stored.Last)
	}
	// A segment tells of itself only when it was seen live that nothing came after it; of another a lease soon does.
	if a.renewed = time.Now(); !stored.Exact {
		a.renewed = time.Time{}
	}
	a.mu.Unlock()
	if err := a.spool.remove(d); err != nil {
		a.ail(Beside, err) // the repository has it; what is left goes with the next start
	}
	a.adopt()
	a.merger.Add(stored)
	a.Observe(Event{Stored: &Stored{Segment: stored, Waiting: a.spool.waiting(), Lag: max(0, time.Since(d.Segment.Started))}})
	a.well(Storing)
	return nil
}

// errSpoilt means that what was in the spool is not there any more as it was written. It is read from etcd again.
var errSpoilt = errors.New("the spool was changed or damaged by something else")

// ErrFinal marks what Options.Snapshot gives when a person must decide or repair something: Run ends with it.
var ErrFinal = errors.New("another try cannot help")

// final tells whether another try would end the same way, so that a person must act. That a store denies access or is full
// is none of it: credentials are replaced and space is made while an archiver runs, and until then its spool helps.
func final(err error) bool {
	for _, class := range []error{errSuperseded, errSpoilt, ErrFinal, repository.ErrNotEnrolled, repository.ErrRevoked, store.ErrUnsupported} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}
