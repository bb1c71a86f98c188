package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/recorder"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
)

// TestEveryRevision: an empty repository, all kinds of writes, an end and a second run: everything is there, and once.
func TestEveryRevision(t *testing.T) {
	for _, version := range etcdtest.Versions(t) {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, version, etcdtest.Options{})
			seen := watchAll(t, server)
			put(t, server, 5)
			w := newWorld(t, nil)
			h := w.host(t, server.Endpoint)
			first := h.start(t, nil)
			first.await("the first snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
			lease, err := server.Client.Grant(t.Context(), 5000)
			must(t, err)
			_, err = server.Client.Put(t.Context(), "/leased\x00\xff\n", "", clientv3.WithLease(lease.ID))
			must(t, err)
			_, err = server.Client.Txn(t.Context()).Then(clientv3.OpPut("/a", "1"), clientv3.OpPut("/b", strings.Repeat("b", 1_000_000)), clientv3.OpDelete("/registry/", clientv3.WithPrefix())).Commit()
			must(t, err)
			revision := put(t, server, 300)
			first.stored(revision)
			first.stop()
			if last := first.events[len(first.events)-1].Ended; last == nil || int64(last.Revision) != revision || last.Waiting != 0 || int64(last.Read) != revision {
				t.Errorf("the last word is %+v, at revision %d", last, revision)
			}
			// While nobody reads, and then on.
			put(t, server, 50)
			second := h.start(t, nil)
			revision = put(t, server, 50)
			second.stored(revision)
			second.stop()
			if n := second.count(isSnapshot); n > 0 {
				t.Errorf("the second run took %d snapshots\n%s", n, second)
			}
			w.checkEvents(t, seen(revision))
			list := w.timelines(t)
			if len(list) != 1 || fmt.Sprint(list[0].Covered) != fmt.Sprintf("[1-%d]", revision) || len(list[0].Orphans) > 0 {
				t.Errorf("covered %+v", list)
			}
			end := history.Revision(0)
			for _, s := range w.segments(t) {
				if end != 0 && s.First != end+1 {
					t.Errorf("segment %s after revision %s", s.Range(), end)
				}
				end = s.Last
			}
			left, err := os.ReadDir(filepath.Join(h.dir, "archive", "spool"))
			if err != nil || len(left) > 0 {
				t.Errorf("the spool holds %d files, %v", len(left), err)
			}
		})
	}
}

// TestWhyNot: each way in which a line cannot go on, and what follows.
func TestWhyNot(t *testing.T) {
	for name, tt := range map[string]struct {
		between   func(t *testing.T, server *etcdtest.Server, h *host)
		change    func(*Options)
		snapshots int
		gaps      int
		lives     int
	}{
		"nothing": {between: func(*testing.T, *etcdtest.Server, *host) {}},
		"compacted past it": {between: func(t *testing.T, server *etcdtest.Server, h *host) {
			_, err := server.Client.Compact(t.Context(), put(t, server, 100)-10)
			must(t, err)
		}, snapshots: 1, gaps: 1},
		"too far behind": {between: func(t *testing.T, server *etcdtest.Server, h *host) { put(t, server, 200) },
			change: func(o *Options) { o.FarBehind = 100 }, snapshots: 1},
		"no state": {between: func(t *testing.T, server *etcdtest.Server, h *host) {
			must(t, os.Remove(filepath.Join(h.dir, "archive", stateName)))
		}, snapshots: 1},
		"other events": {between: func(t *testing.T, server *etcdtest.Server, h *host) {
			file := filepath.Join(h.dir, "archive", stateName)
			s, err := loadState(file)
			must(t, err)
			s.Position.Mark = strings.Repeat("0", 64)
			a := archiver{Options: Options{Dir: filepath.Dir(file)}, state: s}
			must(t, a.saveState())
		}, snapshots: 1, lives: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, etcdtest.Get(t, "3.6"), etcdtest.Options{})
			w := newWorld(t, nil)
			h := w.host(t, server.Endpoint)
			first := h.start(t, nil)
			first.await("the first snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
			first.stored(put(t, server, 20))
			first.stop()
			tt.between(t, server, h)
			second := h.start(t, tt.change)
			second.await("the watch", func(events []Event) bool {
				return slices.ContainsFunc(events, func(e Event) bool { return e.Watching != nil })
			})
			revision := put(t, server, 20)
			second.stored(revision)
			second.await("a segment", func(events []Event) bool {
				return slices.ContainsFunc(events, func(e Event) bool {
					return e.Stored != nil && int64(e.Stored.Segment.Last) == revision
				})
			})
			second.stop()
			if s, g, l := second.count(isSnapshot), second.count(isGap), second.count(isLife); s != tt.snapshots || g != tt.gaps || l != tt.lives {
				t.Errorf("%d snapshots, %d gaps, %d new timelines\n%s", s, g, l, second)
			}
			list := w.timelines(t)
			if len(list) != 1+tt.lives || len(list[0].Gaps()) != tt.gaps || int64(list[len(list)-1].Last()) != revision {
				t.Errorf("timelines %+v", list)
			}
		})
	}
}

