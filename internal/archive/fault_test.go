package archive

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/recorder"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
)

// faulty is a world whose store can fail.
func faulty(t *testing.T) (*world, *faultstore.Store) {
	t.Helper()
	var faults *faultstore.Store
	w := newWorld(t, func(s store.Store) store.Store {
		faults = faultstore.New(s)
		return faults
	})
	return w, faults
}

// whole wants everything to be there from the first revision to one, or from the first that is not compacted, once, with
// the events of the cluster and with times that go up, on one timeline. holes are what may be missing.
func (w *world) whole(t testing.TB, seen map[history.Revision][]history.Event, last int64, holes ...history.Range) {
	t.Helper()
	list := w.timelines(t)
	if len(list) != 1 {
		t.Errorf("%d timelines: %+v", len(list), list)
		return
	}
	if got := list[0].Gaps(); !slices.Equal(got, holes) || list[0].Covered[0].First != 1 || int64(list[0].Last()) != last {
		t.Errorf("covered are %v, want 1 to %d but %v", list[0].Covered, last, holes)
	}
	w.told(t, list[0].ID, holes...)
	var before repository.Segment
	for _, s := range w.segments(t) {
		if s.Level != repository.SegmentLive {
			continue // on a slow machine a minute ends, and is merged, of segments that stay
		}
		if s.First <= before.Last || s.FirstTime.Before(before.LastTime) {
			t.Errorf("segment %s from %s comes after %s until %s", s.Range(), s.FirstTime, before.Range(), before.LastTime)
		}
		before = s
	}
	w.checkEvents(t, seen)
}

// told wants exactly these holes to be recorded.
func (w *world) told(t testing.TB, timeline repository.Timeline, holes ...history.Range) {
	t.Helper()
	reads, strange, err := w.Gaps(t.Context(), cluster, timeline)
	must(t, err)
	var got []history.Range
	for _, read := range reads {
		must(t, read.Err)
		if hole := (history.Range{First: read.Note.First, Last: read.Note.Last}); !slices.Contains(got, hole) { // a lost answer tells twice
			got = append(got, hole)
		}
	}
	if !slices.Equal(got, holes) || len(strange) > 0 {
		t.Errorf("holes %v are recorded, want %v; %q", got, holes, strange)
	}
}

// line gives the timeline that has been begun.
func (w *world) line(t testing.TB) string {
	t.Helper()
	timelines, err := w.Timelines(t.Context(), cluster)
	must(t, err)
	if len(timelines) != 1 {
		t.Fatalf("timelines %q", timelines)
	}
	return string(timelines[0])
}

func (h *host) folder() string      { return filepath.Join(h.dir, "archive") }
func (h *host) spoolFolder() string { return filepath.Join(h.folder(), "spool") }

// wantDrained wants nothing in the spool.
func (h *host) wantDrained(t testing.TB) {
	t.Helper()
	if left, err := os.ReadDir(h.spoolFolder()); err != nil || len(left) > 0 {
		t.Errorf("the spool holds %v, %v", left, err)
	}
}

func compactAt(t testing.TB, server *etcdtest.Server, revision int64) {
	t.Helper()
	_, err := server.Client.Compact(t.Context(), revision, clientv3.WithCompactPhysical())
	must(t, err)
}

