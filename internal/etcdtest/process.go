package etcdtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// stopTime is how long a server may take to end after SIGTERM. It takes well under a second on an idle machine.
const stopTime = 30 * time.Second

// process is one run of a server.
type process struct {
	pid int
	// done is closed when the process is gone; err is set before that.
	done chan struct{}
	err  error
}

// startProcess starts a program whose output is added to the file logPath. change, when there is one, may change the command.
func startProcess(path string, args, env []string, logPath string, change func(*exec.Cmd)) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if change != nil {
		change(cmd)
	}
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ends the child with the thread that made it, not with the process: so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %q: %w", path, err), log.Close())
	}
	return p, log.Close() // the child has its own
}

// running tells whether the process is still there.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the process to end and waits for it. One that does not is killed, and that is an error.
func (p *process) stop() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTime):
		return errors.Join(fmt.Errorf("stop process %d: still there after %s", p.pid, stopTime), p.kill())
	}
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() error {
	err := p.signal(syscall.SIGKILL)
	if err == nil {
		<-p.done
	}
	return err
}

// signal reaches the process or, when it is gone, nobody.
func (p *process) signal(s syscall.Signal) error {
	if !p.running() {
		return nil
	}
	if err := syscall.Kill(p.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}