// TestAnotherLife: a cluster that was replaced under a running archiver begins a new timeline; one that was never archived
// from here is refused.
func TestAnotherLife(t *testing.T) {
	one := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	two := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	put(t, one, 30)
	w := newWorld(t, nil)
	h := w.host(t, one.Endpoint)
	first := h.start(t, nil)
	first.stored(put(t, one, 5))
	first.stop()
	put(t, two, 3)
	stranger := w.host(t, two.Endpoint).start(t, nil)
	if err := stranger.wait(); !errors.Is(err, backup.ErrOtherCluster) {
		t.Errorf("another cluster by that name: %v", err)
	}
	h.clients = w.host(t, two.Endpoint).clients
	second := h.start(t, nil)
	second.await("the snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	second.stored(put(t, two, 5))
	second.stop()
	if n := second.count(isLife); n != 1 {
		t.Errorf("%d new timelines\n%s", n, second)
	}
	if list := w.timelines(t); len(list) != 2 || list[0].Last() != 36 || list[1].Last() != 9 {
		t.Errorf("timelines %+v", list)
	}
}

// TestOnlyTheseCalls: nothing but what reads is ever asked of a member.
func TestOnlyTheseCalls(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	proxy := recorder.Start(t, server.Endpoint, nil)
	w := newWorld(t, nil)
	h := w.host(t, proxy.Endpoint())
	r := h.start(t, func(o *Options) { o.HashEvery, o.SnapshotEvery = 50*time.Millisecond, 100*time.Millisecond })
	r.await("the first snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	lease, err := server.Client.Grant(t.Context(), 5000)
	must(t, err)
	_, err = server.Client.Put(t.Context(), "/leased", "value", clientv3.WithLease(lease.ID))
	must(t, err)
	r.stored(put(t, server, 20))
	r.await("hashes and a second snapshot", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Hashes != nil }) && strings.Count(fmt.Sprint(snapshotsOf(events)), "older") > 0
	})
	r.stop()
	allowed := []string{
		"/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch", "/etcdserverpb.Maintenance/Snapshot", "/etcdserverpb.Maintenance/Status",
		"/etcdserverpb.Cluster/MemberList", "/etcdserverpb.Maintenance/Hash", "/etcdserverpb.Maintenance/HashKV",
		"/etcdserverpb.Lease/LeaseLeases", "/etcdserverpb.Lease/LeaseTimeToLive", "/etcdserverpb.Auth/AuthStatus",
	}
	calls := proxy.Methods()
	for method := range calls {
		if !slices.Contains(allowed, method) {
			t.Errorf("it called %s", method)
		}
	}
	for _, method := range []string{"/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseTimeToLive", "/etcdserverpb.Auth/AuthStatus", "/etcdserverpb.Maintenance/HashKV"} {
		if calls[method] == 0 {
			t.Errorf("it never called %s: %v", method, calls)
		}
	}
	leases := int64(0)
	for _, s := range w.segments(t) {
		leases += s.Leases
	}
	if leases == 0 {
		t.Error("no segment tells of the lease")
	}
}

func snapshotsOf(events []Event) (whys []string) {
	for _, e := range events {
		if e.Snapshot != nil {
			whys = append(whys, e.Snapshot.Why)
		}
	}
	return whys
}

