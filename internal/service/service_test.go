package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary plays all parts: by its first argument it is the spawn step, a server, or an agent that starts one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "spawn":
			fmt.Fprintln(os.Stderr, SpawnMain(os.Args[2:], os.Environ()))
			os.Exit(1)
		case "server":
			fakeServer(os.Args[2], os.Args[3])
		case "agent":
			fakeAgent(os.Args[2], os.Args[3])
		}
	}
	os.Exit(m.Run())
}

// fakeServer notes its start and its end in a file. The mode is plain, stubborn (ignores SIGTERM) or dying.
func fakeServer(mode, notes string) {
	signals := make(chan os.Signal, 1)
	if mode == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(signals, syscall.SIGTERM)
	}
	note := func(text string) {
		f, err := os.OpenFile(notes, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			fmt.Println(err)
			os.Exit(9)
		}
		if _, err := f.WriteString(text + "\n"); err != nil {
			os.Exit(9)
		}
		f.Close()
	}
	fmt.Println("environment", os.Environ())
	note(fmt.Sprint("start ", os.Getpid()))
	if mode == "dying" {
		os.Exit(3)
	}
	select {
	case <-signals:
		note("term")
	case <-time.After(time.Hour): // Also keeps the runtime from seeing a deadlock.
	}
	os.Exit(0)
}

