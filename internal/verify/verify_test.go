package verify

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/etcdproc"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// The test binary is its own child, as holdfast is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "etcd":
			etcdproc.Main(os.Args[2:])
		case InspectCommand:
			if err := Inspect(os.Args[2:], os.Stdout); err != nil {
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a repository with one snapshot of a real etcd.
type world struct {
	*repository.Repository
	store   *mem.Store
	client  *member.Client
	writer  *repository.Writer
	read    repository.Read
	options Options
}

// newWorld backs up an etcd that fill has filled.
func newWorld(t *testing.T, version string, fill func(*etcdtest.Server)) *world {
	t.Helper()
	w := &world{store: mem.New()}
	root, err := repository.NewKey()
	must(t, err)
	text, recipient, err := seal.GenerateIdentity(seal.X25519)
	must(t, err)
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	identities, err := seal.ReadIdentities(file)
	must(t, err)
	w.Repository, err = repository.Init(t.Context(), w.store, root, repository.Age, []seal.Recipient{recipient})
	must(t, err)
	w.writer, err = repository.OpenWriter(t.TempDir())
	must(t, err)
	must(t, w.Enroll(t.Context(), root, w.writer.Public(), repository.RoleBackup, "test"))
	server := etcdtest.Start(t, etcdtest.Get(t, version), etcdtest.Options{})
	fill(server)
	w.client, err = member.Dial(server.Endpoint, nil)
	must(t, err)
	t.Cleanup(func() { must(t, w.client.Close()) })
	_, err = backup.Run(t.Context(), w.Repository, w.writer, []*member.Client{w.client}, backup.Options{Cluster: "prod"})
	must(t, err)
	reads, _, err := w.Snapshots(t.Context(), "prod")
	must(t, err)
	w.read = reads[0]
	w.options = Options{Identities: identities, Scratch: filepath.Join(t.TempDir(), "scratch"), Program: os.Args[0]}
	return w
}

// run verifies, and wants nothing left of it.
func (w *world) run(t *testing.T, level repository.Level) (Result, error) {
	t.Helper()
	result, err := Run(t.Context(), w.Repository, w.read, level, w.options)
	left, globErr := filepath.Glob(filepath.Join(w.options.Scratch, benchPrefix+"*"))
	if globErr != nil || len(left) > 0 {
		t.Errorf("left in scratch: %v, %v", left, globErr)
	}
	return result, err
}

// fillKubernetes writes some objects, several versions of each, deletes some, and compacts half-way.
func fillKubernetes(t *testing.T) func(*etcdtest.Server) {
	return func(server *etcdtest.Server) {
		ctx, client := t.Context(), server.Client
		lease, err := client.Grant(ctx, 3600)
		must(t, err)
		var middle int64
		for round := range 4 {
			for _, key := range []string{"/registry/pods/a/x", "/registry/pods/a/y", "/registry/cert-manager.io/issuers/a/z", "/registry/services/specs/a/s", "plain"} {
				reply, err := client.Put(ctx, key, strings.Repeat(key, round+1), clientv3.WithLease(lease.ID))
				must(t, err)
				if round == 1 {
					middle = reply.Header.Revision
				}
			}
			_, err := client.Delete(ctx, "/registry/pods/a/y")
			must(t, err)
		}
		_, err = client.Compact(ctx, middle, clientv3.WithCompactPhysical())
		must(t, err)
	}
}

func TestLevels(t *testing.T) {
	for _, version := range []string{"3.4", "3.5", "3.6", "3.7"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, version, fillKubernetes(t))
			for _, level := range repository.Levels() {
				result, err := w.run(t, level)
				must(t, err)
				deep := level == repository.LevelReplay || level == repository.LevelDrill
				if !result.Passed || result.Compared != deep || result.Uncompared != "" {
					t.Errorf("%s: %+v", level, result)
				}
				if !deep {
					continue
				}
				if result.Keys != 4 || result.Hash != w.read.Manifest.HashKV.Hash || result.Revision != w.read.Point.Last {
					t.Errorf("%s: %+v, manifest %+v", level, result, w.read.Manifest)
				}
				kinds := map[string]int64{}
				for _, r := range result.Resources {
					kinds[r.Name] = r.Keys
				}
				if len(kinds) != 4 || kinds["pods"] != 1 || kinds["issuers.cert-manager.io"] != 1 || kinds["services"] != 1 || kinds["other"] != 1 {
					t.Errorf("%s: resources %v", level, kinds)
				}
			}
		})
	}
}