// TestTwoAtOnce: the second waits, and takes over when the first is gone without a word. Two that write at once cannot make
// two truths.
func TestTwoAtOnce(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	seen := watchAll(t, server)
	w := newWorld(t, nil)
	a, b := w.host(t, server.Endpoint), w.host(t, server.Endpoint)
	first := a.start(t, nil)
	first.await("the first snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	first.await("a segment", func(events []Event) bool {
		put(t, server, 1)
		return slices.ContainsFunc(events, func(e Event) bool { return e.Stored != nil })
	})
	if err := a.start(t, nil).wait(); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a second one in the same folder: %v", err)
	}
	second := b.start(t, nil)
	second.await("standby", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Standby != nil })
	})
	first.stored(put(t, server, 20))
	if n := second.count(func(e Event) bool { return e.Watching != nil }); n > 0 {
		t.Errorf("the second one reads while the first one writes\n%s", second)
	}
	first.stop()
	revision := put(t, server, 20)
	second.stored(revision)
	// Both at once, and none knows of the other.
	third := a.start(t, func(o *Options) { o.Takeover = time.Nanosecond })
	for range 20 {
		revision = put(t, server, 20)
	}
	eventually(t, "the end", func() bool { return w.timelines(t)[0].Last() >= history.Revision(revision) })
	second.stop()
	third.stop()
	w.checkEvents(t, seen(revision))
	if list := w.timelines(t); len(list) != 1 || fmt.Sprint(list[0].Covered) != fmt.Sprintf("[1-%d]", revision) {
		t.Errorf("covered %+v\n%s\n%s", list, second, third)
	}
}

// TestSessions: an archiver is known by its folder and not by the key of its machine, so that its own restart waits for
// nobody, and another one waits for it.
func TestSessions(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w := newWorld(t, nil)
	a := w.host(t, server.Endpoint)
	b := &host{world: w, dir: t.TempDir(), writer: a.writer, clients: a.clients}
	never := func(o *Options) { o.Takeover = time.Hour }
	standby := func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Standby != nil })
	}
	first := a.start(t, nil)
	first.stored(put(t, server, 5))
	session, err := os.ReadFile(filepath.Join(a.dir, "archive", sessionName))
	must(t, err)
	second := b.start(t, never)
	second.await("standby", standby)
	first.stored(put(t, server, 5))
	// It ends as a crash leaves it: without a word.
	must(t, os.CopyFS(filepath.Join(b.dir, "copy"), os.DirFS(filepath.Join(a.dir, "archive"))))
	crashed := a.start(t, func(o *Options) { never(o); o.Dir = filepath.Join(b.dir, "copy") })
	crashed.await("its time", isBegun)
	crashed.stop()
	for _, s := range w.segments(t) {
		if s.Session+"\n" != string(session) {
			t.Errorf("segment %s is of session %q", s.Range(), s.Session)
		}
	}
	if s := standbyOf(t, second); s.Session+"\n" != string(session) || s.Signer != a.writer.Public().Fingerprint() {
		t.Errorf("it waits for %+v, the other one is %s", s, session)
	}
	must(t, os.WriteFile(filepath.Join(a.dir, "archive", sessionName), []byte("damaged"), 0o600))
	if fresh, err := loadSession(filepath.Join(a.dir, "archive")); err != nil || repository.CheckSession(fresh) != nil || fresh+"\n" == string(session) {
		t.Errorf("instead of a damaged session %q, %v", fresh, err)
	}
}

func isBegun(events []Event) bool {
	return slices.ContainsFunc(events, func(e Event) bool { return e.Begun != nil })
}

func standbyOf(t *testing.T, r *running) (h Holder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Standby != nil {
			return *e.Standby
		}
	}
	t.Error("it does not wait")
	return h
}

// TestAllAtOnce: several that begin at the same moment, in a repository that knows nothing of the cluster and with one key,
// come to one archiver, one timeline and one snapshot.
func TestAllAtOnce(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	put(t, server, 20)
	w := newWorld(t, func(s store.Store) store.Store { return &staggered{Store: s} })
	a := w.host(t, server.Endpoint)
	var all []*running
	for range 4 {
		h := &host{world: w, dir: t.TempDir(), writer: a.writer, clients: a.clients}
		all = append(all, h.start(t, func(o *Options) { o.Takeover = 5 * time.Second }))
	}
	for _, r := range all {
		r.await("its place", func(events []Event) bool {
			return slices.ContainsFunc(events, func(e Event) bool { return e.Snapshot != nil || e.Standby != nil })
		})
	}
	begun, snapshots := 0, 0
	for _, r := range all {
		begun += r.count(func(e Event) bool { return e.Begun != nil })
		snapshots += r.count(isSnapshot)
	}
	if list := w.timelines(t); begun != 1 || snapshots != 1 || len(list) != 1 {
		t.Errorf("%d have begun, %d snapshots, %d timelines", begun, snapshots, len(list))
		for _, r := range all {
			t.Log(r)
		}
	}
}

