package datadir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestIsKept(t *testing.T) {
	for name, want := range map[string]bool{"member": false, "holdfast-restore": false, "member.before-restore-" + testStamp: true, "old.before-restore-1": false} {
		if IsKept(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestSwitchAndCommit(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			f := s.build(t)
			kept, err := f.dir.Switch(testStamp)
			if err != nil {
				t.Fatal(err)
			}
			for what, path := range map[string]string{"member": kept.Member, "WAL": kept.WAL} {
				has := !s.fresh && (what == "member" || s.separate)
				if _, err := os.Stat(path); has != (err == nil) {
					t.Errorf("old %s is kept at %q: %v", what, path, err)
				}
				if path != "" && !IsKept(filepath.Base(path)) {
					t.Errorf("%q is not taken for old data", path)
				}
			}
			if pending, err := f.dir.Pending(); !pending || err != nil {
				t.Errorf("pending after the switch: %v, %v", pending, err)
			}
			if _, err := f.dir.Stage(); !errors.Is(err, ErrPending) {
				t.Errorf("stage over a pending switch: %v, want ErrPending", err)
			}
			if err := f.dir.Commit(); err != nil {
				t.Fatal(err)
			}
			f.check(t, f.switched)
			if err := f.dir.Commit(); err == nil {
				t.Error("committed twice")
			}
			if outcome, err := f.dir.Recover(); outcome != Nothing || err != nil {
				t.Errorf("recover after commit: %v, %v", outcome, err)
			}
			f.check(t, f.switched)
		})
	}
}

func TestRecoverUndoes(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			f := s.build(t)
			if _, err := f.dir.Switch(testStamp); err != nil {
				t.Fatal(err)
			}
			// The new etcd has run for a while.
			writeFiles(t, f.dir.walDir(), "newer", "0000000000000000-0000000000000000.wal", "0000000000000001-0000000000000009.wal")
			writeFiles(t, f.dir.live(), "newer", "snap/0000000000000002-0000000000000009.snap")
			outcome, err := f.dir.Recover()
			if outcome != RolledBack || err != nil {
				t.Fatalf("recover: %v, %v", outcome, err)
			}
			f.check(t, f.old)
			if outcome, err := f.dir.Recover(); outcome != Nothing || err != nil {
				t.Fatalf("second recover: %v, %v", outcome, err)
			}
			f.check(t, f.old)
		})
	}
}

func TestRecoverDiscardsStage(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			f := s.build(t)
			if outcome, err := f.dir.Recover(); outcome != Discarded || err != nil {
				t.Fatalf("recover: %v, %v", outcome, err)
			}
			f.check(t, f.old)
		})
	}
}

// A second stage starts empty, whatever the first has left.
func TestStageStartsEmpty(t *testing.T) {
	f := shapes[1].build(t)
	stage, err := f.dir.Stage()
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(stage.Data); len(entries) != 0 || err != nil {
		t.Errorf("stage holds %v, %v", entries, err)
	}
	if _, err := os.Lstat(stage.WAL); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("WAL stage: %v, want not-exist", err)
	}
}

