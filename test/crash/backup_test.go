package crash

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// store is a repository in a folder, whose commands the test kills.
type store struct {
	*home.Home
	folder, log string
	root        string // the file of the root key
}

// newStore deploys an etcd with enough data for a backup of several parts, and makes a repository.
func newStore(t *testing.T) *store {
	t.Helper()
	dir := t.TempDir()
	s := &store{Home: home.New(t), folder: filepath.Join(dir, "repo"), log: filepath.Join(dir, "log"), root: filepath.Join(dir, "root.key")}
	s.Env = []string{"HOLDFAST_REPO=file://" + s.folder}
	s.Must(t, "deploy", "etcd")
	random := rand.NewChaCha8([32]byte{})
	for i := range 6 {
		value := make([]byte, 1<<20)
		_, _ = random.Read(value) // It always fills it.
		_, err := s.Etcd(t, "etcd/0").Put(t.Context(), fmt.Sprint("large/", i), string(value))
		must(t, err)
	}
	s.Must(t, "repo", "init", "--encryption", "none", "--root-key", s.root)
	t.Cleanup(func() {
		if log, err := os.ReadFile(s.log); t.Failed() && err == nil {
			t.Logf("the killed commands said:\n%s", log)
		}
	})
	return s
}

// killAt runs a command that is killed before its durable call of that number, and tells whether it was.
func (s *store) killAt(t *testing.T, at int, args ...string) bool {
	t.Helper()
	p := trace(t, before(at), s.log, s.Environment(), append([]string{s.Program}, args...)...)
	<-p.done
	must(t, p.err)
	return p.killed()
}

// rehearse counts the durable calls of a command that nobody kills.
func (s *store) rehearse(t *testing.T, args ...string) int {
	t.Helper()
	p := trace(t, never, s.log, s.Environment(), append([]string{s.Program}, args...)...)
	<-p.done
	must(t, p.err)
	if p.status.ExitStatus() != 0 {
		t.Fatalf("holdfast %q: exit code %d", args, p.status.ExitStatus())
	}
	return len(p.list())
}

// snapshots counts what the repository holds. All of it must be sound.
func (s *store) snapshots(t *testing.T) int {
	t.Helper()
	if _, problems, code := s.Run(t, "verify", "--no-record"); code != 0 {
		t.Errorf("verify: exit code %d\n%s", code, problems)
	}
	var result struct{ Snapshots, Unclaimed int }
	must(t, json.Unmarshal([]byte(s.Must(t, "repo", "check", "--output", "json")), &result))
	return result.Snapshots
}

// every gives the numbers from 1 to n, or so many of them, evenly, and one beyond.
func every(n, most int) []int {
	var all []int
	for i := range n {
		all = append(all, i+1)
	}
	return append(spread(all, most), n+1)
}

// TestKilledBackup kills a backup before each of its durable calls: the repository always opens, no half snapshot shows, the
// next backup succeeds, and what was left is reclaimed.
func TestKilledBackup(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	args := []string{"backup", "--cluster", "prod", "--unit", "etcd", "--max-rate", "0"}
	calls := s.rehearse(t, args...)
	there := s.snapshots(t)
	kills, finished := 0, 0
	for _, at := range every(calls, 40) {
		killed := s.killAt(t, at, args...)
		if killed {
			kills++
		}
		now := s.snapshots(t)
		if now < there || now > there+1 || !killed && now != there+1 {
			t.Errorf("killed before call %d of %d (%v): %d snapshots, were %d", at, calls, killed, now, there)
		}
		finished += now - there
		there = now
	}
	t.Logf("killed %d times, in a run of %d durable calls; %d of the backups were finished", kills, calls, finished)
	if kills < 20 || finished < 2 || finished > kills {
		t.Errorf("%d kills, %d finished", kills, finished)
	}
	s.Must(t, args...)

	// A day later all of what was left goes, and nothing else.
	s.age(t)
	s.Must(t, "key", "enroll", "--root-key", s.root, "--role", "prune")
	said := s.Must(t, "prune", "--keep-last", "1000", "--yes")
	if !strings.Contains(said, "without a manifest") {
		t.Errorf("nothing was reclaimed:\n%s", said)
	}
	var result struct{ Snapshots, Unclaimed int }
	must(t, json.Unmarshal([]byte(s.Must(t, "repo", "check", "--output", "json")), &result))
	if result.Snapshots != there+1 || result.Unclaimed != 0 {
		t.Errorf("after all: %+v, want %d snapshots", result, there+1)
	}
	s.wantNoTemporaries(t)
	s.snapshots(t)
}

// age makes everything in the store two days older, and the ids of what no manifest names.
func (s *store) age(t *testing.T) {
	t.Helper()
	old := time.Now().Add(-48 * time.Hour)
	manifests, err := filepath.Glob(filepath.Join(s.folder, "clusters/prod/manifests/*/*"))
	must(t, err)
	claimed := strings.Join(manifests, " ")
	must(t, filepath.WalkDir(s.folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if id, is := strings.CutSuffix(name, ".zst"); is && !strings.Contains(claimed, id) {
			_, random, _ := strings.Cut(id, "-")
			aged := filepath.Join(filepath.Dir(path), "20200101T000000Z-"+random+".zst")
			if err := os.Rename(path, aged); err != nil {
				return err
			}
			path = aged
		}
		return os.Chtimes(path, old, old)
	}))
}

