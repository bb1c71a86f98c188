package restore

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// TestEveryPairOfVersions restores what each version has saved for each version that may open it, and compares all.
func TestEveryPairOfVersions(t *testing.T) {
	t.Parallel()
	versions := etcdtest.Versions(t)
	for i, from := range versions {
		t.Run("from "+from.Minor, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, from, etcdtest.Options{})
			fill(t, server, 150)
			source := save(t, server)
			must(t, server.Stop())
			for _, to := range versions[i:] {
				t.Run("to "+to.Minor, func(t *testing.T) {
					t.Parallel()
					checkRestored(t, source, to)
				})
			}
		})
	}
}

func checkRestored(t *testing.T, source saved, to etcdtest.Version) {
	tt, peer := newTarget(t, source.version != to || to.Minor == "3.4"), reservePeer(t)
	target, err := ParseMinor(to.Full)
	must(t, err)
	result := tt.restore(t, Options{Backend: source.path, Source: source.info, Name: testName, PeerURL: peer, Target: target})
	if want := source.info.Revision + RevisionBump; result.Revision != want || !result.Compacted || !result.HashChecked || len(result.DroppedAlarms) > 0 {
		t.Errorf("result %+v, want revision %d", result, want)
	}
	s := tt.serve(t, to, peer)
	checkServed(t, s, source.state, result)
	checkHistoryGone(t, s.Client, source.info.Revision, result.Revision)
	if again, _ := snapshot.SourceVersion(save(t, s).info); to.Minor == "3.4" && again != "3.4" {
		t.Errorf("a snapshot of what etcd 3.4 serves looks like one of etcd %s", again)
	}
	if source.version == to {
		checkJoin(t, s, source.state)
	}
}

// checkServed compares what a server holds, and who it is, with what it must.
func checkServed(t *testing.T, s *etcdtest.Server, want keyspace.State, result Result) {
	t.Helper()
	got, err := keyspace.Read(t.Context(), s.Client)
	must(t, err)
	if len(want.Keys) < 100 || len(want.Leases) == 0 || len(want.Users) != 2 {
		t.Fatalf("the source holds too little: %d keys, %d leases, %d users", len(want.Keys), len(want.Leases), len(want.Users))
	}
	if d := keyspace.Diff(want, got); d != "" {
		t.Errorf("the restored keyspace differs:\n%s", d)
	}
	// etcd itself writes nothing to the keyspace when it starts.
	if history.Revision(got.Revision) != result.Revision {
		t.Errorf("revision %d, want %d", got.Revision, result.Revision)
	}
	list, err := s.Client.MemberList(t.Context())
	must(t, err)
	if m := list.Members; len(m) != 1 || m[0].Name != s.Name || !slices.Equal(m[0].PeerURLs, []string{s.PeerURL}) || m[0].ID != result.MemberID {
		t.Errorf("members %v, want one with id %x", m, result.MemberID)
	}
	if list.Header.ClusterId != result.ClusterID {
		t.Errorf("cluster id %x, want %x", list.Header.ClusterId, result.ClusterID)
	}
}

// checkHistoryGone wants every client that knows an old revision to be told that it must start again.
func checkHistoryGone(t *testing.T, c *clientv3.Client, old, now history.Revision) {
	t.Helper()
	for _, revision := range []history.Revision{old, now - 1} {
		if _, err := c.Get(t.Context(), "/registry/", clientv3.WithRev(int64(revision))); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("get at revision %d: %v, want compacted", revision, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		response := <-c.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(int64(revision)))
		cancel()
		if !errors.Is(response.Err(), rpctypes.ErrCompacted) || history.Revision(response.CompactRevision) != now {
			t.Errorf("watch from revision %d: %v, compacted at %d, want %d", revision, response.Err(), response.CompactRevision, now)
		}
	}
	put, err := c.Put(t.Context(), "/after", "restore")
	must(t, err)
	if history.Revision(put.Header.Revision) != now+1 {
		t.Errorf("first write has revision %d, want %d", put.Header.Revision, now+1)
	}
}