// TestStoreFaults: each call of an archiver to its store fails in each way. Nothing is lost, nothing is there twice, the
// spool drains.
func TestStoreFaults(t *testing.T) {
	t.Parallel()
	for name, how := range map[string][]faultstore.Fault{
		"before":      {{Do: faultstore.Fail}},
		"lost answer": {{Do: faultstore.Lose}},
		"cut":         {{Do: faultstore.Cut, At: 10}},
		"slow":        {{Do: faultstore.Slow, Delay: 300 * time.Millisecond}},
		"for a while": {{Do: faultstore.Fail, Times: 2}},
		"after a try": {{Do: faultstore.Lose}, {Do: faultstore.Fail, Skip: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
			seen := watchAll(t, server)
			w, faults := faulty(t)
			h := w.host(t, server.Endpoint)
			r := h.start(t, nil)
			r.stored(put(t, server, 3))
			r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
			line := "clusters/" + cluster + "/archive/" + w.line(t) + "/"
			add := func(on faultstore.Op, name string) {
				for _, f := range how {
					if f.On, f.Name = on, name; on == faultstore.List && f.Do == faultstore.Cut {
						f.At = 0
					}
					faults.Add(f)
				}
			}
			last := int64(0)
			for _, call := range []faultstore.Fault{
				{On: faultstore.Put, Name: "clusters/" + cluster + "/segments/"}, {On: faultstore.Put, Name: line + "0/"},
				{On: faultstore.Open}, {On: faultstore.Stat}, {On: faultstore.List},
			} {
				add(call.On, call.Name)
				last = put(t, server, 10)
				r.storedSegment(last)
			}
			faults.Clear()
			r.stop()
			for _, call := range []faultstore.Fault{
				{On: faultstore.List, Name: "clusters/" + cluster + "/manifests/"}, {On: faultstore.List, Name: line},
				{On: faultstore.Open, Name: line}, {On: faultstore.Open, Name: "signers/"}, {On: faultstore.Put, Name: line + "leases/"},
			} {
				add(call.On, call.Name)
				last = put(t, server, 5)
				again := h.start(t, nil)
				again.storedSegment(last)
				again.stop()
				faults.Clear()
				if n := again.count(isSnapshot); n > 0 {
					t.Errorf("after %s %q: %d snapshots\n%s", call.On, call.Name, n, again)
				}
			}
			w.whole(t, seen(last), last)
			h.wantDrained(t)

			// What tells of a hole must get there, too.
			hole := history.Range{First: history.Revision(last) + 1}
			last = put(t, server, 20)
			hole.Last = history.Revision(last) - 11
			compactAt(t, server, last-10)
			add(faultstore.Put, line+"gaps/")
			add(faultstore.Put, "clusters/"+cluster+"/data/")
			r = h.start(t, nil)
			r.await("the gap", func(events []Event) bool { return slices.ContainsFunc(events, isGap) })
			last = put(t, server, 5)
			r.storedSegment(last)
			r.stop()
			w.whole(t, nil, last, hole)
			h.wantDrained(t)
		})
	}
}

// storedSegment waits until a revision is in a segment, and not only in a snapshot.
func (r *running) storedSegment(revision int64) {
	r.t.Helper()
	r.await(fmt.Sprintf("revision %d in a segment", revision), func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Stored != nil && int64(e.Stored.Segment.Last) >= revision })
	})
}

// TestOnlyConfirmed: the position is never beyond what the store has confirmed, and what it has not is sent by the next run.
func TestOnlyConfirmed(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.6"), etcdtest.Options{})
	seen := watchAll(t, server)
	w, faults := faulty(t)
	h := w.host(t, server.Endpoint)
	r := h.start(t, nil)
	r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	confirmed := put(t, server, 10)
	r.storedSegment(confirmed)
	faults.Add(faultstore.Fault{On: faultstore.Put, Name: "clusters/" + cluster + "/archive/", Times: -1})
	last := put(t, server, 30)
	r.await("trouble", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Trouble != nil })
	})
	r.stop()
	s, err := loadState(filepath.Join(h.folder(), stateName))
	must(t, err)
	if int64(s.Position.Revision) != confirmed || int64(w.timelines(t)[0].Last()) != confirmed {
		t.Errorf("the position is %s, stored is all up to %d, confirmed was %d", s.Position.Revision, w.timelines(t)[0].Last(), confirmed)
	}
	compactAt(t, server, last) // the spool has it
	faults.Clear()
	r = h.start(t, nil)
	r.storedSegment(last)
	r.stop()
	if n := r.count(isSnapshot); n > 0 {
		t.Errorf("%d snapshots\n%s", n, r)
	}
	w.whole(t, seen(last), last)
	h.wantDrained(t)
	// One data object for each manifest: other tries put the same one.
	data := 0
	for _, err := range w.store.List(t.Context(), "clusters/"+cluster+"/segments/", "") {
		must(t, err)
		data++
	}
	if n := len(w.segments(t)); data != n {
		t.Errorf("%d data objects of %d segments", data, n)
	}
}

// big writes n revisions that no compression makes small.
func big(t testing.TB, server *etcdtest.Server, n, size int) (revision int64) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	for i := range n {
		value := make([]byte, size)
		_, _ = random.Read(value) // It always fills it.
		reply, err := server.Client.Put(t.Context(), fmt.Sprintf("/registry/key-%d", i%7), string(value))
		must(t, err)
		revision = reply.Header.Revision
	}
	return revision
}

func isFull(e Event) bool { return errors.Is(e.Trouble, errFull) }

