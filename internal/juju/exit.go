package juju

import (
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-project/holdfast/internal/action"
)

// ExitPolicy decides what the exit code says about tasks.
type ExitPolicy int

const (
	// HonestExit is 1 unless every task completed.
	HonestExit ExitPolicy = iota
	// JujuExit repeats Juju, for scripts that were written against it: a task that failed does not make the command
	// fail, and the page's dialect does not even say that the wait ran out.
	JujuExit
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// ErrorExitCode gives the exit code for an error: 2 for a *UsageError, else 1, and 0 for none.
func ErrorExitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if _, ok := errors.AsType[*UsageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// ExitCode gives the exit code of a command that waited for tasks.
func ExitCode(d Dialect, p ExitPolicy, tasks []action.Task) int {
	for _, t := range tasks {
		switch {
		case t.Status == action.Completed:
		case p == HonestExit:
			return exitFailed
		case d == Juju3 && !t.Status.Terminal():
			return exitFailed
		}
	}
	return exitDone
}

// TimeoutError says that the wait of a command ran out; the tasks go on.
type TimeoutError struct {
	// Dialect is the one to say it in.
	Dialect Dialect
	// Tasks are those that had not ended.
	Tasks []action.Task
}

// NewTimeoutError gives the error for a wait that ran out, nil when all tasks have ended.
func NewTimeoutError(d Dialect, tasks []action.Task) error {
	var late []action.Task
	for _, t := range tasks {
		if !t.Status.Terminal() {
			late = append(late, t)
		}
	}
	if len(late) == 0 {
		return nil
	}
	return &TimeoutError{Dialect: d, Tasks: late}
}

// Error gives the message in the words of the dialect; Juju3 names the units.
func (e *TimeoutError) Error() string {
	if e.Dialect == Legacy {
		return "timeout reached"
	}
	units := make([]string, len(e.Tasks))
	for i, t := range e.Tasks {
		units[i] = "unit " + t.Unit.String()
	}
	return "timed out waiting for results from: " + strings.Join(units, ", ")
}

// FailedNote tells on stderr which tasks of a run ended without having completed, and how to look at them; it is
// empty when there are none. program is the command to use.
func FailedNote(program string, tasks []action.Task) string {
	var lines []string
	for _, t := range tasks {
		if t.Status.Terminal() && t.Status != action.Completed {
			lines = append(lines, fmt.Sprintf(" - id %q %s", taskID(Juju3, t), t.Status))
		}
	}
	if len(lines) == 0 {
		return ""
	}
	noun := "task"
	if len(lines) > 1 {
		noun = "tasks"
	}
	return fmt.Sprintf("the following %s failed:\n%s\n\nuse '%s show-task' to inspect the failure",
		noun, strings.Join(lines, "\n"), program)
}