// checkJoin adds a member, which takes all data over from the restored one.
func checkJoin(t *testing.T, s *etcdtest.Server, want keyspace.State) {
	t.Helper()
	peer := reservePeer(t)
	added, err := s.Client.MemberAddAsLearner(t.Context(), []string{peer})
	must(t, err)
	second := etcdtest.Start(t, s.Version, etcdtest.Options{
		Name: "second", PeerURL: peer, Join: true, NoWait: true, InitialCluster: s.Name + "=" + s.PeerURL + ",second=" + peer,
	})
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C { // The context of the test ends it.
		if _, err = s.Client.MemberPromote(t.Context(), added.Member.ID); !errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
			break
		}
	}
	must(t, err)
	must(t, second.WaitHealthy(t.Context()))
	got, err := keyspace.Read(t.Context(), second.Client)
	must(t, err)
	if d := keyspace.Diff(want, got); !strings.HasPrefix(d, `key "/after": unexpected`) || strings.Contains(strings.TrimSpace(d), "\n") {
		t.Errorf("the second member differs:\n%s", d)
	}
}

// TestRevisions is about where the new cluster goes on from.
func TestRevisions(t *testing.T) {
	t.Parallel()
	v := etcdtest.Get(t, "3.6")
	server := etcdtest.Start(t, v, etcdtest.Options{})
	fill(t, server, 150)
	source := save(t, server)
	for name, tt := range map[string]struct {
		opts Options
		want history.Revision
	}{
		"kept":               {Options{KeepRevision: true}, source.info.Revision},
		"kept, later known":  {Options{KeepRevision: true, HighestKnown: 5_000_000}, source.info.Revision},
		"later known":        {Options{HighestKnown: 5_000_000}, 5_000_000 + RevisionBump},
		"nothing else known": {Options{HighestKnown: 5}, source.info.Revision + RevisionBump},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, peer := newTarget(t, false), reservePeer(t)
			tt.opts.Backend, tt.opts.Source, tt.opts.Name, tt.opts.PeerURL = source.path, source.info, testName, peer
			result := target.restore(t, tt.opts)
			if result.Revision != tt.want || result.Compacted == tt.opts.KeepRevision || result.ClusterID == source.cluster {
				t.Errorf("result %+v, want revision %d", result, tt.want)
			}
			s := target.serve(t, v, peer)
			checkServed(t, s, source.state, result)
			if !tt.opts.KeepRevision {
				checkHistoryGone(t, s.Client, source.info.Revision, result.Revision)
			} else if _, err := s.Client.Get(t.Context(), "/x", clientv3.WithRev(int64(result.Revision))); err != nil {
				t.Errorf("get at the kept revision: %v", err)
			}
		})
	}
}

// A compaction can remove the last record of all, so that the revision is known from the compaction only.
func TestRevisionAboveLastRecord(t *testing.T) {
	t.Parallel()
	for _, v := range etcdtest.Versions(t) {
		t.Run(v.Minor, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, v, etcdtest.Options{})
			_, err := server.Client.Put(t.Context(), "a", "1")
			must(t, err)
			deleted, err := server.Client.Delete(t.Context(), "a")
			must(t, err)
			_, err = server.Client.Compact(t.Context(), deleted.Header.Revision, clientv3.WithCompactPhysical())
			must(t, err)
			source := save(t, server)
			target, peer := newTarget(t, false), reservePeer(t)
			result := target.restore(t, Options{Backend: source.path, Source: source.info, Name: testName, PeerURL: peer})
			if want := history.Revision(deleted.Header.Revision) + RevisionBump; result.Revision != want {
				t.Errorf("revision %d, want %d", result.Revision, want)
			}
			s := target.serve(t, v, peer)
			put, err := s.Client.Put(t.Context(), "b", "2")
			must(t, err)
			if history.Revision(put.Header.Revision) != result.Revision+1 {
				t.Errorf("first write has revision %d, want %d", put.Header.Revision, result.Revision+1)
			}
		})
	}
}

// With auth enabled the old passwords hold and strangers stay out.
func TestAuth(t *testing.T) {
	t.Parallel()
	v := etcdtest.Get(t, "3.7")
	server := etcdtest.Start(t, v, etcdtest.Options{})
	fill(t, server, 150)
	source := save(t, server)
	_, err := server.Client.AuthEnable(t.Context())
	must(t, err)
	root := server.Login(t, "root", "secret")
	source.state, err = keyspace.Read(t.Context(), root)
	must(t, err)
	must(t, server.Stop())
	// A stopped server's file is a backend without trailer.
	source.path = filepath.Join(server.DataDir, "member", "snap", "db")
	source.info = mustScan(t, source.path)

	target, peer := newTarget(t, false), reservePeer(t)
	result := target.restore(t, Options{Backend: source.path, Source: source.info, Name: testName, PeerURL: peer})
	if result.HashChecked {
		t.Error("a file without trailer counts as checked by it")
	}
	s := target.serve(t, v, peer)
	if _, err := s.Client.Get(t.Context(), "a"); !errors.Is(err, rpctypes.ErrUserEmpty) {
		t.Errorf("get without a user: %v", err)
	}
	got, err := keyspace.Read(t.Context(), s.Login(t, "root", "secret"))
	must(t, err)
	if d := keyspace.Diff(source.state, got); d != "" || !got.AuthEnabled {
		t.Errorf("auth %v; the restored keyspace differs:\n%s", got.AuthEnabled, d)
	}
	if _, err := s.Login(t, "reader", "secret").Put(t.Context(), "/registry/a", "1"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("put by a reader: %v", err)
	}
}

