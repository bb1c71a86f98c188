package archive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
)

// saveEvery is how often the state is written down while segments are published. An older one costs a restart no more than
// to skip what it finds archived.
const saveEvery = 10 * time.Second

// publishAll publishes what comes into the spool, in order, until read is closed and nothing is left that can be published.
func (a *archiver) publishAll(ctx context.Context, read <-chan struct{}) error {
	saved := time.Now()
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
		if err := a.retry(ctx, func() error { return a.publish(ctx, d) }); err != nil {
			if ctx.Err() != nil {
				a.Observe(Event{Trouble: err}) // it is in the spool, and the next run goes on there
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

// publish sends one segment, which is then confirmed: the position moves.
func (a *archiver) publish(ctx context.Context, d draft) (err error) {
	if d.Segment.Object.Name == "" {
		named, err := a.repo.NewSegmentData(a.Cluster, d.Segment.Timeline, d.Segment.First, d.Segment.Object.Recipients)
		if err != nil {
			return err
		}
		d.Segment.Object.Name, d.Segment.Completed = named.Name, time.Now()
		if err := a.spool.name(d); err != nil {
			return err
		}
	}
	file, err := a.spool.open(d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	put, err := a.repo.PutSegmentData(ctx, d.Segment.Object, file, time.Time{})
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
	a.state = state{Timeline: stored.Timeline, Position: d.End}
	a.renewed = time.Now()
	a.mu.Unlock()
	if err := a.spool.remove(d); err != nil {
		return err
	}
	a.merger.Add(stored)
	a.Observe(Event{Stored: &Stored{Segment: stored, Waiting: a.spool.waiting(), Lag: time.Since(d.Segment.Started)}})
	return nil
}

// ErrFinal marks what Options.Snapshot gives when a person must decide or repair something: Run ends with it.
var ErrFinal = errors.New("another try cannot help")

// final tells whether another try would end the same way, so that a person must act. That a store denies access or is full
// is none of it: credentials are replaced and space is made while an archiver runs, and until then its spool helps.
func final(err error) bool {
	for _, class := range []error{errSuperseded, ErrFinal, repository.ErrNotEnrolled, repository.ErrRevoked, store.ErrUnsupported} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}
