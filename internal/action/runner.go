package action

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// Options say what a Runner works on.
type Options struct {
	// Dir is the folder of the journal; it is created when missing, mode 0700. One process at a time can have it open.
	Dir string
	// Unit is the unit that the tasks are for.
	Unit unit.Name
	// Actions are what the unit can do.
	Actions []Action
	// Now is the clock of the tasks' times. Nil means time.Now.
	Now func() time.Time
	// Logger gets what is worth an audit, and panics with their stacks. Nil means none.
	Logger *slog.Logger
}

// limits bound what a runner keeps. Tests make them small.
type limits struct {
	finished int // tasks whose record is kept after their end; unfinished ones always are
	pending  int // tasks that wait
	slack    int // lines that the journal may have on top of what is kept
}

// Runner carries out the tasks of one unit, one at a time, in the order they were enqueued. What its methods tell of a
// task is on the disk already, apart from log lines: those are there while the process lives and in the final record.
// The newest 1,000 finished tasks are kept, with their idempotency keys; older ones are forgotten.
//
// All methods are safe for concurrent use; Run or RunUntil may go on once at a time.
type Runner struct {
	unit    unit.Name
	actions map[string]Action
	now     func() time.Time
	logger  *slog.Logger
	limits  limits

	// commit makes changes of tasks happen one after the other: it is held from reading a task until its change is on
	// the disk and shown. Readers do not wait for it. It is taken before mu, never after.
	commit  sync.Mutex
	journal *journal // guarded by commit

	mu      sync.Mutex // guards all below; never held over the disk
	running bool
	order   []*entry
	byID    map[string]*entry
	byKey   map[string]*entry
	version int64         // of the newest change of any task
	changed chan struct{} // closed at the next change
}

// entry is what the runner knows of a task. Its task is replaced, never altered, except for the log.
type entry struct {
	task    Task
	version int64
	cancel  context.CancelCauseFunc // while the action runs
}

// OpenRunner reads the journal in Dir and gives a runner of its tasks. Nothing runs before Run. The error is ErrLocked
// when another process has the journal, a *DamageError when the journal cannot be trusted. Close ends it.
func OpenRunner(o Options) (*Runner, error) {
	return openRunner(o, realDisk(), limits{finished: 1000, pending: 1000, slack: 1000})
}

