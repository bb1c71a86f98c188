package restore

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// TestFreshInside restores into empty folders that are there already. fault_test.go has mount points.
func TestFreshInside(t *testing.T) {
	t.Parallel()
	v := etcdtest.Get(t, "3.7")
	server := etcdtest.Start(t, v, etcdtest.Options{})
	fill(t, server, 150)
	source := save(t, server)
	must(t, server.Stop())
	fetch := func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
		return copyScanned(ctx, source.path, dst, scanner)
	}
	fresh := func(dir string) FreshOptions {
		return FreshOptions{DataDir: dir, Name: testName, PeerURL: reservePeer(t), Size: source.info.Size, Fetch: fetch}
	}
	folder := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "data")
		must(t, os.Mkdir(dir, 0o755))
		return dir
	}
	inside := func(t *testing.T, dir string) []string {
		t.Helper()
		var list []string
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}

	t.Run("served", func(t *testing.T) {
		dir := folder(t)
		owner := os.Getuid()
		want := []string{"member"}
		if owner == 0 { // only root can make what belongs to others
			owner, want = 12345, []string{"lost+found", "member"}
			must(t, os.Chown(dir, owner, owner))
			must(t, os.Mkdir(filepath.Join(dir, "lost+found"), 0o700))
		}
		// What killed restores left there, or beside it before somebody made the folder.
		beside := filepath.Join(filepath.Dir(dir), ".data"+workName)
		for _, work := range []string{filepath.Join(dir, workName), beside} {
			must(t, os.MkdirAll(filepath.Join(work, "data", "member", "snap"), 0o700))
			must(t, os.WriteFile(filepath.Join(work, "data", "member", "snap", "db"), []byte("half"), 0o600))
			must(t, os.WriteFile(filepath.Join(work, "lock"), nil, 0o600))
		}
		link := filepath.Join(t.TempDir(), "link")
		must(t, os.Symlink(dir, link))
		o := fresh(link)
		o.Fetch = func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
			if list := inside(t, dir); slices.Contains(list, "member") || !slices.Contains(list, workName) {
				t.Errorf("while it goes on: %q", list)
			}
			if info, err := os.Stat(filepath.Join(dir, workName)); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("the hidden folder: %v, %v", info, err)
			}
			other := fresh(dir)
			if _, err := Fresh(ctx, other); !errors.Is(err, ErrTargetInUse) || !strings.Contains(err.Error(), "another restore") {
				t.Errorf("two at once: %v", err)
			}
			return fetch(ctx, dst, scanner)
		}
		_, err := Fresh(t.Context(), o)
		must(t, err)
		if list := inside(t, dir); !slices.Equal(list, want) {
			t.Errorf("it holds %q, want %q", list, want)
		}
		info, err := os.Stat(dir)
		must(t, err)
		if stat := info.Sys().(*syscall.Stat_t); int(stat.Uid) != owner || info.Mode().Perm() != 0o700 {
			t.Errorf("owner %d, mode %v", stat.Uid, info.Mode())
		}
		must(t, filepath.WalkDir(filepath.Join(dir, "member"), func(path string, e fs.DirEntry, err error) error {
			must(t, err)
			info, err := e.Info()
			must(t, err)
			stat := info.Sys().(*syscall.Stat_t)
			if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[e.IsDir()]; int(stat.Uid) != owner || int(stat.Gid) != owner || info.Mode().Perm() != want {
				t.Errorf("%s: owner %d:%d, mode %v", path, stat.Uid, stat.Gid, info.Mode())
			}
			return nil
		}))
		if target, err := os.Readlink(link); err != nil || target != dir {
			t.Errorf("the link: %q, %v", target, err)
		}
		if _, err := Fresh(t.Context(), fresh(link)); !errors.Is(err, ErrTargetInUse) {
			t.Errorf("over data: %v", err)
		}
		// The one beside was looked at under the name that was given.
		must(t, os.RemoveAll(filepath.Join(dir, "member")))
		if _, err := Fresh(t.Context(), fresh(dir)); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(beside); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("beside: %v", err)
		}
		must(t, os.RemoveAll(filepath.Join(dir, "member")))
		o = fresh(link)
		result, err := Fresh(t.Context(), o)
		must(t, err)
		s := etcdtest.Start(t, v, etcdtest.Options{Name: testName, DataDir: dir, PeerURL: o.PeerURL})
		checkServed(t, s, source.state, result)
	})

	t.Run("cancelled", func(t *testing.T) {
		dir := folder(t)
		ctx, cancel := context.WithCancel(t.Context())
		o := fresh(dir)
		o.Fetch = func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
			cancel()
			return fetch(ctx, dst, scanner)
		}
		if _, err := Fresh(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		checkNothingLeft(t, dir)
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("the folder: %v, %v", info, err)
		}
	})

	t.Run("meanwhile", func(t *testing.T) {
		dir := folder(t)
		o := fresh(dir)
		o.Fetch = func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
			must(t, os.WriteFile(filepath.Join(dir, "theirs"), nil, 0o600))
			return fetch(ctx, dst, scanner)
		}
		if _, err := Fresh(t.Context(), o); !errors.Is(err, ErrTargetInUse) || !strings.Contains(err.Error(), "theirs") {
			t.Errorf("something meanwhile: %v", err)
		}
		if list := inside(t, dir); !slices.Equal(list, []string{"theirs"}) {
			t.Errorf("it holds %q", list)
		}
	})
}

