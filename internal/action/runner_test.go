package action

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fake is an action made of functions. Its parameter "n" is an integer with the default 1.
type fake struct {
	name string
	run  func(ctx context.Context, call *Call) error
}

func (f fake) Spec() Spec {
	return Spec{Name: f.name, Params: []Param{{Name: "n", Type: Integer, Default: 1}}}
}

func (f fake) Run(ctx context.Context, call *Call) error { return f.run(ctx, call) }

// careful is a fake that is a Recoverer too.
type careful struct {
	fake
	recover func(ctx context.Context, call *Call) (string, error)
}

func (c careful) Recover(ctx context.Context, call *Call) (string, error) {
	return c.recover(ctx, call)
}

// obedient runs until it is cancelled.
func obedient(name string) fake {
	return fake{name, func(ctx context.Context, call *Call) error {
		call.Logf("waiting")
		<-ctx.Done()
		call.Set("cause", strings.ReplaceAll(context.Cause(ctx).Error(), " ", "-"))
		return fmt.Errorf("wait: %w", ctx.Err())
	}}
}

func quick(name string) fake {
	return fake{name, func(_ context.Context, call *Call) error {
		call.Set("n", fmt.Sprint(call.Params.Int("n")))
		return nil
	}}
}

var testLimits = limits{finished: 100, pending: 100, slack: 100}

