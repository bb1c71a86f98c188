package archive

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
)

// word is the last lease of the archive's only timeline.
func (w *world) word(t testing.TB) repository.Lease {
	t.Helper()
	leases, _, err := w.Leases(t.Context(), cluster, w.timelines(t)[0].ID, repository.ID{}, 1)
	must(t, err)
	must(t, leases[0].Err)
	return leases[0].Note
}

// begun waits for the snapshot that an archive begins with, and until what it covers is noted.
func (r *running) begun(w *world) {
	r.t.Helper()
	r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	eventually(r.t, "a lease", func() bool {
		lines, err := w.ArchivedTimelines(r.t.Context(), cluster)
		return err == nil && len(lines) > 0 && w.word(r.t).Revision > 0
	})
}

// claims stops an archiver, whose last words must be that everything up to a revision is stored, and nothing came after it at a
// time after from.
func (r *running) claims(w *world, revision int64, from time.Time) {
	r.t.Helper()
	eventually(r.t, "a lease as of now", func() bool {
		l := w.word(r.t)
		return int64(l.Revision) == revision && l.AsOf.After(from)
	})
	r.stop()
	last, lease := r.events[len(r.events)-1].Ended, w.word(r.t)
	if last == nil || int64(last.Revision) != revision || last.AsOf.Before(from) || last.Awaits || int64(last.Read) != revision {
		r.t.Errorf("the last word is %+v, want revision %d", last, revision)
	}
	if !lease.Release || int64(lease.Revision) != revision || lease.AsOf.Before(from) {
		r.t.Errorf("the last lease is %+v, want revision %d", lease, revision)
	}
}

// TestIdle: a cluster that wrote nothing while it was archived goes on after a restart without another snapshot.
func TestIdle(t *testing.T) {
	t.Parallel()
	for _, version := range etcdtest.Versions(t) {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, version, etcdtest.Options{})
			revision := put(t, server, 5)
			w := newWorld(t, nil)
			h := w.host(t, server.Endpoint)
			r := h.start(t, nil)
			r.begun(w)
			r.claims(w, revision, time.Now())
			for range 2 {
				revision = put(t, server, 3)
				before := time.Now()
				r = h.start(t, nil)
				r.storedSegment(revision)
				r.claims(w, revision, before)
				if n := r.count(isSnapshot); n > 0 {
					t.Errorf("it took %d snapshots\n%s", n, r)
				}
			}
			list := w.timelines(t)
			if len(list) != 1 || len(list[0].Covered) != 1 || int64(list[0].Last()) != revision {
				t.Errorf("covered %+v", list)
			}
		})
	}
}

// TestEmptyAndCompacted: where the first revision cannot be read, a restart costs a snapshot, and nothing else.
func TestEmptyAndCompacted(t *testing.T) {
	t.Parallel()
	for name, writes := range map[string]int{"empty": 0, "compacted": 9} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
			revision := int64(1)
			if writes > 0 {
				revision = put(t, server, writes)
				compactAt(t, server, revision)
			}
			w := newWorld(t, nil)
			h := w.host(t, server.Endpoint)
			for run := range 2 {
				r := h.start(t, nil)
				r.begun(w)
				r.claims(w, revision, time.Now())
				if n := r.count(isSnapshot); n != 1 {
					t.Errorf("run %d took %d snapshots\n%s", run, n, r)
				}
			}
		})
	}
}

// TestCoveredIsClaimed: what a new snapshot covers is said to be stored, though no event follows; so is what another archiver has
// stored.
func TestCoveredIsClaimed(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.6"), etcdtest.Options{})
	w := newWorld(t, nil)
	h := w.host(t, server.Endpoint)
	r := h.start(t, nil)
	r.begun(w)
	revision := put(t, server, 10)
	r.storedSegment(revision)
	r.stop()

	revision = put(t, server, 10)
	before := time.Now()
	r = h.start(t, func(o *Options) { o.FarBehind = 1 })
	r.begun(w)
	r.claims(w, revision, before)
	if n := r.count(isSnapshot); n != 1 {
		t.Errorf("it took %d snapshots\n%s", n, r)
	}
	watching := slices.IndexFunc(r.events, func(e Event) bool { return e.Watching != nil })
	if got := r.events[watching].Watching; got.Why == nil || got.Behind != 0 || int64(got.From) != revision+1 {
		t.Errorf("it reads %+v", got)
	}

	other := w.host(t, server.Endpoint).start(t, nil)
	other.begun(w)
	revision = put(t, server, 10)
	other.storedSegment(revision)
	other.stop()
	before = time.Now()
	r = h.start(t, nil)
	r.claims(w, revision, before)
	if n := r.count(isSnapshot) + r.count(func(e Event) bool { return e.Stored != nil }); n > 0 {
		t.Errorf("it stored again what is stored\n%s", r)
	}
	s, err := loadState(filepath.Join(h.folder(), stateName))
	must(t, err)
	if int64(s.Position.Revision) != revision {
		t.Errorf("the next watch begins at %s, want %d", s.Position.Revision, revision)
	}
}

