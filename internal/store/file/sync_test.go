package file

import (
	"bytes"
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
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/store"
)

// watched is a store whose syncs are recorded, with what the disk then shows, and fail when told to.
type watched struct {
	*Store
	dir   string
	steps []string
	// fails is the number of the sync that fails; 0 means none.
	fails int
}

func watch(t *testing.T) *watched {
	t.Helper()
	w := &watched{dir: filepath.Join(t.TempDir(), "store")}
	s, err := Create(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.sync = func(f *os.File) error {
		name, err := filepath.Rel(w.dir, f.Name())
		if err != nil {
			t.Error(err)
		}
		if isTemporary(filepath.Base(name)) {
			name = filepath.Join(filepath.Dir(name), "TEMPORARY")
		}
		w.steps = append(w.steps, name+": "+strings.Join(w.files(t), " "))
		if len(w.steps) == w.fails {
			return &fs.PathError{Op: "sync", Path: f.Name(), Err: syscall.EIO}
		}
		return f.Sync()
	}
	w.Store = s
	return w
}

// files are all files and folders of the store.
func (w *watched) files(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(w.dir, path)
		switch {
		case err != nil || name == ".":
		case isTemporary(entry.Name()):
			names = append(names, filepath.Join(filepath.Dir(name), "TEMPORARY"))
		default:
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return names
}

func (w *watched) put(t *testing.T, name string) error {
	t.Helper()
	_, err := w.Put(t.Context(), name, strings.NewReader("content"), store.PutOptions{})
	return err
}

// TestOrderOfSyncs is what makes an object durable: new folders, from above; the file, before it has its name; the name.
func TestOrderOfSyncs(t *testing.T) {
	w := watch(t)
	for _, name := range []string{"a/b/one", "a/b/two", "a/b/two", "top"} {
		if err := w.put(t, name); err != nil && !errors.Is(err, store.ErrExists) {
			t.Fatal(err)
		}
		w.steps = append(w.steps, "-")
	}
	if err := w.Delete(t.Context(), "a/b/one"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		".: a",
		"a: a a/b",
		"a/b/TEMPORARY: a a/b a/b/TEMPORARY",
		"a/b: a a/b a/b/TEMPORARY a/b/one",
		"-",
		"a/b/TEMPORARY: a a/b a/b/TEMPORARY a/b/one",
		"a/b: a a/b a/b/TEMPORARY a/b/one a/b/two",
		"-",
		"a/b: a a/b a/b/one a/b/two", // who hears that it exists builds on it
		"-",
		"TEMPORARY: TEMPORARY a a/b a/b/one a/b/two",
		".: TEMPORARY a a/b a/b/one a/b/two top",
		"-",
		"a/b: a a/b a/b/two top",
	}
	for i := range w.steps {
		fields := strings.Fields(w.steps[i])
		slices.Sort(fields[1:])
		w.steps[i] = strings.Join(fields, " ")
		fields = strings.Fields(want[i])
		slices.Sort(fields[1:])
		want[i] = strings.Join(fields, " ")
	}
	if diff := cmp.Diff(want, w.steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// TestFailedSync is an error whichever sync it is, and nothing is visible then: not at once, and not as "exists" later.
func TestFailedSync(t *testing.T) {
	for fails := 1; ; fails++ {
		w := watch(t)
		w.fails = fails
		err := w.put(t, "a/b/c")
		if len(w.steps) < fails {
			if err != nil {
				t.Error(err)
			}
			if fails != 5 {
				t.Errorf("%d syncs were made to fail, want 4", fails-1)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) || !errors.Is(err, store.ErrFinal) {
			t.Errorf("sync %d fails: %v", fails, err)
		}
		if _, err := w.Stat(t.Context(), "a/b/c"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("sync %d fails, and there is %v", fails, w.files(t))
		}
		for _, name := range w.files(t) {
			if strings.Contains(name, "TEMPORARY") {
				t.Errorf("sync %d fails and leaves %s", fails, name)
			}
		}
		// PutBytes and everybody else may try again: with another file, not with the same bytes.
		if err := w.put(t, "a/b/c"); err != nil {
			t.Errorf("after sync %d failed: %v", fails, err)
		}
	}
}

// TestFolderIsRemoved lets somebody tidy up empty folders while the store is open.
func TestFolderIsRemoved(t *testing.T) {
	w := watch(t)
	if err := errors.Join(w.put(t, "a/b/c"), w.Delete(t.Context(), "a/b/c"), os.RemoveAll(filepath.Join(w.dir, "a"))); err != nil {
		t.Fatal(err)
	}
	if err := w.put(t, "a/b/d"); err != nil {
		t.Error(err)
	}
}

// TestNotAnObject has something else where an object should be.
func TestNotAnObject(t *testing.T) {
	w := watch(t)
	if err := w.put(t, "a/b"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b/c"} {
		if err := w.put(t, name); err == nil || errors.Is(err, store.ErrExists) {
			t.Errorf("put %q: %v", name, err)
		}
		if err := w.Delete(t.Context(), name); err != nil {
			t.Errorf("delete %q: %v", name, err)
		}
	}
	if got := w.files(t); !slices.Equal(got, []string{"a", "a/b"}) {
		t.Errorf("files: %q", got)
	}
}

func TestSweep(t *testing.T) {
	w := watch(t)
	if err := errors.Join(w.put(t, "a/b/object"), os.Mkdir(filepath.Join(w.dir, ".snapshot"), 0o700)); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-25 * time.Hour)
	for _, name := range []string{".part-old", "a/.part-old", "a/b/.part-old", "a/b/.part-new", "a/b/other", ".snapshot/.part-old"} {
		path := filepath.Join(w.dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if name != "a/b/.part-new" {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	var sweeper store.Sweeper = w
	for _, want := range []int{3, 0} {
		if removed, err := sweeper.Sweep(t.Context(), 24*time.Hour); err != nil || removed != want {
			t.Errorf("%d removed, %v", removed, err)
		}
	}
	want := []string{".snapshot", ".snapshot/TEMPORARY", "a", "a/b", "a/b/TEMPORARY", "a/b/object", "a/b/other"}
	if diff := cmp.Diff(want, w.files(t)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	// A Put whose file was swept away fails, and says so.
	content := io.MultiReader(strings.NewReader("begun"), readerFunc(func([]byte) (int, error) {
		_, err := sweeper.Sweep(t.Context(), -time.Minute)
		return 0, errors.Join(err, io.EOF)
	}))
	if _, err := w.Put(t.Context(), "swept", content, store.PutOptions{}); err == nil {
		t.Error("a put whose file was removed works")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) {
	n, err := f(p)
	if errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return n, err
}

// TestEndOfContext ends reads and listings too.
func TestEndOfContext(t *testing.T) {
	w := watch(t)
	if _, err := w.Put(t.Context(), "a", bytes.NewReader(make([]byte, 1000)), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("that is enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	body, err := w.Open(ctx, "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	cancel(enough)
	_, readErr := io.ReadAll(body)
	_, statErr := w.Stat(ctx, "a")
	_, openErr := w.Open(ctx, "a", 0, -1)
	var listErr error
	for _, listErr = range w.List(ctx, "", "") {
	}
	_, sweepErr := w.Sweep(ctx, 0)
	for name, err := range map[string]error{"read": readErr, "stat": statErr, "open": openErr, "list": listErr, "delete": w.Delete(ctx, "a"), "sweep": sweepErr} {
		if !errors.Is(err, enough) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}
