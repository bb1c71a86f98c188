package juju

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/action"
)

// TestPage is the promise of this package: the values of the page's example print the page's example, byte for byte.
func TestPage(t *testing.T) {
	task := withLog(pageTask(t)) // The page's dialect shows no log.
	got := written(t, func(w *bytes.Buffer) error {
		return WriteRunAction(w, YAML, []action.Task{task})
	})
	sameAsFile(t, got, "page.yaml")
}

func TestWriteRunAction(t *testing.T) {
	refused := failedTask(t)
	refused.Message = "restore refused: application etcd has 3 units (etcd/0, etcd/1, etcd/2); restore needs exactly one"
	for file, tasks := range map[string][]action.Task{
		"failed.yaml":  {failedTask(t)},
		"refused.yaml": {refused},
		"health.yaml":  {healthTask(t)},
		"two.yaml":     {runningTask(t), failedTask(t)},
	} {
		t.Run(file, func(t *testing.T) {
			got := written(t, func(w *bytes.Buffer) error { return WriteRunAction(w, YAML, tasks) })
			sameAsFile(t, got, file)
		})
	}
}

func TestHealthKeepsItsResults(t *testing.T) {
	task := healthTask(t)
	task.Results["extra"] = "x"
	written(t, func(w *bytes.Buffer) error { return WriteRunAction(w, YAML, []action.Task{task}) })
	if len(task.Results) != 2 || task.Results["output"] == nil {
		t.Errorf("rendering changed the task's results: %v", task.Results)
	}
}

func TestWriteRunActionJSON(t *testing.T) {
	got := written(t, func(w *bytes.Buffer) error {
		return WriteRunAction(w, JSON, []action.Task{pageTask(t)})
	})
	same(t, got, `{"unit-etcd-0":{"id":"3d6a505e-07d7-4697-8471-60156f87b1b4","results":{"copy":{"cmd":"juju scp etcd/0:`+
		pageArchive+` ."},"snapshot":{"path":"`+pageArchive+`",`+
		`"sha256":"e85ae4d49b6a889de2063031379ab320cc8f09b6e328cdff2fb9179fc641eee9","size":"68K",`+
		`"version":"etcdctl version: 3.2.10\nAPI version: 2"}},"status":"completed",`+
		`"timing":{"completed":"2018-09-26 18:04:04 +0000 UTC","enqueued":"2018-09-26 18:04:04 +0000 UTC",`+
		`"started":"2018-09-26 18:04:03 +0000 UTC"},"unit":"etcd/0"}}`+"\n")
}

func TestJSONKeepsSigns(t *testing.T) {
	task := failedTask(t)
	task.Message = "want <path> & nothing else"
	got := written(t, func(w *bytes.Buffer) error { return WriteActionOutput(w, JSON, task) })
	if !strings.Contains(got, `"message":"want <path> & nothing else"`) {
		t.Errorf("signs are escaped: %s", got)
	}
}

// TestShortCommandIsOneLine holds the rule that only what passes column 80 is folded.
func TestShortCommandIsOneLine(t *testing.T) {
	task := pageTask(t)
	task.Results = action.Results{}
	task.Results.Set("copy.cmd", "juju scp etcd/0:/mnt/etcd-snapshot-2018-09-26-18.04.02.tar.gz .")
	got := written(t, func(w *bytes.Buffer) error { return WriteActionOutput(w, YAML, task) })
	if !strings.Contains(got, "    cmd: juju scp etcd/0:/mnt/etcd-snapshot-2018-09-26-18.04.02.tar.gz .\n") {
		t.Errorf("the command is not on one line:\n%s", got)
	}
}

func TestWriteActionOutput(t *testing.T) {
	got := written(t, func(w *bytes.Buffer) error { return WriteActionOutput(w, YAML, withLog(pageTask(t))) })
	page, err := os.ReadFile("testdata/page.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// The same without the level of the unit tag: two columns to the left, and folded later by that.
	var want strings.Builder
	for _, line := range strings.SplitAfter(string(page), "\n")[1:] {
		want.WriteString(strings.TrimPrefix(line, "  "))
	}
	same(t, got, want.String())
}

func TestWriteQueued(t *testing.T) {
	one := []action.Task{pageTask(t)}
	two := []action.Task{secondTask(t), pageTask(t)}
	for _, test := range []struct {
		format Format
		tasks  []action.Task
		want   string
	}{
		{YAML, one, "Action queued with id: 3d6a505e-07d7-4697-8471-60156f87b1b4\n"},
		{JSON, one, `{"Action queued with id":"3d6a505e-07d7-4697-8471-60156f87b1b4"}` + "\n"},
		{YAML, two, `unit-etcd-0:
  id: 3d6a505e-07d7-4697-8471-60156f87b1b4
  unit: etcd/0
unit-etcd-1:
  id: b0e5a1c2-1111-4222-8333-444455556666
  unit: etcd/1
`},
		{JSON, two, `{"unit-etcd-0":{"id":"3d6a505e-07d7-4697-8471-60156f87b1b4","unit":"etcd/0"},` +
			`"unit-etcd-1":{"id":"b0e5a1c2-1111-4222-8333-444455556666","unit":"etcd/1"}}` + "\n"},
	} {
		same(t, written(t, func(w *bytes.Buffer) error { return WriteQueued(w, test.format, test.tasks) }), test.want)
	}
}

func TestWriteActionStatus(t *testing.T) {
	tasks := []action.Task{pageTask(t), runningTask(t)}
	got := written(t, func(w *bytes.Buffer) error { return WriteActionStatus(w, Legacy, YAML, tasks) })
	same(t, got, `actions:
- action: snapshot
  completed at: "2018-09-26 18:04:04"
  id: 3d6a505e-07d7-4697-8471-60156f87b1b4
  status: completed
  unit: etcd/0
- action: snapshot
  completed at: n/a
  id: b0e5a1c2-1111-4222-8333-444455556666
  status: running
  unit: etcd/1
`)
	got = written(t, func(w *bytes.Buffer) error { return WriteActionStatus(w, Juju3, YAML, tasks[1:]) })
	same(t, got, `actions:
- action: snapshot
  completed at: n/a
  id: "3"
  status: running
  unit: etcd/1
`)
	got = written(t, func(w *bytes.Buffer) error { return WriteActionStatus(w, Legacy, JSON, nil) })
	same(t, got, `{"actions":[]}`+"\n")
}

func TestFormats(t *testing.T) {
	if f, err := ParseFormat("json", YAML, JSON); f != JSON || err != nil {
		t.Errorf("got %q, %v, want json", f, err)
	}
	_, err := ParseFormat("tabular", YAML, JSON)
	checkUsage(t, err, `invalid value "tabular" for option --format: unknown format "tabular"`)
	if err := WriteQueued(&bytes.Buffer{}, Plain, nil); err == nil {
		t.Error("a form that does not exist for the command was written")
	}
}
