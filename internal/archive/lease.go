package archive

import (
	"context"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

const (
	// renewEvery is how long an archiver is silent at most; segments that are published are signs of life too.
	renewEvery = 10 * time.Second
	// tellEvery is how often is told that the archive goes on.
	tellEvery = time.Minute
	// releaseTime bounds the last word.
	releaseTime = 2 * time.Second
)

// sign is what shows that an archiver is alive: when it changes, one is. Times in it are not compared.
type sign struct {
	lease    string
	timeline repository.Timeline
	last     history.Revision
}

// awaitLease waits until no other archiver shows a sign of life. It keeps two from doing the same work; that they cannot harm
// each other is the fence's doing.
func (a *archiver) awaitLease(ctx context.Context) error {
	seen, holder, err := a.look(ctx)
	if err != nil {
		return err
	}
	if holder != nil {
		a.Observe(Event{Standby: holder})
	}
	for quiet := time.Now(); holder != nil && time.Since(quiet) < a.Takeover; {
		if !wait(ctx, a.Takeover/10) {
			return context.Cause(ctx)
		}
		now, next, err := a.look(ctx)
		if err != nil {
			return err
		}
		if holder = next; now != seen {
			seen, quiet = now, time.Now()
		}
	}
	return a.putLease(ctx, false)
}

// look gives the newest sign of life on the newest timeline, and the other archiver that gave it: nil when there is none, when
// it was this host, or when it said that it ended.
func (a *archiver) look(ctx context.Context) (sign, *Holder, error) {
	timelines, err := a.repo.Timelines(ctx, a.Cluster)
	if err != nil || len(timelines) == 0 {
		return sign{}, nil, err
	}
	seen := sign{timeline: timelines[len(timelines)-1]}
	leases, _, err := a.repo.Leases(ctx, a.Cluster, seen.timeline, repository.ID{}, 1)
	if err != nil {
		return sign{}, nil, err
	}
	last, err := a.repo.LastSegment(ctx, a.Cluster, seen.timeline)
	if err != nil {
		return sign{}, nil, err
	}
	var holder *Holder
	if last != nil {
		seen.last, holder = last.Last, &Holder{last.Signer, last.Last}
	}
	// A lease is the last word when nothing was archived after it.
	if len(leases) > 0 && leases[0].Err == nil && leases[0].Note.Revision >= seen.last {
		lease := leases[0].Note
		seen.lease, holder = lease.ID.String(), &Holder{lease.Signer, lease.Revision}
		if lease.Release {
			holder = nil
		}
	}
	if holder != nil && holder.Signer == a.writer.Public().Fingerprint() {
		holder = nil
	}
	return seen, holder, nil
}

// seen is that at a time the cluster had a revision and no later one.
type seen struct {
	revision history.Revision
	at       time.Time
}

// renewLease shows that this archiver is alive when nothing else does, and tells from time to time how far it is.
func (a *archiver) renewLease(ctx context.Context) {
	for told := time.Now(); wait(ctx, renewEvery/4); {
		if time.Since(told) >= tellEvery {
			told = time.Now()
			a.Observe(Event{Progress: a.progress()})
		}
		a.mu.Lock()
		due := time.Since(a.renewed) >= renewEvery
		a.mu.Unlock()
		if !due {
			continue
		}
		if err := a.putLease(ctx, false); err != nil && ctx.Err() == nil {
			a.Observe(Event{Trouble: err})
		}
	}
}

func (a *archiver) putLease(ctx context.Context, released bool) error {
	a.mu.Lock()
	lease := repository.Lease{Cluster: a.Cluster, Timeline: a.state.Timeline, Revision: a.state.Position.Revision, Session: a.session, Release: released}
	if a.seen.revision == lease.Revision {
		lease.AsOf = a.seen.at
	}
	a.mu.Unlock()
	if lease.Timeline == "" {
		return nil // there is nothing to write yet
	}
	if _, err := a.repo.PutLease(ctx, a.writer, lease); err != nil {
		return err
	}
	a.mu.Lock()
	a.renewed = time.Now()
	a.mu.Unlock()
	return nil
}

// release tells a challenger that it need not wait. That it fails costs the challenger half a minute, and is told only.
func (a *archiver) release(parent context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), releaseTime)
	defer cancel()
	if err := a.putLease(ctx, true); err != nil {
		a.Observe(Event{Trouble: err})
	}
}
