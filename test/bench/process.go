package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ticksPerSecond is the unit of times in /proc, the same on every Linux that Go runs on.
const ticksPerSecond = 100

// stat gives the fields of /proc/PID/stat from the third on, which is the state.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The second field is a name that can hold anything, in parentheses.
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])), nil
}

// cpuTime gives the processor time of a process without its children, in seconds.
func cpuTime(pid int) (float64, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	user, err := strconv.ParseFloat(fields[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticksPerSecond, err
}

// machineTime gives the processor time of everything on the machine since it started, in seconds.
func machineTime() (float64, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal ...
	var sum float64
	for i, text := range fields[1:] {
		ticks, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, err
		}
		if i < 7 && i != 3 && i != 4 {
			sum += ticks
		}
	}
	return sum / ticksPerSecond, nil
}

// memory is what a process, or several, have in memory, in bytes.
type memory struct {
	// rss is everything, with pages of files, such as the program itself, that others may share.
	rss int64
	// anonymous is what the process has made itself.
	anonymous int64
}

func memoryOf(pid int) (m memory, peak int64, err error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	for name, to := range map[string]*int64{"VmRSS": &m.rss, "RssAnon": &m.anonymous, "VmHWM": &peak} {
		text, err := field(path, name)
		if err != nil {
			return memory{}, 0, err
		}
		if *to, err = kilobytes(text); err != nil {
			return memory{}, 0, err
		}
	}
	return m, peak, nil
}

// gone tells whether an error means that a process has ended. A zombie has no memory to tell of.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || strings.Contains(err.Error(), "it has no")
}

const (
	// sampleStep is the pause between two looks at the memory.
	sampleStep = 10 * time.Millisecond
	// familyStep is the number of samples between two looks for new children.
	familyStep = 10
)

// memoryWatch follows a process and its descendants and keeps the most that they had at once. An etcd server that an
// agent supervises does not count: it is there without the agent as well.
type memoryWatch struct {
	root int
	stop chan struct{}
	done sync.WaitGroup
	most memory
	err  error
}

// watchMemory begins with the memory that the process has now: what it had before does not count.
func watchMemory(root int) (*memoryWatch, error) {
	// The kernel keeps the peak of a process exactly; this starts it anew. See proc_pid_clear_refs(5).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", root), []byte("5"), 0); err != nil {
		return nil, fmt.Errorf("begin to watch memory: %w", err)
	}
	w := &memoryWatch{root: root, stop: make(chan struct{})}
	w.done.Go(w.follow)
	return w, nil
}

func (w *memoryWatch) follow() {
	var family []int
	for i := 0; ; i++ {
		if i%familyStep == 0 {
			if family, w.err = descendants(w.root); w.err != nil {
				return
			}
		}
		var now memory
		for _, pid := range family {
			m, _, err := memoryOf(pid)
			if err != nil && !gone(err) {
				w.err = err
				return
			}
			now.rss += m.rss
			now.anonymous += m.anonymous
		}
		w.most = memory{rss: max(w.most.rss, now.rss), anonymous: max(w.most.anonymous, now.anonymous)}
		select {
		case <-w.stop:
			return
		case <-time.After(sampleStep):
		}
	}
}

// end stops the watch and gives the peak of the whole family, which is not below the kernel's for the process alone.
func (w *memoryWatch) end() (memory, error) {
	_, peak, err := memoryOf(w.root)
	if err != nil && gone(err) {
		err = nil
	}
	close(w.stop)
	w.done.Wait()
	w.most.rss = max(w.most.rss, peak)
	return w.most, errors.Join(err, w.err)
}

// descendants lists a process and those that come from it, without etcd servers.
func descendants(root int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fields, err := stat(pid)
		if err != nil || len(fields) < 2 {
			continue // it has ended
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	family := []int{root}
	for i := 0; i < len(family); i++ {
		for _, child := range children[family[i]] {
			if !isServer(child) {
				family = append(family, child)
			}
		}
	}
	return family, nil
}

// isServer tells whether a process is "holdfast etcd ...".
func isServer(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	words := strings.Split(string(line), "\x00")
	return err == nil && len(words) > 1 && words[1] == "etcd"
}

// wait waits for a command that is being watched. The error is the command's or the watch's.
func (w *memoryWatch) wait(cmd *exec.Cmd) (memory, error) {
	err := cmd.Wait()
	close(w.stop)
	w.done.Wait()
	// The kernel tells the peak of a child that has ended, or of the largest of its own children, in kilobytes.
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		w.most.rss = max(w.most.rss, usage.Maxrss<<10)
	}
	return w.most, errors.Join(err, w.err)
}

// withServer adds what the unit's etcd spends on something to the figures.
func (d *deployed) withServer(f figures, do func() error) error {
	etcd, err := d.process("etcd")
	if err != nil {
		return err
	}
	before, err := cpuTime(etcd)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	after, err := cpuTime(etcd)
	f["etcd-cpu_s"] = after - before
	return err
}