func TestAlarmsAreNotTakenOver(t *testing.T) {
	t.Parallel()
	v := etcdtest.Get(t, "3.5")
	server := etcdtest.Start(t, v, etcdtest.Options{})
	alarm(t, server, etcdserverpb.AlarmType_NOSPACE)
	full := save(t, server)
	alarm(t, server, etcdserverpb.AlarmType_CORRUPT)
	corrupt := save(t, server)
	stage, err := newTarget(t, false).dir.Stage()
	must(t, err)
	opts := Options{Backend: corrupt.path, Source: corrupt.info, Name: testName, PeerURL: testPeer, Stage: stage}
	if _, err := Build(t.Context(), opts); !errors.Is(err, ErrCorruptAlarm) {
		t.Errorf("build with a CORRUPT alarm: %v", err)
	}
	if left := names(t, stage.Data); len(left) != 1 {
		t.Errorf("left in the stage: %q", left)
	}
	for _, tt := range []struct {
		source saved
		accept bool
		want   []string
	}{
		{full, false, []string{"NOSPACE"}},
		{corrupt, true, []string{"CORRUPT", "NOSPACE"}},
	} {
		target, peer := newTarget(t, false), reservePeer(t)
		result := target.restore(t, Options{Backend: tt.source.path, Source: tt.source.info, Name: testName, PeerURL: peer, AcceptCorrupt: tt.accept})
		if !slices.Equal(result.DroppedAlarms, tt.want) {
			t.Errorf("dropped alarms %q, want %q", result.DroppedAlarms, tt.want)
		}
		s := target.serve(t, v, peer)
		if _, err := s.Client.Put(t.Context(), "a", "1"); err != nil {
			t.Errorf("put after restore: %v", err)
		}
	}
}

// A snapshot that was taken while the old cluster was asked to downgrade must not go on with that.
func TestDowngradeIsNotTakenOver(t *testing.T) {
	t.Parallel()
	v := etcdtest.Get(t, "3.6")
	server := etcdtest.Start(t, v, etcdtest.Options{})
	ask := func(s *etcdtest.Server, action etcdserverpb.DowngradeRequest_DowngradeAction) error {
		_, err := s.Client.Downgrade(t.Context(), clientv3.DowngradeAction(action), "3.5.0")
		return err
	}
	must(t, ask(server, etcdserverpb.DowngradeRequest_ENABLE))
	if err := ask(server, etcdserverpb.DowngradeRequest_VALIDATE); err == nil {
		t.Error("a cluster that is downgrading may be asked to once more")
	}
	source := save(t, server)
	target, peer := newTarget(t, false), reservePeer(t)
	target.restore(t, Options{Backend: source.path, Source: source.info, Name: testName, PeerURL: peer})
	if err := ask(target.serve(t, v, peer), etcdserverpb.DowngradeRequest_VALIDATE); err != nil {
		t.Errorf("the restored cluster is downgrading: %v", err)
	}
}

