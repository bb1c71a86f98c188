package juju

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-project/holdfast/internal/action"
)

// NotFoundError says that no task or operation goes by an id.
type NotFoundError struct {
	// Ref is the id as it was given.
	Ref string

	text string
}

// Error gives the message in the words of the dialect.
func (e *NotFoundError) Error() string { return e.text }

// AmbiguousError says that an abbreviated id is the beginning of several.
type AmbiguousError struct {
	// Ref is the id as it was given.
	Ref string
	// IDs are the full ids, UUIDs, that it could stand for.
	IDs []string
}

// Error names the ids, so that one of them can be pasted.
func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("identifier %q matched multiple actions %v", e.Ref, e.IDs)
}

// MatchTasks gives the tasks that ref can mean: the one with that UUID, those whose UUID begins with it, or, for a ref
// of digits only, those with that number. A UUID that begins with digits is therefore abbreviated to at least its
// first "-". No task matches an empty ref.
func MatchTasks(tasks []action.Task, ref string) []action.Task {
	if ref == "" {
		return nil
	}
	prefix := strings.ToLower(ref)
	number, isNumber := parseNumber(ref)
	var matched []action.Task
	for _, t := range tasks {
		if isNumber && t.Number == number || !isNumber && strings.HasPrefix(t.ID, prefix) {
			matched = append(matched, t)
		}
	}
	return matched
}

// FindTask gives the one task that ref means. The error is a *NotFoundError or an *AmbiguousError.
func FindTask(d Dialect, tasks []action.Task, ref string) (action.Task, error) {
	matched := MatchTasks(tasks, ref)
	switch {
	case len(matched) == 1:
		return matched[0], nil
	case len(matched) > 1:
		return action.Task{}, ambiguous(ref, matched)
	case d == Juju3:
		return action.Task{}, &NotFoundError{Ref: ref, text: fmt.Sprintf("task %q not found", ref)}
	default:
		return action.Task{}, &NotFoundError{Ref: ref, text: fmt.Sprintf("actions for identifier %q not found", ref)}
	}
}

func ambiguous(ref string, matched []action.Task) error {
	ids := make([]string, len(matched))
	for i, t := range matched {
		ids[i] = t.ID
	}
	return &AmbiguousError{Ref: ref, IDs: ids}
}

// FindCancel gives the tasks that cancel-action or cancel-task means, each once. Either every ref means a task or
// nothing is to be cancelled. Juju cancels everything that an abbreviation matches; here it must be unique, since
// cancelling the wrong restore cannot be taken back.
func FindCancel(d Dialect, tasks []action.Task, refs []string) ([]action.Task, error) {
	if len(refs) == 0 {
		if d == Juju3 {
			return nil, usagef("no task IDs specified")
		}
		return nil, usagef("no actions specified")
	}
	var found []action.Task
	for _, ref := range refs {
		matched := MatchTasks(tasks, ref)
		switch {
		case len(matched) > 1:
			return nil, ambiguous(ref, matched)
		case len(matched) == 0 && d == Juju3:
			return nil, &NotFoundError{Ref: ref, text: fmt.Sprintf("task %q not found, no tasks have been canceled", ref)}
		case len(matched) == 0:
			return nil, &NotFoundError{Ref: ref, text: fmt.Sprintf(
				"no actions found matching prefix %s, no actions have been canceled", ref)}
		}
		if !slices.ContainsFunc(found, func(t action.Task) bool { return t.ID == matched[0].ID }) {
			found = append(found, matched[0])
		}
	}
	return found, nil
}

// StatusQuery is what show-action-status is asked for.
type StatusQuery struct {
	// Ref keeps the tasks that MatchTasks gives for it; empty keeps all.
	Ref string
	// Action keeps the tasks of one action, the value of --name; empty keeps all.
	Action string
}

// FindStatus gives the tasks that show-action-status lists, oldest first; finding none is an error.
func FindStatus(tasks []action.Task, q StatusQuery) ([]action.Task, error) {
	found := slices.Clone(tasks)
	if q.Ref != "" {
		if found = MatchTasks(tasks, q.Ref); len(found) == 0 {
			return nil, &NotFoundError{Ref: q.Ref, text: fmt.Sprintf("no actions found matching prefix %q", q.Ref)}
		}
	}
	if q.Action != "" {
		found = slices.DeleteFunc(found, func(t action.Task) bool { return t.Action != q.Action })
	}
	if len(found) == 0 {
		return nil, &NotFoundError{Ref: q.Ref, text: "no actions found"}
	}
	slices.SortStableFunc(found, func(a, b action.Task) int {
		return cmp.Or(a.Enqueued.Compare(b.Enqueued), cmp.Compare(a.Number, b.Number), cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}

// FindOperation gives the operation with the number that ref is. A ref that is no number is a *UsageError, an unknown
// number a *NotFoundError.
func FindOperation(operations []Operation, ref string) (Operation, error) {
	if ref == "" {
		return Operation{}, usagef("no operation ID specified")
	}
	number, ok := parseNumber(ref)
	if !ok {
		return Operation{}, usagef("operation ID %q not valid", ref)
	}
	for _, o := range operations {
		if o.Number == number {
			return o, nil
		}
	}
	return Operation{}, &NotFoundError{Ref: ref, text: fmt.Sprintf("operation %q not found", ref)}
}

// parseNumber reads a number of a task or operation; ok is false when s is not all digits. Numbers begin at 1, so what
// is 0 or too large is read as -1, which nothing has.
func parseNumber(s string) (number int, ok bool) {
	if s == "" || leadingDigits(s) != s {
		return 0, false
	}
	number, err := strconv.Atoi(s)
	if err != nil || number == 0 {
		return -1, true
	}
	return number, true
}
