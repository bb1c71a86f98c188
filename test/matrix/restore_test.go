package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// upgrades are the pairs of source and target that are tried beside those of one and the same minor.
func upgrades() map[string][]string {
	return map[string][]string{"3.5": {"3.4"}, "3.6": {"3.5"}, "3.7": {"3.6", "3.5"}, "embedded": {"3.6"}}
}

// restoreAll takes one unit of a flavour through everything that may be restored into it, and everything that may not.
func restoreAll(t *testing.T, h *home.Home, f flavour, sources []*source) {
	u := target{home: h, flavour: f, name: f.deploy(t, h, "new")}
	u.client = h.Etcd(t, u.name)
	var own *source
	for _, from := range sources {
		switch {
		case from.flavour == f:
			own = from
		case newer(t, from.Minor, f.Minor):
			u.refuses(t, from)
		}
	}
	for _, from := range sources {
		for _, minor := range upgrades()[f.String()] {
			if from.Minor == minor {
				u.upgrades(t, from)
			}
		}
	}
	if f.Minor == "3.4" {
		u.trusts(t, own)
	}
	u.keepsRevision(t, own)
	u.restores(t, own)
	u.restoresAgain(t, own)
	u.grows(t, own)
	h.Must(t, "destroy", f.application("new"), "--yes")
}

func newer(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := restore.ParseMinor(a)
	must(t, err)
	y, err := restore.ParseMinor(b)
	must(t, err)
	return x.Minor > y.Minor
}

// target is the unit that is restored into.
type target struct {
	home    *home.Home
	flavour flavour
	name    string
	client  *clientv3.Client
}

func (u target) attach(t *testing.T, file string) {
	t.Helper()
	u.home.Must(t, "attach-resource", u.flavour.application("new"), "snapshot="+file)
}

// refuses wants that data of a newer etcd is refused by name, and that nothing is touched.
func (u target) refuses(t *testing.T, from *source) {
	t.Helper()
	u.attach(t, from.archive)
	u.refusal(t, nil, "restore refused: ", "etcd "+from.Minor+" ", "etcd "+u.flavour.Minor+":")
}

func (u target) refusal(t *testing.T, words []string, want ...string) {
	t.Helper()
	before := u.fingerprint(t)
	task := u.home.Action(t, u.name, append([]string{"restore"}, words...)...)
	if task.Status != "failed" || len(task.Results) > 0 {
		t.Errorf("restore %q: %s, results %v", words, task.Status, task.Results)
	}
	for _, part := range want {
		if !strings.Contains(task.Message, part) {
			t.Errorf("restore %q says %q, want %q in it", words, task.Message, part)
		}
	}
	if after := u.fingerprint(t); after != before {
		t.Errorf("the refused restore %q has changed the unit from\n%sto\n%s", words, before, after)
	}
}

// upgrades restores data of an older etcd, which is to be said.
func (u target) upgrades(t *testing.T, from *source) {
	t.Helper()
	u.attach(t, from.archive)
	task := u.home.MustAct(t, u.name, "restore", "skip-backup=true")
	note := task.Get("restore.note")
	for _, part := range []string{"etcd " + from.Minor, "etcd " + u.flavour.Minor} {
		if !strings.Contains(note, part) {
			t.Errorf("restore says %q, want %q in it", note, part)
		}
	}
	u.served(t, from)
}

// trusts has data that looks newer than it is. Here it is that of an etcd 3.4 whose data dir was once made by etcdutl 3.7.
func (u target) trusts(t *testing.T, own *source) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	etcdtest.Get(t, "3.7").Restore(t, extract(t, own.archive), data)
	u.attach(t, filepath.Join(data, "member", "snap", "db"))
	u.refusal(t, nil, "restore refused: ", "etcd 3.5 ", "etcd 3.4:")
	u.refusal(t, []string{"source-version=3.6"}, "restore refused: ", "etcd 3.6 ", "etcd 3.4:")
	u.refusal(t, []string{"source-version=latest"}, "restore refused: ", `"latest"`)
	u.home.MustAct(t, u.name, "restore", "source-version=3.4", "skip-backup=true")
	u.served(t, own)
}

// keepsRevision restores without the bump: the cluster goes on where the snapshot was.
func (u target) keepsRevision(t *testing.T, own *source) {
	t.Helper()
	u.attach(t, own.archive)
	task := u.home.MustAct(t, u.name, "restore", "bump=false", "skip-backup=true")
	state := u.served(t, own)
	if state.Revision != own.state.Revision || task.Get("restore.revision") != fmt.Sprint(own.state.Revision) {
		t.Errorf("restored at revision %d, the result says %s, the source had %d", state.Revision, task.Get("restore.revision"), own.state.Revision)
	}
}

