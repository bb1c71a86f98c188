package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/repository"
)

const (
	// mergeEvery is how often is looked for what is due. Nothing is asked of the store for that.
	mergeEvery = 15 * time.Second
	// listEvery is how often all is read anew, to see what others did.
	listEvery = time.Hour
	// mergeRest bounds the pause after a merge, which is as long as the merge took: half of the time is for the cluster.
	mergeRest = time.Minute
)

// Merged is a segment that was made of others, and read back.
type Merged struct {
	Segment repository.Segment
	// Inputs is how many segments it was made of.
	Inputs int
	// Taken tells that another merger was faster.
	Taken bool
}

// mergeAll merges what is due, one after the other, until ctx ends. What fails is told, and tried again later.
func (a *archiver) mergeAll(ctx context.Context) {
	var listed time.Time
	for wait(ctx, a.mergeEvery) {
		if a.behind() {
			continue
		}
		if listed.IsZero() || a.now().Sub(listed) >= listEvery || a.now().Before(listed) {
			strays, err := a.merger.Look(ctx, a.mergeOptions())
			if err != nil {
				a.trouble(ctx, fmt.Errorf("look for what is to be merged: %w", err))
				continue
			}
			for _, stray := range strays {
				a.trouble(ctx, stray)
			}
			listed = a.now()
		}
		a.mergeDue(ctx)
		a.destroyKeys(ctx)
	}
}

// behind tells whether the store has more important things to take than merged segments.
func (a *archiver) behind() bool { return a.spool.waiting() > a.FlushSize }

func (a *archiver) mergeOptions() merge.Options {
	o := merge.Options{Further: true, Dir: filepath.Join(a.Dir, "spool"), Now: a.now}
	if a.sealing.keys != nil {
		o.Identities = a.sealing.keys.identities()
	}
	return o
}

// mergeDue does what is due now, until publishing needs the store.
func (a *archiver) mergeDue(ctx context.Context) {
	for {
		o := a.mergeOptions()
		due := a.merger.Due(o, false)
		if len(due) == 0 {
			return
		}
		for _, one := range due {
			if ctx.Err() != nil || a.behind() {
				return
			}
			began := time.Now()
			result, err := a.merger.Do(ctx, one, o)
			if err != nil {
				a.trouble(ctx, err)
			} else {
				a.Observe(Event{Merged: &Merged{Segment: result.Segment, Inputs: len(one.Inputs), Taken: result.Taken}})
			}
			if !wait(ctx, min(time.Since(began), mergeRest)) {
				return
			}
		}
	}
}

// destroyKeys destroys the identities of days that are over and merged, and of those that are too old.
func (a *archiver) destroyKeys(ctx context.Context) {
	if a.sealing.keys == nil {
		return
	}
	for _, old := range a.sealing.keys.old(a.now()) {
		if !old.expired {
			needed, err := a.needed(ctx, old)
			if err != nil {
				a.trouble(ctx, err)
			}
			if needed || err != nil {
				continue
			}
		}
		if err := a.sealing.keys.destroy(old.day); err != nil {
			a.trouble(ctx, err)
		}
	}
}

// needed tells whether something is still to be merged that was sealed to a day's identities: in the spool, in the repository,
// or in a merged day that was not read back.
func (a *archiver) needed(ctx context.Context, old oldKeys) (bool, error) {
	for _, identity := range old.identities {
		id := identity.Recipient().KeyID()
		if a.spool.sealedTo(id) || a.merger.Needs(id) {
			return true, nil
		}
	}
	err := a.merger.Confirm(ctx, old.at, a.mergeOptions())
	if errors.Is(err, repository.ErrDamaged) {
		err = fmt.Errorf("%w; the identity of %s is kept for %s at most", err, old.day, mostKeyAge)
	}
	return err != nil, err
}
