package capture

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// TestSilence gives a member up after the patience, and not one that answers.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchOf(created(), events(10))
		e, err := openEvents(t.Context(), w, 10, EventsOptions{})
		must(t, err)
		defer e.Close()
		_, err = e.Next(t.Context())
		must(t, err)

		// Who answers is alive for a whole hour.
		w.onProgress = func() { w.replies <- progress() }
		begun := time.Now()
		for time.Since(begun) < time.Hour {
			before := time.Now()
			batch, err := e.Next(t.Context())
			must(t, err)
			if waited := time.Since(before); waited != QuietTime || len(batch.Events) != 0 || batch.Current != fakeNow || !batch.Arrived.Equal(time.Now()) {
				t.Fatalf("after %s: %+v", waited, batch)
			}
		}
		if asked := w.progressRequests(); asked != 720 {
			t.Errorf("asked %d times in an hour", asked)
		}

		// Who does not is given up, after a question every 5 seconds.
		w.onProgress = nil
		before := time.Now()
		_, err = e.Next(t.Context())
		if waited := time.Since(before); !errors.Is(err, ErrSilent) || waited != PatienceTime || !strings.HasSuffix(err.Error(), "member does not answer for 30s") {
			t.Errorf("after %s: %v", waited, err)
		}
		if asked := w.progressRequests() - 720; asked != 5 {
			t.Errorf("asked %d times in the silence", asked)
		}
		if _, again := e.Next(t.Context()); again == nil || again.Error() != err.Error() {
			t.Errorf("then %v", again)
		}
	})
}

// TestSilenceIsNotOurs does not call Next for an hour, calls it for a moment at a time, and wants the member's time counted.
func TestSilenceIsNotOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchOf(created(), events(10))
		e, err := openEvents(t.Context(), w, 10, EventsOptions{})
		must(t, err)
		defer e.Close()
		_, err = e.Next(t.Context())
		must(t, err)
		time.Sleep(time.Hour)
		before, why := time.Now(), errors.New("a second is over")
		for {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
			_, err := e.Next(ctx)
			cancel()
			if errors.Is(err, ErrSilent) {
				break
			}
			if !errors.Is(err, why) || time.Since(before) > time.Hour {
				t.Fatalf("after %s: %v", time.Since(before), err)
			}
		}
		if waited := time.Since(before); waited != PatienceTime-QuietTime || w.progressRequests() != 5 {
			t.Errorf("given up after %s and %d questions", waited, w.progressRequests())
		}
	})
}

// TestSilentFromTheStart wants a member that takes the call, or not even that, given up as well.
func TestSilentFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, w := range []*watched{watchOf(), {hangs: true}} {
			before := time.Now()
			_, err := openEvents(t.Context(), w, 10, EventsOptions{Quiet: time.Second, Patience: 3 * time.Second})
			if waited := time.Since(before); !errors.Is(err, ErrSilent) || waited != 3*time.Second {
				t.Errorf("after %s: %v", waited, err)
			}
		}
		// One that confirms the watch and has nothing to say is taken after a second.
		before := time.Now()
		e, err := openEvents(t.Context(), watchOf(created()), 10, EventsOptions{})
		must(t, err)
		if waited := time.Since(before); waited != settleTime {
			t.Errorf("open after %s", waited)
		}
		must(t, e.Close())
	})
}

// TestEnds ends a stream by its context, by Close, and by Close from elsewhere; nothing of it may be left, which the bubble
// checks.
func TestEnds(t *testing.T) {
	why := errors.New("somebody asked for it")
	for name, end := range map[string]func(e *Events, cancel context.CancelCauseFunc){
		"context": func(_ *Events, cancel context.CancelCauseFunc) { cancel(why) },
		"close":   func(e *Events, _ context.CancelCauseFunc) { e.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			w := watchOf(created(), events(10), events(11), events(12))
			e, err := openEvents(ctx, w, 10, EventsOptions{})
			must(t, err)
			_, err = e.Next(t.Context())
			must(t, err)
			time.AfterFunc(time.Second, func() { end(e, cancel) })
			for err == nil {
				_, err = e.Next(t.Context())
			}
			if name == "context" && !errors.Is(err, why) || name == "close" && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			must(t, e.Close())
			must(t, e.Close())
		})
	}
	// While it is opened.
	synctest.Test(t, func(t *testing.T) {
		for _, w := range []*watched{watchOf(), watchOf(created()), {hangs: true}} {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Millisecond, func() { cancel(why) })
			if _, err := openEvents(ctx, w, 10, EventsOptions{}); !errors.Is(err, why) {
				t.Errorf("opened: %v", err)
			}
		}
	})
}

// TestNextContext ends one call after the other and wants no event lost by it.
func TestNextContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchOf(created())
		e, err := openEvents(t.Context(), w, 10, EventsOptions{})
		must(t, err)
		defer e.Close()
		go func() {
			for r := int64(10); r < 200; r++ {
				time.Sleep(7 * time.Millisecond)
				w.replies <- events(r)
			}
			close(w.replies)
		}()
		next, late := int64(10), 0
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			batch, err := e.Next(ctx)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				late++
				continue
			}
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			if len(batch.Events) != 1 || int64(batch.Events[0].Revision) != next {
				t.Fatalf("revision %d is %v", next, revisions(batch.Events))
			}
			next++
		}
		if next != 200 || late < 100 {
			t.Errorf("ended at %d, %d calls ended before", next, late)
		}
	})
}

