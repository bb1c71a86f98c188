package action

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/unit"
)

var (
	etcd0  = unit.Name{Application: "etcd"}
	silent = slog.New(slog.DiscardHandler)
)

// testDisk is the real disk with a hook in front of every step that matters for what survives.
type testDisk struct {
	mu    sync.Mutex
	steps []string
	// before can be nil. An error is the result of the step; of a write, half the data is written first.
	before func(step string, f *os.File, data []byte) error
}

func (d *testDisk) step(step string, f *os.File, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps = append(d.steps, step)
	if d.before == nil {
		return nil
	}
	return d.before(step, f, data)
}

// set changes the hook while a runner is at work.
func (d *testDisk) set(before func(step string, f *os.File, data []byte) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = before
}

func (d *testDisk) disk() disk {
	return disk{
		open: func(path string, flag int) (file, error) {
			if err := d.step("open "+filepath.Base(path), nil, nil); err != nil {
				return nil, err
			}
			f, err := os.OpenFile(path, flag, 0o600)
			return &testFile{File: f, disk: d, name: filepath.Base(path)}, err
		},
		rename: func(from, to string) error {
			if err := d.step("rename", nil, nil); err != nil {
				return err
			}
			if err := os.Rename(from, to); err != nil {
				return err
			}
			if err := d.step("sync folder", nil, nil); err != nil {
				return err
			}
			return durable.SyncDir(filepath.Dir(to))
		},
	}
}

type testFile struct {
	*os.File
	disk *testDisk
	name string
}

func (f *testFile) Write(data []byte) (int, error) {
	if err := f.disk.step("write "+f.name, f.File, data); err != nil {
		n, _ := f.File.Write(data[:len(data)/2])
		return n, err
	}
	return f.File.Write(data)
}

func (f *testFile) Sync() error {
	if err := f.disk.step("sync "+f.name, f.File, nil); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *testFile) Truncate(size int64) error {
	if err := f.disk.step("truncate "+f.name, f.File, nil); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func testTask(id string, status Status) Task {
	return Task{ID: id, Unit: etcd0, Action: "work", Params: Params{"n": int64(1)}, Status: status,
		Enqueued: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)}
}

func mustOpen(t *testing.T, d *testDisk, dir string) (*journal, []Task) {
	t.Helper()
	j, tasks, err := openJournal(d.disk(), dir, etcd0, silent)
	if err != nil {
		t.Fatal(err)
	}
	return j, tasks
}

func closeJournal(t *testing.T, j *journal) {
	t.Helper()
	if err := j.close(); err != nil {
		t.Error(err)
	}
}

func appendAll(t *testing.T, j *journal, tasks ...Task) {
	t.Helper()
	for _, task := range tasks {
		if err := j.append(task); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJournalRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	d := &testDisk{}
	j, tasks := mustOpen(t, d, dir)
	if len(tasks) != 0 {
		t.Errorf("a new journal has %d tasks", len(tasks))
	}
	appendAll(t, j, testTask("1", Pending), testTask("2", Pending), testTask("1", Running), testTask("1", Completed))
	closeJournal(t, j)
	want := []string{"open journal.jsonl", "write journal.jsonl", "sync journal.jsonl"}
	for range 4 {
		want = append(want, "write journal.jsonl", "sync journal.jsonl")
	}
	if diff := cmp.Diff(want, d.steps); diff != "" {
		t.Error(diff)
	}

	d = &testDisk{}
	j, tasks = mustOpen(t, d, dir)
	defer closeJournal(t, j)
	if diff := cmp.Diff([]Task{testTask("1", Completed), testTask("2", Pending)}, tasks); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"open journal.jsonl"}, d.steps); diff != "" {
		t.Errorf("opening a whole journal writes to it: %s", diff)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, j.path(journalName): 0o600, j.path(lockName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %o", path, info.Mode(), err, want)
		}
	}
}

