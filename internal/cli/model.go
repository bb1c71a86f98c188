package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/juju"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// model is the operator's view: the inventory, and a client for the agent of every unit in it.
type model struct {
	file      *inventory.File
	inventory *inventory.Inventory
	tls       *tls.Config
	clients   map[unit.Name]*api.Client
	// talk is where people are told of a wait that takes longer than it should.
	talk io.Writer
}

// model opens the inventory of this home. The caller closes it.
func (a *app) model() (*model, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	m := &model{file: inventory.Open(inventoryFile(home)), clients: map[unit.Name]*api.Client{}, talk: a.Stderr}
	if m.inventory, err = m.file.View(); err != nil {
		return nil, err
	}
	if len(m.inventory.Applications) == 0 {
		return m, nil
	}
	if m.tls, err = pki.ClientTLS(operatorFiles(home)); err != nil {
		return nil, err
	}
	return m, nil
}

func inventoryFile(home string) string { return filepath.Join(home, "inventory.yaml") }

// operatorFiles are the certificate and key that this home's operator shows to agents.
func operatorFiles(home string) unit.TLSFiles {
	return pki.Files(deploy.OperatorFolder(home), "operator")
}

func (m *model) close() {
	for _, client := range m.clients {
		client.Close()
	}
}

// client gives the client of a unit's agent, or an error of class inventory.ErrNotFound.
func (m *model) client(name unit.Name) (*api.Client, error) {
	if client := m.clients[name]; client != nil {
		return client, nil
	}
	record, err := m.inventory.Unit(name)
	if err != nil {
		return nil, err
	}
	m.clients[name] = api.NewClient(name, record.Agent, m.tls)
	return m.clients[name], nil
}

// units lists every unit of the inventory, or those of one application.
func (m *model) units(application string) ([]unit.Name, error) {
	if application != "" {
		return m.inventory.Units(application)
	}
	var names []unit.Name
	for _, name := range m.inventory.Names() {
		units, err := m.inventory.Units(name)
		if err != nil {
			return nil, err
		}
		names = append(names, units...)
	}
	return names, nil
}

// answer is what one unit's agent said, or why it did not.
type answer[T any] struct {
	name  unit.Name
	value T
	err   error
}

// askAll asks the agents of all units at once, so that a hung one costs its own time-out and no more.
func askAll[T any](ctx context.Context, m *model, names []unit.Name, ask func(context.Context, *api.Client) (T, error)) []answer[T] {
	answers := make([]answer[T], len(names))
	var group sync.WaitGroup
	for i, name := range names {
		client, err := m.client(name)
		answers[i] = answer[T]{name: name, err: err}
		if err == nil {
			group.Go(func() { answers[i].value, answers[i].err = ask(ctx, client) })
		}
	}
	group.Wait()
	return answers
}

// unitStates asks every unit of an application, or of the model, how it is.
func (m *model) unitStates(ctx context.Context, application string) ([]answer[api.Unit], error) {
	names, err := m.units(application)
	if err != nil {
		return nil, err
	}
	return askAll(ctx, m, names, func(ctx context.Context, c *api.Client) (api.Unit, error) { return c.Unit(ctx) }), nil
}

