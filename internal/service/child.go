// Package service runs the etcd server of a unit as a child process that outlives the agent: the agent starts it, and
// after a restart finds it running and adopts it.
//
// The server is started through a short-lived step of this same program (SpawnMain): it takes a lock on a file, records
// its process id, and then becomes the server, which keeps the lock until it is gone. So "the lock is held" means "it
// runs", whoever started it and whatever died since; two servers never run, and none runs unrecorded.
//
//	agent --Start--> spawn: session of its own, lock, pid file, log --execve--> server (same process, same lock)
//
// The program that is started must be the server itself or end in an exec of it. A signal is sent only to a process that
// was checked to be the recorded one, by process id and start time, through a pidfd that cannot come to mean another.
// A Child is safe for concurrent use; of Supervise one call runs at a time. Linux only (5.4 or newer).
//
// Not promised: that the server outlives the cgroup of the agent. Where systemd runs the agent, its unit needs
// KillMode=process.
package service

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrRunning means that the server runs already.
var ErrRunning = errors.New("already running")

// spawnPatience is how long a start goes on after its context has ended: far more than it takes on a disk that works.
const spawnPatience = 5 * time.Second

// Options are what a Child needs to know. Dir and Spawn are required.
type Options struct {
	// Dir is the folder for NAME.lock, NAME.pid and NAME.log. It exists, on a local file system.
	Dir string
	// Name is the first part of the file names and the word for the server in errors. Empty means "etcd".
	Name string
	// Spawn is the program, with its first arguments, that passes the arguments that follow to SpawnMain.
	Spawn []string
	// StopTimeout is how long the server has after SIGTERM before it is killed. Zero means 30 seconds: an etcd that
	// hands its leadership over and syncs takes a few.
	StopTimeout time.Duration
	// MinRestartDelay and MaxRestartDelay bound the growing wait before a server that died is started again. Zero means
	// one second and 30 seconds.
	MinRestartDelay time.Duration
	MaxRestartDelay time.Duration
}

// Command is the server to run.
type Command struct {
	// Path is the program; Args are its arguments without its own name.
	Path string
	Args []string
	// Env is the whole environment.
	Env []string
	// Dir is the working folder. Empty means the root folder, which keeps no file system busy.
	Dir string
}

// digest is short for all that a command says.
func (command Command) digest() string {
	text := fmt.Sprintf("%q %q %q %q", command.Path, command.Args, command.Env, command.Dir)
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Child is the one server of a unit.
type Child struct {
	lockFile, pidFile, logFile string

	options Options
	// turn is held by whoever starts or stops the server, so that one does not overtake the other.
	turn chan struct{}

	mu      sync.Mutex
	own     *exec.Cmd     // The server, while it is a child of this very process and was not waited for.
	held    bool          // Supervise keeps the server down.
	changed chan struct{} // Closed and replaced when held changes.
}

// New makes a Child. It starts nothing.
func New(o Options) (*Child, error) {
	o.Name = cmp.Or(o.Name, "etcd")
	o.StopTimeout = cmp.Or(o.StopTimeout, 30*time.Second)
	o.MinRestartDelay = cmp.Or(o.MinRestartDelay, time.Second)
	o.MaxRestartDelay = cmp.Or(o.MaxRestartDelay, 30*time.Second)
	if !filepath.IsAbs(o.Dir) || len(o.Spawn) == 0 || o.StopTimeout < 0 || o.MinRestartDelay < 0 || o.MaxRestartDelay < o.MinRestartDelay {
		return nil, fmt.Errorf("set up %s: want an absolute folder, a program and ordered times, got %+v", o.Name, o)
	}
	base := filepath.Join(o.Dir, o.Name)
	return &Child{
		lockFile: base + ".lock", pidFile: base + ".pid", logFile: base + ".log",
		options: o, turn: make(chan struct{}, 1), changed: make(chan struct{}),
	}, nil
}

// LogFile is where the server's output goes. At each start a log of more than 16 MiB is first set aside as NAME.log.1.
func (c *Child) LogFile() string { return c.logFile }

// Start starts the server and returns when the program runs; whether it serves is for the caller to find out. The error
// is ErrRunning when it runs already. A start that is under way when ctx ends is finished.
func (c *Child) Start(ctx context.Context, command Command) (Process, error) {
	if err := c.take(ctx); err != nil {
		return Process{}, err
	}
	defer c.give()
	return c.start(ctx, command)
}

func (c *Child) start(ctx context.Context, command Command) (_ Process, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s: %w", c.options.Name, err)
		}
	}()
	if ctx.Err() != nil {
		return Process{}, context.Cause(ctx)
	}
	c.reap()
	status, statusWriter, err := os.Pipe()
	if err != nil {
		return Process{}, err
	}
	defer status.Close()
	args := slices.Concat(c.options.Spawn[1:],
		[]string{"--lock", c.lockFile, "--pid-file", c.pidFile, "--log", c.logFile, "--digest", command.digest(), "--status-fd", "3"},
		[]string{"--", command.Path}, command.Args)
	cmd := exec.Command(c.options.Spawn[0], args...)
	cmd.Env = append([]string{}, command.Env...) // Not nil, which would mean all of ours.
	cmd.Dir = cmp.Or(command.Dir, "/")
	cmd.ExtraFiles = []*os.File{statusWriter}
	// A session of its own: no signal of our terminal or process group reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = errors.Join(cmd.Start(), statusWriter.Close())
	if err != nil {
		return Process{}, err
	}
	// The pipe ends when the spawn step has become the server or has given up; then it says why. Both take moments, unless
	// the disk hangs. The end of ctx does not cut them short: the server would run but not be recorded yet, and a Stop that
	// follows, as when a deploy is interrupted and what it made destroyed, would not see it.
	defer context.AfterFunc(ctx, func() { _ = status.SetReadDeadline(time.Now().Add(spawnPatience)) })()
	said, err := io.ReadAll(io.LimitReader(status, 64<<10))
	if err != nil && ctx.Err() != nil {
		c.setOwn(cmd) // It may still become the server; Running will tell.
		return Process{}, context.Cause(ctx)
	}
	if err == nil && len(said) == 0 {
		p, readErr := readPIDFile(c.pidFile)
		if readErr == nil && p.PID == cmd.Process.Pid {
			c.setOwn(cmd)
			return p, nil
		}
		err = errors.Join(errors.New("it ended before it could become the server"), readErr)
	}
	if err != nil {
		// Whatever it has become, it is no server that is recorded. It was not waited for, so its number is still its own.
		err = errors.Join(err, cmd.Process.Kill())
	}
	waitErr := cmd.Wait()
	switch text := strings.TrimSpace(string(said)); {
	case text == statusRunning:
		return Process{}, ErrRunning
	case text != "":
		return Process{}, errors.New(text)
	}
	return Process{}, errors.Join(err, waitErr)
}

