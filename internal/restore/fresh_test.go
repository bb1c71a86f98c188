package restore

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
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
	fetch := func(_ context.Context, dst io.Writer) (snapshot.Info, error) {
		content, err := os.ReadFile(source.path)
		if err == nil {
			_, err = dst.Write(content)
		}
		return source.info, err
	}
	parent := t.TempDir()
	dir, work := filepath.Join(parent, "data"), filepath.Join(parent, ".data.restoring")
	o := FreshOptions{DataDir: dir, Name: testName, PeerURL: reservePeer(t), Size: source.info.Size, Fetch: fetch}

	// What cannot be fetched whole leaves nothing.
	broken := o
	broken.Fetch = func(_ context.Context, dst io.Writer) (snapshot.Info, error) {
		_, err := dst.Write(make([]byte, 100))
		return snapshot.Info{}, errors.Join(err, io.ErrUnexpectedEOF)
	}
	if _, err := Fresh(t.Context(), broken); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a broken source: %v", err)
	}
	left, err := os.ReadDir(parent)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("it left %v", left)
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
	s := etcdtest.Start(t, v, etcdtest.Options{Name: testName, DataDir: dir, PeerURL: o.PeerURL})
	checkServed(t, s, source.state, result)
	full := o
	full.DataDir, full.Size = filepath.Join(parent, "other"), 1<<60
	if _, err := Fresh(t.Context(), full); err == nil {
		t.Error("a restore that no disk can hold was begun")
	}
}
