package action

import (
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// When a runner is opened.
var (
	// ErrLocked means that another process has the journal open: the unit's agent runs.
	ErrLocked = errors.New("journal is in use by another process")
)

// DamageError means that a journal holds something that no crash explains. Nothing was changed.
type DamageError struct {
	// Path is the journal's file.
	Path string
	// Line is the number of the first bad line, from 1.
	Line int
	// Reason says what is wrong with it.
	Reason string
}

// Error gives the file, the line and the reason.
func (e *DamageError) Error() string {
	return fmt.Sprintf("read journal %q: line %d: %s", e.Path, e.Line, e.Reason)
}

// When a task is asked for.
var (
	// ErrQueueFull means that as many tasks as the runner keeps waiting are waiting.
	ErrQueueFull = errors.New("too many pending tasks")
	// ErrTaskNotFound means that no task has the id, or that its record went with old history.
	ErrTaskNotFound = errors.New("task not found")
)

// UnknownActionError means that the unit has no action of that name.
type UnknownActionError struct {
	Action string
	Unit   unit.Name
}

// Error gives Juju's text.
func (e *UnknownActionError) Error() string {
	return fmt.Sprintf("action %q not defined on unit %q", e.Action, e.Unit)
}

// ParamsError means that parameters do not fit their action.
type ParamsError struct {
	// Problems has one text for each, in the form of Juju's validator.
	Problems []string
}

// Error gives all problems on one line.
func (e *ParamsError) Error() string { return "validation failed: " + strings.Join(e.Problems, "; ") }

// While a task runs.
var (
	// ErrCancelled is the cause of an action's context once Cancel was asked for.
	ErrCancelled = errors.New("cancelled on request")
)

// OutcomeError is the error of an action that also says what has become of what it works on, in one clause: people ask
// for it whatever went wrong. It is said too where the agent's stop is the reason, in place of the error.
type OutcomeError struct {
	Err     error
	Outcome string
}

// Error gives the error, then the outcome.
func (e *OutcomeError) Error() string { return e.Err.Error() + "; " + e.Outcome }

func (e *OutcomeError) Unwrap() error { return e.Err }