// The format is on people's disks: this text must stay readable.
func TestJournalVector(t *testing.T) {
	dir := t.TempDir()
	text := `612e598c {"format":"holdfast task journal","version":1,"unit":"etcd/0"}
f18c7f40 {"id":"1","unit":"etcd/0","action":"work","params":{"n":1},"status":"pending","enqueued":"2026-01-02T03:04:05.006Z"}
`
	j, _ := mustOpen(t, &testDisk{}, dir)
	appendAll(t, j, testTask("1", Pending))
	closeJournal(t, j)
	got, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil || string(got) != text {
		t.Errorf("%v\n%s\nwant\n%s", err, got, text)
	}
}

// sample gives a journal's bytes, the offsets at which its lines end, and the tasks after each line.
func sample(t *testing.T) (text []byte, ends []int, states [][]Task) {
	t.Helper()
	var tasks []Task
	add := func(value any) {
		line, err := encodeLine(value)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, line...)
		ends = append(ends, len(text))
		states = append(states, slices.Clone(tasks))
	}
	add(newHeader(etcd0))
	for _, task := range []Task{testTask("1", Pending), testTask("2", Pending), testTask("1", Running), testTask("1", Failed)} {
		i := slices.IndexFunc(tasks, func(t Task) bool { return t.ID == task.ID })
		if i < 0 {
			tasks = append(tasks, task)
		} else {
			tasks[i] = task
		}
		add(task)
	}
	return text, ends, states
}

// whole gives the tasks and the length of the good lines in the first n bytes of the sample.
func whole(n int, ends []int, states [][]Task) (tasks []Task, size int) {
	for i, end := range ends {
		if end <= n {
			tasks, size = states[i], end
		}
	}
	return tasks, size
}

func TestJournalCutAtEveryByte(t *testing.T) {
	text, ends, states := sample(t)
	for n := range len(text) + 1 {
		want, size := whole(n, ends, states)
		c, err := readContent(bytes.NewReader(text[:n]), newHeader(etcd0))
		if err != nil || c.size != int64(size) || c.torn != int64(n-size) {
			t.Fatalf("cut at %d: %+v, %v", n, c, err)
		}
		if diff := cmp.Diff(want, c.tasks); diff != "" {
			t.Fatalf("cut at %d: %s", n, diff)
		}
	}
	// The same with files, around the ends of lines and within one: the journal must go on afterwards.
	var cuts []int
	for _, end := range append([]int{0}, ends...) {
		cuts = append(cuts, end-1, end, end+1, end+8, end+30)
	}
	for _, n := range cuts {
		if n < 0 || n > len(text) {
			continue
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, journalName), text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want, _ := whole(n, ends, states)
		j, got := mustOpen(t, &testDisk{}, dir)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("cut at %d: %s", n, diff)
		}
		appendAll(t, j, testTask("new", Pending))
		closeJournal(t, j)
		j, got = mustOpen(t, &testDisk{}, dir)
		if diff := cmp.Diff(append(slices.Clone(want), testTask("new", Pending)), got); diff != "" {
			t.Errorf("cut at %d, after another task: %s", n, diff)
		}
		closeJournal(t, j)
	}
}

func TestJournalFlipEveryBit(t *testing.T) {
	text, ends, states := sample(t)
	last := len(ends) - 1
	line := 0
	for i := range text {
		if i >= ends[line] {
			line++
		}
		for bit := range 8 {
			damaged := slices.Clone(text)
			damaged[i] ^= 1 << bit
			c, err := readContent(bytes.NewReader(damaged), newHeader(etcd0))
			var damage *DamageError
			switch {
			case errors.As(err, &damage):
				if damage.Line != line+1 {
					t.Fatalf("bit %d of byte %d, line %d: %v", bit, i, line+1, err)
				}
			case err != nil:
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			case line < last:
				t.Fatalf("bit %d of byte %d in line %d of %d went unnoticed", bit, i, line+1, last+1)
			default:
				if diff := cmp.Diff(states[last-1], c.tasks); diff != "" || c.torn == 0 {
					t.Fatalf("bit %d of byte %d in the last line: %s", bit, i, diff)
				}
			}
		}
	}
}

