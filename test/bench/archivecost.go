package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
)

const (
	// costTime is how long each part of a round of archiveCost takes.
	costTime = 10 * time.Second
	// lagRate is how many writes a second come when the lag of the archive is measured.
	lagRate = 1500
	// costChanges are made beforehand, and are enough for a part at full speed.
	costChanges = 150_000
)

// archiveCost compares writers, and the latency of a steady client, with and without an archiver, and looks at what the
// archiver itself takes.
func archiveCost(ctx context.Context, l *lab, r *report) error {
	d, err := l.fill(ctx, r, "etcd", momentBytes)
	if err != nil {
		return err
	}
	v, err := l.newVault(ctx)
	if err != nil {
		return err
	}
	c, stop := newChurn(d.client, l.seed)
	defer stop()
	l.say("making %d changes", costChanges)
	cost := &costs{vault: v, d: d, churn: c, changes: c.take(costChanges)}
	err = l.alternate(ctx, r, []work{
		{name: "alone", do: func(f figures) error { return cost.writers(ctx, f) }},
		{name: "watched", do: func(f figures) error { return cost.watched(ctx, f) }},
		{name: "archived", prepare: func() error { return cost.begin(ctx) }, do: func(f figures) error { return cost.archived(ctx, f) }, clean: cost.end},
	})
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes,
		fmt.Sprintf("each side: %s of %d writers at full speed, %s of %d puts a second; archived: then %s of %d writes a second", costTime, churnWriters, costTime, putRate, costTime, lagRate),
		"watched: beside a bare watch of all keys that throws the events away, for comparison",
		"lag: from the answer to a write until the manifest of its segment was confirmed; into a file:// repository on the same disk, encrypted with age",
		"archiver_us: own processor time of the archiver for each event, all in; at full speed, and at the rates that are in the names")
	r.gateMedian("archiver_us-per-event", "archived", 50)
	r.gateMedian("archiver-1500_us-per-event", "archived", 50)
	r.gateRatio("write_us", "archived", "alone", 1/0.8)
	r.gateMost("lag-p99_s", "archived", 2)
	r.gateRatio("p50_ms", "archived", "alone", 1.25)
	return nil
}

// costs is what archiveCost runs on.
type costs struct {
	*vault
	d       *deployed
	churn   *churn
	changes []kubeload.Change
	a       *archiver
}

// writers has writers at full speed, and then a steady client.
func (c *costs) writers(ctx context.Context, f figures) error {
	return c.d.withServer(f, func() error {
		began := time.Now()
		written, err := c.churn.runFor(ctx, c.changes, costTime)
		if err != nil {
			return err
		}
		f["write_us"] = time.Since(began).Seconds() * 1e6 / float64(written)
		f["writes"] = float64(written)
		return c.steady(ctx, f)
	})
}

// watched is writers beside a watch whose events are thrown away: what etcd itself takes for it.
func (c *costs) watched(ctx context.Context, f figures) error {
	watching, stop := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer stop()
	watch := c.d.client.Watch(watching, "\x00", clientv3.WithFromKey(), clientv3.WithCreatedNotify())
	<-watch
	reading.Go(func() {
		for range watch {
		}
	})
	return c.writers(ctx, f)
}

// steady is a client that puts at the usual rate.
func (c *costs) steady(ctx context.Context, f figures) error {
	if err := settle(ctx); err != nil {
		return err
	}
	from := time.Now()
	p := startPuts(ctx, putRate, putter(c.d.client, c.seed))
	if err := pause(ctx, costTime); err != nil {
		return err
	}
	samples, err := p.end()
	if err != nil {
		return err
	}
	return latencies(samples, from, from.Add(costTime), f)
}

// begin starts an archiver and waits until it covers the cluster.
func (c *costs) begin(ctx context.Context) (err error) {
	if c.a, err = c.archive(ctx, c.d); err != nil {
		return err
	}
	_, err = c.a.await(ctx, watching)
	if err == nil && len(c.a.stored()) == 0 {
		err = c.touch(ctx)
	}
	return err
}

// touch writes something and waits until it is archived: from then on nothing is left of the beginning.
func (c *costs) touch(ctx context.Context) error {
	revision, err := c.churn.write(ctx, c.changes[0])
	if err != nil {
		return err
	}
	_, err = c.a.await(ctx, storedTo(revision))
	return err
}

func (c *costs) end() error {
	if c.a == nil {
		return nil
	}
	a := c.a
	c.a = nil
	return a.end(figures{})
}

func (c *costs) archived(ctx context.Context, f figures) error {
	began := c.churn.revision.Load()
	before, err := c.a.cpu()
	if err != nil {
		return err
	}
	err = c.d.withServer(f, func() error {
		start := time.Now()
		written, err := c.churn.runFor(ctx, c.changes, costTime)
		if err != nil {
			return err
		}
		f["write_us"] = time.Since(start).Seconds() * 1e6 / float64(written)
		f["writes"] = float64(written)
		if _, err := c.a.await(ctx, storedTo(c.churn.revision.Load())); err != nil {
			return err
		}
		after, err := c.a.cpu()
		f["archiver_us-per-event"] = (after - before) * 1e6 / float64(c.churn.revision.Load()-began)
		before = after
		return errors.Join(err, c.steady(ctx, f))
	})
	if err != nil {
		return err
	}
	if err := c.touch(ctx); err != nil {
		return err
	}
	after, err := c.a.cpu()
	if err != nil {
		return err
	}
	f["archiver-200_us-per-event"] = (after - before) * 1e6 / f["puts"]
	return c.lag(ctx, f)
}

// lag writes at a rate and looks how long it takes until each write is archived.
func (c *costs) lag(ctx context.Context, f figures) error {
	type written struct {
		revision int64
		at       time.Time
	}
	var mu sync.Mutex
	var all []written
	before, err := c.a.cpu()
	if err != nil {
		return err
	}
	p := startPuts(ctx, lagRate, func(ctx context.Context, i int) error {
		revision, err := c.churn.write(ctx, c.changes[i%len(c.changes)])
		mu.Lock()
		defer mu.Unlock()
		all = append(all, written{revision, time.Now()})
		return err
	})
	if err := pause(ctx, costTime); err != nil {
		return err
	}
	if _, err := p.end(); err != nil {
		return err
	}
	if _, err := c.a.await(ctx, storedTo(c.churn.revision.Load())); err != nil {
		return err
	}
	after, err := c.a.cpu()
	if err != nil {
		return err
	}
	f["archiver-1500_us-per-event"] = (after - before) * 1e6 / float64(len(all))
	segments := c.a.stored()
	var lags []float64
	for _, w := range all {
		for i := len(segments) - 1; i >= 0; i-- {
			if s := segments[i]; s.First <= w.revision && w.revision <= s.Last {
				lags = append(lags, s.At.Sub(w.at).Seconds())
				break
			}
		}
	}
	if len(lags) != len(all) {
		return fmt.Errorf("%d of %d writes are archived", len(lags), len(all))
	}
	f["lag-p50_s"], f["lag-p99_s"] = quantile(lags, 0.50), quantile(lags, 0.99)
	return nil
}
