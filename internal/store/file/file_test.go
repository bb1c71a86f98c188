package file_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/file"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

func create(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return create(t, filepath.Join(t.TempDir(), "new", "store")) })
}

func TestOpenMakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not-mounted")
	if _, err := file.Open(dir); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open: %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}

func TestModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "store")
	s := create(t, dir)
	if _, err := s.Put(t.Context(), "a/b", strings.NewReader("x"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"": 0o700, "a": 0o700, "a/b": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: %v, %v; want %o", name, info.Mode(), err, want)
		}
	}
}

// TestHostileFolder puts into the folder what somebody could who may write there.
func TestHostileFolder(t *testing.T) {
	dir, outside := filepath.Join(t.TempDir(), "store"), t.TempDir()
	s := create(t, dir)
	for _, err := range []error{
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "link")),
		os.Symlink(outside, filepath.Join(dir, "folder")),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		os.WriteFile(filepath.Join(dir, ".part-0123"), []byte("on its way"), 0o600),
		os.WriteFile(filepath.Join(dir, "a b\n"), []byte("strange"), 0o600),
		os.WriteFile(filepath.Join(dir, "good"), []byte("good"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"link", "folder/secret", "pipe", "folder"} {
		if body, err := s.Open(t.Context(), name, 0, -1); err == nil {
			body.Close()
			t.Errorf("%q is read", name)
		}
	}
	if _, err := s.Put(t.Context(), "folder/new", strings.NewReader("x"), store.PutOptions{}); err == nil {
		t.Error("an object was put outside of the folder")
	}
	var names []string
	for object, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, object.Name)
	}
	if len(names) != 1 || names[0] != "good" {
		t.Errorf("listed %q", names)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

// TestFullDisk fails a put in the middle, as a full disk does: nothing is left.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := create(t, dir)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 20, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Put(t.Context(), "a/big", bytes.NewReader(make([]byte, 3<<20)), store.PutOptions{})
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Errorf("put: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "a"))
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestFolderMoved: what nobody would find is not taken, and all is well again once the folder is back.
func TestFolderMoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := create(t, dir)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(name string) error {
		_, err := s.Put(t.Context(), name, strings.NewReader("x"), store.PutOptions{})
		return err
	}
	must(put("one"))
	must(os.Rename(dir, dir+".old"))
	if err := put("two"); err == nil || !strings.Contains(err.Error(), "no longer the one that was opened") || store.Refused(err) {
		t.Errorf("moved away: %v", err)
	}
	must(os.Mkdir(dir, 0o700))
	if err := put("two"); err == nil {
		t.Error("another folder is in its place, and no error")
	}
	must(os.Remove(dir))
	must(os.Rename(dir+".old", dir))
	must(put("two"))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}
