package restore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

const (
	testName = "etcd-7"
	testPeer = "http://127.0.0.1:1"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// saved is a snapshot of a server with what the server held.
type saved struct {
	version etcdtest.Version
	path    string
	info    snapshot.Info
	state   keyspace.State
	cluster uint64
}

// fill gives the server a keyspace with leases, users and a role, and some history.
func fill(t *testing.T, s *etcdtest.Server, objects int) {
	t.Helper()
	ctx, c := t.Context(), s.Client
	_, err := kubeload.Fill(ctx, c, kubeload.New(1, objects))
	must(t, err)
	_, err = c.RoleAdd(ctx, "view")
	must(t, err)
	_, err = c.RoleGrantPermission(ctx, "view", "/registry/", "/registry0", clientv3.PermissionType(clientv3.PermRead))
	must(t, err)
	for _, user := range []string{"root", "reader"} {
		_, err = c.UserAdd(ctx, user, "secret")
		must(t, err)
	}
	_, err = c.UserGrantRole(ctx, "root", "root")
	must(t, err)
	_, err = c.UserGrantRole(ctx, "reader", "view")
	must(t, err)
}

// save takes a snapshot of the server as etcdctl does.
func save(t *testing.T, s *etcdtest.Server) saved {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapshot.db")
	s.Etcdctl(t, "snapshot", "save", path)
	state, err := keyspace.Read(t.Context(), s.Client)
	must(t, err)
	members, err := s.Client.MemberList(t.Context())
	must(t, err)
	return saved{version: s.Version, path: path, info: mustScan(t, path), state: state, cluster: members.Header.ClusterId}
}

func mustScan(t *testing.T, path string) snapshot.Info {
	t.Helper()
	info, err := scan(path)
	must(t, err)
	return info
}

// scan checks every page of a backend file.
func scan(path string) (snapshot.Info, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return snapshot.Info{}, err
	}
	scanner := snapshot.NewScanner(snapshot.Options{})
	if _, err := scanner.Write(content); err != nil {
		return snapshot.Info{}, err
	}
	return scanner.Finish()
}

// target is a data dir that a restore goes to. It has data already, though not of an etcd that works: what etcd finds
// beside its new data afterwards is what it finds after a real restore.
type target struct {
	dir  datadir.Dir
	data string
	wal  string
}

func newTarget(t *testing.T, separateWAL bool) target {
	t.Helper()
	root := t.TempDir()
	tt := target{data: filepath.Join(root, "data")}
	if separateWAL {
		tt.wal = filepath.Join(root, "wal")
	}
	var err error
	tt.dir, err = datadir.At(tt.data, tt.wal)
	must(t, err)
	old := []string{filepath.Join(tt.data, "member", "snap", "db"), filepath.Join(tt.data, "member", "wal", "0000000000000000-0000000000000000.wal")}
	if separateWAL {
		old[1] = filepath.Join(tt.wal, "0000000000000000-0000000000000000.wal")
	}
	for _, path := range old {
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte("old"), 0o600))
	}
	return tt
}

// restore builds in a stage and switches to it.
func (tt target) restore(t *testing.T, opts Options) Result {
	t.Helper()
	var err error
	opts.Stage, err = tt.dir.Stage()
	must(t, err)
	result, err := Build(t.Context(), opts)
	must(t, err)
	kept, err := tt.dir.Switch("1")
	must(t, err)
	must(t, tt.dir.Commit())
	if kept.Member == "" || (kept.WAL == "") != (tt.wal == "") {
		t.Errorf("kept %+v", kept)
	}
	return result
}

// serve starts an etcd on what was restored.
func (tt target) serve(t *testing.T, v etcdtest.Version, peer string) *etcdtest.Server {
	t.Helper()
	o := etcdtest.Options{Name: testName, DataDir: tt.data, PeerURL: peer}
	if tt.wal != "" {
		o.Args = []string{"--wal-dir=" + tt.wal}
	}
	return etcdtest.Start(t, v, o)
}

func reservePeer(t *testing.T) string {
	return fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t))
}

// alarm raises an alarm on a server.
func alarm(t *testing.T, s *etcdtest.Server, kind etcdserverpb.AlarmType) {
	t.Helper()
	_, err := etcdserverpb.NewMaintenanceClient(s.Client.ActiveConnection()).Alarm(t.Context(),
		&etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, Alarm: kind})
	must(t, err)
}

// names lists everything below a folder, with modes. An absent folder has nothing.
func names(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		list = append(list, strings.TrimPrefix(path, root)+" "+info.Mode().String())
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return list
}
