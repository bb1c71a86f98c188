package archiver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for err := try(); err != nil; err = try() {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

func stored(first, last history.Revision, lastTime time.Time) archive.Event {
	return archive.Event{Stored: &archive.Stored{Segment: repository.Segment{Timeline: "t1", First: first, Last: last, LastTime: lastTime}, Waiting: 7}}
}

func snapshotAt(timeline repository.Timeline, revision history.Revision) archive.Event {
	m := repository.Manifest{Timeline: timeline, Completed: time.Now()}
	m.Content.Revision = revision
	return archive.Event{Snapshot: &archive.Base{Manifest: m}}
}

// TestTracker goes through the life of an archiver, with a clock of its own.
func TestTracker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k Tracker
		check := func(what, role string, revision, revisions int64, seconds float64) api.Archive {
			t.Helper()
			s := k.State()
			if s.Role != role || s.Enabled != (role != api.ArchiveOff) || s.Revision != revision || s.LagRevisions != revisions || s.LagSeconds != seconds {
				t.Errorf("%s: %+v", what, s)
			}
			return s
		}
		pass := time.Sleep // the clock is synctest's
		check("nothing runs", api.ArchiveOff, 0, 0, 0)
		k.Start("prod")
		check("it starts", api.ArchiveStandby, 0, 0, 0)
		k.Observe(archive.Event{Standby: &archive.Holder{Revision: 90}})
		check("it waits", api.ArchiveStandby, 90, 0, 0)
		k.Observe(archive.Event{Begun: &archive.Begun{Timeline: "t1", Revision: 90}})
		k.Observe(archive.Event{Watching: &archive.Watching{From: 101}})
		pass(2 * time.Second)
		check("the snapshot is awaited", api.ArchiveArchiver, 90, 10, 2)
		k.Heard(103, time.Now())
		k.Observe(snapshotAt("t1", 101))
		if s := check("the snapshot is there", api.ArchiveArchiver, 101, 2, 2); s.Snapshot == nil || s.Snapshot.Revision != 101 || s.Timeline != "t1" || s.Cluster != "prod" {
			t.Errorf("snapshot %+v", s)
		}
		arrived := time.Now()
		pass(time.Second)
		k.Observe(stored(102, 102, arrived))
		check("one waits that came later", api.ArchiveArchiver, 102, 1, 1)
		k.Observe(archive.Event{Trouble: errors.New("no answer")})
		if s := k.State(); s.Error != "no answer" || s.SpoolBytes != 7 {
			t.Errorf("trouble: %+v", s)
		}
		k.Observe(stored(103, 103, time.Now()))
		if s := check("all is there", api.ArchiveArchiver, 103, 0, 0); s.Error != "" || time.Since(s.Confirmed) > time.Millisecond || s.Confirmed.Location() != time.UTC {
			t.Errorf("all is there: %+v", s)
		}
		pass(5 * time.Second)
		k.Heard(103, time.Now())
		pass(9 * time.Second)
		check("a quiet cluster", api.ArchiveArchiver, 103, 0, 0)
		k.Heard(104, time.Now())
		check("an event has come just now", api.ArchiveArchiver, 103, 1, 0)
		k.Observe(stored(104, 104, time.Now()))
		pass(time.Minute)
		check("the member is silent", api.ArchiveArchiver, 104, 0, 60)
		k.Observe(archive.Event{NewTimeline: errors.New("another cluster")})
		k.Observe(archive.Event{Watching: &archive.Watching{From: 6}})
		k.Observe(snapshotAt("t2", 5))
		if s := check("another life", api.ArchiveArchiver, 5, 0, 0); s.Timeline != "t2" {
			t.Errorf("another life: %+v", s)
		}
		k.Observe(snapshotAt("t2", 4)) // it began before the last segment
		check("an old snapshot", api.ArchiveArchiver, 5, 0, 0)
		k.Stop(errors.New("no rights"))
		if s := k.State(); s.Role != api.ArchiveFailed || s.Error != "no rights" || s.LagSeconds != 0 {
			t.Errorf("it failed: %+v", s)
		}
		k.Start("prod")
		if s := check("it is tried again", api.ArchiveStandby, 0, 0, 0); s.Error != "no rights" {
			t.Errorf("it is tried again: %+v", s)
		}
		k.Stop(nil)
		if s := check("not wanted any more", api.ArchiveOff, 0, 0, 0); s.Error != "" {
			t.Errorf("not wanted any more: %+v", s)
		}
	})
}