func TestJournalRefuses(t *testing.T) {
	text, ends, _ := sample(t)
	line := func(value any) string {
		encoded, err := encodeLine(value)
		if err != nil {
			t.Fatal(err)
		}
		return string(encoded)
	}
	head := line(newHeader(etcd0))
	tests := []struct {
		name, text, err string
	}{
		{"bad line in the middle", head + "12345678 {}\n" + line(testTask("1", Pending)), "line 2: checksum mismatch"},
		{"empty line in the middle", head + "\n" + line(testTask("1", Pending)), "line 2: checksum mismatch"},
		{"bad header before tasks", strings.Replace(string(text), "version", "vorsion", 1), "line 1: checksum mismatch"},
		{"line missing at the start", string(text[ends[0]:]), `line 1: format is "", want "holdfast task journal"`},
		{"newer version", line(header{"holdfast task journal", 2, etcd0}), "line 1: version is 2, this program reads 1"},
		{"other unit", line(newHeader(unit.Name{Application: "etcd", Number: 1})),
			`line 1: journal is of unit "etcd/1", want "etcd/0"`},
		{"not a task", head + line(map[string]int{"x": 1}), "line 2: task without id or status"},
		{"unknown status", head + line(map[string]string{"id": "1", "status": "done"}), `line 2: parse task status "done"`},
		{"endless line", head + strings.Repeat("x", maxLine+2), "line 2: over the limit of 1048576 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, journalName)
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // A refusal lets go of the lock.
				_, err := OpenRunner(Options{Dir: dir, Unit: etcd0})
				var damage *DamageError
				if !errors.As(err, &damage) || damage.Path != path ||
					!strings.HasPrefix(err.Error(), fmt.Sprintf("read journal %q: %s", path, test.err)) {
					t.Errorf("got %v, want %s", err, test.err)
				}
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != test.text {
				t.Errorf("the file was changed, or %v", err)
			}
		})
	}
}

func TestJournalLock(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustOpen(t, &testDisk{}, dir)
	if _, err := OpenRunner(Options{Dir: dir, Unit: etcd0}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v, want ErrLocked", err)
	}
	closeJournal(t, j)
	if err := j.append(testTask("1", Pending)); !errors.Is(err, errJournalBroken) {
		t.Errorf("append after close: %v", err)
	}
	j, tasks := mustOpen(t, &testDisk{}, dir)
	if len(tasks) != 0 {
		t.Errorf("tasks %v", tasks)
	}
	closeJournal(t, j)
}

func TestJournalFullDisk(t *testing.T) {
	dir := t.TempDir()
	d := &testDisk{}
	j, _ := mustOpen(t, d, dir)
	appendAll(t, j, testTask("1", Pending))
	d.set(func(step string, _ *os.File, _ []byte) error {
		if strings.HasPrefix(step, "write") {
			return syscall.ENOSPC
		}
		return nil
	})
	for range 2 {
		if err := j.append(testTask("2", Pending)); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, errJournalBroken) {
			t.Errorf("append to a full disk: %v", err)
		}
	}
	d.set(nil)
	appendAll(t, j, testTask("3", Pending))
	closeJournal(t, j)
	j, tasks := mustOpen(t, d, dir)
	defer closeJournal(t, j)
	if diff := cmp.Diff([]Task{testTask("1", Pending), testTask("3", Pending)}, tasks); diff != "" {
		t.Error(diff)
	}
}

