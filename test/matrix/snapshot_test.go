package matrix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

const (
	// snapshots is how many are taken in a row under load.
	snapshots = 20
	// objects is the size of the keyspace: with their history some MB, enough for the trees to have inner pages.
	objects = 300
)

// source is an archive of a quiet cluster, with what the cluster held.
type source struct {
	flavour
	archive string
	state   keyspace.State
	cluster uint64
}

// snapshotUnderLoad takes snapshots of a unit that is written to, and one when it is not any more.
func snapshotUnderLoad(t *testing.T, h *home.Home, f flavour) *source {
	unit := f.deploy(t, h, "etcd")
	client := h.Etcd(t, unit)
	fill(t, client, f.auth)
	var saved []saved
	torn := 0
	underLoad(t, client, func() {
		for n := range snapshots {
			before := revision(t, client)
			task := h.MustAct(t, unit, "snapshot", "max-rate=0", fmt.Sprintf("target=/home/ubuntu/%d", n))
			saved = append(saved, save(t, h, unit, task, before, revision(t, client)))
			if !wholeCopy(t, filepath.Join(h.Record(t, unit).DataDir, "member", "snap", "db")) {
				torn++
			}
		}
	})
	t.Logf("of %d plain copies of the live file, %d were torn", snapshots, torn)
	for i, s := range saved {
		s.check(t, h, f, i == len(saved)-1, client)
	}

	state, err := keyspace.Read(t.Context(), client)
	must(t, err)
	if len(state.Keys) < objects/2 || len(state.Leases) == 0 || len(state.Users) != 2 || len(state.Roles) == 0 || state.AuthEnabled != f.auth {
		t.Fatalf("the source holds too little: %d keys, %d leases, %d users", len(state.Keys), len(state.Leases), len(state.Users))
	}
	members, err := client.MemberList(t.Context())
	must(t, err)
	task := h.MustAct(t, unit, "snapshot")
	folder := t.TempDir()
	h.Must(t, "scp", unit+":"+task.Get("snapshot.path"), folder)
	made := &source{flavour: f, state: state, cluster: members.Header.ClusterId, archive: filepath.Join(folder, filepath.Base(task.Get("snapshot.path")))}
	// The archive must outlive this test.
	made.archive = keep(t, h, made.archive, f.application("source")+".tar.gz")
	h.Must(t, "destroy", f.application("etcd"), "--yes")
	return made
}

// keep moves a file to the home, which lives as long as the test above.
func keep(t *testing.T, h *home.Home, file, name string) string {
	kept := filepath.Join(h.Dir, name)
	must(t, os.Rename(file, kept))
	return kept
}

// fill gives the cluster a keyspace with leases, users and a role, and some history.
func fill(t *testing.T, c *clientv3.Client, auth bool) {
	ctx := t.Context()
	_, err := kubeload.Fill(ctx, c, kubeload.New(1, objects))
	must(t, err)
	_, err = c.RoleAdd(ctx, "view")
	must(t, err)
	_, err = c.RoleGrantPermission(ctx, "view", "/registry/", "/registry0", clientv3.PermissionType(clientv3.PermRead))
	must(t, err)
	for user, role := range map[string]string{"root": "root", "reader": "view"} {
		_, err = c.UserAdd(ctx, user, "secret")
		must(t, err)
		_, err = c.UserGrantRole(ctx, user, role)
		must(t, err)
	}
	if auth {
		_, err = c.AuthEnable(ctx)
		must(t, err)
	}
}

// underLoad writes to the cluster, at most 1,000 times a second, while work goes on.
func underLoad(t *testing.T, c *clientv3.Client, work func()) {
	t.Helper()
	const writers, keys, pause = 4, 50, 4 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	for w := range writers {
		group.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				key, value := fmt.Sprintf("load/%d/%d", w, n%keys), strings.Repeat(fmt.Sprint(n), 50)
				ops := []clientv3.Op{clientv3.OpPut(key+"/a", value), clientv3.OpPut(key+"/b", value)}
				if n%10 == 9 {
					ops = []clientv3.Op{clientv3.OpDelete(key, clientv3.WithPrefix())}
				}
				if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil && ctx.Err() == nil {
					return fmt.Errorf("write under load: %w", err)
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
			return nil
		})
	}
	defer func() {
		cancel()
		must(t, group.Wait())
	}()
	work()
}

