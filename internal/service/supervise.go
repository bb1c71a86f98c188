package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// EventKind says what happened to a supervised server.
type EventKind string

const (
	// Started: a new process runs.
	Started EventKind = "started"
	// Adopted: a process that was running is now watched.
	Adopted EventKind = "adopted"
	// Held: the process ended and is kept down, as Hold asked.
	Held EventKind = "held"
	// Exited: the process ended and nobody had asked for it.
	Exited EventKind = "exited"
	// StartFailed: no process could be started.
	StartFailed EventKind = "start-failed"
)

// Event is one thing that happened to a supervised server.
type Event struct {
	Kind EventKind
	// Process is the one it happened to; zero for StartFailed.
	Process Process
	// Changed says, for Adopted, that the process runs another command than it would be started with today.
	Changed bool
	// Err says how the process ended, or why none started.
	Err error
	// Failures counts Exited and StartFailed in a row; two or more are a crash loop. Delay is the wait before the next
	// start.
	Failures int
	Delay    time.Duration
}

// steady is how long a server must have run for its end not to count as part of a crash loop.
const steady = time.Minute

// Supervise keeps the server running until ctx ends: it adopts the one that runs or starts one, and starts it again,
// after a growing wait, whenever it dies. command is asked before each start. onEvent is called from this goroutine. When
// ctx ends Supervise returns its cause and leaves the server running.
func (c *Child) Supervise(ctx context.Context, command func() Command, onEvent func(Event)) error {
	back := backoff{min: c.options.MinRestartDelay, max: c.options.MaxRestartDelay}
	for {
		held, changed := c.holding()
		if held {
			select {
			case <-changed:
				back.reset() // Whoever held it wants to see it now.
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		event := c.ensure(ctx, command())
		begun := time.Now()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch event.Kind {
		case Held:
			continue
		case Started, Adopted:
			onEvent(event)
			how, err := c.Wait(ctx, event.Process)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if isClosed(changed) { // It was held meanwhile, and perhaps released already.
				onEvent(Event{Kind: Held, Process: event.Process})
				back.reset()
				continue
			}
			if err == nil {
				err = errors.New("it ended: " + how)
			}
			event = Event{Kind: Exited, Process: event.Process, Err: err}
		}
		event.Delay = back.next(time.Since(begun))
		event.Failures = back.failures
		onEvent(event)
		select {
		case <-time.After(event.Delay):
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ensure adopts or starts the server, unless it is held by now.
func (c *Child) ensure(ctx context.Context, command Command) Event {
	if err := c.take(ctx); err != nil {
		return Event{Kind: StartFailed, Err: err}
	}
	defer c.give()
	if held, _ := c.holding(); held {
		return Event{Kind: Held}
	}
	p, running, err := c.Running(ctx)
	switch {
	case err != nil:
		return Event{Kind: StartFailed, Err: err}
	case running:
		return Event{Kind: Adopted, Process: p, Changed: p.Digest != command.digest()}
	}
	if p, err = c.start(ctx, command); err != nil {
		return Event{Kind: StartFailed, Err: err}
	}
	return Event{Kind: Started, Process: p}
}

// Hold stops the server and keeps Supervise from starting it until Release; it returns when the server is gone. When it
// returns an error, what was before holds. The hold is in memory only: whoever must not see the server started after a
// crash of the agent finishes its work before Supervise is called again.
func (c *Child) Hold(ctx context.Context) error {
	taken := c.setHeld(true)
	if err := c.Stop(ctx); err != nil {
		if taken { // An earlier hold stays what it is.
			c.setHeld(false)
		}
		return fmt.Errorf("hold %s: %w", c.options.Name, err)
	}
	return nil
}

// Release ends a hold: Supervise starts the server at once. Without a hold it does nothing.
func (c *Child) Release() { c.setHeld(false) }

// setHeld tells whether that was a change.
func (c *Child) setHeld(held bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == held {
		return false
	}
	c.held = held
	close(c.changed)
	c.changed = make(chan struct{})
	return true
}

// holding tells whether the server is held, and gives a channel that closes when that changes.
func (c *Child) holding() (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held, c.changed
}

// backoff is the wait before the next start: it doubles with each failure and starts again after a steady run.
type backoff struct {
	min, max time.Duration
	failures int
}

// next counts a failure after a run of that length and gives the wait.
func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= steady {
		b.reset()
	}
	b.failures++
	delay := b.min
	for i := 1; i < b.failures && delay < b.max; i++ {
		delay *= 2
	}
	return min(delay, b.max)
}

func (b *backoff) reset() { b.failures = 0 }

// Environment picks from an environment what a server may see: where programs and temporary files are, and the limits of
// Go's runtime. Nothing that sets an etcd's options or holds a secret passes.
func Environment(environ []string) []string {
	allowed := []string{"PATH", "HOME", "TMPDIR", "LANG", "TZ", "GOMEMLIMIT", "GOMAXPROCS", "GOGC", "GODEBUG"}
	var env []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if slices.Contains(allowed, name) {
			env = append(env, variable)
		}
	}
	return env
}
