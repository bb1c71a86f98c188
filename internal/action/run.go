package action

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// Messages of tasks that did not end by themselves. They are part of what scripts read.
const (
	messageRestarted = "agent restarted while the action ran"
	messageStopped   = "agent stopped while the action ran"
)

// recordAgain is the time between two attempts to write the state of a task to a disk that is full.
const recordAgain = time.Second

// Run carries out tasks until ctx is cancelled and the action that then runs has returned; its context is cancelled
// too. First it sees to the tasks that the last process left behind. The error is nil unless the journal could not be
// written: then no more tasks can run until it is opened again.
func (r *Runner) Run(ctx context.Context) error { return r.run(ctx, "") }

// RunUntil is Run until the task with the id is finished, and gives it. The tasks before it in the queue run first. It
// is for a program that has no agent beside it: when ctx is cancelled it is the task that is cancelled, and waited for.
// The error is that of Run; the task is finished when it is nil.
func (r *Runner) RunUntil(ctx context.Context, id string) (Task, error) {
	// Not ended by ctx itself: the cancelled task must get its final record.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var cancelErr error
	cancelDone := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(cancelDone)
		var task Task
		if task, cancelErr = r.Cancel(id); cancelErr != nil || task.Status.Terminal() {
			stop() // What runs, if anything, is not what was asked for, or cannot be stopped in a better way.
		}
	})
	err := r.run(running, id)
	if !unhook() {
		<-cancelDone
		err = errors.Join(err, cancelErr)
	}
	task, lookErr := r.Task(id)
	return task, errors.Join(err, lookErr)
}

// run is Run; with a task's id it also ends when that is finished.
func (r *Runner) run(ctx context.Context, until string) error {
	if !r.begin() {
		return errors.New("runner is running already")
	}
	defer r.end()
	if err := r.recoverTasks(ctx); err != nil {
		return err
	}
	for {
		id, found := r.next(ctx, until)
		if !found {
			return nil
		}
		if err := r.runTask(ctx, id); err != nil {
			return err
		}
	}
}

// begin tells whether the caller is the one that runs.
func (r *Runner) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running {
		return false
	}
	r.running = true
	return true
}

func (r *Runner) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = false
}

