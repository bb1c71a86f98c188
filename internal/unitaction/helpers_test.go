package unitaction

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/etcdproc"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/service"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// The test binary is also the spawn step that starts an etcd.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "spawn" {
		fmt.Fprintln(os.Stderr, service.SpawnMain(os.Args[2:], os.Environ()))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// world is a unit with an etcd that is supervised as by an agent.
type world struct {
	*Unit
	child *service.Child
	// attached is the file of the resource, "" for none.
	attached, attachedSHA256 string
}

// Path makes the world its own unit's resources.
func (w *world) Path(name string) (string, string, error) {
	if name != "snapshot" || w.attached == "" {
		return "", "", fs.ErrNotExist
	}
	return w.attached, w.attachedSHA256, nil
}

// supervised is the unit's etcd as an agent shows it to the actions.
type supervised struct{ *service.Child }

func (s supervised) LogTail(lines int) string {
	tail, err := s.Child.LogTail(lines)
	if err != nil {
		return err.Error()
	}
	return tail
}

// newWorld makes a unit without a running etcd.
func newWorld(t *testing.T, minor string) *world {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	record := unit.Record{
		Agent: "127.0.0.1:1", Member: "etcd-0", DataDir: filepath.Join(root, "var", "lib", "etcd"), Root: root, Service: unit.Service{Kind: unit.Child},
		ClientURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t))}, PeerURL: fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t)),
		EtcdBinary: etcdtest.Get(t, minor).Server,
	}
	must(t, record.Validate())
	must(t, os.MkdirAll(record.DataDir, 0o700))
	opened, err := os.OpenRoot(root)
	must(t, err)
	program, err := os.Executable()
	must(t, err)
	w := &world{}
	w.child, err = service.New(service.Options{Dir: dir, Spawn: []string{program, "spawn"}})
	must(t, err)
	w.Unit = &Unit{
		Name: unit.Name{Application: "etcd", Number: 0}, Record: record, Root: opened, Service: supervised{w.child}, Resources: w,
		ServerVersion: func(context.Context) (string, error) { return etcdtest.Get(t, minor).Full, nil },
		Scratch:       filepath.Join(dir, "scratch"), Logger: slog.New(slog.DiscardHandler),
	}
	t.Cleanup(func() { must(t, errors.Join(w.child.Stop(context.Background()), opened.Close())) })
	return w
}

// serve starts the unit's etcd and keeps it running until the test ends.
func (w *world) serve(t *testing.T) *world {
	t.Helper()
	w.supervise(t)
	if err := w.awaitServing(t.Context(), time.Minute, 0); err != nil {
		t.Fatalf("%v: %s", err, w.Service.LogTail(10))
	}
	return w
}

// supervise keeps the unit's etcd running, unless it is held, until the test ends.
func (w *world) supervise(t *testing.T) {
	t.Helper()
	args := etcdproc.ServerArgs(w.Record, etcdproc.ClusterSpec{
		InitialCluster: map[string]string{w.Record.Member: w.Record.PeerURL}, State: etcdproc.New, Token: "t",
	})
	command := service.Command{Path: w.Record.EtcdBinary, Args: args, Env: service.Environment(os.Environ())}
	ctx, cancel := context.WithCancel(context.Background())
	var supervising sync.WaitGroup
	supervising.Go(func() {
		if err := w.child.Supervise(ctx, func() service.Command { return command }, func(service.Event) {}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		supervising.Wait()
	})
}

// etcd gives a client of the unit's etcd.
func (w *world) etcd(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: w.Record.ClientURLs, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func (w *world) put(t *testing.T, key, value string) {
	t.Helper()
	_, err := w.etcd(t).Put(t.Context(), key, value)
	must(t, err)
}

func (w *world) get(t *testing.T, key string) string {
	t.Helper()
	reply, err := w.etcd(t).Get(t.Context(), key)
	must(t, err)
	if len(reply.Kvs) == 0 {
		return ""
	}
	return string(reply.Kvs[0].Value)
}

// run runs an action as the runner does: with its parameters checked.
func (w *world) run(ctx context.Context, name string, given map[string]any) (*action.Call, error) {
	i := slices.IndexFunc(w.Actions(), func(a action.Action) bool { return a.Spec().Name == name })
	chosen := w.Actions()[i]
	params, err := chosen.Spec().Check(given)
	if err != nil {
		return nil, err
	}
	call := &action.Call{TaskID: uuid.NewString(), Unit: w.Name, Program: "juju", Params: params}
	return call, chosen.Run(ctx, call)
}

// do runs an action that must succeed.
func (w *world) do(t *testing.T, name string, given map[string]any) action.Results {
	t.Helper()
	call, err := w.run(t.Context(), name, given)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return call.Results()
}

func get(t *testing.T, results action.Results, key string) string {
	t.Helper()
	value, found := results.Get(key)
	if !found {
		t.Fatalf("no %s in %v", key, results)
	}
	return value
}

// host is the path on this machine of a path of the unit.
func (w *world) host(path string) string { return filepath.Join(w.Record.Root, path) }

// files lists the files of the unit beside etcd's, as paths of the unit.
func (w *world) files(t *testing.T) []string {
	t.Helper()
	var list []string
	must(t, filepath.WalkDir(w.Record.Root, func(path string, e fs.DirEntry, err error) error {
		if path == w.Record.DataDir {
			return filepath.SkipDir
		}
		if err == nil && !e.IsDir() {
			list = append(list, strings.TrimPrefix(path, w.Record.Root))
		}
		return err
	}))
	return list
}

// untar gives the headers and contents of a tar.gz.
func untar(t *testing.T, file string) (headers []*tar.Header, contents map[string][]byte) {
	t.Helper()
	packed, err := os.ReadFile(file)
	must(t, err)
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	must(t, err)
	contents = map[string][]byte{}
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		must(t, err)
		headers = append(headers, header)
		contents[header.Name], err = io.ReadAll(archive)
		must(t, err)
	}
}

// address is the host:port of the unit's client URL.
func (w *world) address(t *testing.T) string {
	t.Helper()
	parsed, err := url.Parse(w.Record.ClientURLs[0])
	must(t, err)
	return parsed.Host
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