// TestArrival wants the time of the clock that was given, from when the response came and not from when it was asked for.
func TestArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		clock := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
		w := watchOf(created())
		e, err := openEvents(t.Context(), w, 10, EventsOptions{Now: func() time.Time { return clock.Add(time.Since(begun)) }})
		must(t, err)
		defer e.Close()
		w.replies <- events(10)
		synctest.Wait()
		came := time.Since(begun)
		time.Sleep(time.Minute)
		batch, err := e.Next(t.Context())
		must(t, err)
		if !batch.Arrived.Equal(clock.Add(came)) {
			t.Errorf("arrived at %s", batch.Arrived)
		}
	})
}

// TestWhatIsTooLarge sends more than is taken: in one response, and in a revision whose pieces never end.
func TestWhatIsTooLarge(t *testing.T) {
	const most = 8 << 20
	piece := func(size int, fragment bool) *pb.WatchResponse {
		reply := events(10)
		reply.Events[0].Kv.Value, reply.Fragment = make([]byte, size), fragment
		return reply
	}
	small := events(10, 0)
	for range 10_000 {
		small.Events = append(small.Events, small.Events[0])
	}
	for name, send := range map[string]func(stream pb.Watch_WatchServer) error{
		"one response": func(stream pb.Watch_WatchServer) error { return stream.Send(piece(most+1000, false)) },
		"huge":         func(stream pb.Watch_WatchServer) error { return stream.Send(piece(64<<20, false)) },
		"pieces": func(stream pb.Watch_WatchServer) error {
			for {
				if err := stream.Send(piece(1<<20, true)); err != nil {
					return err
				}
			}
		},
		"small events": func(stream pb.Watch_WatchServer) error {
			for {
				if err := stream.Send(small); err != nil {
					return err
				}
			}
		},
	} {
		client := serveWatch(t, func(stream pb.Watch_WatchServer) error {
			if err := stream.Send(created()); err != nil {
				return err
			}
			err := send(stream)
			<-stream.Context().Done()
			return err
		})
		e, err := OpenEvents(t.Context(), client, 10, EventsOptions{MostBytes: most})
		if err == nil {
			_, err = e.Next(t.Context())
			must(t, e.Close())
		}
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What just fits is taken.
	client := serveWatch(t, func(stream pb.Watch_WatchServer) error {
		for _, reply := range []*pb.WatchResponse{created(), piece(most/2, true), piece(most/3, false), piece(100, false)} {
			if err := stream.Send(reply); err != nil {
				return err
			}
		}
		return nil
	})
	e, err := OpenEvents(t.Context(), client, 10, EventsOptions{MostBytes: most})
	must(t, err)
	defer e.Close()
	batch, err := e.Next(t.Context())
	if err != nil || len(batch.Events) != 2 || len(batch.Events[0].Value) != most/2 {
		t.Errorf("%d events: %v", len(batch.Events), err)
	}
}

// TestGivenIsForgotten wants the values of a batch gone when the next one was asked for.
func TestGivenIsForgotten(t *testing.T) {
	first := events(10, 10, 10, 10)
	freed := make(chan struct{})
	value := new([1 << 20]byte)
	first.Events[2].Kv.Value = value[:]
	runtime.AddCleanup(value, func(c chan struct{}) { close(c) }, freed)
	w := watchOf(created(), first, events(11))
	first, value = nil, nil
	e, err := openEvents(t.Context(), w, 10, EventsOptions{})
	must(t, err)
	defer e.Close()
	for range 2 {
		_, err = e.Next(t.Context())
		must(t, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		runtime.GC()
		select {
		case <-freed:
			return
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("a value that was given is still held")
		}
	}
}

// BenchmarkEvents reads what a busy member sends: one event of 1 kB in a response, and a thousand.
func BenchmarkEvents(b *testing.B) {
	for name, each := range map[string]int{"one": 1, "thousand": 1000} {
		b.Run(name, func(b *testing.B) {
			client := serveWatch(b, func(stream pb.Watch_WatchServer) error {
				if err := stream.Send(created()); err != nil {
					return err
				}
				key, value := []byte("/registry/pods/default/some-name-of-a-pod"), make([]byte, 1000)
				for r := int64(10); ; {
					reply := &pb.WatchResponse{Header: header()}
					for range each {
						reply.Events = append(reply.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: key, Value: value, CreateRevision: 1, ModRevision: r, Version: 2}})
						r++
					}
					if err := stream.Send(reply); err != nil {
						return err
					}
				}
			})
			e, err := OpenEvents(b.Context(), client, 10, EventsOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			b.ReportAllocs()
			b.ResetTimer()
			for seen := 0; seen < b.N; {
				batch, err := e.Next(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				seen += len(batch.Events)
			}
		})
	}
}

// BenchmarkLine is the part of it that is ours.
func BenchmarkLine(b *testing.B) {
	e := &Events{o: EventsOptions{MostBytes: MostEventBytes}, line: line{next: 10}}
	if err := e.line.confirm(created(), 0, 0); err != nil {
		b.Fatal(err)
	}
	reply := events(10)
	a := &arrival{reply: reply}
	b.ReportAllocs()
	for b.Loop() {
		reply.Events[0].Kv.ModRevision = int64(e.line.next)
		if _, err := e.take(a); err != nil {
			b.Fatal(err)
		}
	}
}
