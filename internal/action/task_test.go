package action

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/unit"
)

func TestStatus(t *testing.T) {
	for text, terminal := range map[string]bool{
		"pending": false, "running": false, "aborting": false,
		"completed": true, "failed": true, "cancelled": true, "aborted": true,
	} {
		status, err := ParseStatus(text)
		if err != nil || string(status) != text || status.Terminal() != terminal {
			t.Errorf("ParseStatus(%q) = %q, %v; terminal %v", text, status, err, status.Terminal())
		}
	}
	for _, text := range []string{"", "done", "Pending"} {
		if status, err := ParseStatus(text); err == nil {
			t.Errorf("ParseStatus(%q) = %q", text, status)
		}
	}
	if err := json.Unmarshal([]byte(`{"status":"done"}`), &Task{}); err == nil {
		t.Error("a task with an unknown status was read")
	}
}

// The JSON of a task is what other programs and later versions read.
func TestTaskJSON(t *testing.T) {
	at := func(second int) time.Time { return time.Date(2018, 9, 26, 18, 4, second, 120e6, time.UTC) }
	task := Task{
		ID: "3d6a505e-07d7-4697-8471-60156f87b1b4", Key: "k", Number: 2, Operation: 1, Unit: unit.Name{Application: "etcd"},
		Action: "snapshot", Params: Params{"target": "/x", "revision": int64(7)}, Program: "juju",
		Status: Failed, Message: "m", Results: Results{"a": map[string]any{"b": "c"}},
		Log: []LogEntry{{Time: at(3), Message: "l"}}, Enqueued: at(2), Started: at(3), Completed: at(4),
	}
	want := `{"id":"3d6a505e-07d7-4697-8471-60156f87b1b4","key":"k","number":2,"operation":1,"unit":"etcd/0",` +
		`"action":"snapshot","params":{"revision":7,"target":"/x"},"program":"juju","status":"failed","message":"m",` +
		`"results":{"a":{"b":"c"}},"log":[{"time":"2018-09-26T18:04:03.12Z","message":"l"}],` +
		`"enqueued":"2018-09-26T18:04:02.12Z","started":"2018-09-26T18:04:03.12Z","completed":"2018-09-26T18:04:04.12Z"}`
	text, err := json.Marshal(task)
	if err != nil || string(text) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, text, want)
	}
	var back Task
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(task, back); diff != "" {
		t.Error(diff)
	}
	text, err = json.Marshal(Task{ID: "i", Unit: unit.Name{Application: "etcd"}, Action: "a", Status: Pending, Enqueued: at(1)})
	want = `{"id":"i","unit":"etcd/0","action":"a","status":"pending","enqueued":"2018-09-26T18:04:01.12Z"}`
	if err != nil || string(text) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, text, want)
	}
}

func TestTaskFit(t *testing.T) {
	entry := LogEntry{Message: strings.Repeat("\x01", maxLogBytes)} // Six bytes each in JSON.
	task := Task{ID: "i", Unit: unit.Name{Application: "etcd"}, Status: Completed, Results: Results{"a": "b"}}
	for range maxLogLines {
		task.Log = append(task.Log, entry)
	}
	task.Log[maxLogLines-1].Message = "last"
	cut := task.fit()
	if cut.size() > maxLine || cut.Log[len(cut.Log)-1].Message != "last" || cut.Status != Completed {
		t.Errorf("%d bytes, %d lines, %s", cut.size(), len(cut.Log), cut.Status)
	}
	if got, _ := cut.Results.Get("a"); got != "b" {
		t.Error("the results went before the log")
	}
	task.Results = Results{"a": strings.Repeat("x", maxLine)}
	cut = task.fit()
	if cut.size() > maxLine || cut.Status != Failed || !strings.HasPrefix(cut.Message, "results of 10") || cut.Results != nil {
		t.Errorf("%d bytes, %s: %.100s", cut.size(), cut.Status, cut.Message)
	}
	if _, err := encodeLine(cut); err != nil {
		t.Error(err)
	}
}

func TestShorten(t *testing.T) {
	for _, test := range []struct {
		text  string
		limit int
		want  string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aé", 2, "a?"}, {"aé", 3, "aé"}, {"a\xff\xfeb", 9, "a?b"}, {"", 0, ""},
	} {
		got := shorten(test.text, test.limit)
		if got != test.want || !utf8.ValidString(got) || len(got) > test.limit {
			t.Errorf("shorten(%q, %d) = %q, want %q", test.text, test.limit, got, test.want)
		}
	}
}
