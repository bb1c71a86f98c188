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
	"testing"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// TestFresh makes a data dir where there is none, and serves it.
func TestFresh(t *testing.T) {
	t.Parallel()
	v := etcdtest.Get(t, "3.7")
	server := etcdtest.Start(t, v, etcdtest.Options{})
	fill(t, server, 150)
	source := save(t, server)
	must(t, server.Stop())
	fetch := func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
		return copyScanned(ctx, source.path, dst, scanner)
	}
	parent := t.TempDir()
	dir, work := filepath.Join(parent, "data"), filepath.Join(parent, ".data.restoring")
	o := FreshOptions{DataDir: dir, Name: testName, PeerURL: reservePeer(t), Size: source.info.Size, Fetch: fetch}

	// What cannot be fetched whole leaves nothing.
	broken := o
	broken.Fetch = func(_ context.Context, dst io.Writer, _ *snapshot.Scanner) error {
		_, err := dst.Write(make([]byte, 100))
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	if _, err := Fresh(t.Context(), broken); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a broken source: %v", err)
	}
	checkNothingLeft(t, parent)
	// Nor does one that is longer than was announced, of which no more is written, or shorter, or another than the scanner saw.
	for name, tt := range map[string]struct {
		change func(*FreshOptions)
		want   string
	}{
		"longer":   {func(o *FreshOptions) { o.Size -= 4096 }, "more bytes than"},
		"shorter":  {func(o *FreshOptions) { o.Size += 4096 }, "fewer bytes than expected"},
		"no name":  {func(o *FreshOptions) { o.Name = "" }, "no name"},
		"peer URL": {func(o *FreshOptions) { o.PeerURL = "x" }, "URL"},
		"revision": {func(o *FreshOptions) { o.HighestKnown = 1<<63 - 1 }, "too high"},
		"written otherwise": {func(o *FreshOptions) {
			o.Fetch = func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
				if err := fetch(ctx, io.Discard, scanner); err != nil {
					return err
				}
				_, err := dst.Write(make([]byte, 100))
				return err
			}
		}, "100 bytes"},
	} {
		wrong := o
		tt.change(&wrong)
		if _, err := Fresh(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		checkNothingLeft(t, parent)
	}
	// Nor does another restore that is on its way, and what a crash left is no hindrance.
	must(t, os.MkdirAll(filepath.Join(work, "data", "member"), 0o700))
	must(t, os.WriteFile(filepath.Join(work, "backend"), []byte("half"), 0o600))
	release, err := durable.TryLock(filepath.Join(work, "lock"))
	must(t, err)
	if _, err := Fresh(t.Context(), o); !errors.Is(err, ErrTargetInUse) {
		t.Errorf("two at once: %v", err)
	}
	must(t, release())
	// Into an empty folder that is there already.
	must(t, os.Mkdir(dir, 0o700))
	result, err := Fresh(t.Context(), o)
	must(t, err)
	if result.Revision != source.info.Revision+RevisionBump {
		t.Errorf("result %+v", result)
	}
	if _, err := os.Lstat(work); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the work folder: %v", err)
	}
	if _, err := Fresh(t.Context(), o); !errors.Is(err, ErrTargetInUse) {
		t.Errorf("over data: %v", err)
	}
	list := names(t, dir)
	want := []string{" drwx------", "/member drwx------", "/member/snap drwx------",
		"/member/snap/0000000000000001-0000000000000001.snap -rw-------", "/member/snap/db -rw-------",
		"/member/wal drwx------", "/member/wal/0000000000000000-0000000000000000.wal -rw-------"}
	if !slices.Equal(list, want) {
		t.Errorf("files %q, want %q", list, want)
	}
	s := etcdtest.Start(t, v, etcdtest.Options{Name: testName, DataDir: dir, PeerURL: o.PeerURL})
	checkServed(t, s, source.state, result)
	full := o
	full.DataDir, full.Size = filepath.Join(parent, "other"), 1<<60
	if _, err := Fresh(t.Context(), full); err == nil {
		t.Error("a restore that no disk can hold was begun")
	}
}