// wantNoTemporaries wants no hidden file with anything in it.
func (s *store) wantNoTemporaries(t *testing.T) {
	t.Helper()
	must(t, filepath.WalkDir(s.folder, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.Contains(strings.TrimPrefix(path, s.folder), "/.") {
			t.Errorf("%s is left", path)
		}
		return err
	}))
}

// TestKilledPrune kills a prune before each of its durable calls: no snapshot is shown whose data is gone, nothing is missed
// that was removed on purpose, and the next prune ends the work.
func TestKilledPrune(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.Must(t, "key", "enroll", "--root-key", s.root, "--role", "prune")
	backup := []string{"backup", "--cluster", "prod", "--unit", "etcd", "--max-rate", "0"}
	prune := []string{"prune", "--keep-last", "1", "--yes"}
	for range 3 {
		s.Must(t, backup...)
	}
	calls := s.rehearse(t, prune...)
	kills := 0
	for _, at := range every(calls, 30) {
		for s.snapshots(t) < 3 {
			s.Must(t, backup...)
		}
		if s.killAt(t, at, prune...) {
			kills++
		}
		if n := s.snapshots(t); n < 1 || n > 3 {
			t.Errorf("killed before call %d of %d: %d snapshots", at, calls, n)
		}
		s.Must(t, prune...)
		if n := s.snapshots(t); n != 1 {
			t.Errorf("killed before call %d of %d, and again: %d snapshots", at, calls, n)
		}
	}
	t.Logf("killed %d times, in a run of %d durable calls", kills, calls)
	if kills < 5 {
		t.Errorf("only %d kills", kills)
	}
}

// TestKilledFreshRestore kills a restore into a new data dir before each of its durable calls: the data dir is there whole or
// not at all, and the next restore ends the work.
func TestKilledFreshRestore(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.Must(t, "backup", "--cluster", "prod", "--unit", "etcd", "--max-rate", "0")
	parent := t.TempDir()
	target := filepath.Join(parent, "data")
	args := []string{"restore", "--data-dir", target}
	calls := s.rehearse(t, args...)
	must(t, os.RemoveAll(target))
	kills := 0
	for _, at := range every(calls, 30) {
		if s.killAt(t, at, args...) {
			kills++
		}
		_, err := os.Stat(target)
		if err != nil {
			s.Must(t, args...)
		}
		for _, part := range []string{"member/snap/db", "member/wal"} {
			if _, err := os.Stat(filepath.Join(target, part)); err != nil {
				t.Errorf("killed before call %d of %d: %v", at, calls, err)
			}
		}
		entries, err := os.ReadDir(parent)
		must(t, err)
		// What is left when the data dir has its name goes with the next restore there.
		for _, e := range entries {
			if e.Name() != "data" && e.Name() != ".data.restoring" {
				t.Errorf("killed before call %d of %d: %q is left", at, calls, e.Name())
			}
		}
		must(t, os.RemoveAll(target))
	}
	s.Must(t, args...)
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	t.Logf("killed %d times, in a run of %d durable calls", kills, calls)
	if kills < 10 {
		t.Errorf("only %d kills", kills)
	}
}

// TestKilledRestoreInside does the same with an empty folder that is there, as a mount point is: etcd finds no data in it
// before all is whole, and the next restore into it ends the work.
func TestKilledRestoreInside(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.Must(t, "backup", "--cluster", "prod", "--unit", "etcd", "--max-rate", "0")
	parent := t.TempDir()
	target := filepath.Join(parent, "data")
	must(t, os.Mkdir(target, 0o755))
	args := []string{"restore", "--data-dir", target}
	calls := s.rehearse(t, args...)
	member := filepath.Join(target, "member")
	must(t, os.RemoveAll(member))
	kills, half := 0, 0
	for _, at := range every(calls, 30) {
		if s.killAt(t, at, args...) {
			kills++
		}
		left, err := os.ReadDir(target)
		must(t, err)
		for _, e := range left {
			if e.Name() != "member" && e.Name() != ".restoring" {
				t.Errorf("killed before call %d of %d: %q is left", at, calls, e.Name())
			}
		}
		if _, err := os.Stat(member); err != nil {
			if len(left) > 0 {
				half++
			}
			s.Must(t, args...)
			if left, err := os.ReadDir(target); err != nil || len(left) != 1 {
				t.Errorf("killed before call %d of %d, and again: %v, %v", at, calls, left, err)
			}
		}
		for _, part := range []string{"snap/db", "wal/0000000000000000-0000000000000000.wal"} {
			if _, err := os.Stat(filepath.Join(member, part)); err != nil {
				t.Errorf("killed before call %d of %d: %v", at, calls, err)
			}
		}
		must(t, os.RemoveAll(member))
	}
	s.Must(t, args...)
	if left, err := os.ReadDir(parent); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	t.Logf("killed %d times, in a run of %d durable calls; %d times something was left to remove", kills, calls, half)
	if kills < 10 || half < 5 {
		t.Errorf("only %d kills, %d with something left", kills, half)
	}
}