func open(t *testing.T, dir string, d *testDisk, l limits, actions ...Action) *Runner {
	t.Helper()
	r, err := openRunner(Options{Dir: dir, Unit: etcd0, Actions: actions}, d.disk(), l)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run starts r.Run; the function it gives stops that, waits for it, and closes r.
func run(t *testing.T, r *Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
			if err := r.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func enqueue(t *testing.T, r *Runner, action string) Task {
	t.Helper()
	task, err := r.Enqueue(Request{Action: action})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

func wait(t *testing.T, r *Runner, id string) Task {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	task, err := r.Wait(ctx, id)
	if err != nil {
		t.Fatalf("wait: %v, the task is %s", err, task.Status)
	}
	return task
}

// until waits for a status of a task.
func until(t *testing.T, r *Runner, id string, want Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var seen int64
	for {
		task, version, err := r.Changed(ctx, id, seen)
		if err != nil {
			t.Fatalf("wait for %s: %v, the task is %s", want, err, task.Status)
		}
		if task.Status == want {
			return
		}
		seen = version
	}
}

// reopened gives the tasks that the journal in dir holds.
func reopened(t *testing.T, dir string) []Task {
	t.Helper()
	j, tasks := mustOpen(t, &testDisk{}, dir)
	closeJournal(t, j)
	return tasks
}

func TestRunnerRunsATask(t *testing.T) {
	dir := t.TempDir()
	var got Call
	r := open(t, dir, &testDisk{}, testLimits, fake{"work", func(_ context.Context, call *Call) error {
		got.TaskID, got.Unit, got.Program, got.Params = call.TaskID, call.Unit, call.Program, call.Params
		call.Logf("line %d\n", 1)
		call.Set("snapshot.path", "/x")
		return nil
	}})
	stop := run(t, r)
	task, err := r.Enqueue(Request{Action: "work", Params: map[string]any{"n": 5}, Program: "juju", Number: 2, Operation: 1})
	if err != nil {
		t.Fatal(err)
	}
	if task.Status != Pending || len(task.ID) != 36 || task.Number != 2 || task.Operation != 1 || task.Program != "juju" {
		t.Errorf("enqueued %+v", task)
	}
	task = wait(t, r, task.ID)
	if path, _ := task.Results.Get("snapshot.path"); task.Status != Completed || path != "/x" || task.Message != "" ||
		len(task.Log) != 1 || task.Log[0].Message != "line 1" {
		t.Errorf("finished %+v", task)
	}
	if got.TaskID != task.ID || got.Unit != etcd0 || got.Program != "juju" || got.Params.Int("n") != 5 {
		t.Errorf("the action saw %+v", &got)
	}
	for _, at := range []time.Time{task.Enqueued, task.Started, task.Completed} {
		if at.Location() != time.UTC || at.Nanosecond()%1e6 != 0 || time.Since(at).Abs() > time.Minute {
			t.Errorf("time %v", at)
		}
	}
	if diff := cmp.Diff([]Task{task}, r.Tasks()); diff != "" {
		t.Error(diff)
	}
	// Nobody can change what the runner holds.
	task.Results.Set("snapshot.path", "/y")
	task.Params["n"] = 7
	task.Log[0].Message = "changed"
	if again := wait(t, r, task.ID); cmp.Equal(task, again) {
		t.Error("a copy shares memory with the runner")
	}
	want := r.Tasks()
	stop()
	if diff := cmp.Diff(want, reopened(t, dir)); diff != "" {
		t.Errorf("journal: %s", diff)
	}
}

func TestRunnerRefuses(t *testing.T) {
	r := open(t, t.TempDir(), &testDisk{}, limits{finished: 9, pending: 2, slack: 9}, quick("work"))
	defer r.Close()
	tests := []struct {
		name    string
		request Request
		err     string
	}{
		{"unknown action", Request{Action: "x"}, `action "x" not defined on unit "etcd/0"`},
		{"undeclared parameter", Request{Action: "work", Params: map[string]any{"m": 1}},
			`validation failed: (root) : additional property "m" is not allowed, given {"m":1}`},
		{"wrong type", Request{Action: "work", Params: map[string]any{"n": "1"}},
			`validation failed: (root).n : must be of type integer, given "1"`},
		{"long key", Request{Action: "work", Key: strings.Repeat("k", maxKey+1)},
			`validation failed: (root) : request of`},
		{"long program", Request{Action: "work", Program: strings.Repeat("\x00", maxLine/20)},
			`validation failed: (root) : request of`},
	}
	for _, test := range tests {
		_, err := r.Enqueue(test.request)
		if err == nil || !strings.HasPrefix(err.Error(), test.err) {
			t.Errorf("%s: %v, want %s", test.name, err, test.err)
		}
		var unknown *UnknownActionError
		var params *ParamsError
		if !errors.As(err, &unknown) && !errors.As(err, &params) {
			t.Errorf("%s: error of class %T", test.name, err)
		}
	}
	if tasks := r.Tasks(); len(tasks) != 0 {
		t.Errorf("refused requests left %v", tasks)
	}
	enqueue(t, r, "work")
	enqueue(t, r, "work")
	if _, err := r.Enqueue(Request{Action: "work"}); !errors.Is(err, ErrQueueFull) {
		t.Errorf("third pending task of two: %v", err)
	}
	for _, f := range []func() error{
		func() error { _, err := r.Task("x"); return err },
		func() error { _, err := r.Cancel("x"); return err },
		func() error { _, err := r.Wait(t.Context(), "x"); return err },
		func() error { _, _, err := r.Changed(t.Context(), "x", 0); return err },
	} {
		if err := f(); !errors.Is(err, ErrTaskNotFound) || !strings.HasSuffix(err.Error(), `task not found: "x"`) {
			t.Errorf("unknown id: %v", err)
		}
	}
}

func TestOpenRunnerRefusesBadOptions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	for _, o := range []Options{
		{Unit: etcd0},
		{Dir: dir},
		{Dir: dir, Unit: etcd0, Actions: []Action{quick("a"), quick("a")}},
		{Dir: dir, Unit: etcd0, Actions: []Action{quick("juju")}},
	} {
		if r, err := OpenRunner(o); err == nil {
			t.Errorf("%+v was taken", o)
			_ = r.Close()
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refusal left %s: %v", dir, err)
	}
}

func TestRunnerSpecs(t *testing.T) {
	r := open(t, t.TempDir(), &testDisk{}, testLimits, quick("b"), quick("a"), quick("c"))
	defer r.Close()
	if diff := cmp.Diff([]Spec{quick("a").Spec(), quick("b").Spec(), quick("c").Spec()}, r.Specs()); diff != "" {
		t.Error(diff)
	}
}

func TestRunnerIsSerial(t *testing.T) {
	var mu sync.Mutex
	var order []string
	var inside atomic.Int32
	r := open(t, t.TempDir(), &testDisk{}, testLimits, fake{"work", func(_ context.Context, call *Call) error {
		if inside.Add(1) != 1 {
			t.Error("two actions at once")
		}
		mu.Lock()
		order = append(order, call.TaskID)
		mu.Unlock()
		inside.Add(-1)
		return nil
	}})
	run(t, r)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 5 {
				task := enqueue(t, r, "work")
				wait(t, r, task.ID)
			}
		})
	}
	group.Wait()
	var want []string
	var before Task
	for _, task := range r.Tasks() {
		want = append(want, task.ID)
		if task.Started.Before(before.Completed) {
			t.Errorf("%s started before %s was completed", task.ID, before.ID)
		}
		before = task
	}
	if diff := cmp.Diff(want, order); diff != "" || len(order) != 20 {
		t.Errorf("%d runs: %s", len(order), diff)
	}
	if err := r.Run(t.Context()); err == nil || err.Error() != "runner is running already" {
		t.Errorf("second Run: %v", err)
	}
}

