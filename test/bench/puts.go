package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// putRate is how many writes a second the client of a bench makes.
	putRate = 200
	// putSize is the length of a value, in bytes.
	putSize = 1 << 10
	// putKeys is how many keys take turns.
	putKeys = 1000
)

// puts is a client that writes at a fixed rate, whatever the server does: a write is due at its time and begins then,
// also when earlier ones are still under way. Its latency counts from the time it was due.
type puts struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	samples []sample
	errs    []error
}

// sample is one write.
type sample struct {
	due     time.Time
	latency time.Duration
}

// startPuts begins to write. put makes the i-th write.
func startPuts(ctx context.Context, rate int, put func(ctx context.Context, i int) error) *puts {
	pacing, stop := context.WithCancel(ctx)
	p := &puts{stop: stop}
	began := time.Now()
	p.done.Go(func() {
		for i := 0; ; i++ {
			due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
			timer := time.NewTimer(time.Until(due))
			select {
			case <-pacing.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			p.done.Go(func() { p.one(ctx, i, due, put) })
		}
	})
	return p
}

func (p *puts) one(ctx context.Context, i int, due time.Time, put func(ctx context.Context, i int) error) {
	err := put(ctx, i)
	latency := time.Since(due)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	p.samples = append(p.samples, sample{due, latency})
}

// end stops the client, waits for what is under way and gives every write. A write that failed is an error.
func (p *puts) end() ([]sample, error) {
	p.stop()
	p.done.Wait()
	if len(p.errs) > 0 {
		return nil, fmt.Errorf("%d of %d puts failed: %w", len(p.errs), len(p.errs)+len(p.samples), errors.Join(p.errs[:1]...))
	}
	return p.samples, nil
}

// putter writes values of putSize under putKeys keys.
func putter(client *clientv3.Client, seed uint64) func(ctx context.Context, i int) error {
	random := rand.NewChaCha8([32]byte{byte(seed)})
	value := make([]byte, putSize)
	_, _ = random.Read(value) // it gives no error
	text := string(value)
	return func(ctx context.Context, i int) error {
		_, err := client.Put(ctx, fmt.Sprintf("bench/puts/%03d", i%putKeys), text)
		return err
	}
}

// latencies gives the figures of the writes that were due between two moments.
func latencies(samples []sample, from, to time.Time, f figures) error {
	var found []float64
	for _, s := range samples {
		if !s.due.Before(from) && s.due.Before(to) {
			found = append(found, s.latency.Seconds()*1000)
		}
	}
	if len(found) < putRate {
		return fmt.Errorf("only %d puts were due in %s", len(found), to.Sub(from))
	}
	f["puts"] = float64(len(found))
	f["p50_ms"], f["p99_ms"] = quantile(found, 0.50), quantile(found, 0.99)
	f["slowest_ms"] = quantile(found, 1)
	return nil
}