// TestStoreDown: while the store is down the spool takes what comes, also over a new connection; when it is full, the watch
// is closed, and opens again.
func TestStoreDown(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		full, compact bool
	}{
		"a new connection": {}, "compacted, and the spool has it": {compact: true},
		"full": {full: true}, "full, and compacted": {full: true, compact: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
			seen := watchAll(t, server)
			proxy := recorder.Start(t, server.Endpoint, nil)
			w, faults := faulty(t)
			h := w.host(t, proxy.Endpoint())
			r := h.start(t, func(o *Options) { o.SpoolLimit = 100_000 })
			r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
			last := put(t, server, 10)
			r.storedSegment(last)
			for _, op := range []faultstore.Op{faultstore.Put, faultstore.List, faultstore.Open, faultstore.Stat} {
				faults.Add(faultstore.Fault{On: op, Times: -1})
			}
			put(t, server, 10)
			watches := func(n int) func([]Event) bool {
				return func(events []Event) bool {
					for _, e := range events {
						if e.Watching != nil {
							n--
						}
					}
					return n <= 0
				}
			}
			proxy.Cut()
			r.await("a new watch while the store is down", watches(2))
			var read int64
			if tt.full {
				big(t, server, 100, 3000)
				r.await("a full spool", func(events []Event) bool { return slices.ContainsFunc(events, isFull) })
				read = r.spooled(t, h, 0)
				last = put(t, server, 20)
				if read >= last {
					t.Fatalf("all of it was read: %d", read)
				}
			} else {
				last = put(t, server, 10)
				read = r.spooled(t, h, last)
			}
			var holes []history.Range
			if tt.compact {
				compactAt(t, server, last)
				if tt.full {
					holes = append(holes, history.Range{First: history.Revision(read) + 1, Last: history.Revision(last) - 1})
				}
			}
			faults.Clear()
			if tt.full && tt.compact {
				r.await("the gap", func(events []Event) bool { return slices.ContainsFunc(events, isGap) })
			}
			if tt.full {
				r.await("a third watch", watches(3))
			}
			last = put(t, server, 10)
			r.storedSegment(last)
			r.stop()
			if want := 1 + len(holes); r.count(isSnapshot) != want || r.count(isGap) != len(holes) {
				t.Errorf("want %d snapshots\n%s", want, r)
			}
			if len(holes) > 0 {
				w.whole(t, nil, last, holes...)
			} else {
				w.whole(t, seen(last), last)
			}
			h.wantDrained(t)
		})
	}
}

// spooled waits until the drafts in the spool have come to a revision, and gives what they have come to.
func (r *running) spooled(t testing.TB, h *host, revision int64) (last int64) {
	t.Helper()
	poll(t, fmt.Sprintf("revision %d in the spool", revision), func() bool {
		names, err := filepath.Glob(filepath.Join(h.spoolFolder(), "*"+draftSuffix))
		must(t, err)
		slices.Sort(names)
		for _, name := range names {
			if d, _ := (&spool{folder: h.spoolFolder()}).read(name); d.Segment.Last > 0 { // also one that awaits its timeline, or goes just now
				last = int64(d.Segment.Last)
			}
		}
		return last > 0 && last >= revision
	})
	return last
}

// poll waits until a condition holds.
func poll(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not after half a minute: %s", what)
		}
	}
}

// TestFullBeforeSnapshot: the spool gets full while the first snapshot is on its way, which must not end in a standstill;
// neither when that snapshot fails.
func TestFullBeforeSnapshot(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{"it works": nil, "it fails": errors.New("no snapshot this time")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
			seen := watchAll(t, server)
			put(t, server, 5)
			w := newWorld(t, nil)
			h := w.host(t, server.Endpoint)
			begun, goOn := make(chan bool, 10), make(chan error, 10)
			r := h.start(t, func(o *Options) {
				o.SpoolLimit = 50_000
				o.Snapshot = heldBack(o.Snapshot, begun, goOn)
			})
			<-begun
			r.await("the watch", func(events []Event) bool {
				return slices.ContainsFunc(events, func(e Event) bool { return e.Watching != nil })
			})
			last := big(t, server, 60, 3000)
			poll(t, "a full spool", func() bool { return folderSize(t, h.spoolFolder()) >= 50_000 })
			goOn <- failure
			goOn <- nil
			r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
			last = cmp.Or(put(t, server, 10), last)
			r.storedSegment(last)
			r.stop()
			w.whole(t, seen(last), last)
			h.wantDrained(t)
		})
	}
}

func folderSize(t testing.TB, folder string) (size int64) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	must(t, err)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), sealedSuffix) {
			size += info.Size()
		}
	}
	return size
}
