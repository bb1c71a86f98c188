package repository

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a repository with its keys, and a writer that may sign.
type world struct {
	*Repository
	store    *mem.Store
	root     Key
	writer   *Writer
	dir      string
	identity []seal.Identity
}

func newWorld(t *testing.T, encryption Encryption) *world {
	t.Helper()
	w := &world{store: mem.New(), dir: t.TempDir()}
	var err error
	w.root, err = NewKey()
	must(t, err)
	var recipients []seal.Recipient
	if encryption == Age {
		text, recipient, err := seal.GenerateIdentity(seal.X25519)
		must(t, err)
		recipients = append(recipients, recipient)
		w.identity, err = seal.ReadIdentities(writeFile(t, text))
		must(t, err)
	}
	w.Repository, err = Init(t.Context(), w.store, w.root, encryption, recipients)
	must(t, err)
	w.writer, err = OpenWriter(w.dir)
	must(t, err)
	for _, role := range Roles() {
		must(t, w.Enroll(t.Context(), w.root, w.writer.Public(), role, "test"))
	}
	return w
}

// backends are two snapshots of one real etcd, the second with one more revision.
var backends = sync.OnceValues(func() ([][]byte, error) {
	var made [][]byte
	err := withServer(func(ctx context.Context, server *etcdtest.Server) error {
		for _, key := range []string{"/registry/a", "/registry/b"} {
			if _, err := server.Client.Put(ctx, key, strings.Repeat(key, 1000)); err != nil {
				return err
			}
			stream, err := server.Client.Snapshot(ctx)
			if err != nil {
				return err
			}
			content, err := io.ReadAll(stream)
			if err := errors.Join(err, stream.Close()); err != nil {
				return err
			}
			made = append(made, content)
		}
		return nil
	})
	return made, err
})

func backend(t *testing.T, i int) []byte {
	t.Helper()
	made, err := backends()
	must(t, err)
	return made[i]
}

// add stores a backend as a snapshot of a cluster.
func (w *world) add(t *testing.T, cluster string, content []byte) Manifest {
	t.Helper()
	m, err := w.tryAdd(t.Context(), cluster, "", content)
	must(t, err)
	return m
}

func (w *world) tryAdd(ctx context.Context, cluster string, timeline Timeline, content []byte) (Manifest, error) {
	upload, err := w.Upload(ctx, cluster, UploadOptions{})
	if err != nil {
		return Manifest{}, err
	}
	scanner := snapshot.NewScanner(snapshot.Options{})
	if _, err := io.Copy(io.MultiWriter(upload, scanner), bytes.NewReader(content)); err != nil {
		upload.Abort()
		return Manifest{}, err
	}
	info, err := scanner.Finish()
	if err != nil {
		upload.Abort()
		return Manifest{}, err
	}
	if err := upload.Finish(); err != nil {
		return Manifest{}, err
	}
	return upload.Publish(ctx, w.writer, Manifest{Timeline: timeline, Content: ContentOf(info), Source: Source{EtcdVersion: "3.7.3"}})
}

// names lists everything in the store.
func (w *world) names(t *testing.T) []string {
	t.Helper()
	var names []string
	for object, err := range w.store.List(t.Context(), "", "") {
		must(t, err)
		names = append(names, object.Name)
	}
	return names
}

// read gives an object, replace puts another in its place, as somebody with all rights to the store could.
func (w *world) read(t *testing.T, name string) []byte {
	t.Helper()
	body, err := w.store.Open(t.Context(), name, 0, -1)
	must(t, err)
	content, err := io.ReadAll(body)
	must(t, errors.Join(err, body.Close()))
	return content
}

func (w *world) replace(t *testing.T, name string, content []byte) {
	t.Helper()
	must(t, w.store.Delete(t.Context(), name))
	if content == nil {
		return
	}
	_, err := w.store.Put(t.Context(), name, bytes.NewReader(content), store.PutOptions{})
	must(t, err)
}

// again opens the repository anew, as another process would.
func (w *world) again(t *testing.T) *Repository {
	t.Helper()
	r, err := Open(t.Context(), w.store, w.Root())
	must(t, err)
	return r
}

func contains(names []string, part string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, part) })
}

// withServer runs a real etcd for as long as do takes.
func withServer(do func(context.Context, *etcdtest.Server) error) error {
	versions, err := etcdtest.FindVersions(".")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "repository-test")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	server, err := etcdtest.Launch(ctx, versions[len(versions)-1], dir, etcdtest.Options{})
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, server), server.Close())
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}