// TestCheckFresh refuses early, and changes nothing.
func TestCheckFresh(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		make func(t *testing.T, dir string)
		want string // "" when it is fine
	}{
		"nothing":          {func(*testing.T, string) {}, ""},
		"an empty folder":  {func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o700)) }, ""},
		"a leftover":       {func(t *testing.T, dir string) { must(t, os.MkdirAll(filepath.Join(dir, workName), 0o700)) }, ""},
		"a file":           {func(t *testing.T, dir string) { must(t, os.WriteFile(dir, nil, 0o600)) }, "not a directory"},
		"a link to a file": {func(t *testing.T, dir string) { must(t, os.Symlink("/etc/passwd", dir)) }, "not a directory"},
		"a link to nothing": {func(t *testing.T, dir string) {
			must(t, os.Symlink(filepath.Join(filepath.Dir(dir), "gone"), dir))
		}, "symbolic link to what does not exist"},
		"a link to data": {func(t *testing.T, dir string) {
			full := filepath.Join(filepath.Dir(dir), "full")
			must(t, os.MkdirAll(filepath.Join(full, "member"), 0o700))
			must(t, os.Symlink(full, dir))
		}, `holds "member"`},
		"a file lost+found": {func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "lost+found"), nil, 0o600))
		}, `holds "lost+found"`},
		"a lost+found of somebody": {func(t *testing.T, dir string) {
			must(t, os.MkdirAll(filepath.Join(dir, "lost+found"), 0o700))
			if os.Getuid() == 0 {
				must(t, os.Chown(filepath.Join(dir, "lost+found"), 12345, 12345))
			}
		}, `holds "lost+found"`},
		"a leftover of somebody": {func(t *testing.T, dir string) {
			must(t, os.MkdirAll(filepath.Join(dir, workName), 0o700))
			if os.Getuid() == 0 {
				must(t, os.Chown(filepath.Join(dir, workName), 12345, 12345))
			} else { // only root can make what belongs to others
				must(t, os.Remove(filepath.Join(dir, workName)))
				must(t, os.WriteFile(filepath.Join(dir, workName), nil, 0o600))
			}
		}, `holds ".restoring"`},
		"a file as leftover": {func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, workName), nil, 0o600))
		}, `holds ".restoring"`},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "data")
			tt.make(t, dir)
			before := names(t, parent)
			err := CheckFresh(dir, 1<<20)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if after := names(t, parent); !slices.Equal(before, after) {
				t.Errorf("it changed %q to %q", before, after)
			}
		})
	}
	if err := CheckFresh(filepath.Join(t.TempDir(), "no", "data"), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a parent: %v", err)
	}
}

// TestWorkFolder has the one who leaves a work folder and the one who comes meet.
func TestWorkFolder(t *testing.T) {
	t.Parallel()
	work := filepath.Join(t.TempDir(), "work")
	leave, err := enter(work)
	must(t, err)
	if _, err := enter(work); !errors.Is(err, ErrTargetInUse) {
		t.Errorf("two at once: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(work, "half"), nil, 0o600))
	// Somebody who waits for the lock must not get that of a file which is gone.
	lock := filepath.Join(work, "lock")
	must(t, os.Remove(lock))
	release, err := durable.TryLock(lock)
	must(t, err)
	must(t, release())
	must(t, leave())
	if _, err := os.Lstat(work); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the work folder: %v", err)
	}
}
