package juju

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// everyday gives three operations: one that failed on one of two units, one that runs, one that waits on six units.
func everyday(t *testing.T) []Operation {
	first, second := failedTask(t), secondTask(t)
	second.Enqueued, second.Completed = at(5), at(7)
	running := runningTask(t)
	running.Number, running.Operation, running.Action = 5, 4, "health"
	tasks := []action.Task{running, second, first}
	for i := range 6 {
		waiting := pageTask(t)
		waiting.Unit = unit.Name{Application: "new-etcd", Number: i}
		waiting.Number, waiting.Operation = 11+i, 10
		waiting.Status, waiting.Results = action.Pending, nil
		waiting.Started, waiting.Completed = time.Time{}, time.Time{}
		tasks = append(tasks, waiting)
	}
	alone := pageTask(t)
	alone.Number, alone.Operation = 0, 0
	return Operations(append(tasks, alone))
}

func TestOperationStatus(t *testing.T) {
	// Every status in the list wins over those after it.
	order := []action.Status{
		action.Running, action.Aborting, action.Pending, action.Failed, action.Aborted, action.Cancelled, action.Completed,
	}
	for i, a := range order {
		for j, b := range order {
			first, second := pageTask(t), secondTask(t)
			first.Status, second.Status = a, b
			got := Operations([]action.Task{first, second})[0].Status
			if want := order[min(i, j)]; got != want {
				t.Errorf("operation of %s and %s is %s, want %s", a, b, got, want)
			}
		}
	}
}

// TestOperationTimes has one task that ended, one that runs and one that waits, in both orders.
func TestOperationTimes(t *testing.T) {
	running, waiting := runningTask(t), runningTask(t)
	running.Enqueued, running.Started = at(2), at(5)
	waiting.Number, waiting.Status, waiting.Started = 4, action.Pending, time.Time{}
	for _, tasks := range [][]action.Task{
		{pageTask(t), running, waiting},
		{waiting, running, pageTask(t)},
	} {
		for i := range tasks {
			tasks[i].Number = i + 1
		}
		o := Operations(tasks)[0]
		if !o.Enqueued.Equal(at(2)) || !o.Started.Equal(at(3)) || !o.Completed.IsZero() {
			t.Errorf("enqueued %v, started %v, completed %v", o.Enqueued, o.Started, o.Completed)
		}
	}
}

func TestWriteOperation(t *testing.T) {
	operations := everyday(t)
	got := written(t, func(w *bytes.Buffer) error { return WriteOperation(w, YAML, operations[0], nil) })
	same(t, got, `summary: snapshot run on unit-etcd-0,unit-etcd-1
status: failed
action:
  name: snapshot
  parameters:
    keys-version: v9
timing:
  enqueued: 2018-09-26 18:04:03 +0000 UTC
  started: 2018-09-26 18:04:03 +0000 UTC
  completed: 2018-09-26 18:04:07 +0000 UTC
tasks:
  "2":
    host: etcd/0
    status: failed
    timing:
      enqueued: 2018-09-26 18:04:03 +0000 UTC
      started: 2018-09-26 18:04:03 +0000 UTC
      completed: 2018-09-26 18:04:04 +0000 UTC
    message: keys-version must be either v2 or v3
  "3":
    host: etcd/1
    status: completed
    timing:
      enqueued: 2018-09-26 18:04:05 +0000 UTC
      started: 2018-09-26 18:04:03 +0000 UTC
      completed: 2018-09-26 18:04:07 +0000 UTC
    results:
      copy:
        cmd: juju scp etcd/0:/home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz
          .
      snapshot:
        path: /home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz
        sha256: e85ae4d49b6a889de2063031379ab320cc8f09b6e328cdff2fb9179fc641eee9
        size: 68K
        version: |-
          etcdctl version: 3.2.10
          API version: 2
`)

	running := operations[1]
	running.Tasks[0] = withLog(running.Tasks[0])
	got = written(t, func(w *bytes.Buffer) error { return WriteOperation(w, YAML, running, cest()) })
	same(t, got, `summary: health run on unit-etcd-1
status: running
action:
  name: health
  parameters: {}
timing:
  enqueued: 2018-09-26 20:04:04 +0200 CEST
  started: 2018-09-26 20:04:03 +0200 CEST
tasks:
  "5":
    host: etcd/1
    status: running
    timing:
      enqueued: 2018-09-26 20:04:04 +0200 CEST
      started: 2018-09-26 20:04:03 +0200 CEST
    log:
    - 2018-09-26 20:04:03 +0200 CEST reading the snapshot stream
    - 2018-09-26 20:04:04 +0200 CEST checked 17 pages, revision 12
`)
}

