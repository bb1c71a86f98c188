package archive

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

const (
	// renewEvery is how long an archiver is silent at most; segments that are published are signs of life too.
	renewEvery = 10 * time.Second
	// leaseTime is how long a challenger sees nothing new before it takes over, by its own clock.
	leaseTime = 30 * time.Second
	// challengeEvery is how often a challenger looks.
	challengeEvery = 3 * time.Second
	// releaseTime bounds the last word.
	releaseTime = 2 * time.Second
)

// newSession names one run of an archiver.
func newSession() string { return rand.Text()[:16] }

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
	for quiet := time.Now(); holder != nil && time.Since(quiet) < leaseTime; {
		if !wait(ctx, challengeEvery) {
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

// look gives the newest sign of life, and the other archiver that gave it: nil when there is none, when it was this host, or
// when it said that it ended.
func (a *archiver) look(ctx context.Context) (sign, *repository.Lease, error) {
	leases, err := a.repo.Leases(ctx, a.Cluster)
	if err != nil {
		return sign{}, nil, err
	}
	if len(leases) == 0 {
		return sign{}, nil, nil
	}
	newest := leases[len(leases)-1]
	seen := sign{lease: newest.ID.String(), timeline: newest.Timeline}
	last, err := a.repo.LastSegment(ctx, a.Cluster, newest.Timeline)
	if err != nil {
		return sign{}, nil, err
	}
	if last != nil {
		seen.last = last.Last
	}
	if newest.Signer == a.writer.Public().Fingerprint() || newest.Released {
		return seen, nil, nil
	}
	return seen, &newest, nil
}

// renewLease shows that this archiver is alive when nothing else does.
func (a *archiver) renewLease(ctx context.Context) {
	for wait(ctx, renewEvery/4) {
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
	timeline := a.state.Timeline
	a.mu.Unlock()
	if err := a.repo.PutLease(ctx, a.writer, repository.Lease{Cluster: a.Cluster, Timeline: timeline, Session: a.session, Released: released}); err != nil {
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