// staggered is a store in which the first leases take the longest, so that who comes last claims first and sees nobody.
type staggered struct {
	store.Store
	leases atomic.Int64
}

func (s *staggered) Put(ctx context.Context, name string, content io.Reader, o store.PutOptions) (store.Object, error) {
	if strings.Contains(name, "/leases/") {
		wait(ctx, time.Duration(max(4-s.leases.Add(1), 0))*50*time.Millisecond)
	}
	return s.Store.Put(ctx, name, content, o)
}

// TestNewerTimeline: an archiver goes over to a timeline that somebody else has begun.
func TestNewerTimeline(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w := newWorld(t, nil)
	h := w.host(t, server.Endpoint)
	r := h.start(t, func(o *Options) { o.HashEvery = 50 * time.Millisecond }) // it looks more often
	r.stored(put(t, server, 5))
	m, err := backup.Run(t.Context(), w.Repository, h.writer, h.clients, backup.Options{Cluster: cluster, NewTimeline: true})
	must(t, err)
	r.await("a watch of the other timeline", func(events []Event) bool {
		at := slices.IndexFunc(events, func(e Event) bool { return e.Begun != nil && e.Begun.Timeline == m.Timeline })
		return at >= 0 && slices.ContainsFunc(events[at:], func(e Event) bool { return e.Watching != nil })
	})
	revision := put(t, server, 5)
	r.await("a segment of it", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool {
			return e.Stored != nil && e.Stored.Segment.Timeline == m.Timeline && int64(e.Stored.Segment.Last) >= revision
		})
	})
	r.stop()
	if list := w.timelines(t); len(list) != 2 || int64(list[1].Last()) != revision {
		t.Errorf("timelines %+v", list)
	}
}

// hanging is a store whose writes hang while it is told so, until their time is up.
type hanging struct {
	store.Store
	now atomic.Bool
}

func (h *hanging) Put(ctx context.Context, name string, content io.Reader, o store.PutOptions) (store.Object, error) {
	if h.now.Load() {
		<-ctx.Done()
		return store.Object{}, context.Cause(ctx)
	}
	return h.Store.Put(ctx, name, content, o)
}

// TestEndWithoutStore: an end takes no longer than it may although the store hangs, and what was read is sent by the next run.
func TestEndWithoutStore(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	seen := watchAll(t, server)
	var h *hanging
	w := newWorld(t, func(s store.Store) store.Store { h = &hanging{Store: s}; return h })
	a := w.host(t, server.Endpoint)
	first := a.start(t, nil)
	first.stored(put(t, server, 20))
	first.stored(put(t, server, 20)) // by a segment, which proves that the line goes on
	h.now.Store(true)
	revision := put(t, server, 20)
	eventually(t, "a segment in the spool", func() bool {
		left, err := os.ReadDir(filepath.Join(a.dir, "archive", "spool"))
		return err == nil && len(left) > 0
	})
	first.stop()
	h.now.Store(false)
	second := a.start(t, nil)
	second.stored(revision)
	second.stop()
	if n := second.count(isSnapshot); n > 0 {
		t.Errorf("the second run took %d snapshots\n%s", n, second)
	}
	w.checkEvents(t, seen(revision))
	if list := w.timelines(t); len(list) != 1 || fmt.Sprint(list[0].Covered) != fmt.Sprintf("[1-%d]", revision) {
		t.Errorf("covered %+v", list)
	}
}

