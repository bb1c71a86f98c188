package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// durableCalls are the system calls by which a program makes something last or puts it in its place. Go's os package and
// bbolt use no other ones.
func durableCalls() map[uint64]string {
	return map[uint64]string{
		unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_SYNC_FILE_RANGE: "sync_file_range",
		unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_LINKAT: "linkat",
		unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat",
	}
}

// call is one durable call.
type call struct {
	name string
	// what are the paths it is about, as far as they can be told.
	what string
}

func (c call) String() string { return c.name + " " + c.what }

// tracer runs a program and kills it right before one of its durable calls, whichever of its threads makes it. strace
// could only count the calls of each thread by itself, and Go moves its work between threads. The programs that it starts
// are left alone.
type tracer struct {
	// pid is set when trace returns.
	pid int
	// done is closed when the program is gone; what follows is set before that.
	done   chan struct{}
	status syscall.WaitStatus
	err    error

	mu    sync.Mutex
	calls []call // guarded by mu
	fatal bool   // guarded by mu: the last of the calls was not made
}

// trace starts a program with its output in a file. kill is asked before each call, with its number from 1, and is not
// asked again when it has said yes.
func trace(t *testing.T, kill func(n int, c call) bool, log string, env []string, argv ...string) *tracer {
	t.Helper()
	p := &tracer{done: make(chan struct{})}
	started := make(chan struct{})
	go func() {
		// The kernel lets only the thread that started the program trace it. It ends with this goroutine.
		runtime.LockOSThread()
		defer close(p.done)
		err := p.start(log, env, argv)
		if err != nil {
			p.err = err
		}
		close(started)
		if err == nil {
			p.err = p.follow(kill)
		}
	}()
	<-started
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	if p.pid == 0 {
		t.Fatal(p.err)
	}
	return p
}

func (p *tracer) start(log string, env, argv []string) error {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env: env, Files: []uintptr{null.Fd(), out.Fd(), out.Fd()}, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("start %q: %w", argv, err)
	}
	var status syscall.WaitStatus
	if err := wait(pid, &status, nil); err != nil {
		return err
	}
	if !status.Stopped() {
		return fmt.Errorf("start %q: it ended with status %#x", argv, status)
	}
	// Its threads are traced as it is. The processes it starts are not: they are vforks, not clones.
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		return fmt.Errorf("trace process %d: %w", pid, err)
	}
	p.pid = pid
	return nil
}

// follow sees the program to its end.
func (p *tracer) follow(kill func(n int, c call) bool) error {
	known := map[int]bool{p.pid: true}
	for id, signal := p.pid, 0; ; {
		// A thread that was killed meanwhile cannot go on, and says so to wait.
		if err := unix.PtraceSyscall(id, signal); err != nil && err != unix.ESRCH {
			return fmt.Errorf("let thread %d go on: %w", id, err)
		}
		var status syscall.WaitStatus
		for {
			// This thread may have started other programs of the test before, so that it waits for one group alone.
			if err := wait(-p.pid, &status, &id); err != nil {
				return err
			}
			if status.Stopped() {
				break
			}
			if id == p.pid {
				p.status = status
				return nil
			}
		}
		signal = 0
		switch stop := status.StopSignal(); {
		case stop == syscall.SIGTRAP|0x80:
			if c, found := durable(p.pid, id); found && p.note(c, kill) {
				if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
					return err
				}
			}
		case stop == syscall.SIGTRAP && status.TrapCause() > 0: // A thread was made.
		case stop == syscall.SIGSTOP && !known[id]: // The first that is heard of a thread.
			known[id] = true
		default:
			signal = int(stop)
		}
	}
}

// note takes note of a call and tells whether to kill the program before it. Those that other threads were about to make
// at that moment are not made either.
func (p *tracer) note(c call, kill func(n int, c call) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fatal {
		return false
	}
	p.calls = append(p.calls, c)
	p.fatal = kill(len(p.calls), c)
	return p.fatal
}

// list gives the calls so far.
func (p *tracer) list() []call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// killed tells whether the program, which is gone, ended by a kill.
func (p *tracer) killed() bool { return p.status.Signaled() && p.status.Signal() == syscall.SIGKILL }

// gone tells whether the program is.
func (p *tracer) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// end sends the program a signal and waits for its end.
func (p *tracer) end(s syscall.Signal) {
	if p.pid == 0 || p.gone() {
		return
	}
	_ = syscall.Kill(p.pid, s) // It may have ended just now.
	<-p.done
}

// wait waits for a child of this thread, or for what else it traces: a process, or one of a group when it is negative.
func wait(pid int, status *syscall.WaitStatus, got *int) error {
	for {
		id, err := syscall.Wait4(pid, status, unix.WALL|unix.WNOTHREAD, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
		if got != nil {
			*got = id
		}
		return nil
	}
}

// syscallInfo is struct ptrace_syscall_info of linux/ptrace.h, as far as it is about the entry to a call.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	_    uint32 // architecture
	_, _ uint64 // instruction and stack pointer
	nr   uint64
	args [6]uint64
	_    [16]uint8 // what other stops have beyond that
}

const entry = 1 // PTRACE_SYSCALL_INFO_ENTRY

// durable tells whether the stopped thread is about to make a durable call, and which.
func durable(pid, thread int) (call, bool) {
	var info syscallInfo
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != entry {
		return call{}, false
	}
	name, found := durableCalls()[info.nr]
	if !found {
		return call{}, false
	}
	what := []string{path(pid, info.args[0], info.args[1])}
	switch name {
	case "fsync", "fdatasync", "sync_file_range":
		what[0] = file(pid, info.args[0])
	case "renameat", "renameat2", "linkat":
		what = append(what, path(pid, info.args[2], info.args[3]))
	}
	return call{name: name, what: strings.Join(what, " ")}, true
}

// file gives the path of an open file.
func file(pid int, fd uint64) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(fd)))
	if err != nil {
		return err.Error()
	}
	return name
}

// path gives the path that a call names relative to an open folder.
func path(pid int, fd, address uint64) string {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err.Error()
	}
	defer memory.Close()
	buffer := make([]byte, unix.PathMax)
	n, _ := memory.ReadAt(buffer, int64(address)) // What can be read ends at the end of a page.
	name := string(buffer[:n])
	name, _, _ = strings.Cut(name, "\x00")
	if filepath.IsAbs(name) || int32(fd) == unix.AT_FDCWD {
		return name
	}
	return filepath.Join(file(pid, fd), name)
}
