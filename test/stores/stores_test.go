// Package stores runs the program as a person does against repositories in Google Cloud Storage, Azure Blob Storage and on an
// SSH server, on loopback. Package s3, beside it, does so for S3.
package stores

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/azure"
	"github.com/holdfast-project/holdfast/internal/store/azuretest"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/gcstest"
	"github.com/holdfast-project/holdfast/internal/store/sftp"
	"github.com/holdfast-project/holdfast/internal/store/sftptest"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

func TestMain(m *testing.M) { os.Exit(home.Main(m)) }

// place is where a repository is.
type place struct {
	// repo is its address, and env what the program needs to reach it.
	repo string
	env  []string
	// direct is what somebody else does with the objects below "clusters" there.
	direct interface {
		store.Store
		store.Deleter
	}
	// elsewhere is the address of an empty part of the same store.
	elsewhere string
	// wrong are addresses that must not work, with more variables, the exit code and what is said.
	wrong []wrong
	// secrets are in no output.
	secrets []string
}

type wrong struct {
	what, repo string
	env        []string
	code       int
	want       string
}

func openGCS(t *testing.T) place {
	server := gcstest.Start(t)
	bucket := server.Bucket(t, false)
	s, err := gcs.New(server.Options(bucket))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(key, []byte(`{"private_key": "hunter2"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(bucket, prefix string) string { return "gs://" + bucket + prefix + "?endpoint=" + server.Endpoint }
	return place{
		repo: at(bucket, "/clusters"), elsewhere: at(bucket, "/elsewhere"), direct: s, secrets: []string{"hunter2"},
		wrong: []wrong{
			{what: "no such bucket", repo: at("no-such-bucket-here", ""), code: 10, want: "Not Found"},
			{what: "no credentials in the file", repo: at(bucket, "/clusters") + "&credentials-file=" + key, code: 1, want: "holds no credentials"},
			{what: "plain http to another machine", repo: "gs://bucket?endpoint=http://192.0.2.1", code: 2, want: "this machine only"},
		},
	}
}

func openAzure(t *testing.T) place {
	server := azuretest.Start(t)
	container := server.Container(t)
	s, err := azure.New(server.Options(container))
	if err != nil {
		t.Fatal(err)
	}
	const another = "aHVudGVyMg=="
	at := func(container, prefix string) string {
		return "azblob://" + container + prefix + "?account=" + server.Account + "&endpoint=" + server.Endpoint()
	}
	return place{
		repo: at(container, "/clusters"), elsewhere: at(container, "/elsewhere"), direct: s, secrets: []string{server.Key, another},
		env: []string{"AZURE_STORAGE_KEY=" + server.Key},
		wrong: []wrong{
			{what: "a wrong key", repo: at(container, "/clusters"), env: []string{"AZURE_STORAGE_KEY=" + another}, code: 1, want: "AuthorizationFailure"},
			{what: "no such container", repo: at("no-such-container", ""), code: 10, want: "ContainerNotFound"},
			{what: "no account", repo: "azblob://" + container, code: 2, want: "which storage account"},
		},
	}
}

func openSFTP(t *testing.T) place {
	server := sftptest.Start(t, "")
	s, err := sftp.New(server.Options("clusters/.."))
	if err != nil {
		t.Fatal(err)
	}
	nobody := filepath.Join(t.TempDir(), "known_hosts")
	other := filepath.Join(t.TempDir(), "identity")
	if _, err := sftptest.NewKey(other); err != nil {
		t.Fatal(err)
	}
	at := func(folder, identity, hosts string) string {
		return fmt.Sprintf("sftp://%s@%s%s?identity-file=%s&known-hosts=%s", server.User, server.Host, filepath.Join(server.Data, folder), identity, hosts)
	}
	return place{
		repo: at("clusters", server.Identity, server.KnownHosts), elsewhere: at("elsewhere", server.Identity, server.KnownHosts), direct: s,
		wrong: []wrong{
			{what: "another key", repo: at("clusters", other, server.KnownHosts), code: 1, want: "does not let this user in"},
			{what: "a server that is not known", repo: at("clusters", server.Identity, nobody), code: 1, want: "is not known"},
			{what: "a password", repo: "sftp://user:hunter2@" + server.Host + "/srv", code: 2, want: "name or password"},
		},
		secrets: []string{"hunter2", "PRIVATE KEY"},
	}
}

// TestRepository takes a cluster into a repository in each store and back, in parts: the database is larger than what a
// store takes at once.
func TestRepository(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	random := rand.NewChaCha8([32]byte{}) // what cannot be compressed, the same each time
	for i := range 24 {
		value := make([]byte, 1<<20)
		_, _ = random.Read(value) // it cannot fail
		if _, err := etcd.Client.Put(t.Context(), fmt.Sprintf("/registry/%02d", i), string(value)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := keyspace.Read(t.Context(), etcd.Client)
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(*testing.T) place{"gcs": openGCS, "azure": openAzure, "sftp": openSFTP} {
		t.Run(name, func(t *testing.T) { throughStore(t, open(t), etcd, want) })
	}
}

func throughStore(t *testing.T, p place, etcd *etcdtest.Server, want keyspace.State) {
	h := home.New(t)
	h.Env = append(p.env, "HOLDFAST_REPO="+p.repo)
	run := func(args ...string) (stdout, stderr string, code int) {
		t.Helper()
		stdout, stderr, code = h.Run(t, args...)
		for _, secret := range p.secrets {
			if strings.Contains(stdout+stderr, secret) {
				t.Errorf("holdfast %q says %q", args, secret)
			}
		}
		return stdout, stderr, code
	}
	must := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := run(args...)
		if code != 0 {
			t.Fatalf("holdfast %q: exit code %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }

	if _, _, code := run("list"); code != 10 {
		t.Errorf("list before there is a repository: exit code %d", code)
	}
	recipient := strings.TrimSpace(must("key", "generate", in("key.txt")))
	must("repo", "init", "--recipient", recipient, "--root-key", in("root.key"))
	if _, problems, code := run("repo", "init", "--recipient", recipient, "--root-key", in("other.key")); code != 1 || !strings.Contains(problems, "there is one already") {
		t.Errorf("the second repo init: exit code %d\n%s", code, problems)
	}
	must("backup", "--cluster", "prod", "--endpoints", etcd.Endpoint)
	said := must("backup", "--endpoints", etcd.Endpoint, "--cluster", "prod", "--output", "json")
	var manifest struct {
		ID      string
		Object  struct{ Name string }
		Content struct{ Revision int64 }
	}
	if err := json.Unmarshal([]byte(said), &manifest); err != nil || manifest.Content.Revision != want.Revision {
		t.Fatalf("backup says %s, %v; want revision %d", said, err, want.Revision)
	}
	object := "clusters/" + manifest.Object.Name
	if stored, err := p.direct.Stat(t.Context(), object); err != nil || stored.Size < 24<<20 {
		t.Errorf("in the store: %+v, %v", stored, err)
	}
	if list := must("list"); strings.Count(list, "prod") != 2 {
		t.Errorf("list:\n%s", list)
	}
	if said := must("verify", "--level", "checksum", "--identity", in("key.txt")); strings.Count(said, "checked, ") != 2 {
		t.Errorf("verify:\n%s", said)
	}
	if said := must("repo", "check"); !strings.Contains(said, "2 snapshots in 1 cluster") {
		t.Errorf("repo check: %s", said)
	}

	// Back to a cluster, by Holdfast, and by etcd's own tools.
	must("restore", manifest.ID, "--identity", in("key.txt"), "--data-dir", in("data"))
	must("export", manifest.ID, in("snapshot.db"), "--identity", in("key.txt"))
	etcd.Version.Restore(t, in("snapshot.db"), in("stock"))
	for _, data := range []string{in("data"), in("stock")} {
		server := etcdtest.Start(t, etcd.Version, etcdtest.Options{DataDir: data})
		got, err := keyspace.Read(t.Context(), server.Client)
		if err != nil {
			t.Fatal(err)
		}
		if diff := keyspace.Diff(want, got); diff != "" {
			t.Errorf("%s, restored, differs:\n%s", filepath.Base(data), diff)
		}
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}

	// What is wrong with the address or the credentials is told apart from a repository that is not there.
	for _, w := range p.wrong {
		before := h.Env
		h.Env = append(h.Env[:len(h.Env):len(h.Env)], w.env...)
		_, problems, code := run("list", "--repo", w.repo)
		h.Env = before
		if code != w.code || !strings.Contains(problems, w.want) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s", w.what, code, w.code, w.want, problems)
		}
	}
	if _, problems, code := run("list", "--repo", p.elsewhere); code != 10 {
		t.Errorf("no repository there: exit code %d\n%s", code, problems)
	}

	// What somebody did to the objects shows.
	if err := p.direct.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	if _, problems, code := run("repo", "check"); code != 3 || !strings.Contains(problems, manifest.Object.Name) {
		t.Errorf("repo check of a damaged repository: exit code %d\n%s", code, problems)
	}
}