// TestPoolFollows: members that join are dialled, those that leave are closed, and while nobody answers all stay.
func TestPoolFollows(t *testing.T) {
	cluster := etcdtest.StartCluster(t, etcdtest.Get(t, "3.7"), 3, etcdtest.Options{})
	p, err := NewPool(cluster.Members[0].Endpoint, nil)
	must(t, err)
	endpoints := func() (list []string) {
		t.Helper()
		clients, err := p.Members(t.Context())
		must(t, err)
		for _, c := range clients {
			list = append(list, c.Endpoint())
		}
		return list
	}
	sorted := func(list []string) []string { return slices.Sorted(slices.Values(list)) }
	all := endpoints()
	if want := cluster.Endpoints(); all[0] != want[0] || !slices.Equal(sorted(all), sorted(want)) {
		t.Errorf("members %q, want %q", all, want)
	}
	before, err := p.Members(t.Context())
	must(t, err)
	if again, err := p.Members(t.Context()); err != nil || !slices.Equal(again, before) {
		t.Errorf("other clients the second time: %v", err)
	}
	list, err := cluster.Members[0].Client.MemberList(t.Context())
	must(t, err)
	gone := cluster.Members[2]
	i := slices.IndexFunc(list.Members, func(m *pb.Member) bool { return m.Name == "m3" })
	eventually(t, func() error { // etcd refuses until the members have been connected for some seconds
		_, err := cluster.Members[0].Client.MemberRemove(t.Context(), list.Members[i].ID)
		return err
	})
	eventually(t, func() error {
		if got := endpoints(); len(got) != 2 {
			return fmt.Errorf("members %q after a removal", got)
		}
		return nil
	})
	if slices.Contains(endpoints(), gone.Endpoint) {
		t.Errorf("the member that left is there: %q", endpoints())
	}
	must(t, cluster.Members[0].Stop())
	if got := endpoints(); len(got) != 2 {
		t.Errorf("members %q while the own one is down", got)
	}
	must(t, cluster.Members[1].Stop())
	if got := endpoints(); len(got) != 2 {
		t.Errorf("members %q while all are down", got)
	}
	must(t, p.Close())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Members(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("of a closed pool: %v", err)
	}
}

// TestRun: both front ends take snapshots alike, and end for the same reasons.
func TestRun(t *testing.T) {
	one := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	two := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	root, err := repository.NewKey()
	must(t, err)
	repo, err := repository.Init(t.Context(), mem.New(), root, repository.None, nil)
	must(t, err)
	dir := t.TempDir()
	writer, err := repository.OpenWriter(filepath.Join(dir, "signer"))
	must(t, err)
	must(t, repo.Enroll(t.Context(), root, writer.Public(), repository.RoleBackup, "test"))
	run := func(server *etcdtest.Server, folder string, newTimeline bool) (taken []repository.Manifest, err error) {
		t.Helper()
		_, err = server.Client.Put(t.Context(), "key", "value")
		must(t, err)
		pool, err := NewPool(server.Endpoint, nil)
		must(t, err)
		defer func() { must(t, pool.Close()) }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		o := archive.Options{Cluster: "prod", Dir: Folder(folder, repo, "prod"), Flush: 20 * time.Millisecond, Takeover: time.Second, NewTimeline: newTimeline}
		o.Observe = func(e archive.Event) {
			if e.Snapshot != nil {
				taken = append(taken, e.Snapshot.Manifest)
				cancel()
			}
		}
		return taken, Run(ctx, repo, writer, pool.Members, o, 0)
	}
	first, err := run(one, filepath.Join(dir, "a"), false)
	if err != nil || len(first) != 1 {
		t.Fatalf("%d snapshots, %v", len(first), err)
	}
	if got, want := first[0].Timeline, repo.FirstTimeline("prod", first[0].Source.ClusterID); got != want {
		t.Errorf("the first timeline is %s, want %s", got, want)
	}
	leases := func() int {
		reads, _, err := repo.Leases(t.Context(), "prod", first[0].Timeline, repository.ID{}, 0)
		must(t, err)
		return len(reads)
	}
	before := leases()
	if _, err := run(two, filepath.Join(dir, "b"), false); leases() != before || !errors.Is(err, backup.ErrOtherCluster) || !errors.Is(err, archive.ErrFinal) {
		t.Errorf("another cluster: %v", err)
	}
	second, err := run(two, filepath.Join(dir, "b"), true)
	if err != nil || len(second) != 1 || second[0].Timeline == first[0].Timeline {
		t.Errorf("another cluster, and it is known: %v, %v", second, err)
	}
	if want := filepath.Join(dir, "a", "archive", repo.Document().Repository, "prod"); Folder(filepath.Join(dir, "a"), repo, "prod") != want {
		t.Errorf("the folder is not %s", want)
	}
}

// TestTrackerTrouble: trouble of one part of an archiver is not over because another part goes on.
func TestTrackerTrouble(t *testing.T) {
	var k Tracker
	k.Start("prod")
	for _, step := range []struct {
		event archive.Event
		want  string
	}{
		{archive.Event{Trouble: errors.New("no member"), Part: archive.Reading}, "no member"},
		{stored(1, 2, time.Now()), "no member"},
		{archive.Event{Trouble: errors.New("no space"), Part: archive.Storing}, "no member"},
		{archive.Event{Progress: &archive.Progress{}}, "no member"},
		{archive.Event{Well: archive.Reading}, "no space"},
		{archive.Event{Trouble: errors.New("no merge"), Part: archive.Beside}, "no space"},
		{archive.Event{Watching: &archive.Watching{From: 3}}, "no space"},
		{archive.Event{Well: archive.Storing}, ""},
		{archive.Event{Trouble: errors.New("no merge"), Part: archive.Beside}, "no merge"},
		{archive.Event{Progress: &archive.Progress{}}, ""},
	} {
		k.Observe(step.event)
		if s := k.State(); s.Error != step.want {
			t.Errorf("after %+v it says %q, want %q", step.event, s.Error, step.want)
		}
	}
}