// Running tells which process the server is, if it runs. It changes nothing. It waits up to five seconds for a start
// that is under way.
func (c *Child) Running(ctx context.Context) (Process, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		held, err := lockHeld(c.lockFile)
		if err != nil || !held {
			return Process{}, false, err
		}
		// The lock's holder recorded itself after it took the lock. A record of another process is of an earlier server.
		p, readErr := readPIDFile(c.pidFile)
		alive := false
		if readErr == nil {
			if alive, readErr = p.alive(); alive {
				return p, true, nil
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return Process{}, false, errors.Join(
				fmt.Errorf("find %s: %q is locked, but %q does not say by which process", c.options.Name, c.lockFile, c.pidFile), readErr)
		}
	}
}

// Stop ends the server and returns when it is gone: SIGTERM first, SIGKILL after StopTimeout. It is no error when nothing
// runs. Supervise would start it again; Hold keeps it down.
func (c *Child) Stop(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.give()
	return c.stop(ctx)
}

func (c *Child) stop(ctx context.Context) (err error) {
	p, running, err := c.Running(ctx)
	if err != nil || !running {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("stop %s, process %d: %w", c.options.Name, p.PID, err)
		}
	}()
	handle, err := p.open()
	if errors.Is(err, errGone) {
		return c.waitFree(ctx)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, handle.close()) }()
	if err := handle.signal(syscall.SIGTERM); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, c.options.StopTimeout)
	defer cancel()
	if err := handle.wait(patience); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := handle.signal(syscall.SIGKILL); err != nil {
			return err
		}
		if err := handle.wait(ctx); err != nil {
			return err
		}
	}
	return c.waitFree(ctx)
}

// waitFree waits until the lock is free: until the last file of the server is closed.
func (c *Child) waitFree(ctx context.Context) error {
	for {
		held, err := lockHeld(c.lockFile)
		if err != nil || !held {
			c.reap()
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%q is still locked: %w", c.lockFile, context.Cause(ctx))
		}
	}
}

// Wait returns when the process is gone, with how it ended where that can be known: a server that an earlier agent
// started tells only its parent. The error is the context's cause when that ends first.
func (c *Child) Wait(ctx context.Context, p Process) (how string, err error) {
	handle, err := p.open()
	if err == nil {
		err = errors.Join(handle.wait(ctx), handle.close())
	}
	if err != nil && !errors.Is(err, errGone) {
		return "", fmt.Errorf("wait for %s, process %d: %w", c.options.Name, p.PID, err)
	}
	// The first thread of a process can be gone while others are still on their way, and it tells how it ended after the last.
	for until := time.Now().Add(lastThreads); ; {
		if how = c.reap(); how != "" || !c.owns(p) || time.Now().After(until) {
			break
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	if how == "" {
		how = "for a reason that only its own log tells"
	}
	return how, nil
}

// lastThreads bounds the time from the end of a process's first thread to that of its last.
const lastThreads = 2 * time.Second

// owns tells whether a process is our own child that nobody has waited for.
func (c *Child) owns(p Process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own != nil && c.own.Process.Pid == p.PID
}

func (c *Child) setOwn(cmd *exec.Cmd) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = cmd
}

// reap takes note of the end of a server that is our own child and tells how it ended. It does not wait for a living one.
func (c *Child) reap() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == nil {
		return ""
	}
	if gone, err := exited(c.own.Process.Pid); err != nil || !gone {
		return ""
	}
	err := c.own.Wait() // Returns at once: it has ended.
	how := c.own.ProcessState.String()
	if err != nil && c.own.ProcessState == nil {
		how = err.Error()
	}
	c.own = nil
	return how
}

// LogTail gives up to n last lines of the server's log, for an error that says why it did not come up.
func (c *Child) LogTail(n int) (string, error) {
	f, err := os.Open(c.logFile)
	if err != nil {
		return "", fmt.Errorf("read log of %s: %w", c.options.Name, err)
	}
	defer f.Close()
	const window = 64 << 10 // Bytes; more than anyone wants to read in an error.
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		if _, err := f.Seek(max(0, end-window), io.SeekStart); err != nil {
			return "", fmt.Errorf("read log of %s: %w", c.options.Name, err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, window))
	if err != nil {
		return "", fmt.Errorf("read log of %s: %w", c.options.Name, err)
	}
	lines := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))), nil
}

// take waits for the turn to start or stop the server.
func (c *Child) take(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Child) give() { <-c.turn }