// resolve turns references into units. APPLICATION/leader is the unit whose member leads.
func (m *model) resolve(ctx context.Context, references []juju.UnitRef) ([]unit.Name, error) {
	names, err := juju.Resolve(references, func(application string) (unit.Name, bool) {
		states, err := m.unitStates(ctx, application)
		if err != nil {
			return unit.Name{}, false
		}
		i := slices.IndexFunc(states, func(s answer[api.Unit]) bool { return s.err == nil && s.value.Etcd.Leader })
		if i < 0 {
			return unit.Name{}, false
		}
		return states[i].name, true
	})
	if err != nil {
		return nil, m.leaderHint(err, references)
	}
	for _, name := range names {
		if _, err := m.inventory.Unit(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// leaderHint helps who asked for the leader of an application that has none.
func (m *model) leaderHint(err error, references []juju.UnitRef) error {
	for _, reference := range references {
		names, unknown := m.inventory.Units(reference.Unit.Application)
		if reference.Leader && unknown == nil && len(names) > 0 {
			return hinted{err, fmt.Sprintf("no unit of %s leads while there is no quorum, or does not answer; name one instead: %s",
				reference.Unit.Application, joinNames(names))}
		}
	}
	return err
}

// enqueue asks each unit for one task of a new operation. Every unit is asked whether it knows the action before any of
// them gets a task.
func (m *model) enqueue(ctx context.Context, request juju.Request, options juju.ParamOptions, program string) ([]action.Task, error) {
	names, err := m.resolve(ctx, request.Units)
	if err != nil {
		return nil, err
	}
	specs := askAll(ctx, m, names, func(ctx context.Context, c *api.Client) ([]action.Spec, error) { return c.Actions(ctx) })
	params := make([]map[string]any, len(names))
	for n, known := range specs {
		if known.err != nil {
			return nil, known.err
		}
		i := slices.IndexFunc(known.value, func(s action.Spec) bool { return s.Name == request.Action })
		if i < 0 {
			return nil, hinted{juju.ErrNotDefined(request.Action, known.name), program + " actions " + known.name.Application + " lists what there is"}
		}
		if params[n], err = paramsFor(known.value[i], request, options); err != nil {
			return nil, paramsHint(known.value[i], err)
		}
	}
	operation, err := m.file.NextNumbers(1 + len(names))
	if err != nil {
		return nil, fmt.Errorf("nothing was done: %w", err)
	}
	var tasks []action.Task
	for i, name := range names {
		client, err := m.client(name)
		if err != nil {
			return nil, err
		}
		task, err := client.Enqueue(ctx, api.TaskRequest{
			Key: uuid.NewString(), Action: request.Action, Params: params[i],
			Program: program, Number: operation + 1 + i, Operation: operation,
		})
		if err != nil {
			if len(tasks) == 0 && noSpace(err) {
				err = fmt.Errorf("nothing was done: %w", err)
			}
			return nil, errors.Join(err, alreadyQueued(tasks))
		}
		tasks = append(tasks, task)
	}
	return tasks, nil
}

// alreadyQueued names the tasks of an operation that will run although the rest of it was refused.
func alreadyQueued(tasks []action.Task) error {
	var queued []error
	for _, task := range tasks {
		queued = append(queued, fmt.Errorf("unit %q has already queued its task %s", task.Unit, task.ID))
	}
	return errors.Join(queued...)
}

// tasks gives the tasks of all units. A unit that does not answer is an error beside what the others have.
func (m *model) tasks(ctx context.Context) ([]action.Task, error) {
	names, err := m.units("")
	if err != nil {
		return nil, err
	}
	var all []action.Task
	var failed []error
	for _, one := range askAll(ctx, m, names, func(ctx context.Context, c *api.Client) ([]action.Task, error) { return c.Tasks(ctx) }) {
		all = append(all, one.value...)
		if one.err != nil {
			failed = append(failed, one.err)
		}
	}
	return all, errors.Join(failed...)
}

const (
	// pollStep is how long one request waits while somebody follows the log.
	pollStep = time.Second
	// agentRestart is how long a wait outlives an agent that does not answer: a restart takes a second or two, and the
	// task is in its journal.
	agentRestart = 30 * time.Second
	// lostAfter is when people are told of an agent that does not answer, or that another action runs first.
	lostAfter = 3 * time.Second
	// lastLook bounds the question for the state of a task when the time to wait is up.
	lastLook = 3 * time.Second
)

// lostError means that the agent that has a task does not answer any more.
type lostError struct {
	task action.Task
	err  error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("%v; the result of action %s is not known yet", e.err, e.task.ID)
}

func (e *lostError) Unwrap() error { return e.err }

// await waits until all tasks have ended, for limit at most (0 is without limit), and gives them as they are then. The
// error is for what kept it from waiting, not for a task that failed or is late. follow, if not nil, gets each new line
// of the tasks' logs.
func (m *model) await(ctx context.Context, tasks []action.Task, limit time.Duration, follow func(action.Task, action.LogEntry)) ([]action.Task, error) {
	waiting := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	tasks = slices.Clone(tasks)
	errs := make([]error, len(tasks))
	var group sync.WaitGroup
	var talk sync.Mutex
	say := func(task action.Task, entry action.LogEntry) {
		talk.Lock()
		defer talk.Unlock()
		follow(task, entry)
	}
	if follow == nil {
		say = nil
	}
	for i := range tasks {
		client, err := m.client(tasks[i].Unit)
		if err != nil {
			return tasks, err
		}
		tell := func(format string, args ...any) {
			talk.Lock()
			defer talk.Unlock()
			// Talk that cannot be written is no reason to end the wait.
			_, _ = fmt.Fprintf(m.talk, format+"\n", args...)
		}
		group.Go(func() {
			if tasks[i], errs[i] = awaitOne(waiting, client, tasks[i], say, tell); errs[i] == nil && ctx.Err() == nil {
				tasks[i] = lookAgain(ctx, client, tasks[i])
			}
		})
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return tasks, context.Cause(ctx)
	}
	return tasks, errors.Join(errs...)
}

// lookAgain gives a task that was not waited for to its end as it is now. What was seen last may be long ago.
func lookAgain(ctx context.Context, client *api.Client, task action.Task) action.Task {
	if task.Status.Terminal() {
		return task
	}
	ctx, cancel := context.WithTimeout(ctx, lastLook)
	defer cancel()
	if now, err := client.Task(ctx, task.ID, 0); err == nil {
		return now
	}
	return task
}

// awaitOne waits for one task. That the time is up is no error.
func awaitOne(ctx context.Context, client *api.Client, task action.Task, follow func(action.Task, action.LogEntry), tell func(format string, args ...any)) (action.Task, error) {
	shown := 0
	lost, told := time.Time{}, false
	queued := time.Now() // zero once it runs, or was told to wait for another
	for !task.Status.Terminal() {
		if task.Status != action.Pending {
			queued = time.Time{}
		} else if !queued.IsZero() && time.Since(queued) > lostAfter {
			queued = time.Time{}
			if state, err := client.Unit(ctx); err == nil && state.Busy != "" {
				tell("%s: %s waits for %s, which runs first", task.Unit, task.Action, state.Busy)
			}
		}
		step := api.LongestWait
		if follow != nil || !queued.IsZero() {
			step = pollStep
		}
		now, err := client.Task(ctx, task.ID, step)
		switch {
		case ctx.Err() != nil:
			return task, nil
		case errors.Is(err, api.ErrUnreachable):
			if lost.IsZero() {
				lost = time.Now()
			}
			if !told && time.Since(lost) > lostAfter {
				told = true
				tell("%s: agent does not answer; waiting %s for it to come back", task.Unit, agentRestart)
			}
			if time.Since(lost) > agentRestart {
				return task, &lostError{task, err}
			}
			pause(ctx, pollStep)
			continue
		case err != nil:
			return task, err
		}
		task, lost, told = now, time.Time{}, false
		for ; follow != nil && shown < len(task.Log); shown++ {
			follow(task, task.Log[shown])
		}
	}
	return task, nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
