package restore

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcdsnapshot "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// restoreWhole restores as etcdutl does, on a copy of the whole backend, and drops what a restore drops. It is what the
// restore by a skeleton is held against.
func restoreWhole(t *testing.T, opts Options, who identity) {
	t.Helper()
	source, err := readSource(opts.Backend)
	must(t, err)
	config := etcdsnapshot.RestoreConfig{
		SnapshotPath: opts.Backend, SkipHashCheck: !opts.Source.Trailer,
		Name: opts.Name, PeerURLs: []string{opts.PeerURL}, InitialCluster: opts.Name + "=" + opts.PeerURL, InitialClusterToken: who.token,
		OutputDataDir: opts.Stage.Data, OutputWALDir: opts.Stage.WAL,
	}
	if !opts.KeepRevision {
		config.MarkCompacted = true
		config.RevisionBump = uint64(NextRevision(opts.Source.Revision, opts.HighestKnown, RevisionBump) - source.lastRecord)
	}
	must(t, runEtcd(func(log *zap.Logger) error { return etcdsnapshot.NewV3(log).Restore(config) }))
	must(t, dropState(backendOf(opts.Stage), source, opts))
	must(t, secure(opts.Stage))
}

// content is everything that a backend holds.
func content(t *testing.T, path string) map[string]string {
	t.Helper()
	db, err := openReadOnly(path)
	must(t, err)
	defer db.Close()
	all := map[string]string{}
	must(t, db.View(func(tx *bbolt.Tx) error {
		for problem := range tx.Check() {
			t.Errorf("%s: %v", path, problem)
		}
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			all[string(name)] = "a bucket"
			return b.ForEach(func(k, v []byte) error {
				all[fmt.Sprintf("%s %q", name, k)] = string(v)
				return nil
			})
		})
	}))
	return all
}

// files is what lies in a stage beside the backend.
func files(t *testing.T, s datadir.Stage) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, root := range []string{s.Data, s.WAL} {
		if root == "" {
			continue
		}
		must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name := filepath.Base(root) + strings.TrimPrefix(path, root)
			info, err := e.Info()
			if err != nil {
				return err
			}
			all[name] = info.Mode().String()
			if e.IsDir() || path == backendOf(s) {
				return nil
			}
			b, err := os.ReadFile(path)
			all[name] += " " + string(bytes.TrimRight(b, "\x00"))
			return err
		}))
	}
	return all
}

