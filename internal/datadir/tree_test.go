package datadir

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree describes everything below dir: one line with name, mode, owner, size and digest for each entry. An absent dir is "".
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s %d:%d", name, info.Mode(), stat(info).Uid, stat(info).Gid)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(data), sha256.Sum256(data))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// writeFiles makes files, with folders as needed, that are told apart by a word in them.
func writeFiles(t *testing.T, dir, word string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Repeat(word+" "+name+"\n", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// shape is one way in which a data dir can be laid out.
type shape struct {
	name string
	// separate tells that the WAL has a dir of its own, and fresh that there is no old data.
	separate, fresh bool
}

var shapes = []shape{{name: "plain"}, {name: "separate WAL", separate: true}, {name: "fresh", fresh: true}, {name: "fresh, separate WAL", fresh: true, separate: true}}

const testStamp = "2018-09-26-18.04.02"

// fixture is a data dir with old data and what the same data dir must look like before and after a restore.
type fixture struct {
	root string
	dir  Dir
	// old is the tree of root with the old data, switched the one with the new.
	old, switched string
}

// build lays down old data and a stage with new data, and works out what has to become of it.
func (s shape) build(t *testing.T) fixture {
	t.Helper()
	f := fixture{root: t.TempDir()}
	layOld := func(root string) (data, wal string) {
		data, wal = filepath.Join(root, "data"), ""
		walDir := filepath.Join(data, "member", "wal")
		if s.separate {
			wal = filepath.Join(root, "wal")
			walDir = wal
			// A mount point has such a folder; it must stay where it is.
			writeFiles(t, wal, "system", "lost+found/x")
		}
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
		if !s.fresh {
			writeFiles(t, data, "old", "member/snap/db", "member/snap/0000000000000002-0000000000000005.snap")
			writeFiles(t, walDir, "old", "0000000000000000-0000000000000000.wal", "0000000000000001-0000000000000003.wal", "0.tmp")
			// Not etcd's own modes: the new data takes them over.
			for _, name := range []string{"member", "member/snap"} {
				if err := os.Chmod(filepath.Join(data, name), 0o750); err != nil {
					t.Fatal(err)
				}
			}
		}
		return data, wal
	}
	layNew := func(member, wal string) {
		writeFiles(t, member, "new", "snap/db", "snap/0000000000000001-0000000000000001.snap")
		writeFiles(t, wal, "new", "0000000000000000-0000000000000000.wal")
	}

	// What it is to become is laid down by hand, with nothing of the code under test.
	want := t.TempDir()
	data, wal := layOld(want)
	giveAway(t, want)
	f.old = tree(t, want)
	newWAL := filepath.Join(data, "member", "wal")
	if !s.fresh {
		rename(t, filepath.Join(data, "member"), filepath.Join(data, "member.before-restore-"+testStamp))
	}
	if s.separate {
		newWAL = wal
		if !s.fresh {
			kept := filepath.Join(wal, "member.before-restore-"+testStamp)
			if err := os.Mkdir(kept, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"0000000000000000-0000000000000000.wal", "0000000000000001-0000000000000003.wal", "0.tmp"} {
				rename(t, filepath.Join(wal, name), filepath.Join(kept, name))
			}
		}
	}
	layNew(filepath.Join(data, "member"), newWAL)
	if !s.fresh {
		for _, name := range []string{"member", "member/snap"} {
			if err := os.Chmod(filepath.Join(data, name), 0o750); err != nil {
				t.Fatal(err)
			}
		}
	}
	giveAway(t, want)
	f.switched = tree(t, want)

	data, wal = layOld(f.root)
	giveAway(t, f.root)
	f.dir = mustAt(t, data, wal)
	stage, err := f.dir.Stage()
	if err != nil {
		t.Fatal(err)
	}
	stageWAL := filepath.Join(stage.Data, "member", "wal")
	if s.separate {
		stageWAL = stage.WAL
	}
	layNew(filepath.Join(stage.Data, "member"), stageWAL)
	// An umask of the agent or a tool must not show in the result.
	if err := os.Chmod(filepath.Join(stage.Data, "member", "snap", "db"), 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

// giveAway makes another user own what is in root. Only root can do that; for anyone else the owner is the same all over.
func giveAway(t *testing.T, root string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		return os.Lchown(path, 12345, 12346)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func mustAt(t *testing.T, data, wal string) Dir {
	t.Helper()
	d, err := At(data, wal)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (f fixture) check(t *testing.T, want string) {
	t.Helper()
	if got := tree(t, f.root); got != want {
		t.Fatalf("the tree is\n%s\n\nwant\n%s", got, want)
	}
}
