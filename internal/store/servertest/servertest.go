// Package servertest runs the servers of object storage that tests need, each as a child process on loopback. It is for tests
// and benches only, below the packages that know one kind of server each.
//
// A Process ends with the test, also when the test process dies. It is for one goroutine at a time. Linux only: addresses in
// 127.0.0.0/8 and the end of children with their parent rest on it.
//
// Not promised: that nobody takes a free address before the server does.
package servertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"
)

const (
	// startTime is how long a server may take to answer: a tenth of a second to two, on a loaded machine many.
	startTime = 60 * time.Second
	// mostLog bounds what is shown of a log, in bytes.
	mostLog = 4096
)

// Process is a server.
type Process struct {
	name, log string
	process   *os.Process
	ended     <-chan struct{} // nil before the first start
}

// New is a server that Start starts. name says in messages what it is, such as "S3 server", and log is the file of its output,
// whose end is part of that of a test that fails.
func New(t testing.TB, name, log string) *Process {
	p := &Process{name: name, log: log}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the %s ends with:\n%s", name, p.logTail())
		}
	})
	t.Cleanup(func() { p.Kill(t) })
	return p
}

// Start runs the server until the test ends, or Kill, and waits until answers gives no error. It may be called again after
// Kill.
func (p *Process) Start(t testing.TB, cmd *exec.Cmd, answers func(context.Context) error) {
	t.Helper()
	err := p.run(cmd)
	if err == nil {
		err = p.wait(t.Context(), answers)
	}
	if err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
}

// ID is the process id.
func (p *Process) ID() int { return p.process.Pid }

// Signal sends the server a signal.
func (p *Process) Signal(signal os.Signal) error { return p.process.Signal(signal) }

// Running tells whether it was started, and has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return p.ended != nil
	}
}

// Kill ends the server at once. One that has ended is no error.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if !p.Running() {
		return
	}
	if err := p.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill %s: %v", p.name, err)
	}
	<-p.ended
}

// run starts the process, and sets ended, which is closed when it has ended.
func (p *Process) run(cmd *exec.Cmd) error {
	log, err := os.OpenFile(p.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The kernel ends the child with the thread that made it, not with the process: so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed, and says so
		}
	}()
	if err := <-started; err != nil {
		return errors.Join(err, log.Close())
	}
	p.process, p.ended = cmd.Process, ended
	return log.Close() // the child has its own
}

func (p *Process) wait(ctx context.Context, answers func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended; its log:\n%s", p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %v; its log:\n%s", err, p.logTail())
		case <-tick.C:
		}
	}
}

func (p *Process) logTail() string {
	log, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-mostLog):])
}

// HTTP is for Start: the server answers anything at a URL.
func HTTP(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
}

// FreeAddress gives an address that nobody else takes: a port that is free on some address of 127.0.0.0/8, where other
// programs use 127.0.0.1.
func FreeAddress(t testing.TB) (host, port string) {
	t.Helper()
	host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	return host, port
}

// ModuleRoot is the folder with go.mod above the working directory.
func ModuleRoot() (string, error) {
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return root, nil
		}
		if root == filepath.Dir(root) {
			return "", errors.New("no go.mod above the working directory")
		}
	}
}

// Pinned gives the server that a go.mod below test/servers pins, which has the name of its module.
func Pinned(t testing.TB, module string) string {
	t.Helper()
	root, err := ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	name := path.Base(module)
	file := path.Join("test/servers", name, "go.mod")
	pin, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(regexp.QuoteMeta(module) + ` v(\S+)`).FindSubmatch(pin)
	if match == nil {
		t.Fatalf("%s requires no %s", file, name)
	}
	binary := filepath.Join(root, ".cache", "servers", name+"-"+string(match[1]), name)
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("the server %s for tests is missing: run \"make servers\" (%v)", name, err)
	}
	return binary
}
