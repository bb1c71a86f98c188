package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// supervision is a running Supervise.
type supervision struct {
	events chan Event
	cancel context.CancelCauseFunc
	result chan error
}

var errTestOver = errors.New("test over")

func supervise(t *testing.T, f fixture, command Command) *supervision {
	return superviseWith(t, f, func() Command { return command })
}

func superviseWith(t *testing.T, f fixture, command func() Command) *supervision {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &supervision{events: make(chan Event, 1000), cancel: cancel, result: make(chan error, 1)}
	go func() { s.result <- f.Supervise(ctx, command, func(e Event) { s.events <- e }) }()
	t.Cleanup(func() { cancel(errTestOver) })
	return s
}

func (s *supervision) next(t *testing.T) Event {
	t.Helper()
	select {
	case e := <-s.events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("waited 20 s in vain for an event")
		panic("unreachable")
	}
}

// stop ends the supervision, not the server.
func (s *supervision) stop(t *testing.T) {
	t.Helper()
	s.cancel(errTestOver)
	if err := <-s.result; !errors.Is(err, errTestOver) {
		t.Errorf("supervision returned %v, want the cause of the context", err)
	}
}

func TestCrashLoop(t *testing.T) {
	f := newFixture(t)
	s := supervise(t, f, f.command("dying"))
	for failures := 1; failures <= 4; failures++ {
		if e := s.next(t); e.Kind != Started {
			t.Fatalf("event is %+v, want started", e)
		}
		e := s.next(t)
		delay := min(10*time.Millisecond<<(failures-1), 40*time.Millisecond)
		if e.Kind != Exited || e.Failures != failures || e.Delay != delay || !strings.Contains(e.Err.Error(), "exit status 3") {
			t.Errorf("event is %+v, want exit %d with status 3 and a wait of %s", e, failures, delay)
		}
	}
	s.stop(t)
}

func TestKilledServerIsStartedAgain(t *testing.T) {
	f := newFixture(t)
	s := supervise(t, f, f.command("plain"))
	first := s.next(t)
	if first.Kind != Started {
		t.Fatalf("event is %+v, want started", first)
	}
	if err := syscall.Kill(first.Process.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := s.next(t); e.Kind != Exited || !strings.Contains(e.Err.Error(), "killed") {
		t.Errorf("event is %+v, want exited by SIGKILL", e)
	}
	second := s.next(t)
	if second.Kind != Started || second.Process == first.Process {
		t.Errorf("event is %+v, want another process", second)
	}
	s.stop(t)
	checkRunning(t, f.Child, second.Process, true)
}

func TestServerThatCannotStart(t *testing.T) {
	f := newFixture(t)
	s := supervise(t, f, Command{Path: f.dir + "/missing"})
	for failures := 1; failures <= 2; failures++ {
		if e := s.next(t); e.Kind != StartFailed || e.Failures != failures || e.Err == nil {
			t.Errorf("event is %+v, want failed start %d", e, failures)
		}
	}
	s.stop(t)
}

func TestHoldAndRelease(t *testing.T) {
	f := newFixture(t)
	modes := make(chan string, 1)
	modes <- "plain"
	s := superviseWith(t, f, func() Command {
		mode := <-modes
		modes <- mode
		return f.command(mode)
	})
	first := s.next(t).Process
	f.noted(t, "start")
	if err := f.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRunning(t, f.Child, Process{}, false)
	if e := s.next(t); e.Kind != Held || e.Process != first {
		t.Errorf("event is %+v, want process %d held", e, first.PID)
	}
	// A second hold that fails does not end the first.
	done, cancel := context.WithCancel(t.Context())
	cancel()
	f.turn <- struct{}{}
	if err := f.Hold(done); !errors.Is(err, context.Canceled) {
		t.Errorf("hold without time: %v", err)
	}
	f.give()
	if held, _ := f.holding(); !held {
		t.Error("the first hold has ended")
	}
	<-modes
	modes <- "stubborn"
	f.Release()
	// Had it been started meanwhile, with the old command, that event would be here first.
	e := s.next(t)
	if p, err := readPIDFile(f.pidFile); e.Kind != Started || err != nil || p.Digest != f.command("stubborn").digest() {
		t.Errorf("event is %+v, %v; want a start with the new command", e, err)
	}
	s.stop(t)
}

func TestShortHoldIsNoCrash(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, proceed, done := make(chan Event, 100), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Supervise(ctx, func() Command { return f.command("plain") }, func(e Event) {
			events <- e
			<-proceed
		})
	}()
	if e := <-events; e.Kind != Started {
		t.Fatalf("event is %+v, want started", e)
	}
	// The hold begins and ends while the supervision is busy elsewhere.
	if err := f.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Release()
	close(proceed)
	for _, want := range []EventKind{Held, Started} {
		if e := <-events; e.Kind != want {
			t.Errorf("event is %+v, want %s", e, want)
		}
	}
	cancel()
	<-done
}

func TestHoldThatFailsIsNone(t *testing.T) {
	f := newFixture(t)
	p := f.start(t, "stubborn")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.Hold(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hold: %v, want the deadline", err)
	}
	if held, _ := f.holding(); held {
		t.Error("the server counts as held")
	}
	checkRunning(t, f.Child, p, true)
}

func TestHoldKeepsAServerFromStarting(t *testing.T) {
	f := newFixture(t)
	if err := f.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := f.ensure(t.Context(), f.command("plain")); e.Kind != Held {
		t.Errorf("event is %+v, want held", e)
	}
	s := supervise(t, f, f.command("plain"))
	f.Release()
	if e := s.next(t); e.Kind != Started {
		t.Errorf("event is %+v, want started", e)
	}
	s.stop(t)
}

func TestBackoff(t *testing.T) {
	b := backoff{min: time.Second, max: 30 * time.Second}
	var got []time.Duration
	for _, ran := range []time.Duration{0, 0, 0, 0, 59 * time.Second, 0, 0, time.Hour, 0} {
		got = append(got, b.next(ran)/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 30, 30, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("delays are %d s, want %d s", got, want)
	}
	b.reset()
	if got := b.next(0); got != time.Second {
		t.Errorf("delay after a reset is %s, want 1s", got)
	}
}

func TestEnvironment(t *testing.T) {
	got := Environment([]string{"PATH=/bin", "ETCD_NAME=x", "HOME=/h", "SECRET=1", "GOMEMLIMIT=1GiB", "PATHS=x", "AWS_SECRET_ACCESS_KEY=y"})
	if want := []string{"PATH=/bin", "HOME=/h", "GOMEMLIMIT=1GiB"}; !slices.Equal(got, want) {
		t.Errorf("environment is %q, want %q", got, want)
	}
}