func TestRunnerIdempotency(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, &testDisk{}, testLimits, quick("work"))
	stop := run(t, r)
	var ids sync.Map
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			task, err := r.Enqueue(Request{Key: "same", Action: "work"})
			if err != nil {
				t.Error(err)
			}
			ids.Store(task.ID, true)
		})
	}
	group.Wait()
	first, err := r.Enqueue(Request{Key: "same", Action: "work"})
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	ids.Range(func(id, _ any) bool { count++; return id == first.ID })
	if count != 1 || len(r.Tasks()) != 1 {
		t.Errorf("%d ids, %d tasks from one key", count, len(r.Tasks()))
	}
	first = wait(t, r, first.ID)
	for range 2 {
		known := len(r.Tasks())
		if enqueue(t, r, "work"); len(r.Tasks()) != known+1 {
			t.Error("a request without a key gave an old task")
		}
	}
	stop()
	if _, err := r.Enqueue(Request{Action: "work"}); !errors.Is(err, errJournalBroken) {
		t.Errorf("enqueue after close: %v", err)
	}
	// The key outlives the process, and the action too.
	r = open(t, dir, &testDisk{}, testLimits)
	defer r.Close()
	again, err := r.Enqueue(Request{Key: "same", Action: "work"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Error(diff)
	}
}

func TestRunnerCancel(t *testing.T) {
	release := make(chan struct{})
	dir := t.TempDir()
	r := open(t, dir, &testDisk{}, testLimits, obedient("obey"), fake{"deaf", func(context.Context, *Call) error {
		<-release
		return nil
	}}, fake{"slow", func(ctx context.Context, _ *Call) error {
		<-ctx.Done()
		<-release
		return errors.New("undone")
	}})
	stop := run(t, r)
	cancel := func(id string) Task {
		t.Helper()
		task, err := r.Cancel(id)
		if err != nil {
			t.Fatal(err)
		}
		return task
	}

	running, pending := enqueue(t, r, "obey"), enqueue(t, r, "obey")
	until(t, r, running.ID, Running)
	if got := cancel(pending.ID); got.Status != Cancelled || got.Completed.Before(got.Enqueued) || !got.Started.IsZero() {
		t.Errorf("pending task: %+v", got)
	}
	cancel(running.ID)
	got := wait(t, r, running.ID)
	if cause, _ := got.Results.Get("cause"); got.Status != Aborted || got.Message != "wait: context canceled" ||
		cause != "cancelled-on-request" {
		t.Errorf("running task: %+v", got)
	}
	if again := cancel(running.ID); !cmp.Equal(got, again) {
		t.Error("cancel changed a finished task")
	}

	slow := enqueue(t, r, "slow")
	until(t, r, slow.ID, Running)
	for range 2 {
		if got := cancel(slow.ID); got.Status != Aborting || !got.Completed.IsZero() {
			t.Errorf("while aborting: %+v", got)
		}
	}
	deaf := enqueue(t, r, "deaf")
	release <- struct{}{}
	if got := wait(t, r, slow.ID); got.Status != Aborted || got.Message != "undone" {
		t.Errorf("slow task: %+v", got)
	}
	until(t, r, deaf.ID, Running)
	cancel(deaf.ID)
	release <- struct{}{}
	if got := wait(t, r, deaf.ID); got.Status != Completed || got.Message != "" {
		t.Errorf("task that did not notice: %+v", got)
	}
	want := r.Tasks()
	stop()
	if diff := cmp.Diff(want, reopened(t, dir)); diff != "" {
		t.Errorf("journal: %s", diff)
	}
}