// TestRefusals wants every bad call to leave the stage as it was.
func TestRefusals(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	source := save(t, server)
	data, err := os.ReadFile(source.path)
	must(t, err)
	other := func(change func([]byte) []byte) string {
		path := filepath.Join(t.TempDir(), "db")
		must(t, os.WriteFile(path, change(slices.Clone(data)), 0o600))
		return path
	}
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("asked to stop"))
	for name, tt := range map[string]struct {
		ctx    context.Context
		change func(*Options)
		want   string
	}{
		"no name":             {change: func(o *Options) { o.Name = "" }, want: "no name"},
		"name with a comma":   {change: func(o *Options) { o.Name = "a=http://h:1,b" }, want: "do not make one member"},
		"peer URL":            {change: func(o *Options) { o.PeerURL = "127.0.0.1:1" }, want: "URL"},
		"two peer URLs":       {change: func(o *Options) { o.PeerURL += "," + testName + "=http://127.0.0.1:2" }, want: "do not make one member"},
		"no backend":          {change: func(o *Options) { o.Backend += "x" }, want: "no such file"},
		"other size":          {change: func(o *Options) { o.Source.Size++ }, want: "not the"},
		"bit flipped since":   {change: func(o *Options) { o.Backend = other(func(b []byte) []byte { b[len(b)-100] ^= 1; return b }) }, want: "sha256"},
		"fewer records":       {change: func(o *Options) { o.Source.Records++ }, want: "records: want"},
		"revision too high":   {change: func(o *Options) { o.HighestKnown = 1<<63 - 1 - RevisionBump }, want: "too high"},
		"stage not empty":     {change: func(o *Options) { must(t, os.WriteFile(filepath.Join(o.Stage.Data, "x"), nil, 0o600)) }, want: "not empty"},
		"WAL stage not empty": {change: func(o *Options) { must(t, os.Mkdir(o.Stage.WAL, 0o700)) }, want: "exists"},
		"cancelled":           {ctx: cancelled, change: func(*Options) {}, want: "asked to stop"},
	} {
		t.Run(name, func(t *testing.T) {
			target := newTarget(t, true)
			stage, err := target.dir.Stage()
			must(t, err)
			opts := Options{Backend: source.path, Source: source.info, Name: testName, PeerURL: testPeer, Stage: stage}
			tt.change(&opts)
			root := filepath.Dir(target.data)
			before := names(t, root)
			ctx := tt.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			if result, err := Build(ctx, opts); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("build: %+v, %v; want error %q", result, err, tt.want)
			}
			if after := names(t, root); !slices.Equal(before, after) {
				t.Errorf("files are now\n%q\nbefore\n%q", after, before)
			}
		})
	}
}

// TestModesAndSpace looks at the files themselves. It is not parallel because of the umask.
func TestModesAndSpace(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	source := save(t, server)
	stage, err := newTarget(t, true).dir.Stage()
	must(t, err)
	stderr := captureStderr(t)
	for _, umask := range []int{0, 0o027, 0o077} {
		old := syscall.Umask(umask)
		_, err := Build(t.Context(), Options{Backend: source.path, Source: source.info, Name: testName, PeerURL: testPeer, Stage: stage})
		syscall.Umask(old)
		must(t, err)
		list := append(names(t, filepath.Join(stage.Data, "member")), names(t, stage.WAL)...)
		want := []string{" drwx------", "/snap drwx------", "/snap/0000000000000001-0000000000000001.snap -rw-------", "/snap/db -rw-------",
			" drwx------", "/0000000000000000-0000000000000000.wal -rw-------"}
		if !slices.Equal(list, want) {
			t.Errorf("umask %o: files %q, want %q", umask, list, want)
		}
		data, wal := SpaceNeeded(source.info.Size)
		if used := usage(t, stage.Data); used > data {
			t.Errorf("data takes %d bytes, %d were asked for", used, data)
		}
		if used := usage(t, stage.WAL); used > wal || used*4 < wal {
			t.Errorf("WAL takes %d bytes, %d were asked for", used, wal)
		}
		must(t, empty(stage))
	}
	if printed := stderr(); printed != "" {
		t.Errorf("printed:\n%s", printed)
	}
}

// usage is what the files below a folder take on the disk, in bytes.
func usage(t *testing.T, root string) int64 {
	t.Helper()
	var sum int64
	must(t, filepath.Walk(root, func(_ string, info os.FileInfo, err error) error {
		if err == nil {
			sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	}))
	return sum
}

// captureStderr catches what the process prints there, at the level of the operating system, until the result is called.
func captureStderr(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stderr")
	f, err := os.Create(path)
	must(t, err)
	saved, err := syscall.Dup(2)
	must(t, err)
	must(t, syscall.Dup3(int(f.Fd()), 2, 0))
	back := func() {
		if saved >= 0 {
			must(t, errors.Join(syscall.Dup3(saved, 2, 0), syscall.Close(saved)))
			saved = -1
		}
	}
	t.Cleanup(back)
	return func() string {
		back()
		_, err := f.Seek(0, io.SeekStart)
		must(t, err)
		text, err := io.ReadAll(f)
		must(t, errors.Join(err, f.Close()))
		return string(text)
	}
}
