package juju

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/action"
)

// family gives four tasks: two with a common beginning of their UUIDs, and one that begins with digits.
func family(t *testing.T) []action.Task {
	make := func(id string, number, operation int) action.Task {
		task := pageTask(t)
		task.ID, task.Number, task.Operation = id, number, operation
		return task
	}
	return []action.Task{
		make("deadbeef-0000-4000-8000-feedfacebeef", 4, 1),
		make("deadbeef-0001-4000-8000-feedfacebeef", 3, 1),
		make("2eadbeef-0002-4000-8000-feedfacebeef", 6, 5),
		make("22222222-0003-4000-8000-feedfacebeef", 0, 0),
	}
}

func TestFindTask(t *testing.T) {
	const ambiguousText = `identifier "deadbeef" matched multiple actions ` +
		`[deadbeef-0000-4000-8000-feedfacebeef deadbeef-0001-4000-8000-feedfacebeef]`
	for _, test := range []struct {
		ref     string
		dialect Dialect
		want    string
		err     string
	}{
		{ref: "deadbeef-0001-4000-8000-feedfacebeef", want: "deadbeef-0001-4000-8000-feedfacebeef"},
		{ref: "DEADBEEF-0001", want: "deadbeef-0001-4000-8000-feedfacebeef"},
		{ref: "2e", want: "2eadbeef-0002-4000-8000-feedfacebeef"},
		{ref: "3", want: "deadbeef-0001-4000-8000-feedfacebeef"},
		{ref: "6", dialect: Juju3, want: "2eadbeef-0002-4000-8000-feedfacebeef"},
		{ref: "22222222-", want: "22222222-0003-4000-8000-feedfacebeef"},
		{ref: "deadbeef", err: ambiguousText},
		{ref: "deadbeef", dialect: Juju3, err: ambiguousText},
		// Digits only are a number, also when a UUID begins with them.
		{ref: "2", err: `actions for identifier "2" not found`},
		{ref: "22222222", dialect: Juju3, err: `task "22222222" not found`},
		{ref: "0", err: `actions for identifier "0" not found`},
		{ref: "99999999999999999999", err: `actions for identifier "99999999999999999999" not found`},
		{ref: "-1", err: `actions for identifier "-1" not found`},
		{ref: "", err: `actions for identifier "" not found`},
		{ref: "cafe", dialect: Juju3, err: `task "cafe" not found`},
	} {
		t.Run(test.ref, func(t *testing.T) {
			got, err := FindTask(test.dialect, family(t), test.ref)
			if test.err != "" {
				checkRun(t, err, test.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			same(t, got.ID, test.want)
		})
	}
}

func TestFindTaskErrorTypes(t *testing.T) {
	_, err := FindTask(Legacy, family(t), "deadbeef")
	if a, ok := errors.AsType[*AmbiguousError](err); !ok || len(a.IDs) != 2 || a.Ref != "deadbeef" {
		t.Errorf("got %#v, want an AmbiguousError with two ids", err)
	}
	_, err = FindTask(Legacy, family(t), "cafe")
	if n, ok := errors.AsType[*NotFoundError](err); !ok || n.Ref != "cafe" {
		t.Errorf("got %#v, want a NotFoundError", err)
	}
	// The same number on two units, enqueued by two operators.
	tasks := family(t)
	tasks[0].Number = 3
	if _, err = FindTask(Juju3, tasks, "3"); err == nil {
		t.Error("a number that two tasks have found one of them")
	}
}

func TestFindCancel(t *testing.T) {
	for _, test := range []struct {
		refs    string
		dialect Dialect
		want    string
		err     string
	}{
		{refs: "3", want: "deadbeef-0001"},
		{refs: "deadbeef-0001 2e 3", want: "deadbeef-0001 2eadbeef-0002"},
		{refs: "3 cafe", err: "no actions found matching prefix cafe, no actions have been canceled"},
		{refs: "cafe", dialect: Juju3, err: `task "cafe" not found, no tasks have been canceled`},
		{refs: "3 deadbeef", err: `identifier "deadbeef" matched multiple actions ` +
			`[deadbeef-0000-4000-8000-feedfacebeef deadbeef-0001-4000-8000-feedfacebeef]`},
	} {
		t.Run(test.refs, func(t *testing.T) {
			found, err := FindCancel(test.dialect, family(t), strings.Fields(test.refs))
			if test.err != "" {
				checkRun(t, err, test.err)
				if len(found) > 0 {
					t.Errorf("refused, yet gave %d tasks to cancel", len(found))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			same(t, shortIDs(found), test.want)
		})
	}
	_, err := FindCancel(Legacy, family(t), nil)
	checkUsage(t, err, "no actions specified")
	_, err = FindCancel(Juju3, family(t), nil)
	checkUsage(t, err, "no task IDs specified")
}

func shortIDs(tasks []action.Task) string {
	var ids []string
	for _, task := range tasks {
		ids = append(ids, task.ID[:13])
	}
	return strings.Join(ids, " ")
}

func TestFindStatus(t *testing.T) {
	tasks := family(t)
	tasks[2].Action = "health"
	tasks[2].Enqueued = at(0)
	for _, test := range []struct {
		q    StatusQuery
		want string
		err  string
	}{
		{q: StatusQuery{}, want: "2eadbeef-0002 22222222-0003 deadbeef-0001 deadbeef-0000"},
		{q: StatusQuery{Ref: "deadbeef"}, want: "deadbeef-0001 deadbeef-0000"},
		{q: StatusQuery{Action: "health"}, want: "2eadbeef-0002"},
		{q: StatusQuery{Ref: "cafe"}, err: `no actions found matching prefix "cafe"`},
		{q: StatusQuery{Ref: "dead", Action: "health"}, err: "no actions found"},
		{q: StatusQuery{Action: "restore"}, err: "no actions found"},
	} {
		found, err := FindStatus(tasks, test.q)
		if test.err != "" {
			checkRun(t, err, test.err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		same(t, shortIDs(found), test.want)
	}
	if _, err := FindStatus(nil, StatusQuery{}); err == nil {
		t.Error("no tasks at all are not an error")
	}
}

func TestFindOperation(t *testing.T) {
	operations := Operations(family(t))
	found, err := FindOperation(operations, "5")
	if err != nil || found.Number != 5 {
		t.Errorf("got %d, %v, want operation 5", found.Number, err)
	}
	_, err = FindOperation(operations, "666")
	checkRun(t, err, `operation "666" not found`)
	_, err = FindOperation(operations, "0")
	checkRun(t, err, `operation "0" not found`)
	_, err = FindOperation(operations, "test")
	checkUsage(t, err, `operation ID "test" not valid`)
	_, err = FindOperation(operations, "")
	checkUsage(t, err, "no operation ID specified")
}