// restores is the restore of the page, with all its results.
func (u target) restores(t *testing.T, own *source) {
	t.Helper()
	before, err := u.client.MemberList(t.Context())
	must(t, err)
	highest := max(own.state.Revision, revision(t, u.client))
	task := u.home.MustAct(t, u.name, "restore")
	state := u.served(t, own)
	if want := highest + int64(restore.RevisionBump); state.Revision != want || task.Get("restore.revision") != fmt.Sprint(want) {
		t.Errorf("restored at revision %d, the result says %s, want %d", state.Revision, task.Get("restore.revision"), want)
	}
	if _, err := u.client.Get(t.Context(), "x", clientv3.WithRev(own.state.Revision)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("read at the old revision: %v, want that it was compacted", err)
	}
	after, err := u.client.MemberList(t.Context())
	must(t, err)
	record := u.home.Record(t, u.name)
	if m := after.Members; len(m) != 1 || m[0].Name != record.Member || strings.Join(m[0].PeerURLs, ",") != record.PeerURL {
		t.Errorf("the members are %v, want %q at %q", m, record.Member, record.PeerURL)
	}
	id := after.Header.ClusterId
	if id == before.Header.ClusterId || id == own.cluster || task.Get("restore.cluster-id") != strconv.FormatUint(id, 16) {
		t.Errorf("cluster id %x, the result says %s; it was %x before and %x at the source", id, task.Get("restore.cluster-id"), before.Header.ClusterId, own.cluster)
	}
	u.home.Must(t, "verify", filepath.Join(record.Root, task.Get("backup.path")))
	if _, err := os.Stat(filepath.Join(record.Root, task.Get("restore.old-data"), "snap", "db")); err != nil {
		t.Errorf("the old data is not where the result says: %v", err)
	}
}

// restoresAgain takes a snapshot of what was restored. It must be worth the same: for Holdfast, which sees nothing but the
// file, and for the version's own tool and server.
func (u target) restoresAgain(t *testing.T, own *source) {
	t.Helper()
	task := u.home.MustAct(t, u.name, "snapshot", "target=/home/ubuntu/again")
	file := filepath.Join(u.home.Record(t, u.name).Root, task.Get("snapshot.path"))
	alone := filepath.Join(t.TempDir(), "archive.tar.gz") // without its side files
	content, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(alone, content, 0o600))
	u.attach(t, alone)
	again := u.home.MustAct(t, u.name, "restore", "skip-backup=true")
	if note := again.Get("restore.note"); note != "" {
		t.Errorf("a snapshot of the unit itself is restored with a note: %q", note)
	}
	u.served(t, own)

	peer := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t))
	data := filepath.Join(t.TempDir(), "data")
	u.flavour.Restore(t, extract(t, file), data, "--name=m1", "--initial-cluster=m1="+peer, "--initial-advertise-peer-urls="+peer)
	server := etcdtest.Start(t, u.flavour.Version, etcdtest.Options{DataDir: data, PeerURL: peer})
	client := server.Client
	if own.auth {
		client = server.Login(t, "root", "secret")
	}
	checkState(t, client, own.state)
	must(t, server.Stop())
}

// grows adds two units, and compares what each of the three members serves.
func (u target) grows(t *testing.T, own *source) {
	t.Helper()
	application := u.flavour.application("new")
	u.home.Must(t, "add-unit", application, "-n", "2")
	list, err := u.client.MemberList(t.Context())
	must(t, err)
	if len(list.Members) != 3 {
		t.Errorf("the members are %v, want three", list.Members)
	}
	for _, m := range list.Members {
		if m.IsLearner {
			t.Errorf("member %s is a learner", m.Name)
		}
	}
	for n := range 3 {
		client := u.home.Etcd(t, fmt.Sprintf("%s/%d", application, n))
		checkState(t, client, own.state)
		// What this very member has on its disk, whoever leads.
		count, err := client.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithSerializable(), clientv3.WithCountOnly())
		must(t, err)
		if count.Count != int64(len(own.state.Keys)) {
			t.Errorf("member %d has %d keys, want %d", n, count.Count, len(own.state.Keys))
		}
	}
	health := u.home.MustAct(t, application+"/0", "health")
	encoded, err := json.Marshal(health.Results)
	must(t, err)
	if !strings.Contains(string(encoded), "cluster is healthy") {
		t.Errorf("health says %s", encoded)
	}
}

// served compares what the unit serves with the source, and tries a write.
func (u target) served(t *testing.T, from *source) keyspace.State {
	t.Helper()
	state := checkState(t, u.client, from.state)
	for _, op := range []clientv3.Op{clientv3.OpPut("written after the restore", "x"), clientv3.OpDelete("written after the restore")} {
		if _, err := u.client.Do(t.Context(), op); err != nil {
			t.Errorf("write after the restore: %v", err)
		}
	}
	return state
}
