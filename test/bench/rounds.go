package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// work is what one side does in each round. It leaves nothing running.
type work struct {
	name string
	// prepare and clean, which may be nil, come before and after; they are not measured.
	prepare func() error
	// do is measured. It adds what it found to the figures.
	do    func(f figures) error
	clean func() error
}

// alternate runs the rounds of a bench. In every second one the sides run in reverse, so that none is always first.
func (l *lab) alternate(ctx context.Context, r *report, sides []work) error {
	for number := 1; number <= l.rounds; number++ {
		l.say("round %d of %d", number, l.rounds)
		for i := range sides {
			if number%2 == 0 {
				i = len(sides) - 1 - i
			}
			s, err := l.side(ctx, sides[i])
			if err != nil {
				return fmt.Errorf("%s: %w", sides[i].name, err)
			}
			r.add(number, s)
		}
	}
	return nil
}

func (l *lab) side(ctx context.Context, w work) (s side, err error) {
	if w.clean != nil {
		defer func() { err = errors.Join(err, w.clean()) }()
	}
	if w.prepare != nil {
		if err := w.prepare(); err != nil {
			return s, err
		}
	}
	if err := settle(ctx); err != nil {
		return s, err
	}
	s = side{Side: w.name, Figures: figures{}}
	if s.Load, err = load(); err != nil {
		return s, err
	}
	before, err := machineTime()
	if err != nil {
		return s, err
	}
	began := time.Now()
	if err := w.do(s.Figures); err != nil {
		return s, err
	}
	s.Figures["wall_s"] = time.Since(began).Seconds()
	after, err := machineTime()
	s.Figures["machine-cpu_s"] = after - before
	l.say("  %-9s %6.2f s, load %.1f", w.name, s.Figures["wall_s"], s.Load)
	return s, err
}

// settleTime is for what goes on after a sync: the disk's own discards, and the collection of garbage in servers.
const settleTime = time.Second

// settle lets the disk finish what it has to write, so that no side pays for the one before it.
func settle(ctx context.Context) error {
	unix.Sync()
	return pause(ctx, settleTime)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
