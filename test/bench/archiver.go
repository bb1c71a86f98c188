package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// archiver is a running "holdfast archive" of a vault.
type archiver struct {
	cmd      *exec.Cmd
	problems bytes.Buffer
	memory   *memoryWatch
	reading  sync.WaitGroup

	mu    sync.Mutex
	lines []archived
	// changed is closed and replaced with every line; ended is set after the last one.
	changed chan struct{}
	ended   bool
}

// archived is a line that an archiver said.
type archived struct {
	// At is when the line was there.
	At          time.Time `json:"-"`
	Event       string    `json:"event"`
	Text        string    `json:"text"`
	First, Last int64
}

// archive starts an archiver of a unit's cluster.
func (v *vault) archive(ctx context.Context, d *deployed, more ...string) (*archiver, error) {
	args := append([]string{"archive", "--cluster", "bench", "--unit", d.application, "--output", "json"}, more...)
	a := &archiver{cmd: v.run(ctx, args...), changed: make(chan struct{})}
	a.cmd.Cancel = func() error { return a.cmd.Process.Signal(syscall.SIGTERM) }
	a.cmd.Stderr = &a.problems
	said, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	a.reading.Go(func() { a.read(said) })
	if a.memory, err = watchMemory(a.cmd.Process.Pid); err != nil {
		return nil, errors.Join(err, a.kill())
	}
	return a, nil
}

func (a *archiver) read(said io.Reader) {
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		line := archived{At: time.Now()}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			line.Event, line.Text = "trouble", err.Error()
		}
		a.note(func() { a.lines = append(a.lines, line) })
	}
	a.note(func() { a.ended = true })
}

func (a *archiver) note(what func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	what()
	close(a.changed)
	a.changed = make(chan struct{})
}

// await waits for a line, which may have come already. What makes an archive worse than it should be is an error.
func (a *archiver) await(ctx context.Context, wanted func(archived) bool) (archived, error) {
	const patience = 5 * time.Minute
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the archiver does not come to it"))
	defer cancel()
	for seen := 0; ; {
		a.mu.Lock()
		lines, changed, ended := a.lines[seen:], a.changed, a.ended
		a.mu.Unlock()
		for _, line := range lines {
			switch line.Event {
			case "trouble", "gap", "new-timeline", "hashes-differ":
				return line, fmt.Errorf("the archiver says: %s", line.Text)
			}
			if wanted(line) {
				return line, nil
			}
		}
		seen += len(lines)
		if ended {
			return archived{}, fmt.Errorf("the archiver has ended: %s", a.problems.String())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return archived{}, context.Cause(ctx)
		}
	}
}

// covering wants the snapshot that an archive begins with.
func covering(line archived) bool { return line.Event == "snapshot" }

// watching wants the watch to be open, and with it the line to go on or to begin.
func watching(line archived) bool { return line.Event == "watching" }

// storedTo wants everything up to a revision.
func storedTo(revision int64) func(archived) bool {
	return func(line archived) bool { return line.Event == "stored" && line.Last >= revision }
}

// stored gives the segments that were confirmed so far.
func (a *archiver) stored() (lines []archived) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, line := range a.lines {
		if line.Event == "stored" {
			lines = append(lines, line)
		}
	}
	return lines
}

// cpu is what it has spent so far, in seconds.
func (a *archiver) cpu() (float64, error) { return cpuTime(a.cmd.Process.Pid) }

// end lets it publish what it has and end. The figures get the memory that it had at most.
func (a *archiver) end(f figures) error {
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	a.reading.Wait()
	most, err := a.memory.wait(a.cmd)
	f["memory_bytes"], f["memory-anonymous_bytes"] = float64(most.rss), float64(most.anonymous)
	if err != nil {
		err = fmt.Errorf("archive: %w\n%s", err, a.problems.String())
	}
	return err
}

// kill ends what could not be begun.
func (a *archiver) kill() error {
	err := a.cmd.Process.Kill()
	a.reading.Wait()
	return errors.Join(err, a.cmd.Wait())
}
