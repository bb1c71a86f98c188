package moment

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endTime is within what an archiver ends that is asked to.
const endTime = 10 * time.Second

// archiver runs holdfast archive as a process, again and again.
type archiver struct {
	p    *place
	args []string
	// log is what all of them said: JSON lines and errors.
	log string
	// place changes the command before each start, when there is one.
	place func(*exec.Cmd)

	cmd     *exec.Cmd // nil while none runs
	done    chan error
	stopped bool // by SIGSTOP
	kills   int
}

func newArchiver(t *testing.T, p *place, args ...string) *archiver {
	t.Helper()
	a := &archiver{p: p, args: append([]string{"archive", "--cluster", cluster, "--output", "json"}, args...), log: p.in("archiver.log")}
	t.Cleanup(func() {
		a.kill(t)
		if log, err := os.ReadFile(a.log); t.Failed() && err == nil {
			var told []string
			for line := range strings.Lines(string(log)) {
				if !strings.Contains(line, `"stored"`) {
					told = append(told, line)
				}
			}
			t.Logf("the archivers said last:\n%s", strings.Join(told[max(0, len(told)-100):], ""))
		}
	})
	return a
}

func (a *archiver) running() bool { return a.cmd != nil }

// start runs one; it does nothing while one runs.
func (a *archiver) start(t testing.TB) {
	t.Helper()
	if a.running() {
		return
	}
	log, err := os.OpenFile(a.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	defer log.Close()
	cmd := exec.Command(a.p.Program, a.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = a.p.Environment(), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if a.place != nil {
		a.place(cmd)
	}
	started, done := make(chan error), make(chan error, 1)
	go func() {
		// The kernel ends it with the thread that made it, not with the process: so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	must(t, <-started)
	a.cmd, a.done, a.stopped = cmd, done, false
}

// signal reaches the process, which must be there still.
func (a *archiver) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	select {
	case err := <-a.done:
		a.done <- err
		t.Fatalf("the archiver ended by itself: %v", err)
	default:
	}
	must(t, a.cmd.Process.Signal(s))
}

// kill ends one as a crash does.
func (a *archiver) kill(t testing.TB) {
	t.Helper()
	if a.running() {
		_ = a.cmd.Process.Kill() // it may have ended by itself, which signal tells
		<-a.done
		a.cmd = nil
		a.kills++
	}
}

// end asks one to end, which it does in time and without an error.
func (a *archiver) end(t testing.TB) {
	t.Helper()
	if !a.running() {
		return
	}
	a.goOn(t)
	poll(t, "the archiver listens to signals", func() bool { return a.listens(t) })
	a.signal(t, syscall.SIGTERM)
	began := time.Now()
	select {
	case err := <-a.done:
		a.cmd = nil
		if err != nil {
			t.Errorf("it was asked to end: %v", err)
		}
		if took := time.Since(began); took > endTime {
			t.Errorf("it took %s to end", took)
		}
	case <-time.After(2 * endTime):
		a.kill(t)
		t.Fatalf("it did not end within %s", 2*endTime)
	}
}

// told counts the events of a kind.
func (a *archiver) told(t testing.TB, event string) int {
	t.Helper()
	return len(a.texts(t, event))
}

// texts gives what was told in events of a kind.
func (a *archiver) texts(t testing.TB, event string) (texts []string) {
	t.Helper()
	log, err := os.ReadFile(a.log)
	must(t, err)
	for line := range bytes.Lines(log) {
		var said struct{ Event, Text string }
		if json.Unmarshal(line, &said) == nil && said.Event == event { // a kill cuts a line, and errors are none
			texts = append(texts, said.Text)
		}
	}
	return texts
}

// reads gives the endpoint of the member that is read, "" before any is.
func (a *archiver) reads(t testing.TB) string {
	t.Helper()
	texts := a.texts(t, "watching")
	if len(texts) == 0 {
		return ""
	}
	endpoint, _, _ := strings.Cut(strings.TrimPrefix(texts[len(texts)-1], "reading "), ",")
	return endpoint
}

// stop lets one do nothing until goOn, or its end.
func (a *archiver) stop(t testing.TB) {
	t.Helper()
	a.signal(t, syscall.SIGSTOP)
	a.stopped = true
}

func (a *archiver) goOn(t testing.TB) {
	t.Helper()
	if a.running() && a.stopped {
		a.signal(t, syscall.SIGCONT)
		a.stopped = false
	}
}

// listens tells whether the process has come so far that it has its lock; some time before, it just dies of a signal.
func (a *archiver) listens(t testing.TB) bool {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", a.cmd.Process.Pid))
	must(t, err)
	return slices.ContainsFunc(files, func(f string) bool {
		to, err := os.Readlink(f)
		return err == nil && filepath.Base(to) == "lock"
	})
}
