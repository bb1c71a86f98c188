package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/recorder"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
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
	first.stored(put(t, server, 20)) // a segment, which others see
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
	second.await("the end", func(events []Event) bool { return w.timelines(t)[0].Last() >= history.Revision(revision) })
	second.stop()
	third.stop()
	w.checkEvents(t, seen(revision))
	if list := w.timelines(t); len(list) != 1 || fmt.Sprint(list[0].Covered) != fmt.Sprintf("[1-%d]", revision) {
		t.Errorf("covered %+v\n%s\n%s", list, second, third)
	}
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
	if err := Run(context.Background(), w.Repository, h.writer, h.clients, Options{Cluster: "UPPER", Dir: h.dir}); err == nil {
		t.Error("no error of wrong options")
	}
}