func openRunner(o Options, d disk, l limits) (*Runner, error) {
	if o.Dir == "" || o.Unit.IsZero() {
		return nil, errors.New("open runner: folder and unit are required")
	}
	r := &Runner{
		unit:    o.Unit,
		actions: make(map[string]Action, len(o.Actions)),
		now:     o.Now,
		logger:  o.Logger,
		limits:  l,
		byID:    map[string]*entry{},
		byKey:   map[string]*entry{},
		changed: make(chan struct{}),
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	r.logger = r.logger.With("unit", o.Unit.String())
	// A version that a client still has from an earlier process must not be met by chance.
	r.version = r.now().UnixNano()
	for _, a := range o.Actions {
		spec := a.Spec()
		if err := spec.validate(); err != nil {
			return nil, fmt.Errorf("open runner: %w", err)
		}
		if _, twice := r.actions[spec.Name]; twice {
			return nil, fmt.Errorf("open runner: action %q is defined twice", spec.Name)
		}
		r.actions[spec.Name] = a
	}
	j, tasks, err := openJournal(d, o.Dir, o.Unit, r.logger)
	if err != nil {
		return nil, err
	}
	r.journal = j
	for _, t := range tasks {
		r.add(t)
	}
	r.forget()
	r.compact()
	return r, nil
}

// Close ends the runner and lets go of the journal. It is called after Run has returned. Tasks that are pending stay
// so and run when the journal is opened next.
func (r *Runner) Close() error {
	r.commit.Lock()
	defer r.commit.Unlock()
	return r.journal.close()
}

// Specs gives the definitions of the actions, by name.
func (r *Runner) Specs() []Spec {
	specs := make([]Spec, 0, len(r.actions))
	for _, a := range r.actions {
		specs = append(specs, a.Spec())
	}
	slices.SortFunc(specs, func(a, b Spec) int { return cmp.Compare(a.Name, b.Name) })
	return specs
}

// Request asks for a task.
type Request struct {
	// Key makes the request safe to repeat: a second one with the same key gives the first one's task. "" means that
	// every request is a new one. At most 256 bytes.
	Key string
	// Action is the name of what to do, with the Params given for it. Params are not kept.
	Action string
	Params map[string]any
	// Program is the name that the caller's program was called by.
	Program string
	// Number and Operation are the numbers of the task and its operation in the operator's model, 0 for none.
	Number, Operation int
}

// Enqueue adds a task. It is durable on return and will run. Errors: *UnknownActionError, *ParamsError, ErrQueueFull,
// or that of the disk; then there is no new task, unless the disk is so broken that nobody can tell.
func (r *Runner) Enqueue(q Request) (Task, error) {
	r.commit.Lock()
	defer r.commit.Unlock()
	known, pending := r.before(q.Key)
	if known != nil {
		return *known, nil
	}
	params, err := r.check(q.Action, q.Params)
	if err != nil {
		return Task{}, err
	}
	if pending >= r.limits.pending {
		return Task{}, fmt.Errorf("enqueue %s: %w: %d", q.Action, ErrQueueFull, pending)
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return Task{}, fmt.Errorf("enqueue %s: %w", q.Action, err)
	}
	task := Task{
		ID:        id.String(),
		Key:       q.Key,
		Number:    q.Number,
		Operation: q.Operation,
		Unit:      r.unit,
		Action:    q.Action,
		Params:    params,
		Program:   q.Program,
		Status:    Pending,
		Enqueued:  r.stamp(),
	}
	// Room for a message must be left, whatever characters it needs.
	if size := task.size(); len(q.Key) > maxKey || size > maxLine/4 {
		return Task{}, &ParamsError{Problems: []string{fmt.Sprintf("(root) : request of %d bytes is too long", size)}}
	}
	if err := r.journal.append(task); err != nil {
		return Task{}, fmt.Errorf("enqueue %s: %w", q.Action, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(task)
	return task.clone(), nil
}

// before gives the task that was enqueued with the key, if any, and the number of pending tasks.
func (r *Runner) before(key string) (known *Task, pending int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, found := r.byKey[key]; found {
		t := e.task.clone()
		return &t, 0
	}
	for _, e := range r.order {
		if e.task.Status == Pending {
			pending++
		}
	}
	return nil, pending
}

// check gives the parameters that a run of the action gets.
func (r *Runner) check(name string, given map[string]any) (Params, error) {
	a, found := r.actions[name]
	if !found {
		return nil, &UnknownActionError{Action: name, Unit: r.unit}
	}
	return a.Spec().Check(given)
}

// Cancel asks that the task does not go on. A pending task is cancelled. A running one is aborting until its action
// has returned, then aborted; or completed, when it was done before it noticed. A finished one is left as it is. The
// task is given as it is on return.
func (r *Runner) Cancel(id string) (Task, error) {
	stop := func(error) {}
	task, err := r.change(id, func(t *Task) bool {
		switch t.Status {
		case Pending:
			t.Status = Cancelled
			t.Completed = later(r.stamp(), t.Enqueued)
		case Running:
			t.Status = Aborting
		default:
			return false
		}
		return true
	}, func(e *entry) {
		// What Recover undoes must not be stopped half-way: then there is no function.
		if e.task.Status == Aborting && e.cancel != nil {
			stop = e.cancel
		}
	})
	if err != nil {
		return Task{}, fmt.Errorf("cancel task: %w", err)
	}
	stop(ErrCancelled)
	return task, nil
}

// Task gives a task as it is now, log lines of a running action included. The error is ErrTaskNotFound.
func (r *Runner) Task(id string) (Task, error) {
	task, _, _, err := r.look(id)
	return task, err
}

// Tasks gives all tasks, in the order they were enqueued.
func (r *Runner) Tasks() []Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	tasks := make([]Task, len(r.order))
	for i, e := range r.order {
		tasks[i] = e.task.clone()
	}
	return tasks
}

// Wait returns when the task is finished, with its final state, or when ctx ends, with the state it then has and the
// error of ctx.
func (r *Runner) Wait(ctx context.Context, id string) (Task, error) {
	task, _, err := r.await(ctx, id, func(t Task, _ int64) bool { return t.Status.Terminal() })
	return task, err
}

// Changed returns when the task is not at version seen any more, with the version it is at: a status or a log line is
// new. Version 0 is none, so that returns at once. When ctx ends first it gives the state and the error of ctx.
func (r *Runner) Changed(ctx context.Context, id string, seen int64) (Task, int64, error) {
	return r.await(ctx, id, func(_ Task, version int64) bool { return version != seen })
}

func (r *Runner) await(ctx context.Context, id string, enough func(Task, int64) bool) (Task, int64, error) {
	for {
		task, version, changed, err := r.look(id)
		if err != nil || enough(task, version) {
			return task, version, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return task, version, ctx.Err()
		}
	}
}

// look gives a task, its version, and a channel that is closed at the next change of any task.
func (r *Runner) look(id string) (Task, int64, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, found := r.byID[id]
	if !found {
		return Task{}, 0, nil, fmt.Errorf("%w: %q", ErrTaskNotFound, id)
	}
	return e.task.clone(), e.version, r.changed, nil
}

// stamp is the present as tasks write it.
func (r *Runner) stamp() time.Time { return r.now().UTC().Truncate(time.Millisecond) }
