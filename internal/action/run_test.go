package action

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRunnerStop(t *testing.T) {
	for name, test := range map[string]struct {
		run     func(ctx context.Context) error
		cancel  bool
		status  Status
		message string
		log     []string
	}{
		"obedient":  {func(ctx context.Context) error { return fmt.Errorf("x: %w", ctx.Err()) }, false, Failed, messageStopped, nil},
		"cause":     {func(ctx context.Context) error { return context.Cause(ctx) }, false, Failed, messageStopped, nil},
		"outcome":   {func(ctx context.Context) error { return &OutcomeError{ctx.Err(), "nothing was touched"} }, false, Failed, messageStopped + ": nothing was touched", nil},
		"other":     {func(context.Context) error { return errors.New("rolled back badly") }, false, Failed, messageStopped, []string{"rolled back badly"}},
		"done":      {func(context.Context) error { return nil }, false, Completed, "", nil},
		"cancelled": {func(context.Context) error { return errors.New("undone") }, true, Aborted, "undone", []string{"undone"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			leave := make(chan struct{})
			r := open(t, dir, &testDisk{}, testLimits, fake{"work", func(ctx context.Context, _ *Call) error {
				<-ctx.Done()
				<-leave
				return test.run(ctx)
			}})
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			task, next := enqueue(t, r, "work"), enqueue(t, r, "work")
			until(t, r, task.ID, Running)
			if test.cancel {
				if _, err := r.Cancel(task.ID); err != nil {
					t.Fatal(err)
				}
			}
			cancel(errors.New("terminated"))
			select {
			case err := <-done:
				t.Fatalf("Run returned before its action: %v", err)
			case leave <- struct{}{}:
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			tasks := reopened(t, dir)
			if tasks[0].Status != test.status || tasks[0].Message != test.message {
				t.Errorf("%s %q", tasks[0].Status, tasks[0].Message)
			}
			var log []string
			for _, entry := range tasks[0].Log {
				log = append(log, entry.Message)
			}
			if !slices.Equal(log, test.log) {
				t.Errorf("log %q, want %q", log, test.log)
			}
			if tasks[1].ID != next.ID || tasks[1].Status != Pending {
				t.Errorf("the task behind it is %s", tasks[1].Status)
			}
		})
	}
}

// interrupted leaves a journal as a killed agent does: a task in the given status, and one pending behind it.
func interrupted(t *testing.T, status Status) (dir string, id string) {
	t.Helper()
	dir = t.TempDir()
	j, _ := mustOpen(t, &testDisk{}, dir)
	defer closeJournal(t, j)
	task := testTask("cut-off", Pending)
	next := testTask("behind", Pending)
	appendAll(t, j, task, next)
	task.Status, task.Started = Running, task.Enqueued.Add(time.Second)
	appendAll(t, j, task)
	if status != Running {
		task.Status = status
		appendAll(t, j, task)
	}
	return dir, task.ID
}

func TestRunnerRecovers(t *testing.T) {
	recovers := func(outcome string, err error) func(context.Context, *Call) (string, error) {
		return func(_ context.Context, call *Call) (string, error) {
			if call.TaskID != "cut-off" || call.Params.Int("n") != 1 || call.Unit != etcd0 {
				return "", fmt.Errorf("recovered %+v", call)
			}
			call.Logf("recovering")
			return outcome, err
		}
	}
	tests := []struct {
		name    string
		status  Status
		recover func(context.Context, *Call) (string, error)
		want    Status
		message string
	}{
		{"plain action", Running, nil, Failed, "agent restarted while the action ran"},
		{"aborting", Aborting, nil, Aborted, "agent restarted while the action ran"},
		{"recovered", Running, recovers("the old data is served again", nil), Failed,
			"agent restarted while the action ran: the old data is served again"},
		{"recovered aborting", Aborting, recovers("nothing was changed", nil), Aborted,
			"agent restarted while the action ran: nothing was changed"},
		{"nothing to say", Running, recovers("", nil), Failed, "agent restarted while the action ran"},
		{"recovery fails", Running, recovers("x", errors.New("rename: no such file")), Failed,
			"agent restarted while the action ran; recovery failed: rename: no such file"},
		{"recovery panics", Running, func(context.Context, *Call) (string, error) { panic("oh dear") }, Failed,
			`agent restarted while the action ran; recovery failed: action "work" panicked: oh dear`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir, id := interrupted(t, test.status)
			var recovered atomic.Bool
			work := fake{"work", func(_ context.Context, call *Call) error {
				if call.TaskID == id {
					t.Error("the task that was cut off ran again")
				}
				if !recovered.Load() && test.recover != nil {
					t.Error("a task ran before the recovery")
				}
				return nil
			}}
			var a Action = work
			if test.recover != nil {
				a = careful{work, func(ctx context.Context, call *Call) (string, error) {
					if recovered.Swap(true) {
						t.Error("recovered twice")
					}
					return test.recover(ctx, call)
				}}
			}
			r := open(t, dir, &testDisk{}, testLimits, a)
			stop := run(t, r)
			task := wait(t, r, id)
			if task.Status != test.want || task.Message != test.message || task.Completed.Before(task.Started) {
				t.Errorf("%+v, want message %q", task, test.message)
			}
			if behind := wait(t, r, "behind"); behind.Status != Completed {
				t.Errorf("the task behind it: %+v", behind)
			}
			want := r.Tasks()
			stop()
			if diff := cmp.Diff(want, reopened(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRunnerRecoveryOfAnActionThatIsGone(t *testing.T) {
	dir, id := interrupted(t, Running)
	r := open(t, dir, &testDisk{}, testLimits)
	run(t, r)
	if task := wait(t, r, id); task.Status != Failed || task.Message != messageRestarted {
		t.Errorf("%+v", task)
	}
	task := wait(t, r, "behind")
	if task.Status != Failed || task.Message != `action "work" not defined on unit "etcd/0"` || !task.Started.IsZero() ||
		task.Completed.Before(task.Enqueued) {
		t.Errorf("pending task of an action that is gone: %+v", task)
	}
}

// A recovery that the agent's stop cuts off is taken up by the next start; a cancel does not cut it off.
func TestRunnerRecoveryIsFinished(t *testing.T) {
	dir, id := interrupted(t, Running)
	entered := make(chan struct{})
	work := careful{quick("work"), func(ctx context.Context, _ *Call) (string, error) {
		close(entered)
		<-ctx.Done()
		return "", ctx.Err()
	}}
	r := open(t, dir, &testDisk{}, testLimits, work)
	stop := run(t, r)
	<-entered
	if task, err := r.Cancel(id); err != nil || task.Status != Aborting {
		t.Errorf("%+v, %v", task, err)
	}
	stop()
	if tasks := reopened(t, dir); tasks[0].Status != Aborting || tasks[1].Status != Pending {
		t.Errorf("%+v", tasks)
	}
	work.recover = func(context.Context, *Call) (string, error) { return "nothing was changed", nil }
	r = open(t, dir, &testDisk{}, testLimits, work)
	run(t, r)
	if task := wait(t, r, id); task.Status != Aborted || task.Message != messageRestarted+": nothing was changed" {
		t.Errorf("%+v", task)
	}
}

func TestRunUntil(t *testing.T) {
	t.Run("runs what is before it", func(t *testing.T) {
		dir, id := interrupted(t, Running)
		r := open(t, dir, &testDisk{}, testLimits, quick("work"))
		defer r.Close()
		task, err := r.RunUntil(t.Context(), enqueue(t, r, "work").ID)
		if err != nil || task.Status != Completed {
			t.Errorf("%+v, %v", task, err)
		}
		tasks := r.Tasks()
		if tasks[0].ID != id || tasks[0].Status != Failed || tasks[1].Status != Completed || len(tasks) != 3 {
			t.Errorf("%+v", tasks)
		}
		// A finished task is given as it is, and nothing else is run.
		enqueue(t, r, "work")
		again, err := r.RunUntil(t.Context(), task.ID)
		if err != nil || !cmp.Equal(task, again) || r.Tasks()[3].Status != Pending {
			t.Errorf("%+v, %v", again, err)
		}
	})
	t.Run("cancelled while it runs", func(t *testing.T) {
		r := open(t, t.TempDir(), &testDisk{}, testLimits, obedient("obey"))
		defer r.Close()
		ctx, cancel := context.WithCancel(t.Context())
		id := enqueue(t, r, "obey").ID
		go func() {
			until(t, r, id, Running)
			cancel()
		}()
		task, err := r.RunUntil(ctx, id)
		if err != nil || task.Status != Aborted || task.Message != "wait: context canceled" {
			t.Errorf("%+v, %v", task, err)
		}
	})
	t.Run("cancelled while another runs", func(t *testing.T) {
		r := open(t, t.TempDir(), &testDisk{}, testLimits, obedient("obey"))
		defer r.Close()
		ctx, cancel := context.WithCancel(t.Context())
		first, second := enqueue(t, r, "obey").ID, enqueue(t, r, "obey").ID
		go func() {
			until(t, r, first, Running)
			cancel()
		}()
		task, err := r.RunUntil(ctx, second)
		if err != nil || task.Status != Cancelled {
			t.Errorf("%+v, %v", task, err)
		}
		if task, err := r.Task(first); err != nil || task.Status != Failed || task.Message != messageStopped {
			t.Errorf("%+v, %v", task, err)
		}
	})
	t.Run("cancelled and the disk is lost", func(t *testing.T) {
		d := &testDisk{}
		r := open(t, t.TempDir(), d, testLimits, obedient("obey"))
		defer r.Close()
		ctx, cancel := context.WithCancel(t.Context())
		id := enqueue(t, r, "obey").ID
		go func() {
			until(t, r, id, Running)
			d.set(func(string, *os.File, []byte) error { return syscall.EIO })
			cancel()
		}()
		task, err := r.RunUntil(ctx, id)
		if !errors.Is(err, errJournalBroken) || task.Status != Running {
			t.Errorf("%+v, %v", task, err)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		r := open(t, t.TempDir(), &testDisk{}, testLimits)
		defer r.Close()
		if _, err := r.RunUntil(t.Context(), "x"); !errors.Is(err, ErrTaskNotFound) {
			t.Error(err)
		}
	})
}

// While the disk is full a task keeps its state, and is recorded as soon as there is room.
func TestRunnerWaitsForRoom(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := &testDisk{}
		full := func(step string, _ *os.File, _ []byte) error {
			if strings.HasPrefix(step, "write") {
				return syscall.ENOSPC
			}
			return nil
		}
		var runs atomic.Int32
		r := open(t, dir, d, testLimits, fake{"work", func(context.Context, *Call) error {
			runs.Add(1)
			d.set(full)
			return nil
		}})
		id := enqueue(t, r, "work").ID
		d.set(full)
		stop := run(t, r)
		time.Sleep(time.Minute)
		if task, err := r.Task(id); err != nil || task.Status != Pending || runs.Load() != 0 {
			t.Errorf("before there is room to start: %+v, %v", task, err)
		}
		if _, err := r.Enqueue(Request{Action: "work"}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("enqueue: %v", err)
		}
		d.set(nil)
		time.Sleep(time.Minute)
		if task, err := r.Task(id); err != nil || task.Status != Running || runs.Load() != 1 {
			t.Errorf("before there is room to end: %+v, %v", task, err)
		}
		d.set(nil)
		if task := wait(t, r, id); task.Status != Completed || runs.Load() != 1 {
			t.Errorf("%d runs, %+v", runs.Load(), task)
		}
		stop()
	})
	if tasks := reopened(t, dir); len(tasks) != 1 || tasks[0].Status != Completed {
		t.Errorf("%+v", tasks)
	}
}

// A stop does not wait for room: the pending task stays so, the running one is recovered at the next start.
func TestRunnerStopsWithoutRoom(t *testing.T) {
	for _, during := range []Status{Pending, Running} {
		t.Run(string(during), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				d := &testDisk{}
				full := func(string, *os.File, []byte) error { return syscall.ENOSPC }
				r := open(t, dir, d, testLimits, fake{"work", func(context.Context, *Call) error {
					d.set(full)
					return nil
				}})
				defer r.Close()
				enqueue(t, r, "work")
				if during == Pending {
					// Only writes: a file that cannot be cut either is another matter.
					d.set(func(step string, _ *os.File, _ []byte) error {
						if strings.HasPrefix(step, "write") {
							return syscall.ENOSPC
						}
						return nil
					})
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := r.Run(ctx)
				if during == Pending && err != nil || during == Running && !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("run: %v", err)
				}
			})
			if tasks := reopened(t, dir); len(tasks) != 1 || tasks[0].Status != during {
				t.Errorf("%+v", tasks)
			}
		})
	}
}