func TestJournalBroken(t *testing.T) {
	fail := func(steps ...string) func(string, *os.File, []byte) error {
		return func(step string, _ *os.File, _ []byte) error {
			if slices.Contains(steps, step) {
				return syscall.EIO
			}
			return nil
		}
	}
	for _, steps := range [][]string{
		{"sync journal.jsonl"},
		{"write journal.jsonl", "truncate journal.jsonl"},
		{"write journal.jsonl", "sync journal.jsonl"},
	} {
		t.Run(strings.Join(steps, ", "), func(t *testing.T) {
			dir := t.TempDir()
			d := &testDisk{}
			j, _ := mustOpen(t, d, dir)
			appendAll(t, j, testTask("1", Pending))
			d.set(fail(steps...))
			if err := j.append(testTask("2", Pending)); !errors.Is(err, errJournalBroken) || !errors.Is(err, syscall.EIO) {
				t.Errorf("append: %v", err)
			}
			d.set(nil)
			if err := j.append(testTask("3", Pending)); !errors.Is(err, errJournalBroken) {
				t.Errorf("append after that: %v", err)
			}
			if err := j.compact(nil); !errors.Is(err, errJournalBroken) {
				t.Errorf("compact after that: %v", err)
			}
			closeJournal(t, j)
			j, tasks := mustOpen(t, d, dir)
			defer closeJournal(t, j)
			if diff := cmp.Diff([]Task{testTask("1", Pending)}, tasks); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJournalCompact(t *testing.T) {
	dir := t.TempDir()
	d := &testDisk{}
	j, _ := mustOpen(t, d, dir)
	for i := range 30 {
		appendAll(t, j, testTask(fmt.Sprint(i%3), Running))
	}
	if j.wasteful(3, 19) || !j.wasteful(3, 18) {
		t.Errorf("%d lines for 3 tasks: 19 are within the slack, 18 are not", j.lines)
	}
	kept := []Task{testTask("0", Completed), testTask("2", Pending)}
	d.steps = nil
	if err := j.compact(kept); err != nil {
		t.Fatal(err)
	}
	want := []string{"open journal.jsonl.tmp", "write journal.jsonl.tmp", "sync journal.jsonl.tmp", "rename", "sync folder"}
	if diff := cmp.Diff(want, d.steps); diff != "" {
		t.Error(diff)
	}
	appendAll(t, j, testTask("3", Pending))
	info, err := os.Stat(j.path(journalName))
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != j.size || j.lines != 4 {
		t.Errorf("%v %v, %d lines, size %d", info, err, j.lines, j.size)
	}
	closeJournal(t, j)
	j, tasks := mustOpen(t, d, dir)
	defer closeJournal(t, j)
	if diff := cmp.Diff(append(kept, testTask("3", Pending)), tasks); diff != "" {
		t.Error(diff)
	}
}

func TestJournalCompactFails(t *testing.T) {
	for step, broken := range map[string]bool{
		"open journal.jsonl.tmp": false, "write journal.jsonl.tmp": false, "sync journal.jsonl.tmp": false,
		"rename": true, "sync folder": true,
	} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			d := &testDisk{}
			j, _ := mustOpen(t, d, dir)
			appendAll(t, j, testTask("1", Pending), testTask("1", Running))
			d.set(func(s string, _ *os.File, _ []byte) error {
				if s == step {
					return syscall.ENOSPC
				}
				return nil
			})
			err := j.compact([]Task{testTask("1", Running)})
			if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, errJournalBroken) != broken {
				t.Errorf("compact: %v", err)
			}
			d.set(nil)
			want := []Task{testTask("1", Running)}
			if err := j.append(testTask("2", Pending)); (err != nil) != broken {
				t.Errorf("append: %v", err)
			} else if err == nil {
				want = append(want, testTask("2", Pending))
			}
			closeJournal(t, j)
			j, tasks := mustOpen(t, d, dir)
			defer closeJournal(t, j)
			if diff := cmp.Diff(want, tasks); diff != "" {
				t.Error(diff)
			}
			if _, err := os.Stat(j.path(tempName)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("temporary file: %v", err)
			}
		})
	}
}