func checkNothingLeft(t *testing.T, parent string) {
	t.Helper()
	left, err := os.ReadDir(parent)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("it left %v", left)
	}
}

// TestFreshBuilt has the backend built instead of fetched.
func TestFreshBuilt(t *testing.T) {
	t.Parallel()
	v := etcdtest.Get(t, "3.7")
	server := etcdtest.Start(t, v, etcdtest.Options{})
	fill(t, server, 150)
	source := save(t, server)
	must(t, server.Stop())
	parent := t.TempDir()
	copied := func(_ context.Context, path, work string) error {
		temp := filepath.Join(work, "temp")
		if err := copyFile(source.path, temp); err != nil {
			return err
		}
		return os.Rename(temp, path)
	}
	o := FreshOptions{
		DataDir: filepath.Join(parent, "data"), Name: testName, PeerURL: reservePeer(t), Size: source.info.Size, Build: copied,
		Revision: source.info.Revision, KeepRevision: true,
	}
	for name, tt := range map[string]struct {
		build    func(ctx context.Context, path, work string) error
		revision history.Revision
		class    error
		want     string
	}{
		"it fails": {build: func(_ context.Context, path, work string) error {
			must(t, os.WriteFile(filepath.Join(work, "half"), nil, 0o600))
			must(t, os.WriteFile(path, nil, 0o600))
			return io.ErrUnexpectedEOF
		}, class: io.ErrUnexpectedEOF},
		"it makes nothing": {build: func(context.Context, string, string) error { return nil }, class: fs.ErrNotExist},
		"it makes no file": {build: func(_ context.Context, path, _ string) error { return os.Symlink(source.path, path) }, want: "no regular file"},
		"it is cut": {build: func(ctx context.Context, path, work string) error {
			return errors.Join(copied(ctx, path, work), os.Truncate(path, source.info.Size/2/4096*4096))
		}, class: snapshot.ErrCorrupt},
		"it is damaged": {build: func(ctx context.Context, path, work string) error {
			must(t, copied(ctx, path, work))
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte{1}, source.info.Size/2)
			return errors.Join(err, f.Close())
		}, class: snapshot.ErrTrailer},
		"another revision": {build: copied, revision: source.info.Revision + 1, class: ErrOtherRevision},
	} {
		wrong := o
		wrong.Build = tt.build
		if tt.revision != 0 {
			wrong.Revision = tt.revision
		}
		if _, err := Fresh(t.Context(), wrong); err == nil || tt.class != nil && !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		checkNothingLeft(t, parent)
	}
	// A fetched one can be held to a revision too.
	fetched := o
	fetched.Build, fetched.Revision = nil, 1
	fetched.Fetch = func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
		return copyScanned(ctx, source.path, dst, scanner)
	}
	if _, err := Fresh(t.Context(), fetched); !errors.Is(err, ErrOtherRevision) {
		t.Errorf("fetched: %v", err)
	}
	checkNothingLeft(t, parent)
	ctx, cancel := context.WithCancel(t.Context())
	late := o
	late.Build = func(ctx context.Context, path, work string) error {
		cancel()
		return copied(ctx, path, work)
	}
	if _, err := Fresh(ctx, late); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	checkNothingLeft(t, parent)

	result, err := Fresh(t.Context(), o)
	must(t, err)
	if result.Revision != source.info.Revision || result.Compacted || !result.HashChecked {
		t.Errorf("result %+v", result)
	}
	list := names(t, o.DataDir)
	want := []string{" drwx------", "/member drwx------", "/member/snap drwx------",
		"/member/snap/0000000000000001-0000000000000001.snap -rw-------", "/member/snap/db -rw-------",
		"/member/wal drwx------", "/member/wal/0000000000000000-0000000000000000.wal -rw-------"}
	if !slices.Equal(list, want) {
		t.Errorf("files %q, want %q", list, want)
	}
	s := etcdtest.Start(t, v, etcdtest.Options{Name: testName, DataDir: o.DataDir, PeerURL: o.PeerURL})
	checkServed(t, s, source.state, result)
}