// fakeAgent starts a server, says which, and then waits to be killed.
func fakeAgent(dir, notes string) {
	c, err := New(Options{Dir: dir, Spawn: []string{os.Args[0], "spawn"}})
	if err == nil {
		var p Process
		if p, err = c.Start(context.Background(), serverCommand("plain", notes)); err == nil {
			fmt.Println(p.PID)
			<-time.After(time.Hour) // It is killed before.
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func serverCommand(mode, notes string) Command {
	// The race detector makes a program last a second longer, unless it is told not to.
	return Command{Path: os.Args[0], Args: []string{"server", mode, notes}, Env: []string{"GORACE=atexit_sleep_ms=0"}}
}

// fixture is a child in a folder of its own; what runs in it at the end of the test is stopped.
type fixture struct {
	*Child
	dir, notes string
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	dir := t.TempDir()
	f := fixture{Child: newChild(t, dir), dir: dir, notes: filepath.Join(dir, "notes")}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		last := newChild(t, dir)
		last.options.StopTimeout = 50 * time.Millisecond // The stubborn ones need to be killed.
		if err := last.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return f
}

func newChild(t *testing.T, dir string) *Child {
	t.Helper()
	c, err := New(Options{
		Dir: dir, Spawn: []string{os.Args[0], "spawn"}, StopTimeout: 5 * time.Second,
		MinRestartDelay: 10 * time.Millisecond, MaxRestartDelay: 40 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (f fixture) command(mode string) Command { return serverCommand(mode, f.notes) }

// noted waits until the server has noted a text.
func (f fixture) noted(t *testing.T, text string) {
	t.Helper()
	eventually(t, "note "+text, func() bool {
		data, _ := os.ReadFile(f.notes)
		return strings.Contains(string(data), text)
	})
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s in vain for: %s", what)
		}
	}
}

func (f fixture) start(t *testing.T, mode string) Process {
	t.Helper()
	p, err := f.Start(t.Context(), f.command(mode))
	if err != nil {
		t.Fatal(err)
	}
	f.noted(t, fmt.Sprint("start ", p.PID)) // From here on it handles signals as its mode says.
	return p
}

func checkRunning(t *testing.T, c *Child, want Process, wantRunning bool) {
	t.Helper()
	if p, running, err := c.Running(t.Context()); p != want || running != wantRunning || err != nil {
		t.Errorf("running is %+v, %v, %v; want %+v, %v", p, running, err, want, wantRunning)
	}
}

func isAlive(t *testing.T, p Process) bool {
	t.Helper()
	alive, err := p.alive()
	if err != nil {
		t.Fatal(err)
	}
	return alive
}

func TestStartAndStop(t *testing.T) {
	t.Setenv("ETCD_NAME", "from-outside")
	f := newFixture(t)
	checkRunning(t, f.Child, Process{}, false)
	p := f.start(t, "plain")
	checkRunning(t, f.Child, p, true)
	checkRunning(t, newChild(t, f.dir), p, true)
	if session, err := unix.Getsid(p.PID); session != p.PID || err != nil {
		t.Errorf("session is %d, %v; want its own, %d", session, err, p.PID)
	}
	if _, err := f.Start(t.Context(), f.command("plain")); !errors.Is(err, ErrRunning) {
		t.Errorf("second start: %v, want ErrRunning", err)
	}
	checkRunning(t, f.Child, p, true)
	if tail, err := f.LogTail(1); tail != "environment [GORACE=atexit_sleep_ms=0]" || err != nil {
		t.Errorf("log ends in %q, %v; want the environment that was asked for only", tail, err)
	}
	for _, file := range []string{f.lockFile, f.pidFile, f.logFile} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 600", file, info, err)
		}
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRunning(t, f.Child, Process{}, false)
	f.noted(t, "term")
	if isAlive(t, p) {
		t.Error("the stopped server is still a process")
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Errorf("stop of nothing: %v", err)
	}
	if again := f.start(t, "plain"); again == p {
		t.Error("the second server is the first one")
	}
}

func TestServerOutlivesItsAgentAndIsAdopted(t *testing.T) {
	f := newFixture(t)
	agent := exec.Command(os.Args[0], "agent", f.dir, f.notes)
	stdout, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanln(stdout, &pid); err != nil {
		t.Fatal(err)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait() // It was killed, so it says so.

	p, running, err := f.Running(t.Context())
	if p.PID != pid || !running || err != nil {
		t.Fatalf("after the agent was killed: %+v, %v, %v; want process %d", p, running, err, pid)
	}
	s := supervise(t, f, f.command("plain"))
	if e := s.next(t); e.Kind != Adopted || e.Process != p || e.Changed {
		t.Errorf("first event is %+v, want process %d adopted", e, pid)
	}
	s.stop(t)
	checkRunning(t, f.Child, p, true) // The end of the supervision is not the end of the server.

	s = supervise(t, f, f.command("stubborn"))
	if e := s.next(t); e.Kind != Adopted || !e.Changed {
		t.Errorf("event is %+v, want adopted with another command", e)
	}
	// The end of an adopted server is seen too.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := s.next(t); e.Kind != Exited || e.Process != p || e.Failures != 1 {
		t.Errorf("event is %+v, want process %d exited", e, pid)
	}
	if e := s.next(t); e.Kind != Started || e.Process.PID == pid {
		t.Errorf("event is %+v, want a new process", e)
	}
	s.stop(t)
}

func TestLockOfAnAgentIsNotItsServers(t *testing.T) {
	f := newFixture(t)
	agents, err := New(Options{Dir: f.dir, Name: "agent", Spawn: []string{os.Args[0], "spawn"}, StopTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	command := Command{Path: os.Args[0], Args: []string{"agent", f.dir, f.notes}}
	agent, err := agents.Start(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	f.noted(t, "start")
	if err := syscall.Kill(agent.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := agents.Wait(t.Context(), agent); err != nil {
		t.Error(err)
	}
	checkRunning(t, agents, Process{}, false)
	if _, running, err := f.Running(t.Context()); !running || err != nil {
		t.Errorf("server runs: %v, %v; want it to outlive its agent", running, err)
	}
}

func TestStubbornServer(t *testing.T) {
	f := newFixture(t)
	p := f.start(t, "stubborn")
	// Who has less time than the server is given stops waiting; the server is not killed for that.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("in a hurry"))
	defer cancel()
	if err := f.Stop(ctx); err == nil || !strings.Contains(err.Error(), "in a hurry") {
		t.Errorf("stop: %v, want the cause of the context", err)
	}
	checkRunning(t, f.Child, p, true)
	f.options.StopTimeout = 50 * time.Millisecond
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	checkRunning(t, f.Child, Process{}, false)
	if isAlive(t, p) {
		t.Error("the killed server is still a process")
	}
	if how, err := f.Wait(t.Context(), p); err != nil || how == "" {
		t.Errorf("wait for a process that is gone: %q, %v", how, err)
	}
}

// TestInterruptedStartIsRecorded ends the context between the start of the spawn step and its lock: who stops the server
// right afterwards must find it.
func TestInterruptedStartIsRecorded(t *testing.T) {
	f := newFixture(t)
	gate := filepath.Join(f.dir, "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	f.options.Spawn = []string{"/bin/sh", "-c", `read -r go <"$0"; exec "$@"`, gate, os.Args[0], "spawn"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started := make(chan error, 1)
	go func() {
		_, err := f.Start(ctx, f.command("plain"))
		started <- err
	}()
	open, err := os.OpenFile(gate, os.O_WRONLY, 0) // Returns when the spawn step waits.
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := open.WriteString("go\n"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(open.Close(), <-started); err != nil {
		t.Errorf("start: %v", err)
	}
	if _, running, err := f.Running(t.Context()); !running || err != nil {
		t.Errorf("server runs: %v, %v; want it to be recorded", running, err)
	}
	// One that has not begun does not begin.
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := f.Start(ctx, f.command("plain")); !errors.Is(err, context.Canceled) {
		t.Errorf("start without time: %v", err)
	}
	checkRunning(t, f.Child, Process{}, false)
}

func TestManyStartersOneServer(t *testing.T) {
	f := newFixture(t)
	const starters = 5
	var group sync.WaitGroup
	results := make(chan error, starters)
	for range starters {
		c := newChild(t, f.dir) // As in another agent.
		group.Go(func() {
			_, err := c.Start(t.Context(), f.command("plain"))
			results <- err
		})
	}
	group.Wait()
	close(results)
	started := 0
	for err := range results {
		switch {
		case err == nil:
			started++
		case !errors.Is(err, ErrRunning):
			t.Errorf("start: %v, want ErrRunning", err)
		}
	}
	if started != 1 {
		t.Errorf("%d servers were started, want 1", started)
	}
	p, running, err := f.Running(t.Context())
	if !running || err != nil {
		t.Fatalf("running is %v, %v", running, err)
	}
	f.noted(t, fmt.Sprint("start ", p.PID))
	data, err := os.ReadFile(f.notes)
	if n := strings.Count(string(data), "start"); n != 1 || err != nil {
		t.Errorf("%d servers have run, %v; want 1", n, err)
	}
}

func TestPIDFileThatMeansSomeoneElse(t *testing.T) {
	f := newFixture(t)
	bystander := exec.Command("sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	started, err := startTime(bystander.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	unharmed := func(what string) {
		t.Helper()
		if gone, err := exited(bystander.Process.Pid); gone || err != nil {
			t.Fatalf("%s: the bystander is gone (%v)", what, err)
		}
	}

	// The server is gone (its lock is free), and its number now means another process, or even the same text is true.
	for _, old := range []Process{
		{PID: bystander.Process.Pid, StartTime: started - 1},
		{PID: bystander.Process.Pid, StartTime: started},
		{PID: 1 << 30, StartTime: 1},
	} {
		if err := old.writePIDFile(f.pidFile); err != nil {
			t.Fatal(err)
		}
		checkRunning(t, f.Child, Process{}, false)
		if err := f.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		unharmed("stop")
	}

	// Someone holds the lock, but it is not the process in the file: nobody is signalled.
	other := Process{PID: bystander.Process.Pid, StartTime: started - 1}
	if err := other.writePIDFile(f.pidFile); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(f.lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, lockRange()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := f.Stop(ctx); err == nil || !strings.Contains(err.Error(), f.lockFile) {
		t.Errorf("stop: %v, want an error that names the lock", err)
	}
	unharmed("stop with a strange lock")
	if _, err := other.open(); !errors.Is(err, errGone) {
		t.Errorf("open of a number that is used again: %v, want errGone", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}

	// None of it keeps the next server from starting.
	f.start(t, "plain")
	unharmed("start")
}

func TestStartThatFails(t *testing.T) {
	f := newFixture(t)
	missing := filepath.Join(f.dir, "missing")
	if _, err := f.Start(t.Context(), Command{Path: missing}); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing program: %v, want an error that names it", err)
	}
	if err := os.WriteFile(missing, []byte("\x7fELF but not really"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Start(t.Context(), Command{Path: missing}); err == nil || !strings.Contains(err.Error(), "exec format error") {
		t.Errorf("broken program: %v", err)
	}
	checkRunning(t, f.Child, Process{}, false)
	// A spawn step that is killed before it says anything does not pass for a server.
	f.options.Spawn = []string{"/bin/true"}
	if p, err := f.Start(t.Context(), f.command("plain")); err == nil {
		t.Errorf("nothing was started as %+v", p)
	}
	// Nor does one that goes on running without a record; it is not left behind.
	f.options.Spawn = []string{"/bin/sh", "-c", "exec 3>&-; exec sleep 1000"}
	if p, err := f.Start(t.Context(), f.command("plain")); err == nil {
		t.Errorf("something was started as %+v", p)
	}
	checkRunning(t, f.Child, Process{}, false)
	if err := SpawnMain([]string{"--lock", "x"}, nil); err == nil {
		t.Error("half a command line was taken")
	}
	if _, err := New(Options{Dir: "relative", Spawn: []string{"x"}}); err == nil {
		t.Error("a relative folder was taken")
	}
}

func TestLargeLogIsSetAside(t *testing.T) {
	f := newFixture(t)
	if err := os.WriteFile(f.LogFile(), []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start(t, "plain")
	if tail, err := f.LogTail(5); !strings.HasPrefix(tail, "old\nenvironment") || err != nil {
		t.Errorf("log is %q, %v; want the old one with more behind it", tail, err)
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f.LogFile(), maxLogBytes+1); err != nil {
		t.Fatal(err)
	}
	f.start(t, "plain")
	if tail, err := f.LogTail(5); !strings.HasPrefix(tail, "environment") || err != nil {
		t.Errorf("log is %q, %v; want a new one", tail, err)
	}
	if info, err := os.Stat(f.LogFile() + ".1"); err != nil || info.Size() != maxLogBytes+1 {
		t.Errorf("log set aside: %v, %v", info, err)
	}
}