// TestHash: the hash of the live cluster decides, wherever it was compacted to when it gave it.
func TestHash(t *testing.T) {
	w := newWorld(t, "3.7", fillKubernetes(t))
	ask := func() repository.HashKV {
		hash, compact, err := w.client.HashKV(t.Context(), w.read.Point.Last)
		must(t, err)
		return repository.HashKV{Hash: hash, Revision: w.read.Point.Last, CompactRevision: compact}
	}
	at := func(h repository.HashKV) { w.read.Manifest.HashKV = h }
	must(t, w.client.Compact(t.Context(), w.read.Point.Last-2, true))
	later := ask()
	wrong := later
	wrong.Hash++
	foreign := later
	foreign.CompactRevision = 1
	for _, level := range []repository.Level{repository.LevelReplay, repository.LevelDrill} {
		at(later)
		if result, err := w.run(t, level); err != nil || !result.Passed || !result.Compared {
			t.Errorf("%s, compacted after the snapshot: %+v, %v", level, result, err)
		}
		at(wrong)
		if result, err := w.run(t, level); err != nil || result.Passed || !strings.Contains(result.Problem, "live cluster had") {
			t.Errorf("%s, another hash: %+v, %v", level, result, err)
		}
		at(foreign)
		if result, err := w.run(t, level); err != nil || !result.Passed || result.Compared || result.Uncompared == "" {
			t.Errorf("%s, compacted less: %+v, %v", level, result, err)
		}
		at(repository.HashKV{Missing: "permission denied"})
		if result, err := w.run(t, level); err != nil || !result.Passed || result.Compared || !strings.Contains(result.Uncompared, "permission denied") {
			t.Errorf("%s, without: %+v, %v", level, result, err)
		}
	}
	at(later)
	w.read.Manifest.Content.Records++
	if result, err := w.run(t, repository.LevelReplay); err != nil || result.Passed {
		t.Errorf("another number of records: %+v, %v", result, err)
	}
}

func TestDrillWithoutCompaction(t *testing.T) {
	w := newWorld(t, "3.7", func(server *etcdtest.Server) {
		_, err := server.Client.Put(t.Context(), "key", "value")
		must(t, err)
	})
	result, err := w.run(t, repository.LevelDrill)
	if err != nil || !result.Compared {
		t.Errorf("drill %+v, %v", result, err)
	}
}

// TestDrillOfUsers: where users must log in, nobody needs their passwords for a drill.
func TestDrillOfUsers(t *testing.T) {
	w := newWorld(t, "3.7", fillKubernetes(t))
	w.read.Manifest = w.addWithUsers(t)
	w.read.Manifest.HashKV = repository.HashKV{Missing: "permission denied"}
	result, err := w.run(t, repository.LevelDrill)
	must(t, err)
	if !result.Passed || result.Compared || result.Keys != 1 {
		t.Errorf("drill %+v", result)
	}
}

// addWithUsers stores a snapshot of an etcd that asks for a login.
func (w *world) addWithUsers(t *testing.T) repository.Manifest {
	t.Helper()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	ctx, client := t.Context(), server.Client
	_, err := client.Put(ctx, "key", "value")
	must(t, err)
	_, err = client.UserAdd(ctx, "root", "secret")
	must(t, err)
	_, err = client.UserGrantRole(ctx, "root", "root")
	must(t, err)
	_, err = client.AuthEnable(ctx)
	must(t, err)
	stream, err := server.Login(t, "root", "secret").Snapshot(ctx)
	must(t, err)
	upload, err := w.Upload(ctx, "users", repository.UploadOptions{})
	must(t, err)
	scanner := snapshot.NewScanner(snapshot.Options{})
	_, err = io.Copy(io.MultiWriter(upload, scanner), stream)
	must(t, errors.Join(err, stream.Close(), upload.Finish()))
	info, err := scanner.Finish()
	must(t, err)
	m, err := upload.Publish(ctx, w.writer, repository.Manifest{Content: repository.ContentOf(info)})
	must(t, err)
	if !m.Content.AuthEnabled {
		t.Fatal("nobody needs to log in")
	}
	return m
}