// saved is one archive that was made under load.
type saved struct {
	file          string // on this machine
	before, after int64  // revisions of the cluster around the call
}

// save checks what can be checked at once.
func save(t *testing.T, h *home.Home, unit string, task home.Task, before, after int64) saved {
	t.Helper()
	s := saved{file: filepath.Join(h.Record(t, unit).Root, task.Get("snapshot.path")), before: before, after: after}
	content, err := os.ReadFile(s.file)
	must(t, err)
	sum := sha256.Sum256(content)
	if got := task.Get("snapshot.sha256"); got != hex.EncodeToString(sum[:]) {
		t.Errorf("%s: sha256 is %x, the result says %s", s.file, sum, got)
	}
	return s
}

// check restores the archive with the version's own tool, which checks etcd's hash. The last one is served as well.
func (s saved) check(t *testing.T, h *home.Home, f flavour, serve bool, source *clientv3.Client) {
	t.Helper()
	h.Must(t, "verify", s.file)
	db := extract(t, s.file)
	got := toolRevision(t, f.Version, db)
	if got < s.before || got > s.after {
		t.Errorf("%s holds revision %d; the cluster went from %d to %d meanwhile", s.file, got, s.before, s.after)
	}
	data := filepath.Join(t.TempDir(), "data")
	if !serve {
		f.Restore(t, db, data)
		must(t, os.RemoveAll(data)) // each has a WAL file of 64 MB
		return
	}
	s.serve(t, f.Version, db, data, got, source)
}

// serve starts the version on what its tool restores, and compares all keys with those that the source had at the
// revision.
func (s saved) serve(t *testing.T, v etcdtest.Version, db, data string, at int64, source *clientv3.Client) {
	t.Helper()
	peer := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t))
	v.Restore(t, db, data, "--name=m1", "--initial-cluster=m1="+peer, "--initial-advertise-peer-urls="+peer)
	server := etcdtest.Start(t, v, etcdtest.Options{DataDir: data, PeerURL: peer})
	client := server.Client
	if auth, err := source.AuthStatus(t.Context()); err == nil && auth.Enabled {
		client = server.Login(t, "root", "secret")
	}
	want, got := everything(t, source, at), everything(t, client, 0)
	if d := keyspace.Diff(want, got); d != "" {
		t.Errorf("the keys at revision %d differ:\n%s", at, d)
	}
	must(t, server.Stop())
}

// everything gives all keys at a revision, 0 for the newest, and nothing else of the state.
func everything(t *testing.T, c *clientv3.Client, at int64) keyspace.State {
	t.Helper()
	answer, err := c.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithRev(at))
	must(t, err)
	if len(answer.Kvs) < objects/2 {
		t.Errorf("only %d keys", len(answer.Kvs))
	}
	state := keyspace.State{Revision: at}
	for _, kv := range answer.Kvs {
		state.Keys = append(state.Keys, keyspace.Key{
			Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
		})
	}
	return state
}

// extract unpacks an archive with tar, after a look at its names.
func extract(t *testing.T, file string) (db string) {
	t.Helper()
	list, err := exec.Command("tar", "tzf", file).CombinedOutput()
	if string(list) != "./\n./db\n" || err != nil {
		t.Fatalf("tar lists %q, %v", list, err)
	}
	folder := t.TempDir()
	if out, err := exec.Command("tar", "xzf", file, "-C", folder).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return filepath.Join(folder, "db")
}

// toolRevision asks the version's own tool for the revision of a snapshot file.
func toolRevision(t *testing.T, v etcdtest.Version, db string) int64 {
	t.Helper()
	cmd := v.UtlCommand(t.Context(), "snapshot", "status", db, "-w", "json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var status struct{ Revision int64 }
	if err == nil {
		err = json.Unmarshal(out, &status)
	}
	if err != nil {
		t.Fatalf("status of %q: %v\n%s%s", db, err, out, &stderr)
	}
	return status.Revision
}

// wholeCopy copies the file of a running etcd, as the backups of old did, and tells whether the copy is sound. What it
// finds depends on luck; that a torn copy is found out is tested where the copy is torn on purpose.
func wholeCopy(t *testing.T, live string) bool {
	t.Helper()
	content, err := os.ReadFile(live)
	must(t, err)
	scanner := snapshot.NewScanner(snapshot.Options{})
	if _, err := scanner.Write(content); err != nil {
		return false
	}
	_, err = scanner.Finish()
	return err == nil
}