func TestWriteOperations(t *testing.T) {
	page := OperationQuery{}.Select(everyday(t))
	got := written(t, func(w *bytes.Buffer) error { return WriteOperations(w, Plain, page, nil) })
	same(t, got, `ID  Status   Started              Finished             Task IDs           Summary
 1  failed   2018-09-26T18:04:03  2018-09-26T18:04:07  2,3                snapshot run on unit-etcd-0,unit-etcd-1
 4  running  2018-09-26T18:04:03                       5                  health run on unit-etcd-1
10  pending                                            11,12,13,14,15...  snapshot run on `+
		"unit-new-etcd-0,unit-new-etcd-1,unit-new-etcd-2,unit-new-etcd-3,unit-new-etcd-4,unit-new-etcd-5\n")

	page = OperationQuery{Offset: 1, Limit: 1}.Select(everyday(t))
	got = written(t, func(w *bytes.Buffer) error { return WriteOperations(w, Plain, page, cest()) })
	same(t, got, `Displaying operation results 2 to 2.
Run the command again with --offset=2 --limit=1 to see the next batch.

ID  Status   Started              Finished  Task IDs  Summary
 4  running  2018-09-26T20:04:03            5         health run on unit-etcd-1
`)

	page = OperationQuery{}.Select(everyday(t))
	got = written(t, func(w *bytes.Buffer) error { return WriteOperations(w, YAML, page, nil) })
	var keys []string
	for line := range strings.Lines(got) {
		if !strings.HasPrefix(line, " ") {
			keys = append(keys, strings.TrimSpace(line))
		}
	}
	same(t, strings.Join(keys, " "), `"1": "4": "10":`)
}

func TestOperationQuery(t *testing.T) {
	for _, test := range []struct {
		q     OperationQuery
		want  string
		first int
		more  bool
	}{
		{q: OperationQuery{}, want: "1 4 10", first: 1},
		{q: OperationQuery{Applications: []string{"new-etcd", "other"}}, want: "10", first: 1},
		{q: OperationQuery{Units: []string{"etcd/0"}}, want: "1", first: 1},
		{q: OperationQuery{Units: []string{"etcd/1"}, Actions: []string{"health"}}, want: "4", first: 1},
		{q: OperationQuery{Units: []string{"etcd/0"}, Actions: []string{"health"}}, want: "", first: 1},
		{q: OperationQuery{Statuses: []string{"running", "pending"}}, want: "4 10", first: 1},
		{q: OperationQuery{Statuses: []string{"error"}}, want: "", first: 1},
		{q: OperationQuery{Limit: 2}, want: "1 4", first: 1, more: true},
		{q: OperationQuery{Limit: 2, Offset: 1}, want: "4 10", first: 2},
		{q: OperationQuery{Offset: 7}, want: "", first: 8},
	} {
		if err := test.q.Validate(); err != nil {
			t.Fatal(err)
		}
		page := test.q.Select(everyday(t))
		var numbers []string
		for _, o := range page.Operations {
			numbers = append(numbers, fmt.Sprint(o.Number))
		}
		if got := strings.Join(numbers, " "); got != test.want || page.First != test.first || page.More != test.more {
			t.Errorf("%+v: got %q first %d more %t", test.q, got, page.First, page.More)
		}
	}
}

func TestOperationLimitByDefault(t *testing.T) {
	var tasks []action.Task
	for i := range 60 {
		task := pageTask(t)
		task.Operation = i + 1
		tasks = append(tasks, task)
	}
	page := OperationQuery{}.Select(Operations(tasks))
	if len(page.Operations) != 50 || page.Limit != 50 || !page.More {
		t.Errorf("got %d operations, limit %d, more %t", len(page.Operations), page.Limit, page.More)
	}
}

func TestOperationQueryRefused(t *testing.T) {
	checkUsage(t, OperationQuery{
		Statuses:     []string{"pending", "foo"},
		Units:        []string{"etcd/0", "etcd/leader"},
		Applications: []string{"something-"},
		Limit:        -1,
		Offset:       -2,
	}.Validate(), `invalid application name "something-"
invalid unit name "etcd/leader"
"foo" is not a valid task status, want one of [pending running completed failed cancelled aborting aborted error]
limit -1 must not be negative
offset -2 must not be negative`)
}
