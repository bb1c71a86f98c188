package capture

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

const megabyte = 1_000_000

// many gives as many reads of one length as a decision needs.
func many(took time.Duration) []time.Duration {
	list := make([]time.Duration, probesEach)
	for i := range list {
		list[i] = took
	}
	return list
}

func TestPacer(t *testing.T) {
	const before = 2 * time.Millisecond
	for name, tt := range map[string]struct {
		least  int64
		rounds []time.Duration // the length of all reads of a decision
		want   []float64       // the pace after each, in MB/s
	}{
		"nobody notices":         {0, []time.Duration{before, before}, []float64{60, 60}},
		"between fine and slow":  {0, []time.Duration{before * 13 / 10, before * 15 / 10}, []float64{60, 60}},
		"slow":                   {0, []time.Duration{2 * before, 2 * before}, []float64{45, 33.75}},
		"never below a third":    {0, many(time.Second), []float64{45, 33.75, 25.3125, 20, 20, 20, 20, 20}},
		"nor below what must be": {40 * megabyte, many(time.Second), []float64{45, 40, 40, 40, 40, 40, 40, 40}},
		"better again":           {0, []time.Duration{2 * before, before, before, before, before}, []float64{45, 49.5, 54.45, 59.895, 60}},
	} {
		p := newPacer(60*megabyte, tt.least, many(before))
		for i, took := range tt.rounds {
			got := 0.0
			for _, one := range many(took) {
				got = p.saw(one)
			}
			if diff := got/megabyte - tt.want[i]; diff > 0.01 || diff < -0.01 {
				t.Errorf("%s: decision %d: %.2f MB/s, want %.2f", name, i, got/megabyte, tt.want[i])
			}
		}
	}
	// One read that hangs is no reason; it is the median that counts.
	p := newPacer(60*megabyte, 0, many(before))
	list := many(before)
	list[3] = time.Second
	for _, took := range list {
		if got := p.saw(took); got != 60*megabyte {
			t.Errorf("one slow read: %.0f", got)
		}
	}
}

// TestConsiderate lets a member answer the slower the faster the snapshot is.
func TestConsiderate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := rate.NewLimiter(60*megabyte, burst)
		answers := func(context.Context) error {
			took := time.Millisecond
			if limit.Limit() > 30*megabyte {
				took = 3 * time.Millisecond
			}
			time.Sleep(took)
			return nil
		}
		var began atomic.Bool // before the snapshot nothing is slow
		p := probe(func(ctx context.Context) error {
			if !began.Load() {
				time.Sleep(time.Millisecond)
				return nil
			}
			return answers(ctx)
		})
		end := considerate(t.Context(), p, limit, 0)
		began.Store(true)
		time.Sleep(10 * time.Second)
		if got := float64(limit.Limit()); got < 20*megabyte || got > 35*megabyte {
			t.Errorf("the pace is %.1f MB/s, want about 30", got/megabyte)
		}
		end()
		after := limit.Limit()
		time.Sleep(10 * time.Second)
		if limit.Limit() != after {
			t.Error("the pace changes after its end")
		}
	})
}

// TestConsiderateNeedsAnswers keeps the pace where there is nothing to go by, and while the member does not answer.
func TestConsiderateNeedsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := rate.NewLimiter(60*megabyte, burst)
		asked := 0
		refused := probe(func(ctx context.Context) error { // as a member without a leader does
			asked++
			<-ctx.Done()
			return errors.New("no leader")
		})
		began := time.Now()
		end := considerate(t.Context(), refused, limit, 0)
		if took := time.Since(began); took > time.Second || asked != 1 {
			t.Errorf("a member that does not answer is asked %d times, for %s", asked, took)
		}
		time.Sleep(time.Minute)
		end()
		if limit.Limit() != 60*megabyte {
			t.Errorf("without an answer before: %v", limit.Limit())
		}
		var hung atomic.Bool
		sometimes := probe(func(ctx context.Context) error {
			if hung.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			time.Sleep(time.Millisecond)
			return nil
		})
		end = considerate(t.Context(), sometimes, limit, 0)
		hung.Store(true)
		time.Sleep(time.Minute)
		end()
		if limit.Limit() != 60*megabyte {
			t.Errorf("without answers since: %v", limit.Limit())
		}
	})
}