// TestDamage: what says something about the snapshot is a result, and what does not is an error.
func TestDamage(t *testing.T) {
	w := newWorld(t, "3.7", fillKubernetes(t))
	name := w.read.Manifest.Object.Name
	body, err := w.store.Open(t.Context(), name, 0, -1)
	must(t, err)
	var content bytes.Buffer
	_, err = content.ReadFrom(body)
	must(t, errors.Join(err, body.Close()))
	replace := func(b []byte) {
		must(t, w.store.Delete(t.Context(), name))
		if b != nil {
			_, err := w.store.Put(t.Context(), name, bytes.NewReader(b), store.PutOptions{})
			must(t, err)
		}
	}
	flipped := bytes.Clone(content.Bytes())
	flipped[len(flipped)/2] ^= 1
	for what, stored := range map[string][]byte{"flipped": flipped, "cut": flipped[:len(flipped)-1], "gone": nil} {
		replace(stored)
		for _, level := range repository.Levels() {
			result, err := w.run(t, level)
			if err != nil || result.Passed && (what != "flipped" || level != repository.LevelListing) {
				t.Errorf("%s, %s: %+v, %v", what, level, result, err)
			}
		}
	}
	replace(content.Bytes())
	good := w.options
	w.options.Identities = nil
	if _, err := w.run(t, repository.LevelReplay); !errors.Is(err, seal.ErrEncrypted) {
		t.Errorf("without a key: %v", err)
	}
	w.options = good
	w.options.Program = "/nonexistent"
	if _, err := w.run(t, repository.LevelReplay); err == nil {
		t.Error("without a program: no error")
	}
	w.options = good
	ctx, cancel := context.WithCancel(t.Context())
	w.options.Observe = writerFunc(cancel)
	if _, err := Run(ctx, w.Repository, w.read, repository.LevelDrill, w.options); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	w.options = good

	// What a killed process left is readable for this user, and goes with the next run.
	left := filepath.Join(w.options.Scratch, benchPrefix+"left")
	must(t, os.MkdirAll(left, 0o700))
	must(t, os.WriteFile(filepath.Join(left, "backend"), []byte("secret"), 0o600))
	result, err := w.run(t, repository.LevelReplay)
	if err != nil || !result.Passed {
		t.Errorf("after all: %+v, %v", result, err)
	}
}

// TestManyAtOnce: benches that are just made are not taken for what a killed process left.
func TestManyAtOnce(t *testing.T) {
	scratch := t.TempDir()
	var group errgroup.Group
	for range 200 {
		group.Go(func() error {
			b, err := openBench(scratch, 0)
			if err != nil {
				return err
			}
			return b.close()
		})
	}
	must(t, group.Wait())
}

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) { f(); return len(p), nil }

// TestHostileDatabase: whatever is in a file, its reader says something of it or ends, and this process goes on.
func TestHostileDatabase(t *testing.T) {
	w := newWorld(t, "3.7", fillKubernetes(t))
	dir := t.TempDir()
	file := filepath.Join(dir, "db")
	out, err := os.Create(file)
	must(t, err)
	_, _, err = w.Fetch(t.Context(), w.read.Manifest, w.options.Identities, out, nil)
	must(t, errors.Join(err, out.Close()))
	sound, err := os.ReadFile(file)
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	page := func() int { return random.IntN(len(sound)/4096) * 4096 }
	found := 0
	for i := range 30 {
		bad := bytes.Clone(sound)
		switch i % 3 {
		case 0:
			bad = bad[:random.IntN(len(bad))]
		case 1:
			copy(bad[page():], bytes.Repeat([]byte{byte(random.Uint32())}, 4096))
		default:
			for range 40 { // the heads of pages say what they are and where things are in them
				bad[page()+random.IntN(64)] = byte(random.Uint32())
			}
		}
		must(t, os.WriteFile(file, bad, 0o600))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := inspectInChild(ctx, os.Args[0], file, Question{Revision: w.read.Point.Last})
		cancel()
		if err != nil && !damage(err) {
			t.Errorf("round %d: %v", i, err)
		}
		if err != nil {
			found++
		}
	}
	if found < 15 {
		t.Errorf("only %d of 30 damaged files were found", found)
	}
	if _, err := inspectInChild(t.Context(), os.Args[0], filepath.Join(dir, "absent"), Question{}); err == nil || damage(err) {
		t.Errorf("no file: %v", err)
	}
}

func TestResourceOf(t *testing.T) {
	for key, want := range map[string]string{
		"/registry/pods/default/a": "pods", "/registry/services/specs/default/a": "services", "/registry/services/endpoints/default/a": "endpoints",
		"/registry/apiextensions.k8s.io/customresourcedefinitions/a": "customresourcedefinitions.apiextensions.k8s.io",
		"/registry/cert-manager.io/issuers/a/b":                      "issuers.cert-manager.io",
		"/registry/namespaces/default":                               "namespaces",
		"compact_rev_key":                                            otherResource, "/registry/": otherResource, "/registry/pods": otherResource, "/registry/\x1b[2J/x": otherResource,
		"/registry/" + strings.Repeat("a", 200) + "/x": otherResource, "": otherResource,
	} {
		if got := resourceOf(key); got != want {
			t.Errorf("%q is of kind %q, want %q", key, got, want)
		}
	}
}
