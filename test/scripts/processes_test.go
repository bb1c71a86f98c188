package scripts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// processesOf lists the living processes, other than this one and the reaper, that have a folder in their command line or
// as the beginning of their HOLDFAST_HOME.
func processesOf(folder string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that has just ended, or is somebody else's, has nothing to read.
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		environment, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if bytes.Contains(environment, []byte(reaperVariable)) || zombie(pid) {
			continue
		}
		if slices.ContainsFunc(bytes.Split(line, []byte{0}), func(word []byte) bool { return mentions(word, folder) }) ||
			bytes.Contains(environment, []byte("HOLDFAST_HOME="+folder+"/")) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// mentions tells whether a word names the folder or something in it.
func mentions(word []byte, folder string) bool {
	return bytes.Contains(word, []byte(folder+"/")) || bytes.HasSuffix(word, []byte(folder))
}

// zombie tells whether a process has ended but for its parent's notice. While other threads of it still end, its files are
// open, and its first thread is a zombie already.
func zombie(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	state := stat[bytes.LastIndexByte(stat, ')')+1:]
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return bytes.HasPrefix(state, []byte(" Z")) && len(threads) <= 1
}

// wake continues the processes of a folder that a script has frozen.
func wake(folder string) error {
	pids, err := processesOf(folder)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := signal(pid, syscall.SIGCONT); err != nil {
			return err
		}
	}
	return nil
}

// signal sends a signal to a process that may be gone.
func signal(pid int, which syscall.Signal) error {
	if err := syscall.Kill(pid, which); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", which, pid, err)
	}
	return nil
}

// killLeftovers kills the processes of a folder that do not end by themselves, and says which they were.
func killLeftovers(folder string) error {
	const grace = 2 * time.Second // a command that is on its way out
	var pids []int
	var err error
	for end := time.Now().Add(grace); ; time.Sleep(20 * time.Millisecond) {
		if pids, err = processesOf(folder); err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(end) {
			break
		}
	}
	failed := []error{fmt.Errorf("%d processes of %s were left running", len(pids), folder)}
	for _, pid := range pids {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		failed = append(failed, fmt.Errorf("process %d: %q", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '})), signal(pid, syscall.SIGKILL))
	}
	return errors.Join(failed...)
}

// startReaper starts a process that kills all that is left of the run, should the tests themselves be killed. The tests
// dismiss it at their end.
func startReaper() (dismiss func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	reaper := exec.Command(self)
	reaper.Env = append(os.Environ(), reaperVariable+"=1")
	reaper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no Ctrl-C for the tests reaches it
	life, err := reaper.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := reaper.Start(); err != nil {
		return nil, err
	}
	return func() error {
		_, err := io.WriteString(life, "done")
		return errors.Join(err, life.Close(), reaper.Wait())
	}, nil
}

// reap is the reaper. The end of its input without a word means that the tests died.
func reap(root string) int {
	said, _ := io.ReadAll(os.Stdin)
	if len(said) > 0 || root == "" {
		return 0
	}
	_ = wake(root)
	_ = killLeftovers(root)
	_ = os.RemoveAll(root)
	return 1
}

// process is a process as its pid file tells.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start-time"`
}

// process reads which process the agent or the etcd of a unit is.
func (s *script) process(unitName, which string) (p process, err error) {
	if which != "agent" && which != "etcd" {
		return p, fmt.Errorf("want agent or etcd, given %q", which)
	}
	name, err := unit.ParseName(unitName)
	if err != nil {
		return p, err
	}
	data, err := os.ReadFile(filepath.Join(s.home, "units", name.Dir(), "state", which+".pid"))
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(data, &p)
}

// running tells whether the process is there, by its number and its start time.
func (p process) running() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return false
	}
	// The name in parentheses may hold anything. The start time is field 22.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return fields[19] == strconv.FormatUint(p.Start, 10) && !zombie(p.PID)
}

// background is a command that a script has started and not waited for.
type background struct {
	command        *exec.Cmd
	stdout, stderr bytes.Buffer
	done           chan struct{}
}

func startBackground(command *exec.Cmd) (*background, error) {
	b := &background{command: command, done: make(chan struct{})}
	command.Stdout, command.Stderr = &b.stdout, &b.stderr
	if err := command.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = command.Wait() // how it ended is in its state
		close(b.done)
	}()
	return b, nil
}

// end makes sure that the command is gone.
func (b *background) end() {
	_ = b.command.Process.Kill()
	<-b.done
}