// TestSpoolOfAnOlderTimeline: what waits for the store still goes where it belongs when another timeline was begun meanwhile,
// and proves nothing about that one.
func TestSpoolOfAnOlderTimeline(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	var h *hanging
	w := newWorld(t, func(s store.Store) store.Store { h = &hanging{Store: s}; return h })
	a := w.host(t, server.Endpoint)
	first := a.start(t, nil)
	first.stored(put(t, server, 5))
	first.stored(put(t, server, 5))
	h.now.Store(true)
	old := put(t, server, 5)
	eventually(t, "the last segment in the spool", func() bool {
		s, err := openSpoolCopy(t, filepath.Join(a.dir, "archive", "spool"))
		d, _, found := s.end()
		return err == nil && found && int64(d.Segment.Last) == old
	})
	first.stop()
	h.now.Store(false)
	m, err := backup.Run(t.Context(), w.Repository, a.writer, a.clients, backup.Options{Cluster: cluster, NewTimeline: true})
	must(t, err)
	second := a.start(t, nil)
	second.await("the snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	revision := put(t, server, 5)
	second.stored(revision)
	second.stop()
	list := w.timelines(t)
	if len(list) != 2 || int64(list[0].Last()) != old || list[1].ID != m.Timeline || int64(list[1].Last()) != revision {
		t.Errorf("timelines %+v, the first ends with %d, the second with %d\n%s", list, old, revision, second)
	}
}

// TestResume: only what is of the line that counts proves where it stands, the spool before the state.
func TestResume(t *testing.T) {
	at := func(r history.Revision) position { return position{Revision: r} }
	for name, tt := range map[string]struct {
		spooled, saved repository.Timeline
		want           history.Revision
	}{
		"both": {"a", "a", 9}, "none of it": {"b", "b", 0}, "state only": {"b", "a", 5}, "nothing": {"", "", 0}, "undecided": {"", "a", 5}, "spool only": {"a", "", 9},
	} {
		a := archiver{line: "a", spool: &spool{}, state: state{Timeline: tt.saved, Position: at(5)}}
		a.spool.drafts = []draft{{Segment: repository.Segment{Timeline: tt.spooled}, End: at(9)}}
		if got, line, _ := a.resume(); got.Revision != tt.want || line != "a" {
			t.Errorf("%s: it goes on at %s of %s, want %s", name, got.Revision, line, tt.want)
		}
	}
}

// openSpoolCopy reads what is in a spool that belongs to somebody else.
func openSpoolCopy(t *testing.T, folder string) (*spool, error) {
	copied := filepath.Join(t.TempDir(), "spool")
	if err := os.CopyFS(copied, os.DirFS(folder)); err != nil {
		return &spool{}, err // a file went meanwhile
	}
	return openSpool(copied, 1<<30)
}

// TestNoRights: a host that is not enrolled is told so at once.
func TestNoRights(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w := newWorld(t, nil)
	h := w.host(t, server.Endpoint)
	var err error
	h.writer, err = repository.OpenWriter(t.TempDir())
	must(t, err)
	if err := h.start(t, nil).wait(); !errors.Is(err, repository.ErrNotEnrolled) {
		t.Errorf("not enrolled: %v", err)
	}
	if err := Run(context.Background(), w.Repository, h.writer, Fixed(h.clients), Options{Cluster: "UPPER", Dir: h.dir}); err == nil {
		t.Error("no error of wrong options")
	}
}

// TestUsersChanged: no watch tells of users and roles, so a snapshot follows a change of them, also one while nobody looked.
func TestUsersChanged(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.6"), etcdtest.Options{})
	h := newWorld(t, nil).host(t, server.Endpoint)
	soon := func(o *Options) { o.SnapshotEvery = time.Hour; o.authEvery = 50 * time.Millisecond }
	changed := func(n int) func([]Event) bool {
		return func(events []Event) bool {
			return strings.Count(fmt.Sprint(snapshotsOf(events)), "users or roles were changed") == n
		}
	}
	first := h.start(t, soon)
	first.await("the first snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	_, err := server.Client.RoleAdd(t.Context(), "reader")
	must(t, err)
	first.await("a snapshot after the change", changed(1))
	first.stored(put(t, server, 5))
	first.stop()
	_, err = server.Client.UserAdd(t.Context(), "somebody", "secret")
	must(t, err)
	second := h.start(t, soon)
	second.await("a snapshot after the change that nobody saw", changed(1))
	second.stop()
	if !changed(1)(first.events) || !changed(1)(second.events) {
		t.Errorf("snapshots of the first: %q, of the second: %q", snapshotsOf(first.events), snapshotsOf(second.events))
	}
}