// TestNothingIsClaimed: while a store that takes no snapshot keeps a hole open, nothing is said of what came after it.
func TestNothingIsClaimed(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w, faults := faulty(t)
	h := w.host(t, server.Endpoint)
	r := h.start(t, nil)
	r.begun(w)
	stored := put(t, server, 10)
	r.storedSegment(stored)
	r.stop()
	known := w.word(t).AsOf
	put(t, server, 20)
	faults.Add(faultstore.Fault{On: faultstore.Put, Name: "clusters/" + cluster + "/manifests/", Times: -1})
	r = h.start(t, func(o *Options) { o.FarBehind = 1 })
	r.await("trouble", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Trouble != nil })
	})
	r.stop()
	last, lease := r.events[len(r.events)-1].Ended, w.word(t)
	if last == nil || !last.Awaits || int64(last.Revision) != stored || int64(last.Read) != stored || last.AsOf.After(known) {
		t.Errorf("the last word is %+v, stored is revision %d", last, stored)
	}
	if int64(lease.Revision) != stored || lease.AsOf.After(known) {
		t.Errorf("the last lease is %+v, stored is revision %d", lease, stored)
	}
}

// TestCaughtUpIsTold: that nothing came after what was caught up with is told at once, as its segment does not say it.
func TestCaughtUpIsTold(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w := newWorld(t, nil)
	h := w.host(t, server.Endpoint)
	r := h.start(t, nil)
	r.begun(w)
	r.storedSegment(put(t, server, 3))
	r.stop()
	revision := put(t, server, 3)
	r = h.start(t, func(o *Options) { o.Takeover = 24 * time.Second }) // a lease each 8 s
	r.storedSegment(revision)
	caughtUp := time.Now()
	eventually(t, "a lease", func() bool { l := w.word(t); return int64(l.Revision) == revision && !l.AsOf.IsZero() })
	if took := time.Since(caughtUp); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	r.stop()
}

// TestIdleTimeIsKept: what a lease says of the time before is the bound of what nobody saw live, whoever goes on.
func TestIdleTimeIsKept(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w := newWorld(t, nil)
	h, other := w.host(t, server.Endpoint), w.host(t, server.Endpoint)
	r := h.start(t, nil)
	r.begun(w)
	r.storedSegment(put(t, server, 3))
	r.stop()
	r = other.start(t, nil)
	r.begun(w)
	last := put(t, server, 3)
	r.storedSegment(last)
	r.stop()
	line := w.timelines(t)[0].ID
	say := func(revision int64, at time.Time) time.Time {
		t.Helper()
		lease, err := w.PutLease(t.Context(), other.writer, repository.Lease{Cluster: cluster, Timeline: line, Revision: history.Revision(revision),
			Session: repository.NewSession(), AsOf: at, Release: true})
		must(t, err)
		return lease.AsOf
	}
	known := say(last, time.Now())
	say(last+1, known.Add(5*time.Millisecond)) // of a revision that is not stored, so it says nothing of what is not
	say(last, time.Time{})
	revision := put(t, server, 6)
	before := time.Now()
	r = h.start(t, nil)
	r.storedSegment(revision)
	r.claims(w, revision, before)
	segments := w.segments(t)
	end := segments[len(segments)-1]
	if end.First != history.Revision(last+1) || end.Exact || !end.FirstTime.Equal(known) {
		t.Errorf("revisions %s came about from %s on, and nothing was there until %s", end.Range(), end.FirstTime, known)
	}
}
