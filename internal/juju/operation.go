package juju

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// Operation is the tasks that were asked for together.
type Operation struct {
	// Number is the number that the tasks carry.
	Number int
	// Tasks are in the order of their numbers; at least one.
	Tasks []action.Task
	// Status is the most urgent one among the tasks.
	Status action.Status
	// Enqueued and Started are the first such moments of any task. Completed is the last one, zero while a task has
	// not ended.
	Enqueued, Started, Completed time.Time
}

// urgency orders statuses by what they say about a whole operation, the strongest first.
func urgency(s action.Status) int {
	return slices.Index([]action.Status{
		action.Running, action.Aborting, action.Pending, action.Failed, action.Aborted, action.Cancelled, action.Completed,
	}, s)
}

// Operations groups tasks by operation, in the order of the operations' numbers. Tasks without an operation, number 0,
// are left out.
func Operations(tasks []action.Task) []Operation {
	grouped := map[int][]action.Task{}
	for _, t := range tasks {
		if t.Operation != 0 {
			grouped[t.Operation] = append(grouped[t.Operation], t)
		}
	}
	var operations []Operation
	for _, number := range slices.Sorted(maps.Keys(grouped)) {
		operations = append(operations, newOperation(number, grouped[number]))
	}
	return operations
}

func newOperation(number int, tasks []action.Task) Operation {
	slices.SortFunc(tasks, func(a, b action.Task) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), a.Unit.Compare(b.Unit))
	})
	o := Operation{Number: number, Tasks: tasks, Status: tasks[0].Status}
	ended := true
	for _, t := range tasks {
		if urgency(t.Status) < urgency(o.Status) {
			o.Status = t.Status
		}
		o.Enqueued = earliest(o.Enqueued, t.Enqueued)
		o.Started = earliest(o.Started, t.Started)
		if t.Completed.After(o.Completed) {
			o.Completed = t.Completed
		}
		ended = ended && t.Status.Terminal()
	}
	if !ended {
		o.Completed = time.Time{}
	}
	return o
}

// earliest gives the earlier of two times; zero times have not happened.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Summary says what the operation is, "snapshot run on unit-etcd-0".
func (o Operation) Summary() string {
	tags := make([]string, len(o.Tasks))
	for i, t := range o.Tasks {
		tags[i] = t.Unit.Tag()
	}
	return fmt.Sprintf("%s run on %s", o.Tasks[0].Action, strings.Join(tags, ","))
}

// DefaultOperationLimit is how many operations are listed when nothing is said.
const DefaultOperationLimit = 50

// OperationQuery is what operations is asked for. An operation is listed when it fits every list that is not empty.
type OperationQuery struct {
	// Applications, Units and Actions are names; one of the operation's tasks must have one of them.
	Applications, Units, Actions []string
	// Statuses are statuses of operations.
	Statuses []string
	// Limit is the most operations to list; 0 means DefaultOperationLimit. Offset is how many to leave out first.
	Limit, Offset int
}

// Validate names every value that cannot be right, one a line. The error is a *UsageError.
func (q OperationQuery) Validate() error {
	var wrong []string
	for _, name := range q.Applications {
		if !unit.ValidApplication(name) {
			wrong = append(wrong, fmt.Sprintf("invalid application name %q", name))
		}
	}
	for _, name := range q.Units {
		if _, err := unit.ParseName(name); err != nil {
			wrong = append(wrong, fmt.Sprintf("invalid unit name %q", name))
		}
	}
	// "error" is Juju's: a task that never could run. Here that is a refusal, and no task, so none has it.
	known := []string{"pending", "running", "completed", "failed", "cancelled", "aborting", "aborted", "error"}
	for _, status := range q.Statuses {
		if !slices.Contains(known, status) {
			wrong = append(wrong, fmt.Sprintf("%q is not a valid task status, want one of %v", status, known))
		}
	}
	if q.Limit < 0 {
		wrong = append(wrong, fmt.Sprintf("limit %d must not be negative", q.Limit))
	}
	if q.Offset < 0 {
		wrong = append(wrong, fmt.Sprintf("offset %d must not be negative", q.Offset))
	}
	if len(wrong) > 0 {
		return usagef("%s", strings.Join(wrong, "\n"))
	}
	return nil
}

// OperationPage is the part of a list of operations that a query asked for.
type OperationPage struct {
	Operations []Operation
	// First is the place of the first one in the whole list, from 1. Limit is the limit that held.
	First, Limit int
	// More tells whether there are further ones after these.
	More bool
}

// Select gives the operations that fit the query, which is valid.
func (q OperationQuery) Select(operations []Operation) OperationPage {
	fit := slices.DeleteFunc(slices.Clone(operations), func(o Operation) bool { return !q.fits(o) })
	page := OperationPage{First: q.Offset + 1, Limit: q.Limit}
	if page.Limit == 0 {
		page.Limit = DefaultOperationLimit
	}
	fit = fit[min(q.Offset, len(fit)):]
	page.More = len(fit) > page.Limit
	page.Operations = fit[:min(page.Limit, len(fit))]
	return page
}

func (q OperationQuery) fits(o Operation) bool {
	anyTask := func(wanted []string, of func(action.Task) string) bool {
		return len(wanted) == 0 || slices.ContainsFunc(o.Tasks, func(t action.Task) bool {
			return slices.Contains(wanted, of(t))
		})
	}
	return anyTask(q.Applications, func(t action.Task) string { return t.Unit.Application }) &&
		anyTask(q.Units, func(t action.Task) string { return t.Unit.String() }) &&
		anyTask(q.Actions, func(t action.Task) string { return t.Action }) &&
		(len(q.Statuses) == 0 || slices.Contains(q.Statuses, string(o.Status)))
}