// Every refusal leaves the old data and the stage as they were.
func TestSwitchRefuses(t *testing.T) {
	remove := func(name string) func(*testing.T, fixture) {
		return func(t *testing.T, f fixture) {
			if err := os.RemoveAll(filepath.Join(f.root, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tt := range map[string]struct {
		shape   shape
		prepare func(*testing.T, fixture)
		stamp   string
		want    string
	}{
		"no stage":          {shapes[0], remove("data/holdfast-restore"), testStamp, "the stage is not complete"},
		"no backend":        {shapes[0], remove("data/holdfast-restore/member/snap/db"), testStamp, "the stage is not complete"},
		"no WAL":            {shapes[0], remove("data/holdfast-restore/member/wal"), testStamp, "no WAL"},
		"no separate WAL":   {shapes[1], remove("wal/holdfast-restore/wal"), testStamp, "no WAL"},
		"name taken":        {shapes[0], func(t *testing.T, f fixture) { writeFiles(t, f.dir.data, "x", "member.before-restore-"+testStamp+"/y") }, testStamp, "file already exists"},
		"WAL name taken":    {shapes[1], func(t *testing.T, f fixture) { writeFiles(t, f.dir.wal, "x", "member.before-restore-"+testStamp+"/y") }, testStamp, "file already exists"},
		"stamp is a path":   {shapes[0], func(*testing.T, fixture) {}, "../1", "bad stamp"},
		"stamp ends in wal": {shapes[0], func(*testing.T, fixture) {}, "1.wal", "bad stamp"},
	} {
		t.Run(name, func(t *testing.T) {
			f := tt.shape.build(t)
			tt.prepare(t, f)
			before := tree(t, f.root)
			_, err := f.dir.Switch(tt.stamp)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("switch: %v, want %q", err, tt.want)
			}
			f.check(t, before)
		})
	}
}

// A running etcd holds the lock on its backend. Neither way does anything then.
func TestRunningEtcdIsLeftAlone(t *testing.T) {
	f := shapes[1].build(t)
	lock := func() *os.File {
		db, err := os.Open(f.dir.backend())
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Flock(int(db.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			t.Fatal(err)
		}
		return db
	}
	db, before := lock(), tree(t, f.root)
	if _, err := f.dir.Switch(testStamp); !errors.Is(err, ErrInUse) {
		t.Errorf("switch: %v, want ErrInUse", err)
	}
	f.check(t, before)
	_ = db.Close()
	if _, err := f.dir.Switch(testStamp); err != nil {
		t.Fatal(err)
	}
	db, before = lock(), tree(t, f.root)
	if _, err := f.dir.Recover(); !errors.Is(err, ErrInUse) {
		t.Errorf("recover: %v, want ErrInUse", err)
	}
	f.check(t, before)
	_ = db.Close()
	if outcome, err := f.dir.Recover(); outcome != RolledBack || err != nil {
		t.Fatalf("recover: %v, %v", outcome, err)
	}
	f.check(t, f.old)
}

// When the folders are not the ones that the intent speaks of, nothing may be moved or removed.
func TestRecoverRefusesToGuess(t *testing.T) {
	swap := func(t *testing.T, path string) {
		copied := path + ".copy"
		if err := os.CopyFS(copied, os.DirFS(path)); err != nil {
			t.Fatal(err)
		}
		rename(t, path, path+".gone")
		rename(t, copied, path)
	}
	for name, change := range map[string]func(*testing.T, fixture){
		"old data replaced": func(t *testing.T, f fixture) { swap(t, filepath.Join(f.dir.data, "member.before-restore-"+testStamp)) },
		"old WAL replaced":  func(t *testing.T, f fixture) { swap(t, filepath.Join(f.dir.wal, "member.before-restore-"+testStamp)) },
		"intent is no JSON": func(t *testing.T, f fixture) {
			if err := os.WriteFile(f.dir.intentPath(), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"intent of a later version": func(t *testing.T, f fixture) {
			if err := os.WriteFile(f.dir.intentPath(), []byte(`{"version":2,"state":"switching"}`), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := shapes[1].build(t)
			if _, err := f.dir.Switch(testStamp); err != nil {
				t.Fatal(err)
			}
			change(t, f)
			before := tree(t, f.root)
			for range 2 {
				if outcome, err := f.dir.Recover(); err == nil {
					t.Errorf("recover: %v, want an error", outcome)
				}
				f.check(t, before)
			}
		})
	}
}

func TestAt(t *testing.T) {
	for _, tt := range []struct{ data, wal, want string }{
		{"/d", "", ""},
		{"/d/", "/w/", ""},
		{"/d", "/d/wal", ""},
		{"/d", "/d/member/wal/", ""},
		{"d", "", "not an absolute path"},
		{"", "", "not an absolute path"},
		{"/d", "w", "not an absolute path"},
		{"/d", "/d", "in the way"},
		{"/d", "/d/member", "in the way"},
		{"/d", "/d/member/x", "in the way"},
		{"/d", "/d/holdfast-restore", "in the way"},
	} {
		d, err := At(tt.data, tt.wal)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("At(%q, %q) = %v, %v; want error %q", tt.data, tt.wal, d, err, tt.want)
		}
	}
	if d := mustAt(t, "/d", "/d/member/wal"); d.wal != "" {
		t.Errorf("the default place counts as a separate WAL dir: %+v", d)
	}
}

func TestFree(t *testing.T) {
	root := t.TempDir()
	d := mustAt(t, filepath.Join(root, "not", "yet"), filepath.Join(root, "wal"))
	data, wal, shared, err := d.Free()
	if err != nil || data <= 0 || wal <= 0 || !shared {
		t.Errorf("free: %d, %d, %v, %v", data, wal, shared, err)
	}
	// Every Linux has /dev/shm or at least /proc as another file system than the temporary folder.
	if _, _, shared, err := mustAt(t, root, "/proc").Free(); shared || err != nil {
		t.Errorf("free with the WAL on another file system: shared=%v, %v", shared, err)
	}
}
