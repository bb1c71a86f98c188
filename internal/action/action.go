// Package action is what a unit can be asked to do: the definition of an action, the check of its parameters, the
// task that one run of it is, and the runner that carries tasks out one at a time from a durable journal.
//
// It sits between the front ends (the agent's API, a one-shot call on the host) and the actions themselves, which
// implement Action elsewhere. A Runner is safe for concurrent use. It promises that an acknowledged task survives a
// crash and that none stays "running" after one; it does not promise to run a task again.
//
// A task goes through these states; the ones in capitals are final:
//
//	pending -> running -> COMPLETED | FAILED
//	pending -> CANCELLED
//	pending -> FAILED                 the action or a parameter is gone since it was queued
//	running -> aborting -> ABORTED    or COMPLETED, when the action was done before it saw the cancel
package action

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// Action is one thing that a unit can do.
type Action interface {
	// Spec describes the action. It is constant.
	Spec() Spec
	// Run carries the action out and returns when everything it started has stopped. It is called from one
	// goroutine at a time for a unit. Its results go to call; its error becomes the task's message. When ctx is
	// cancelled it undoes what is unfinished and returns promptly; the cause is ErrCancelled when somebody asked for
	// it, anything else when the agent stops. A nil error means that the action is done, cancelled or not.
	Run(ctx context.Context, call *Call) error
}

// Recoverer is an Action that can leave something half done when the process dies.
type Recoverer interface {
	// Recover finishes or undoes what a run that was cut off has left behind. It is called before any other task,
	// with the call as it was and no results. What it returns ends the task's message: one clause, such as "the old
	// data is served again"; "" adds nothing. It is called once, unless it is itself cut off or ctx is cancelled
	// before it is done: then it is called again at the next start.
	Recover(ctx context.Context, call *Call) (outcome string, err error)
}

// Call is one run of an action. Its fields are set before the run and not changed after. Set and Logf can be called
// from several goroutines.
type Call struct {
	// TaskID is the task's UUID, fit for a file name.
	TaskID string
	// Unit is the unit that runs it.
	Unit unit.Name
	// Program is the name that the caller's program was called by, "holdfast" or "juju".
	Program string
	// Params are the checked parameters, defaults included.
	Params Params
	// Started is when the task started.
	Started time.Time
	// Log receives what Logf is called with. Nil drops it.
	Log func(line string)

	mu      sync.Mutex
	results Results
}

// Set stores a result under a dotted key, such as "snapshot.path". See Results.Set.
func (c *Call) Set(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.results == nil {
		c.results = Results{}
	}
	c.results.Set(key, value)
}

// Results gives a copy of what was Set so far, nil when that is nothing.
func (c *Call) Results() Results {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.results.clone()
}

// Logf adds a line to the task's log, which people follow while it runs. The newest 1,000 lines of a task are kept,
// 4 KiB of each.
func (c *Call) Logf(format string, args ...any) {
	if c.Log != nil {
		c.Log(strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
	}
}
