package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// Process is one server process. The start time tells it from a later process with the same number.
type Process struct {
	PID int `json:"pid"`
	// StartTime is in clock ticks since the machine started, as in /proc/PID/stat.
	StartTime uint64 `json:"start-time"`
	// Digest is short for the command that was started.
	Digest string `json:"digest"`
}

// errGone means that a process has ended.
var errGone = errors.New("the process is gone")

// startTime reads when a process started. The error is fs.ErrNotExist when there is none.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, syscall.ESRCH) { // It ended between opening and reading.
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, err
	}
	// pid (name) state ppid ...: the name can hold anything, so count from its last parenthesis, which ends field 2.
	// Field 22 is the start time.
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time of process %d: got %q", pid, text)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fs.ErrNotExist // It has ended, and its parent did not take note yet; its files are closed.
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// alive tells whether the process number still means this process. One that has ended is not alive, also while its parent,
// which may be an init that never looks, has not taken note of that.
func (p Process) alive() (bool, error) {
	started, err := startTime(p.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && started == p.StartTime, err
}

func readPIDFile(path string) (Process, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Process{}, err
	}
	var p Process
	if err := json.Unmarshal(data, &p); err != nil {
		return Process{}, fmt.Errorf("read %q: %w", path, err)
	}
	if p.PID < 1 {
		return Process{}, fmt.Errorf("read %q: no process has number %d", path, p.PID)
	}
	return p, nil
}

func (p Process) writePIDFile(path string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(data, '\n'), 0o600)
}

// handle is a hold on one process: it never comes to mean another one.
type handle struct {
	file *os.File
	conn syscall.RawConn
}

// open gets hold of the process. The error is errGone when it has ended.
func (p Process) open() (_ *handle, err error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.EINVAL) { // Before Linux 5.10 the flag is set afterwards.
		if fd, err = unix.PidfdOpen(p.PID, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if errors.Is(err, unix.ESRCH) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	h := &handle{file: os.NewFile(uintptr(fd), "pidfd")}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	// Only now that the number cannot change its meaning any more is it checked to mean the right process.
	alive, err := p.alive()
	if err != nil {
		return nil, err
	}
	if !alive {
		return nil, errGone
	}
	h.conn, err = h.file.SyscallConn()
	return h, err
}

func (h *handle) close() error { return h.file.Close() }

// signal sends a signal. A process that has ended needs none, so that is no error.
func (h *handle) signal(s syscall.Signal) error {
	var err error
	if controlErr := h.conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), s, nil, 0) }); controlErr != nil {
		return controlErr
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s: %w", s, err)
	}
	return nil
}

// wait returns when the process has ended. The error is the context's cause when that ends first.
func (h *handle) wait(ctx context.Context) error {
	// The runtime's poller waits for the pidfd to become readable; an old deadline wakes it up.
	stop := context.AfterFunc(ctx, func() { _ = h.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var pollErr error
	err := h.conn.Read(func(fd uintptr) bool {
		var ready bool
		ready, pollErr = readable(int(fd))
		return ready || pollErr != nil
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), h.file.SetReadDeadline(time.Time{}))
	case err != nil:
		return fmt.Errorf("wait for process: %w", err)
	}
	return pollErr
}

// readable tells whether the process of a pidfd has ended.
func readable(pidfd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("wait for process: %w", err)
		}
		return n > 0, nil
	}
}

// exited tells whether a child of ours has ended. The child was not waited for, so its number is still its own.
func exited(pid int) (_ bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	return readable(fd)
}
