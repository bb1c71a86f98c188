// Package v2 tests snapshot and restore of the keys of etcd's v2 store, through the program, with the two etcd versions
// that still have one: snapshots under load hold everything that was confirmed before, a restore brings exactly that and
// ends the v3 keys, and the other way round; what cannot work is refused; a crash leaves nothing.
package v2

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	_ "github.com/holdfast-project/holdfast/internal/cli" // The program under test: go test must not take an old result for it.
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

func TestMain(m *testing.M) { os.Exit(home.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// source is a cluster whose keys were saved.
type source struct {
	version etcdtest.Version
	ledger  *ledger
	cluster uint64
	// busy was made while keys were written, quiet when nobody wrote any more.
	busy, quiet archive
}

// archive is an archive file on this machine.
type archive struct {
	file string
	// before is what etcd had confirmed when the snapshot began.
	before map[string]string
}

// deployV2 deploys units with the v2 store in use. suffix tells the applications of the versions apart.
func deployV2(t *testing.T, h *home.Home, v etcdtest.Version, application string, more ...string) string {
	t.Helper()
	name := application + "-v" + strings.ReplaceAll(v.Minor, ".", "")
	h.Must(t, append([]string{"deploy", "etcd", name, "--etcd-binary", v.Server, "--etcd-arg=--enable-v2"}, more...)...)
	return name
}

func TestV2(t *testing.T) {
	h := home.New(t)
	versions := []etcdtest.Version{etcdtest.Get(t, "3.4"), etcdtest.Get(t, "3.5")}
	sources := make([]*source, len(versions))
	t.Run("save", func(t *testing.T) {
		for i, v := range versions {
			t.Run(v.Minor, func(t *testing.T) {
				t.Parallel()
				sources[i] = save(t, h, v)
			})
		}
	})
	if t.Failed() {
		return
	}
	t.Run("restore", func(t *testing.T) {
		for _, v := range versions {
			t.Run(v.Minor, func(t *testing.T) {
				t.Parallel()
				restoreAll(t, h, v, sources)
			})
		}
		t.Run("refuse", func(t *testing.T) {
			t.Parallel()
			refuseAll(t, h, sources[1])
		})
	})
}

// save takes snapshots of a cluster under load, and one of a follower right after the last write: that one is committed in
// the log of etcd only when the next entry comes. etcd makes raft snapshots often here, so that its log moves while it is
// read.
func save(t *testing.T, h *home.Home, v etcdtest.Version) *source {
	application := deployV2(t, h, v, "etcd", "--units", "3", "--etcd-arg=--snapshot-count=1000")
	units := []string{application + "/0", application + "/1", application + "/2"}
	made := &source{version: v, ledger: newLedger()}
	members, err := h.Etcd(t, units[0]).MemberList(t.Context())
	must(t, err)
	made.cluster = members.Header.ClusterId
	must(t, made.ledger.write(t.Context(), storeOf(t, h, units[0]), "/first"))
	underLoad(t, h, made.ledger, units, func() {
		for _, name := range units[:2] {
			made.busy = made.save(t, h, name)
		}
	})
	must(t, made.ledger.write(t.Context(), storeOf(t, h, units[0]), "/last"))
	made.quiet = made.save(t, h, units[2])
	h.Must(t, "destroy", application, "--yes")
	return made
}

// save takes a snapshot of a unit. The archive outlives the unit.
func (s *source) save(t *testing.T, h *home.Home, name string) archive {
	t.Helper()
	made := archive{before: s.ledger.now()}
	file := checkArchive(t, h, s.version, name, h.MustAct(t, name, "snapshot", "keys-version=v2"))
	made.file = filepath.Join(h.Dir, strings.ReplaceAll(name, "/", "-")+".tar.gz")
	must(t, os.Rename(file, made.file))
	return made
}

// layout is what tar tzf lists, whatever etcd's numbers are.
var layout = regexp.MustCompile(`^\./
\./member/
\./member/wal/
(\./member/wal/[0-9a-f]{16}-[0-9a-f]{16}\.wal
)+\./member/snap/
(\./member/snap/[0-9a-f]{16}-[0-9a-f]{16}\.snap
)?\./member/snap/db
$`)

// checkArchive checks what can be seen of an archive without an etcd, and gives its path on this machine.
func checkArchive(t *testing.T, h *home.Home, v etcdtest.Version, name string, task home.Task) string {
	t.Helper()
	file := filepath.Join(h.Record(t, name).Root, task.Get("snapshot.path"))
	if got, want := task.Get("snapshot.version"), "etcdctl version: "+v.Full+"\nAPI version: 2"; got != want {
		t.Errorf("%s: version %q, want %q", name, got, want)
	}
	if got := task.Get("copy.cmd"); got != "holdfast scp "+name+":"+task.Get("snapshot.path")+" ." {
		t.Errorf("%s: copy.cmd %q", name, got)
	}
	// The WAL file is of 64 MB, nearly all of it zeros.
	if size := task.Get("snapshot.size"); !regexp.MustCompile(`^[0-9.]+K$`).MatchString(size) {
		t.Errorf("%s: size %q", name, size)
	}
	listing, err := exec.Command("tar", "tzf", file).CombinedOutput()
	must(t, err)
	if !layout.Match(listing) {
		t.Errorf("%s: tar tzf:\n%s", name, listing)
	}
	if out, err := exec.Command("sha256sum", file).CombinedOutput(); err != nil || !strings.HasPrefix(string(out), task.Get("snapshot.sha256")) {
		t.Errorf("%s: sha256sum: %v\n%s\nthe result says %s", name, err, out, task.Get("snapshot.sha256"))
	}
	said := h.Must(t, "verify", file)
	if !strings.Contains(said, "v2 store") || !strings.Contains(said, "etcd       "+v.Minor) {
		t.Errorf("%s: verify says\n%s", name, said)
	}
	scratch, err := os.ReadDir(filepath.Join(h.Folder(t, name), "state", "scratch"))
	if err != nil || len(scratch) > 0 {
		t.Errorf("%s: left in the scratch folder: %v, %v", name, scratch, err)
	}
	return file
}

// target is the unit that is restored into.
type target struct {
	home        *home.Home
	application string
	name        string
	store       store
	etcd        *clientv3.Client
}

// restoreAll takes one new unit of a version through every archive.
func restoreAll(t *testing.T, h *home.Home, v etcdtest.Version, sources []*source) {
	application := deployV2(t, h, v, "new")
	u := target{home: h, application: application, name: application + "/0"}
	u.store, u.etcd = storeOf(t, h, u.name), h.Etcd(t, u.name)
	own, other := sources[0], sources[1]
	if v.Minor == other.version.Minor {
		own, other = other, own
	}
	u.crashes(t, own.quiet.file)
	clusters := map[uint64]bool{own.cluster: true}
	u.brings(t, own, own.quiet, "", clusters)
	if other.version.Minor < v.Minor {
		u.brings(t, other, other.quiet, "data of etcd 3.4 will be opened by etcd 3.5 and cannot go back", clusters)
	} else {
		u.refuses(t, other.quiet.file, "data of etcd 3.5 cannot be opened by etcd 3.4: it is older")
	}
	u.refuses(t, damaged(t, own.quiet.file), "crc mismatch")
	u.endedByV3(t)
	u.brings(t, own, own.busy, "", clusters)
	// A new member gets the v2 keys from the first one.
	u.home.Must(t, "add-unit", application)
	own.ledger.check(t, storeOf(t, h, application+"/1").read(t), own.busy.before)
}

// brings restores an archive over keys of both kinds. note is more that the result must say.
func (u target) brings(t *testing.T, from *source, a archive, note string, clusters map[uint64]bool) {
	t.Helper()
	must(t, u.store.put(t.Context(), "/old", "old"))
	_, err := u.etcd.Put(t.Context(), "old", "old")
	must(t, err)
	u.home.Must(t, "attach-resource", u.application, "snapshot="+a.file)
	task := u.home.MustAct(t, u.name, "restore")
	got := u.store.read(t)
	from.ledger.check(t, got, a.before)
	if _, old := got["/old"]; old || task.Get("restore.keys") != strconv.Itoa(len(got)) {
		t.Errorf("the old v2 key is there: %v; the result says %s keys, there are %d", old, task.Get("restore.keys"), len(got))
	}
	if answer, err := u.etcd.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || answer.Count != 0 {
		t.Errorf("v3 keys after the restore: %v, %v", answer, err)
	}
	members, err := u.etcd.MemberList(t.Context())
	must(t, err)
	record := u.home.Record(t, u.name)
	if m := members.Members; len(m) != 1 || m[0].Name != record.Member || strings.Join(m[0].PeerURLs, ",") != record.PeerURL {
		t.Errorf("the members are %v, want %q at %q", m, record.Member, record.PeerURL)
	}
	id := members.Header.ClusterId
	if clusters[id] || task.Get("restore.cluster-id") != strconv.FormatUint(id, 16) {
		t.Errorf("cluster id %x, the result says %s; seen before: %v", id, task.Get("restore.cluster-id"), clusters)
	}
	clusters[id] = true
	for _, want := range []string{"the v3 keys of the unit (", "its v2 keys are in the kept data", note} {
		if !strings.Contains(task.Get("restore.note"), want) {
			t.Errorf("the result's note is %q, want %q in it", task.Get("restore.note"), want)
		}
	}
	if task.Get("restore.source-version") != from.version.Minor || task.Get("restore.revision") != "" {
		t.Errorf("results %v", task.Results)
	}
	if _, err := os.Stat(filepath.Join(record.Root, task.Get("restore.old-data"), "snap", "db")); err != nil {
		t.Errorf("the old data is not where the result says: %v", err)
	}
	u.clean(t)
}

// endedByV3 restores a snapshot of the v3 keys: it ends the v2 keys and says so before it does.
func (u target) endedByV3(t *testing.T) {
	t.Helper()
	_, err := u.etcd.Put(t.Context(), "only", "v3")
	must(t, err)
	saved := u.home.MustAct(t, u.name, "snapshot")
	keys := len(u.store.read(t))
	_, log, code := u.home.Run(t, "run", u.name, "restore", "path="+saved.Get("snapshot.path"))
	want := fmt.Sprintf("the v2 keys of the unit (%d) go: the archive holds v3 keys only", keys)
	if at := strings.Index(log, want); code != 0 || keys == 0 || at < 0 || at > strings.Index(log, "stopping etcd") {
		t.Errorf("exit code %d, want %q before etcd stops; log:\n%s", code, want, log)
	}
	if got := u.store.read(t); len(got) != 0 {
		t.Errorf("%d v2 keys after a restore of v3", len(got))
	}
	if answer, err := u.etcd.Get(t.Context(), "only"); err != nil || answer.Count != 1 {
		t.Errorf("the v3 key after its restore: %v, %v", answer, err)
	}
}

// clean wants nothing left of a restore but the kept data and the archives.
func (u target) clean(t *testing.T) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(u.home.Record(t, u.name).DataDir, "holdfast-restore")); !os.IsNotExist(err) {
		t.Errorf("the stage is left: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(u.home.Folder(t, u.name), "state", "scratch"))
	if err != nil && !os.IsNotExist(err) || len(entries) > 0 {
		t.Errorf("left in the scratch folder: %v, %v", entries, err)
	}
}