// next waits for a pending task, until ctx ends or the task with the id until is finished.
func (r *Runner) next(ctx context.Context, until string) (id string, found bool) {
	for ctx.Err() == nil {
		id, over, changed := r.firstPending(until)
		if id != "" || over {
			return id, !over
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return "", false
}

func (r *Runner) firstPending(until string) (id string, over bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until != "" {
		if e, known := r.byID[until]; !known || e.task.Status.Terminal() {
			return "", true, nil
		}
	}
	for _, e := range r.order {
		if e.task.Status == Pending {
			return e.task.ID, false, nil
		}
	}
	return "", false, r.changed
}

// runTask brings a pending task to its end, if it still is pending. The error is that of the journal.
func (r *Runner) runTask(ctx context.Context, id string) error {
	actionCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	task, err := r.start(ctx, id, cancel)
	if err != nil {
		if ctx.Err() != nil && recordable(err) {
			return nil // It did not start: it is pending still, and on the disk.
		}
		return err
	}
	if task.Status != Running {
		return nil
	}
	call := r.call(task)
	err = r.guard(task, func() error { return r.actions[task.Action].Run(actionCtx, call) })
	stopped := ctx.Err() != nil
	if stopped && err != nil && !errors.Is(err, ctx.Err()) && !errors.Is(err, context.Cause(ctx)) {
		r.log(id, err.Error()) // The message will not say it.
	}
	task, recordErr := r.record(ctx, id, func(t *Task) bool {
		t.Completed = later(r.stamp(), t.Started)
		t.Results = call.Results()
		switch {
		case err == nil:
			t.Status = Completed
		case t.Status == Aborting:
			t.Status, t.Message = Aborted, messageOf(err)
		case stopped:
			t.Status, t.Message = Failed, messageStopped
			if told, is := errors.AsType[*OutcomeError](err); is {
				t.Message = shorten(messageStopped+": "+told.Outcome, maxMessage)
			}
		default:
			t.Status, t.Message = Failed, messageOf(err)
		}
		return true
	}, nil)
	if recordErr != nil {
		return fmt.Errorf("record end of task %s: %w", id, recordErr)
	}
	r.report(task)
	return nil
}

// start makes a pending task a running one, or a failed one when it cannot run any more: the program may be another
// than the one that took the task in. A task that is not pending is left alone.
func (r *Runner) start(ctx context.Context, id string, cancel context.CancelCauseFunc) (Task, error) {
	task, err := r.record(ctx, id, func(t *Task) bool {
		if t.Status != Pending {
			return false
		}
		now := later(r.stamp(), t.Enqueued)
		params, err := r.check(t.Action, t.Params)
		if err != nil {
			t.Status, t.Message, t.Completed = Failed, messageOf(err), now
			return true
		}
		t.Status, t.Params, t.Started = Running, params, now
		return true
	}, func(e *entry) {
		if e.task.Status == Running {
			e.cancel = cancel
		}
	})
	if err != nil {
		return Task{}, fmt.Errorf("record start of task %s: %w", id, err)
	}
	return task, nil
}

// record is change, again and again while the disk is full, until ctx ends: what an action did must not be lost for
// that. Meanwhile the task shows the state it had.
func (r *Runner) record(ctx context.Context, id string, alter func(*Task) bool, shown func(*entry)) (Task, error) {
	for tries := 0; ; tries++ {
		task, err := r.change(id, alter, shown)
		if err == nil || !recordable(err) {
			return task, err
		}
		if tries == 0 {
			r.logger.Error("state of task not recorded, trying again", "task", id, "err", err)
		}
		select {
		case <-time.After(recordAgain):
		case <-ctx.Done():
			return Task{}, err
		}
	}
}

// recoverTasks ends the tasks that the last process was carrying out when it died.
func (r *Runner) recoverTasks(ctx context.Context) error {
	for _, task := range r.Tasks() {
		if task.Status != Running && task.Status != Aborting {
			continue
		}
		if err := r.recoverTask(ctx, task); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

func (r *Runner) recoverTask(ctx context.Context, task Task) error {
	call := r.call(task)
	message := messageRestarted
	if recoverer, can := r.actions[task.Action].(Recoverer); can {
		var outcome string
		err := r.guard(task, func() (err error) {
			outcome, err = recoverer.Recover(ctx, call)
			return err
		})
		switch {
		case err != nil && ctx.Err() != nil:
			return nil // It stays as it is, for the next start.
		case err != nil:
			message += "; recovery failed: " + messageOf(err)
		case outcome != "":
			message += ": " + outcome
		}
	}
	task, err := r.record(ctx, task.ID, func(t *Task) bool {
		t.Completed = later(r.stamp(), t.Started)
		t.Results = call.Results()
		t.Message = shorten(message, maxMessage)
		if t.Status == Aborting {
			t.Status = Aborted
		} else {
			t.Status = Failed
		}
		return true
	}, nil)
	if err != nil {
		return fmt.Errorf("record recovery of task %s: %w", call.TaskID, err)
	}
	r.report(task)
	return nil
}

// call is the run of a task as its action sees it.
func (r *Runner) call(t Task) *Call {
	return &Call{
		TaskID:  t.ID,
		Unit:    t.Unit,
		Program: t.Program,
		Params:  t.Params,
		Started: t.Started,
		Log:     func(line string) { r.log(t.ID, line) },
	}
}

// guard keeps a panic of an action from ending the agent. The stack goes to the logger only.
func (r *Runner) guard(t Task, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("action %q panicked: %v", t.Action, v)
			r.logger.Error("action panicked", "task", t.ID, "action", t.Action, "err", err, "stack", string(debug.Stack()))
		}
	}()
	return f()
}

// messageOf is the text of an action's error, in the size that a record has room for.
func messageOf(err error) string {
	text := shorten(err.Error(), maxMessage)
	if text == "" {
		return "action failed without reason given, check action for errors"
	}
	return text
}

// report tells the log that a task has ended.
func (r *Runner) report(t Task) {
	r.logger.Info("task ended", "task", t.ID, "action", t.Action, "status", string(t.Status),
		"message", t.Message, "duration", t.Completed.Sub(later(t.Started, t.Enqueued)))
}
