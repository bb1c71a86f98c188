package juju

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// at gives a moment of the page's day, at 18:04 and some seconds, with a fraction that must never show.
func at(second int) time.Time {
	return time.Date(2018, 9, 26, 18, 4, second, 987654321, time.UTC)
}

func name(t *testing.T, s string) unit.Name {
	t.Helper()
	n, err := unit.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const pageArchive = "/home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz"

// pageTask is the task of the page's example.
func pageTask(t *testing.T) action.Task {
	results := action.Results{}
	results.Set("copy.cmd", "juju scp etcd/0:"+pageArchive+" .")
	results.Set("snapshot.path", pageArchive)
	results.Set("snapshot.sha256", "e85ae4d49b6a889de2063031379ab320cc8f09b6e328cdff2fb9179fc641eee9")
	results.Set("snapshot.size", "68K")
	results.Set("snapshot.version", "etcdctl version: 3.2.10\nAPI version: 2")
	return action.Task{
		ID:        "3d6a505e-07d7-4697-8471-60156f87b1b4",
		Number:    2,
		Operation: 1,
		Unit:      name(t, "etcd/0"),
		Action:    "snapshot",
		Program:   "juju",
		Status:    action.Completed,
		Results:   results,
		Enqueued:  at(4),
		Started:   at(3),
		Completed: at(4),
	}
}

// withLog gives the task two lines of log.
func withLog(t action.Task) action.Task {
	t.Log = []action.LogEntry{
		{Time: at(3), Message: "reading the snapshot stream"},
		{Time: at(4), Message: "checked 17 pages, revision 12"},
	}
	return t
}

// failedTask is the page's task asked for with a wrong parameter.
func failedTask(t *testing.T) action.Task {
	task := pageTask(t)
	task.Status = action.Failed
	task.Message = "keys-version must be either v2 or v3"
	task.Results = nil
	task.Params = action.Params{"keys-version": "v9"}
	task.Enqueued, task.Started = at(3), at(3)
	return task
}

// secondTask is the same operation's task on etcd/1.
func secondTask(t *testing.T) action.Task {
	task := pageTask(t)
	task.ID = "b0e5a1c2-1111-4222-8333-444455556666"
	task.Number = 3
	task.Unit = name(t, "etcd/1")
	return task
}

// runningTask is secondTask before its end.
func runningTask(t *testing.T) action.Task {
	task := secondTask(t)
	task.Status, task.Results, task.Completed = action.Running, nil, time.Time{}
	return task
}

// healthTask is a run of the action whose key of results differs between the dialects.
func healthTask(t *testing.T) action.Task {
	task := pageTask(t)
	task.Action = "health"
	task.Results = action.Results{"output": "member 3c149609bfcf7692 is healthy: got healthy result from " +
		"https://172.31.18.7:2379\ncluster is healthy"}
	return task
}

// written gives what write writes.
func written(t *testing.T, write func(*bytes.Buffer) error) string {
	t.Helper()
	var out bytes.Buffer
	if err := write(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("text differs (-want +got):\n%s", diff)
	}
}

// sameAsFile compares with a file that was made by hand or copied from the page; there is no way to regenerate it.
func sameAsFile(t *testing.T, got, file string) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, string(want))
}
