package juju

import (
	"testing"

	"github.com/holdfast-project/holdfast/internal/action"
)

func TestExitCode(t *testing.T) {
	for _, test := range []struct {
		status                                       action.Status
		honestLegacy, honest3, likeLegacy, likeJuju3 int
	}{
		{action.Completed, 0, 0, 0, 0},
		{action.Failed, 1, 1, 0, 0},
		{action.Aborted, 1, 1, 0, 0},
		{action.Cancelled, 1, 1, 0, 0},
		{action.Pending, 1, 1, 0, 1},
		{action.Running, 1, 1, 0, 1},
		{action.Aborting, 1, 1, 0, 1},
	} {
		task := secondTask(t)
		task.Status = test.status
		tasks := []action.Task{pageTask(t), task, pageTask(t)}
		for _, code := range []struct {
			d    Dialect
			p    ExitPolicy
			want int
		}{
			{Legacy, HonestExit, test.honestLegacy},
			{Juju3, HonestExit, test.honest3},
			{Legacy, JujuExit, test.likeLegacy},
			{Juju3, JujuExit, test.likeJuju3},
		} {
			if got := ExitCode(code.d, code.p, tasks); got != code.want {
				t.Errorf("%s, dialect %d, policy %d: exit code %d, want %d", test.status, code.d, code.p, got, code.want)
			}
		}
	}
	if got := ErrorExitCode(nil); got != 0 {
		t.Errorf("exit code %d without an error", got)
	}
}

func TestTimeoutError(t *testing.T) {
	late := runningTask(t)
	waiting := pageTask(t)
	waiting.Status = action.Pending
	checkRun(t, NewTimeoutError(Juju3, []action.Task{waiting, failedTask(t), late}),
		"timed out waiting for results from: unit etcd/0, unit etcd/1")
	checkRun(t, NewTimeoutError(Legacy, []action.Task{late}), "timeout reached")
	if err := NewTimeoutError(Juju3, []action.Task{pageTask(t), failedTask(t)}); err != nil {
		t.Errorf("all tasks ended, yet %v", err)
	}
}

func TestFailedNote(t *testing.T) {
	aborted := secondTask(t)
	aborted.Status = action.Aborted
	same(t, FailedNote("juju", []action.Task{failedTask(t), runningTask(t)}),
		"the following task failed:\n - id \"2\" failed\n\nuse 'juju show-task' to inspect the failure")
	same(t, FailedNote("holdfast", []action.Task{failedTask(t), aborted}),
		"the following tasks failed:\n - id \"2\" failed\n - id \"3\" aborted\n\nuse 'holdfast show-task' to inspect the failure")
	same(t, FailedNote("juju", []action.Task{pageTask(t)}), "")
}
