// Package scratch runs an etcd on a data dir that nobody else uses, to look at what is in there, and runs other programs that
// must not outlive this one.
//
// It is above member, which talks to that etcd, and below those who look. An Etcd listens on sockets in a folder that only
// this user can enter, so it needs neither ports nor certificates; it has no environment of the caller's, and it ends with
// this process, however that dies. An Etcd is used from one goroutine; several may run at once. Linux only.
package scratch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/member"
)

const (
	// stopTime is how long an etcd may take to end after SIGTERM.
	stopTime = 10 * time.Second
	// lookPause is the pause between two looks for its socket.
	lookPause = 20 * time.Millisecond
)

// Listen are etcd's arguments for the sockets; the folder of the run is its working directory.
func Listen() []string {
	return []string{"--listen-client-urls=unix://client:0", "--listen-peer-urls=unix://peer:0", "--logger=zap", "--log-outputs=stderr"}
}

// Options of Start.
type Options struct {
	// Program is etcd, and Args its arguments without those of Listen.
	Program string
	Args    []string
	// Run is a folder for sockets and log, made when it is missing. The caller removes it.
	Run string
	// Timeout bounds the time until it listens.
	Timeout time.Duration
}

// Etcd is an etcd that runs.
type Etcd struct {
	cmd    *exec.Cmd
	ended  <-chan error
	log    string
	folder *os.File // gives the sockets a path that is short enough, whatever the folder's own is
}

// Start starts an etcd and returns when it listens; it serves somewhat later. The caller stops it.
func Start(ctx context.Context, o Options) (_ *Etcd, err error) {
	if err := durable.MkdirAll(o.Run, 0o700); err != nil {
		return nil, err
	}
	e := &Etcd{log: filepath.Join(o.Run, "etcd.log")}
	if e.folder, err = os.Open(o.Run); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start etcd in scratch: %w", err), e.folder.Close())
		}
	}()
	output, err := os.OpenFile(e.log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	e.cmd = exec.Command(o.Program, append(o.Args[:len(o.Args):len(o.Args)], Listen()...)...)
	e.cmd.Dir, e.cmd.Env, e.cmd.Stderr = o.Run, Environment(), output
	e.ended, err = StartChild(e.cmd)
	if err = errors.Join(err, output.Close()); err != nil {
		return nil, err
	}
	if err := e.awaitListening(ctx, o.Timeout); err != nil {
		return nil, errors.Join(err, e.kill())
	}
	return e, nil
}

// Socket is the path of the client socket; it is one of this process only.
func (e *Etcd) Socket() string { return fmt.Sprintf("/proc/self/fd/%d/client:0", e.folder.Fd()) }

// Dial connects to it. The caller closes the client.
func (e *Etcd) Dial() (*member.Client, error) { return member.Dial("unix://"+e.Socket(), nil) }

func (e *Etcd) awaitListening(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it did not listen within %s", timeout))
	defer cancel()
	for {
		connection, err := new(net.Dialer).DialContext(ctx, "unix", e.Socket())
		if err == nil {
			return connection.Close()
		}
		select {
		case how := <-e.ended:
			return fmt.Errorf("it ended: %w; it had said: %s", how, e.lastWords())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lookPause):
		}
	}
}

// Stop ends it and waits until it is gone. When it had ended by itself before, that is an error.
func (e *Etcd) Stop() error {
	select {
	case how := <-e.ended:
		return errors.Join(fmt.Errorf("etcd in scratch ended: %w; it had said: %s", how, e.lastWords()), e.folder.Close())
	default:
	}
	err := e.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-e.ended: // etcd ends by the signal it was given, which tells nothing.
		return errors.Join(err, e.folder.Close())
	case <-time.After(stopTime):
		return errors.Join(err, e.kill(), e.folder.Close())
	}
}

func (e *Etcd) kill() error {
	if err := e.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-e.ended
	return nil
}

// lastWords is the end of its log, for people.
func (e *Etcd) lastWords() string {
	text, err := os.ReadFile(e.log)
	if err != nil {
		return err.Error()
	}
	return LastLine(text)
}

// LastLine gives the last line of a program's output, cut to what a person reads.
func LastLine(output []byte) string {
	lines := bytes.Split(bytes.TrimSpace(output), []byte("\n"))
	const most = 500 // bytes
	line := lines[len(lines)-1]
	return strings.ToValidUTF8(string(line[:min(len(line), most)]), "?")
}

// Environment is the whole environment of scratch etcds and tools, with more added: variables that begin with ETCD are
// options to them.
func Environment(more ...string) []string {
	return append([]string{"PATH=/usr/local/bin:/usr/bin:/bin"}, more...)
}

// StartChild starts a program that the kernel kills when this one dies. The channel gives once how it ended, nil for exit
// code 0, and is closed then.
func StartChild(cmd *exec.Cmd) (<-chan error, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		defer close(ended)
		// The kernel ties the child to the thread that made it: so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}
