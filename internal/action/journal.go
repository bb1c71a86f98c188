package action

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// Names in the journal's folder.
const (
	journalName = "journal.jsonl"
	tempName    = "journal.jsonl.tmp"
	lockName    = "journal.lock"
)

// errJournalBroken means that nobody knows what the file holds: no more is written to it. Opening the journal again
// finds out.
var errJournalBroken = errors.New("journal is unusable until it is opened again")

// file is what a journal needs of an open file. It is written at its end only.
type file interface {
	io.ReadWriteCloser
	Truncate(size int64) error
	Sync() error
}

// disk is where a journal meets the file system. Tests put failures and kills between its steps.
type disk struct {
	open   func(path string, flag int) (file, error)
	rename func(from, to string) error // durable on return
}

func realDisk() disk {
	return disk{
		open:   func(path string, flag int) (file, error) { return os.OpenFile(path, flag, 0o600) },
		rename: durable.Rename,
	}
}

// journal is the file that makes tasks survive. It is for one goroutine at a time. What it was given is on the disk
// when its methods return nil; the folder's lock is held from open to close.
type journal struct {
	disk    disk
	dir     string
	header  header
	file    file
	release func() error
	lines   int   // in the file, header included
	size    int64 // of the file, in bytes: where a failed append is cut off
	broken  error
}

// openJournal locks dir, which is created when missing, and reads its journal. What an append that was cut off left at
// the end is removed: it was never acknowledged. (Damage to the very last line cannot be told from that.) The tasks are
// in the order they were first added and belong to the caller.
func openJournal(d disk, dir string, u unit.Name, logger *slog.Logger) (_ *journal, tasks []Task, err error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	j := &journal{disk: d, dir: dir, header: newHeader(u)}
	if j.release, err = durable.TryLock(filepath.Join(dir, lockName)); errors.Is(err, durable.ErrLocked) {
		return nil, nil, fmt.Errorf("open journal in %q: %w", dir, ErrLocked)
	} else if err != nil {
		return nil, nil, fmt.Errorf("open journal in %q: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.close())
		}
	}()
	if err := os.Remove(j.path(tempName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("open journal: %w", err)
	}
	if j.file, err = d.open(j.path(journalName), os.O_RDWR|os.O_CREATE|os.O_APPEND); err != nil {
		return nil, nil, fmt.Errorf("open journal: %w", err)
	}
	c, err := readContent(j.file, j.header)
	var damage *DamageError
	if errors.As(err, &damage) {
		damage.Path = j.path(journalName)
	}
	if err != nil {
		return nil, nil, err
	}
	j.lines, j.size = c.lines, c.size
	if c.torn > 0 {
		logger.Warn("cut off the unfinished end of the journal",
			"file", j.path(journalName), "line", c.lines+1, "bytes", c.torn)
		if err := j.cut(); err != nil {
			return nil, nil, err
		}
	}
	if j.lines == 0 {
		if err := j.append(j.header); err != nil {
			return nil, nil, err
		}
	}
	// The name may be new, or from a process that died before it got here.
	if err := durable.SyncDir(dir); err != nil {
		return nil, nil, err
	}
	return j, c.tasks, nil
}

func (j *journal) path(name string) string { return filepath.Join(j.dir, name) }

// append adds one line, a task as it now is. After an error the line is not in the journal, unless the error is
// errJournalBroken: then it may come back when the journal is opened again.
func (j *journal) append(value any) error {
	if j.broken != nil {
		return j.broken
	}
	line, err := encodeLine(value)
	if err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	if _, err := j.file.Write(line); err != nil {
		// The disk may be full. Half a line must not stay in front of the next one.
		if cutErr := j.cut(); cutErr != nil {
			return j.fail(errors.Join(err, cutErr))
		}
		return fmt.Errorf("append to journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		// After a failed fsync nobody knows what is on the disk, and the next one may pass without having written it.
		return j.fail(errors.Join(err, j.cut()))
	}
	j.lines++
	j.size += int64(len(line))
	return nil
}

// cut takes the file back to its last good line.
func (j *journal) cut() error {
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("cut journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("cut journal: %w", err)
	}
	return nil
}

func (j *journal) fail(err error) error {
	j.broken = fmt.Errorf("%w: %w", errJournalBroken, err)
	return j.broken
}

// wasteful tells whether the file has many more lines than the tasks need. A task takes three or four lines in its
// life; slack keeps small journals from being rewritten all the time.
func (j *journal) wasteful(tasks, slack int) bool { return j.lines > 4*tasks+slack }

// compact replaces the file by one that has one line for each of the tasks. After an error the old file goes on, unless
// the error is errJournalBroken.
func (j *journal) compact(tasks []Task) error {
	if j.broken != nil {
		return j.broken
	}
	next := &journal{disk: j.disk, dir: j.dir, header: j.header, release: j.release}
	if err := next.writeTemp(tasks); err != nil {
		return fmt.Errorf("compact journal: %w", errors.Join(err, next.closeFile(), os.Remove(j.path(tempName))))
	}
	if err := j.disk.rename(j.path(tempName), j.path(journalName)); err != nil {
		// Either file may have the name now, so neither can be added to.
		return j.fail(fmt.Errorf("compact journal: %w", errors.Join(err, next.closeFile())))
	}
	old := *j
	*j = *next
	if err := old.closeFile(); err != nil {
		return fmt.Errorf("compact journal: close the old file: %w", err)
	}
	return nil
}

// writeTemp makes j the journal of the tasks under the temporary name, complete and synced.
func (j *journal) writeTemp(tasks []Task) (err error) {
	flags := os.O_RDWR | os.O_CREATE | os.O_TRUNC | os.O_APPEND
	if j.file, err = j.disk.open(j.path(tempName), flags); err != nil {
		return err
	}
	w := bufio.NewWriter(j.file)
	add := func(value any) error {
		line, err := encodeLine(value)
		if err != nil {
			return err
		}
		j.lines++
		j.size += int64(len(line))
		_, err = w.Write(line)
		return err
	}
	if err := add(j.header); err != nil {
		return err
	}
	for _, t := range tasks {
		if err := add(t); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return j.file.Sync()
}

func (j *journal) closeFile() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}

// close ends the journal and its lock. Nothing is written.
func (j *journal) close() error {
	j.broken = fmt.Errorf("%w: it was closed", errJournalBroken)
	return errors.Join(j.closeFile(), j.release())
}
