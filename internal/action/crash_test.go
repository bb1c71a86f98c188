package action

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Variables that make the test binary a process that works on a journal and is killed in front of its n-th step on the
// disk. A write is killed in its middle.
const (
	crashDirVariable  = "HOLDFAST_TEST_CRASH_DIR"
	crashStepVariable = "HOLDFAST_TEST_CRASH_STEP"
)

// crashLimits make every journal of the test be compacted a few times.
var crashLimits = limits{finished: 100, pending: 100, slack: -12}

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirVariable); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashActions note each start and each recovery in files: what is written there survives SIGKILL.
func crashActions(dir string) []Action {
	note := func(kind, id string) error {
		f, err := os.OpenFile(filepath.Join(dir, kind), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(id + "\n")
		return errors.Join(err, f.Close())
	}
	work := fake{"work", func(_ context.Context, call *Call) error {
		call.Logf("working")
		call.Set("done", "yes")
		return note("starts", call.TaskID)
	}}
	obey := fake{"obey", func(ctx context.Context, call *Call) error {
		err := note("starts", call.TaskID)
		<-ctx.Done()
		return errors.Join(err, ctx.Err())
	}}
	return []Action{obey, careful{work, func(_ context.Context, call *Call) (string, error) {
		return "it was undone", note("recoveries", call.TaskID)
	}}}
}

// crashChild is the life of an agent: it takes up what is there, and carries out five tasks, each asked for with a key
// so that the next life does not ask again. It says what a caller has been told.
func crashChild(dir string) error {
	kill, err := strconv.Atoi(os.Getenv(crashStepVariable))
	if err != nil {
		return err
	}
	step := 0
	d := &testDisk{before: func(_ string, f *os.File, data []byte) error {
		if step++; step == kill {
			if len(data) > 0 {
				_, _ = f.Write(data[:len(data)/2])
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // The signal is on its way.
		}
		return nil
	}}
	r, err := openRunner(Options{Dir: filepath.Join(dir, "journal"), Unit: etcd0, Actions: crashActions(dir)}, d.disk(), crashLimits)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- r.Run(run) }()
	told := func(t Task, err error) error {
		if err == nil {
			fmt.Println(t.ID, t.Status)
		}
		return err
	}
	var ids []string
	for _, name := range []string{"work", "work", "obey", "work", "obey"} {
		task, err := r.Enqueue(Request{Key: fmt.Sprint("key-", len(ids)), Action: name})
		if err := told(task, err); err != nil {
			return err
		}
		ids = append(ids, task.ID)
	}
	// The last is cancelled while it waits, the third while it runs.
	if err := told(r.Cancel(ids[4])); err != nil {
		return err
	}
	for seen := int64(0); ; {
		task, version, err := r.Changed(ctx, ids[2], seen)
		if err != nil {
			return err
		}
		if seen = version; task.Status != Pending {
			break
		}
	}
	if err := told(r.Cancel(ids[2])); err != nil {
		return err
	}
	for _, id := range ids {
		if err := told(r.Wait(ctx, id)); err != nil {
			return err
		}
	}
	stop()
	return errors.Join(<-done, r.Close())
}

// live runs the child once. The lines that it was told are given also when it was killed.
func live(t *testing.T, dir string, step int) (told string, killed bool) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDirVariable+"="+dir, fmt.Sprint(crashStepVariable, "=", step))
	child.Stdout, child.Stderr = &stdout, io.Writer(&stderr)
	err := child.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return stdout.String(), true
	}
	if err != nil {
		t.Fatalf("child: %v\n%s", err, stderr.String())
	}
	return stdout.String(), false
}

// noted counts the ids in one of the children's notes.
func noted(t *testing.T, path string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, id := range strings.Fields(string(text)) {
		counts[id]++
	}
	return counts
}

// An agent is killed in front of every step that it takes on the disk, and its successor too, at an early step. The
// third one must find all that anybody was told, finish it, and have started nothing twice.
func TestCrash(t *testing.T) {
	kills := 0
	for step, killed := 1, true; killed; step++ {
		dir := t.TempDir()
		var told string
		told, killed = live(t, dir, step)
		if killed {
			kills++
			more, _ := live(t, dir, 1+step%7)
			told += more
		}
		checkCrash(t, dir, step, told)
		if t.Failed() {
			t.Fatalf("kill at step %d, then at %d", step, 1+step%7)
		}
	}
	if kills < 30 {
		t.Errorf("the life of an agent has only %d steps", kills)
	}
}

func checkCrash(t *testing.T, dir string, step int, told string) {
	t.Helper()
	r := open(t, filepath.Join(dir, "journal"), &testDisk{}, crashLimits, crashActions(dir)...)
	before := map[string]Task{}
	for _, task := range r.Tasks() {
		before[task.ID] = task
	}
	final := map[string]Status{}
	for _, line := range strings.Split(strings.TrimSpace(told), "\n") {
		id, status, _ := strings.Cut(line, " ")
		if id == "" {
			continue
		}
		task, found := before[id]
		if !found {
			t.Errorf("step %d: task %s is lost after it was acknowledged", step, id)
		}
		if Status(status).Terminal() {
			final[id] = Status(status)
		}
		if status == string(Aborting) && task.Status != Aborting && !task.Status.Terminal() {
			t.Errorf("step %d: task %s is %s after it was aborting", step, id, task.Status)
		}
	}
	for id, status := range final {
		if got := before[id].Status; got != status {
			t.Errorf("step %d: task %s is %s after it was %s", step, id, got, status)
		}
	}
	starts := noted(t, filepath.Join(dir, "starts"))
	stop := run(t, r)
	for id, task := range before {
		if task.Action == "obey" && task.Status == Pending {
			// It would wait for ever. Nothing that is pending may have been started.
			if _, err := r.Cancel(id); err != nil {
				t.Error(err)
			}
		}
		if task.Status == Pending && starts[id] != 0 {
			t.Errorf("step %d: task %s is pending and was started", step, id)
		}
	}
	for id, task := range before {
		after := wait(t, r, id)
		switch {
		case task.Status.Terminal() && after.Status != task.Status:
			t.Errorf("step %d: task %s went from %s to %s", step, id, task.Status, after.Status)
		case task.Status == Running && (after.Status != Failed || !strings.HasPrefix(after.Message, messageRestarted)):
			t.Errorf("step %d: running task %s ended as %s: %s", step, id, after.Status, after.Message)
		case task.Status == Aborting && after.Status != Aborted:
			t.Errorf("step %d: aborting task %s ended as %s", step, id, after.Status)
		case after.Status == Completed && (after.Action != "work" || len(after.Log) != 1 || after.Results["done"] != "yes"):
			t.Errorf("step %d: completed task %+v", step, after)
		}
	}
	stop()
	for id, count := range noted(t, filepath.Join(dir, "starts")) {
		if count != 1 {
			t.Errorf("step %d: task %s was started %d times", step, id, count)
		}
		if _, known := before[id]; !known {
			t.Errorf("step %d: task %s was started and is unknown", step, id)
		}
	}
	for id := range noted(t, filepath.Join(dir, "recoveries")) {
		if task := before[id]; task.Status == Completed || task.Action != "work" {
			t.Errorf("step %d: task %s was recovered and is %s", step, id, task.Status)
		}
	}
	for _, task := range reopened(t, filepath.Join(dir, "journal")) {
		if !task.Status.Terminal() {
			t.Errorf("step %d: task %s is left %s", step, task.ID, task.Status)
		}
	}
}
