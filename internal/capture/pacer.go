package capture

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How a snapshot of a member on this machine keeps out of the way of its clients: it asks the member for a small read all
// the while, and slows down when the answers take longer than they did before the snapshot.
const (
	// probeStep is the pause between two reads. A fourth of it makes the reads themselves felt on two cores.
	probeStep = 100 * time.Millisecond
	// probesBefore are read before the snapshot, for a median to compare with.
	probesBefore = 15
	// probesEach is how many reads a decision is made of: one is made in somewhat less than a second.
	probesEach = 8
	// tooSlow and fine are medians, as multiples of that before the snapshot, at which the pace is lowered and raised.
	tooSlow, fine = 1.5, 1.25
	// slower and faster are what the pace is multiplied with.
	slower, faster = 0.75, 1.1
	// slowest is the share of the pace below which it is not lowered, so that a member that is slow for another reason does
	// not keep a snapshot waiting.
	slowest = 1.0 / 3
)

// pacer decides on the pace from how long reads take. It is not safe for concurrent use.
type pacer struct {
	// most and least bound the pace, in bytes per second; now is what it is.
	most, least, now float64
	before           time.Duration
	seen             []time.Duration
}

func newPacer(perSecond, least int64, before []time.Duration) *pacer {
	most := float64(perSecond)
	return &pacer{most: most, least: max(most*slowest, float64(least)), now: most, before: median(before)}
}

// saw takes note of a read and gives the pace that holds from then on.
func (p *pacer) saw(took time.Duration) float64 {
	p.seen = append(p.seen, took)
	if len(p.seen) < probesEach {
		return p.now
	}
	switch ratio := float64(median(p.seen)) / float64(p.before); {
	case ratio > tooSlow:
		p.now = max(p.now*slower, p.least)
	case ratio < fine:
		p.now = min(p.now*faster, p.most)
	}
	p.seen = p.seen[:0]
	return p.now
}

func median(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return max(sorted[len(sorted)/2], time.Nanosecond)
}

// probe is one small read of the member, as its clients make them.
type probe func(context.Context) error

// timed gives how long a probe took. One that failed, or that took longer than a decision may wait for, tells nothing.
func (p probe) timed(ctx context.Context) (time.Duration, bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	began := time.Now()
	err := p(ctx)
	return time.Since(began), err == nil
}

// pace follows the member until ctx ends and sets the limit.
func (p probe) pace(ctx context.Context, limit *rate.Limiter, control *pacer) {
	tick := time.NewTicker(probeStep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if took, ok := p.timed(ctx); ok {
			limit.SetLimit(rate.Limit(control.saw(took)))
		}
	}
}

// considerate paces a stream by how the member answers its clients. It gives a function that ends it.
func considerate(ctx context.Context, p probe, limit *rate.Limiter, least int64) (end func()) {
	var before []time.Duration
	for range probesBefore {
		took, ok := p.timed(ctx)
		if !ok { // there is nobody to be considerate of, and nothing to wait for
			return func() {}
		}
		before = append(before, took)
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { p.pace(ctx, limit, newPacer(int64(limit.Limit()), least, before)) })
	return func() {
		cancel()
		group.Wait()
	}
}
