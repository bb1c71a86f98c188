package juju

import (
	"bytes"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
)

func TestRunTalk(t *testing.T) {
	one := []action.Task{pageTask(t)}
	two := []action.Task{pageTask(t), secondTask(t)}
	noNumber := pageTask(t)
	noNumber.Number = 0
	for _, test := range []struct {
		name  string
		write func(*bytes.Buffer) error
		want  string
	}{
		{"one", func(w *bytes.Buffer) error { return WriteRunStarted(w, one) },
			"Running operation 1 with 1 task\n  - task 2 on unit-etcd-0\n\n"},
		{"two", func(w *bytes.Buffer) error { return WriteRunStarted(w, two) },
			"Running operation 1 with 2 tasks\n  - task 2 on unit-etcd-0\n  - task 3 on unit-etcd-1\n\n"},
		{"waiting", func(w *bytes.Buffer) error { return WriteWaiting(w, one[0]) },
			"Waiting for task 2...\n"},
		{"waiting without number", func(w *bytes.Buffer) error { return WriteWaiting(w, noNumber) },
			"Waiting for task 3d6a505e-07d7-4697-8471-60156f87b1b4...\n"},
		{"log", func(w *bytes.Buffer) error { return WriteLogLine(w, withLog(one[0]).Log[0], nil) },
			"18:04:03 reading the snapshot stream\n"},
		{"log in a zone", func(w *bytes.Buffer) error { return WriteLogLine(w, withLog(one[0]).Log[0], cest()) },
			"20:04:03 reading the snapshot stream\n"},
	} {
		t.Run(test.name, func(t *testing.T) { same(t, written(t, test.write), test.want) })
	}
}

// cest is a zone that is not UTC and does not depend on the machine.
func cest() *time.Location { return time.FixedZone("CEST", 2*60*60) }

func TestWriteScheduled(t *testing.T) {
	var out, talk bytes.Buffer
	if err := WriteScheduled(&out, &talk, "juju", []action.Task{pageTask(t)}); err != nil {
		t.Fatal(err)
	}
	same(t, out.String(), "")
	same(t, talk.String(), `Scheduled operation 1 with task 2
Check operation status with 'juju show-operation 1'
Check task status with 'juju show-task 2'
`)
	talk.Reset()
	if err := WriteScheduled(&out, &talk, "holdfast", []action.Task{pageTask(t), secondTask(t)}); err != nil {
		t.Fatal(err)
	}
	same(t, out.String(), "etcd/0:\n  id: \"2\"\netcd/1:\n  id: \"3\"\n")
	same(t, talk.String(), `Scheduled operation 1 with 2 tasks
Check operation status with 'holdfast show-operation 1'
Check task status with 'holdfast show-task <id>'
`)
}

func TestWriteRun(t *testing.T) {
	failedWithResults := failedTask(t)
	failedWithResults.Results = action.Results{"output": "cluster is degraded"}
	silent := failedTask(t)
	silent.Message = ""
	completedWithMessage := pageTask(t)
	completedWithMessage.Message, completedWithMessage.Results = "fine", action.Results{"output": "x"}
	for _, test := range []struct {
		name   string
		format Format
		zone   *time.Location
		tasks  []action.Task
		want   string
	}{
		{name: "plain", format: Plain, tasks: []action.Task{withLog(pageTask(t))}, want: `copy:
  cmd: juju scp etcd/0:/home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz
    .
snapshot:
  path: /home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz
  sha256: e85ae4d49b6a889de2063031379ab320cc8f09b6e328cdff2fb9179fc641eee9
  size: 68K
  version: |-
    etcdctl version: 3.2.10
    API version: 2

`},
		{name: "plain health", format: Plain, tasks: []action.Task{healthTask(t)}, want: `output: |-
  member 3c149609bfcf7692 is healthy: got healthy result from https://172.31.18.7:2379
  cluster is healthy

`},
		{name: "plain failed", format: Plain, tasks: []action.Task{failedTask(t)},
			want: "Action id 2 failed: keys-version must be either v2 or v3\nTask 2 failed\n\n"},
		{name: "plain failed with results", format: Plain, tasks: []action.Task{failedWithResults},
			want: "Action id 2 failed: keys-version must be either v2 or v3\noutput: cluster is degraded\n\n"},
		{name: "plain failed without message", format: Plain, tasks: []action.Task{silent}, want: "Task 2 failed\n\n"},
		{name: "plain completed with message", format: Plain, tasks: []action.Task{completedWithMessage},
			want: "output: x\n\n"},
		{name: "plain running", format: Plain, tasks: []action.Task{runningTask(t)}, want: "Task 3 running\n\n"},
		{name: "plain none", format: Plain, want: ""},
		{name: "yaml none", format: YAML, want: ""},
		{name: "plain two", format: Plain, tasks: []action.Task{failedTask(t), secondTask(t)}, want: `etcd/0:
  id: "2"
  message: keys-version must be either v2 or v3
  output: |
    Task 2 failed
  status: failed
etcd/1:
  id: "3"
  output: |
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
  status: completed
`},
		{name: "yaml", format: YAML, tasks: []action.Task{withLog(healthTask(t))}, want: `etcd/0:
  id: "2"
  log:
  - 2018-09-26 18:04:03 +0000 UTC reading the snapshot stream
  - 2018-09-26 18:04:04 +0000 UTC checked 17 pages, revision 12
  results:
    output: |-
      member 3c149609bfcf7692 is healthy: got healthy result from https://172.31.18.7:2379
      cluster is healthy
  status: completed
  timing:
    completed: 2018-09-26 18:04:04 +0000 UTC
    enqueued: 2018-09-26 18:04:04 +0000 UTC
    started: 2018-09-26 18:04:03 +0000 UTC
  unit: etcd/0
`},
		{name: "json in a zone", format: JSON, zone: cest(), tasks: []action.Task{failedTask(t)},
			want: `{"etcd/0":{"id":"2","message":"keys-version must be either v2 or v3","status":"failed",` +
				`"timing":{"completed":"2018-09-26 20:04:04 +0200 CEST","enqueued":"2018-09-26 20:04:03 +0200 CEST",` +
				`"started":"2018-09-26 20:04:03 +0200 CEST"},"unit":"etcd/0"}}` + "\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := written(t, func(w *bytes.Buffer) error { return WriteRun(w, test.format, test.tasks, test.zone) })
			same(t, got, test.want)
		})
	}
}

func TestWriteTask(t *testing.T) {
	got := written(t, func(w *bytes.Buffer) error { return WriteTask(w, YAML, failedTask(t), nil) })
	same(t, got, `id: "2"
message: keys-version must be either v2 or v3
status: failed
timing:
  completed: 2018-09-26 18:04:04 +0000 UTC
  enqueued: 2018-09-26 18:04:03 +0000 UTC
  started: 2018-09-26 18:04:03 +0000 UTC
unit: etcd/0
`)
	got = written(t, func(w *bytes.Buffer) error { return WriteTask(w, Plain, failedTask(t), nil) })
	same(t, got, "Action id 2 failed: keys-version must be either v2 or v3\nTask 2 failed\n\n")
}