// TestAsEtcdutl compares, with the data of every version, a data dir with the one that etcdutl makes of the whole backend:
// every element of every bucket, the WAL and the raft snapshot.
func TestAsEtcdutl(t *testing.T) {
	t.Parallel()
	judge := etcdtest.Get(t, "3.7")
	for _, v := range etcdtest.Versions(t) {
		t.Run(v.Minor, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, v, etcdtest.Options{})
			fill(t, server, 150)
			for i := range 600 { // So that the records have a tree of some pages, and the file has free ones.
				_, err := server.Client.Put(t.Context(), fmt.Sprint("/more/", i%50), strings.Repeat("x", 3000))
				must(t, err)
			}
			now, err := server.Client.Get(t.Context(), "/more/1")
			must(t, err)
			_, err = server.Client.Compact(t.Context(), now.Header.Revision-100, clientv3.WithCompactPhysical())
			must(t, err)
			for _, peer := range []string{"http://127.0.0.1:2", "http://127.0.0.1:3"} { // One stays, one is removed.
				added, err := server.Client.MemberAddAsLearner(t.Context(), []string{peer})
				must(t, err)
				if peer == "http://127.0.0.1:2" {
					_, err = server.Client.MemberRemove(t.Context(), added.Member.ID)
					must(t, err)
				}
			}
			alarm(t, server, etcdserverpb.AlarmType_NOSPACE)
			alarm(t, server, etcdserverpb.AlarmType_CORRUPT)
			_, err = server.Client.AuthEnable(t.Context())
			must(t, err)
			must(t, server.Stop())
			// What a stopped server has is a snapshot but for the sum behind it.
			db, err := os.ReadFile(filepath.Join(server.DataDir, "member", "snap", "db"))
			must(t, err)
			sum := sha256.Sum256(db)
			source := saved{path: filepath.Join(t.TempDir(), "snapshot.db")}
			must(t, os.WriteFile(source.path, append(db, sum[:]...), 0o600))
			source.info = mustScan(t, source.path)
			for name, change := range map[string]func(*Options){
				"bumped":     func(*Options) {},
				"kept":       func(o *Options) { o.KeepRevision = true },
				"for itself": func(o *Options) { o.Target, _ = ParseMinor(v.Minor) },
				"no auth":    func(o *Options) { o.WithoutAuth = true },
				"known":      func(o *Options) { o.HighestKnown = 5_000_000 },
				"own WAL":    func(o *Options) { o.Stage.WAL = filepath.Join(t.TempDir(), "wal") },
			} {
				t.Run(name, func(t *testing.T) {
					opts := Options{
						Backend: source.path, Source: source.info, Stage: datadir.Stage{Data: filepath.Join(t.TempDir(), "data")},
						Name: testName, PeerURL: testPeer, AcceptCorrupt: true,
					}
					change(&opts)
					who, err := opts.identify()
					must(t, err)
					whole := opts
					whole.Stage.Data = filepath.Join(t.TempDir(), "data")
					if opts.Stage.WAL != "" {
						whole.Stage.WAL = filepath.Join(t.TempDir(), "wal")
					}
					restoreWhole(t, whole, who)
					must(t, os.Mkdir(opts.Stage.Data, 0o700))
					scanner := snapshot.NewScanner(snapshot.Options{})
					must(t, writeBackend(backendOf(opts.Stage), source.info.Size, scanner, durable.NewOverlapped, func(out io.Writer) error {
						return copyScanned(t.Context(), source.path, out, scanner)
					}))
					result, err := build(t.Context(), opts, who, scanner)
					must(t, err)
					if result.ClusterID != who.cluster || len(result.DroppedAlarms) != 2 {
						t.Errorf("result %+v", result)
					}
					want, got := content(t, backendOf(whole.Stage)), content(t, backendOf(opts.Stage))
					if len(want) < 300 {
						t.Errorf("only %d elements", len(want))
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("backend (-etcdutl +ours):\n%s", diff)
					}
					if diff := cmp.Diff(files(t, whole.Stage), files(t, opts.Stage)); diff != "" {
						t.Errorf("files (-etcdutl +ours):\n%s", diff)
					}
					wantInfo, gotInfo := mustScan(t, backendOf(whole.Stage)), mustScan(t, backendOf(opts.Stage))
					for _, info := range []*snapshot.Info{&wantInfo, &gotInfo} {
						info.Size, info.Pages, info.SHA256 = 0, 0, [32]byte{}
					}
					if diff := cmp.Diff(wantInfo, gotInfo); diff != "" {
						t.Errorf("info (-etcdutl +ours):\n%s", diff)
					}
					status := tell(t, judge, "snapshot", "status", backendOf(opts.Stage), "--write-out=json")
					if other := tell(t, judge, "snapshot", "status", backendOf(whole.Stage), "--write-out=json"); !strings.HasPrefix(other, status[:strings.Index(status, `"totalSize"`)]) {
						t.Errorf("status %s, of etcdutl's %s", status, other)
					}
					hash, hashWhole := tell(t, judge, "hashkv", backendOf(opts.Stage)), tell(t, judge, "hashkv", backendOf(whole.Stage))
					if hash != hashWhole {
						t.Errorf("hashkv %s, of etcdutl's %s", hash, hashWhole)
					}
					if opts.KeepRevision {
						plain := filepath.Join(t.TempDir(), "db") // hashkv opens a file for writing.
						must(t, copyFile(source.path, plain))
						must(t, os.Truncate(plain, source.info.Size-32))
						if original := tell(t, judge, "hashkv", plain); hash != original {
							t.Errorf("hashkv %s, of the source %s", hash, original)
						}
					}
				})
			}
		})
	}
}

// tell gives what etcdutl says.
func tell(t *testing.T, v etcdtest.Version, args ...string) string {
	t.Helper()

	said, err := v.UtlCommand(t.Context(), args...).Output()
	if err != nil || len(said) == 0 {
		t.Fatalf("etcdutl %q: %v, %s", args, err, said)
	}
	return string(said)
}
