package durable

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// holdLockVariable makes the test binary a process that holds the lock on the file it names until its stdin ends.
const holdLockVariable = "HOLDFAST_TEST_HOLD_LOCK"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdLockVariable); path != "" {
		if _, err := TryLock(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// names lists a folder, so that tests see what was left behind.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func checkFile(t *testing.T, path, content string, perm fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, content)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != perm {
		t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), perm)
	}
}

func TestWriteFile(t *testing.T) {
	// The mode asked for holds whatever the umask is.
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for i, perm := range []fs.FileMode{0o600, 0o644, 0o640} {
		content := fmt.Sprint("content ", i)
		if err := WriteFile(path, []byte(content), perm); err != nil {
			t.Fatal(err)
		}
		checkFile(t, path, content, perm)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("folder holds %v, want only f", got)
	}
}

func TestWriteFileErrorLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "inner"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(taken, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if err := WriteFile(filepath.Join(dir, "missing", "f"), []byte("x"), 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write into a missing folder: %v, want not-exist", err)
	}
	if got := names(t, dir); len(got) != 1 || got[0] != "taken" {
		t.Errorf("folder holds %v, want only taken", got)
	}
}

func TestWriteFileFullDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A file size limit fails the write in the middle, as a full disk does.
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	small := syscall.Rlimit{Cur: 4096, Max: limit.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	err := WriteFile(path, make([]byte, 100_000), 0o600)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Errorf("write past the limit: %v, want EFBIG", err)
	}
	checkFile(t, path, "old", 0o600)
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("folder holds %v, want only f", got)
	}
}

func TestWriteNewFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	const writers = 8
	var wins atomic.Int32
	var winner atomic.Value
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			content := fmt.Sprint("writer ", i)
			switch err := WriteNewFile(path, []byte(content), 0o600); {
			case err == nil:
				wins.Add(1)
				winner.Store(content)
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("writer %d: %v, want fs.ErrExist", i, err)
			}
		})
	}
	group.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d writers won, want 1", wins.Load())
	}
	checkFile(t, path, winner.Load().(string), 0o600)
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("folder holds %v, want only f", got)
	}
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a", "f"), filepath.Join(dir, "b", "f")
	for _, path := range []string{from, to} {
		if err := MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFile(from, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Rename(from, to); err != nil {
		t.Fatal(err)
	}
	checkFile(t, to, "x", 0o600)
	if err := Rename(from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rename of a missing file: %v, want not-exist", err)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for p := path; p != dir; p = filepath.Dir(p) {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 700", p, info, err)
		}
	}
	if err := WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(filepath.Join(dir, "file"), 0o700); err == nil {
		t.Error("a file passed for a folder")
	}
	if err := MkdirAll(filepath.Join(dir, "file", "below"), 0o700); err == nil {
		t.Error("a folder was made below a file")
	}
}

// TestLockRemoved has the holder remove the file, while somebody waits for it and another one makes it anew.
func TestLockRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	must(t, err)
	stale, err := os.Open(path)
	must(t, err)
	defer stale.Close()
	must(t, os.Remove(path))
	if same, err := still(stale, path); err != nil || same {
		t.Errorf("a file without its name: %v, %v", same, err)
	}
	second, err := TryLock(path)
	must(t, err)
	if same, err := still(stale, path); err != nil || same {
		t.Errorf("another file of the name: %v, %v", same, err)
	}
	must(t, first())
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("the new file: %v, want ErrLocked", err)
	}
	must(t, second())
}

// TestLockRemovedByEach has each of several holders remove the file before it lets go: there is never more than one.
func TestLockRemovedByEach(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var holders atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				release, err := Lock(path)
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				runtime.Gosched()
				holders.Add(-1) // whoever removes the file has let go
				if err := errors.Join(os.Remove(path), release()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestLockInOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v, want ErrLocked", err)
	}
	got := make(chan error)
	go func() {
		release, err := Lock(path)
		if err == nil {
			err = release()
		}
		got <- err
	}()
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("waiting lock: %v", err)
	}
	release, err = TryLock(path)
	if err != nil {
		t.Fatalf("lock after release: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func TestLockEndsWithItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holdLockVariable+"="+path)
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	if line != "locked\n" {
		t.Fatalf("holder says %q", line)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("lock that another process holds: %v, want ErrLocked", err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // It was killed, so it says so.
	release, err := TryLock(path)
	if err != nil {
		t.Fatalf("lock after its holder was killed: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