func TestRunnerFailures(t *testing.T) {
	var logged bytes.Buffer
	r, err := OpenRunner(Options{
		Dir: t.TempDir(), Unit: etcd0, Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		Actions: []Action{
			fake{"fails", func(_ context.Context, call *Call) error {
				call.Set("a", "b")
				return errors.New("keys-version must be either v2 or v3")
			}},
			fake{"silent", func(context.Context, *Call) error { return errors.New("") }},
			fake{"verbose", func(context.Context, *Call) error { return errors.New(strings.Repeat("\x00", maxLine)) }},
			fake{"panics", func(context.Context, *Call) error { panic("oh dear") }},
			fake{"bad-key", func(_ context.Context, call *Call) error { call.Set("A", "b"); return nil }},
			quick("work"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, r)
	for action, want := range map[string]string{
		"fails":   "keys-version must be either v2 or v3",
		"silent":  "action failed without reason given, check action for errors",
		"verbose": strings.Repeat("\x00", maxMessage),
		"panics":  `action "panics" panicked: oh dear`,
		"bad-key": `action "bad-key" panicked: result key "A": "A" is not a valid name`,
	} {
		task := wait(t, r, enqueue(t, r, action).ID)
		if task.Status != Failed || task.Message != want {
			t.Errorf("%s: %s %.200q, want %.200q", action, task.Status, task.Message, want)
		}
		if action == "fails" && !cmp.Equal(task.Results, Results{"a": "b"}) {
			t.Errorf("results of a failed task: %v", task.Results)
		}
	}
	if task := wait(t, r, enqueue(t, r, "work").ID); task.Status != Completed {
		t.Errorf("after the failures: %+v", task)
	}
	stop()
	if text := logged.String(); !strings.Contains(text, "runner_test.go") || !strings.Contains(text, "unit=etcd/0") {
		t.Errorf("no stack in the log:\n%s", text)
	}
}

func TestRunnerLogIsLive(t *testing.T) {
	step := make(chan struct{})
	var late func(string)
	dir := t.TempDir()
	r := open(t, dir, &testDisk{}, testLimits, fake{"work", func(_ context.Context, call *Call) error {
		late = call.Log
		for i := range maxLogLines + 10 {
			if i == 1 || i == 2 {
				<-step
			}
			call.Logf("line %d", i)
		}
		return nil
	}})
	stop := run(t, r)
	id := enqueue(t, r, "work").ID
	var seen int64
	lines := func(want int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			task, version, err := r.Changed(ctx, id, seen)
			if err != nil {
				t.Fatal(err)
			}
			seen = version
			if len(task.Log) == want {
				return
			}
		}
	}
	lines(1)
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if task, version, err := r.Changed(expired, id, seen); !errors.Is(err, context.Canceled) || version != seen || len(task.Log) != 1 {
		t.Errorf("no change: %+v, %d, %v", task, version, err)
	}
	if task, err := r.Wait(expired, id); !errors.Is(err, context.Canceled) || task.Status != Running {
		t.Errorf("wait: %+v, %v", task, err)
	}
	step <- struct{}{}
	lines(2)
	step <- struct{}{}
	task := wait(t, r, id)
	if len(task.Log) != maxLogLines || task.Log[0].Message != "line 10" {
		t.Errorf("%d lines, the first is %q", len(task.Log), task.Log[0].Message)
	}
	late("too late")
	if again := wait(t, r, id); !cmp.Equal(task, again) {
		t.Error("a line was added to a finished task")
	}
	stop()
	if diff := cmp.Diff([]Task{task}, reopened(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// The disk may be slow, and log lines do not wait for it: none may be lost over a change of the status.
func TestRunnerLogsWhileTheDiskIsBusy(t *testing.T) {
	dir := t.TempDir()
	d := &testDisk{}
	logs := make(chan func(string), 1)
	r := open(t, dir, d, testLimits, fake{"work", func(ctx context.Context, call *Call) error {
		call.Logf("before")
		logs <- call.Log
		<-ctx.Done()
		call.Logf("after")
		return ctx.Err()
	}})
	stop := run(t, r)
	id := enqueue(t, r, "work").ID
	log := <-logs
	d.set(func(step string, _ *os.File, _ []byte) error {
		if strings.HasPrefix(step, "sync") {
			d.before = nil
			log("while it is written")
		}
		return nil
	})
	if _, err := r.Cancel(id); err != nil {
		t.Fatal(err)
	}
	task := wait(t, r, id)
	stop()
	var got []string
	for _, entry := range reopened(t, dir)[0].Log {
		got = append(got, entry.Message)
	}
	if diff := cmp.Diff([]string{"before", "while it is written", "after"}, got); diff != "" || len(task.Log) != 3 {
		t.Errorf("%d lines, in the journal: %s", len(task.Log), diff)
	}
}

// A clock that is set back at every look must not turn the times of a task around.
func TestRunnerClockStepsBack(t *testing.T) {
	var mu sync.Mutex
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(-time.Hour)
		return now
	}
	r, err := OpenRunner(Options{Dir: t.TempDir(), Unit: etcd0, Now: clock, Actions: []Action{
		fake{"work", func(_ context.Context, call *Call) error { call.Logf("line"); return nil }},
	}})
	if err != nil {
		t.Fatal(err)
	}
	pending, err := r.Enqueue(Request{Action: "work"})
	if err != nil {
		t.Fatal(err)
	}
	pending, err = r.Cancel(pending.ID)
	if err != nil || pending.Completed.Before(pending.Enqueued) {
		t.Errorf("%+v, %v", pending, err)
	}
	run(t, r)
	task := wait(t, r, enqueue(t, r, "work").ID)
	if task.Started.Before(task.Enqueued) || task.Completed.Before(task.Started) || task.Log[0].Time.Before(task.Started) {
		t.Errorf("%+v", task)
	}
}

func TestRunnerKeepsTheNewestTasks(t *testing.T) {
	dir := t.TempDir()
	d := &testDisk{}
	small := limits{finished: 3, pending: 100, slack: 4}
	r := open(t, dir, d, small, quick("work"), obedient("obey"))
	oldest, err := r.Enqueue(Request{Key: "oldest", Action: "work"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, r)
	wait(t, r, oldest.ID)
	want := []string{}
	for range 40 {
		task := enqueue(t, r, "work")
		wait(t, r, task.ID)
		want = append(want, task.ID)
	}
	want = want[len(want)-3:]
	unfinished := enqueue(t, r, "obey")
	until(t, r, unfinished.ID, Running)
	want = append(want, unfinished.ID, enqueue(t, r, "work").ID, enqueue(t, r, "work").ID)
	check := func(tasks []Task) {
		t.Helper()
		got := []string{}
		for _, task := range tasks {
			got = append(got, task.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	check(r.Tasks())
	if _, err := r.Task(oldest.ID); !errors.Is(err, ErrTaskNotFound) {
		t.Errorf("oldest task: %v", err)
	}
	if again, err := r.Enqueue(Request{Key: "oldest", Action: "work"}); err != nil || again.ID == oldest.ID {
		t.Errorf("key of a forgotten task: %+v, %v", again, err)
	} else {
		want = append(want, again.ID)
	}
	stop()
	if !slices.Contains(d.steps, "rename") {
		t.Error("the journal was never compacted")
	}
	text, err := os.ReadFile(filepath.Join(dir, journalName))
	if lines := bytes.Count(text, []byte("\n")); err != nil || lines > 4*7+4 {
		t.Errorf("%d lines for 7 tasks, %v", lines, err)
	}
	r = open(t, dir, d, small, quick("work"))
	defer r.Close()
	// Stopping finished one more, so the oldest of the finished ones goes.
	want = want[1:]
	check(r.Tasks())
}

// A journal that an older program let grow is rewritten when it is opened.
func TestOpenRunnerCompacts(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustOpen(t, &testDisk{}, dir)
	for i := range 30 {
		status := Completed
		if i == 7 {
			status = Pending
		}
		appendAll(t, j, testTask(fmt.Sprint(i), status))
	}
	closeJournal(t, j)
	d := &testDisk{}
	r := open(t, dir, d, limits{finished: 2, slack: 5})
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	want := []Task{testTask("7", Pending), testTask("28", Completed), testTask("29", Completed)}
	if diff := cmp.Diff(want, reopened(t, dir)); diff != "" || !slices.Contains(d.steps, "rename") {
		t.Errorf("%v %s", d.steps, diff)
	}
}
