package archive

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// stopped is an archiver that has ended in the middle of its work: the repository has everything up to one revision, the spool
// more, and the cluster is still further. Copies of it can go on.
type stopped struct {
	server *etcdtest.Server
	h      *host
	// early is the archiver's folder, and earlyStore the repository, as they were after a first run, up to its last revision.
	early      string
	earlyStore store.Store
	seen       map[history.Revision][]history.Event
	// First is the last revision of the early run, stored of the repository, spooled of the spool, and last of the cluster.
	first, stored, spooled, last int64
}

func newStopped(t *testing.T) *stopped {
	t.Helper()
	s := &stopped{server: etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{}), early: t.TempDir()}
	seen := watchAll(t, s.server)
	w, faults := faulty(t)
	s.h = w.host(t, s.server.Endpoint)
	r := s.h.start(t, nil)
	r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	s.first = put(t, s.server, 20)
	r.storedSegment(s.first)
	r.stop()
	must(t, copyFolder(s.early, s.h.folder()))
	s.earlyStore = copyStore(t, w.store)

	r = s.h.start(t, nil)
	s.stored = put(t, s.server, 20)
	r.storedSegment(s.stored)
	faults.Add(faultstore.Fault{On: faultstore.Put, Name: "clusters/" + cluster + "/archive/", Times: -1})
	for range 4 {
		s.spooled = put(t, s.server, 10)
		r.spooled(t, s.h, s.spooled)
	}
	r.stop()
	faults.Clear()
	s.last = put(t, s.server, 10)
	s.seen = seen(s.last)
	return s
}

// copyFolder copies a folder into one that is empty or not there, for its owner alone.
func copyFolder(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return errors.Join(err, os.Chmod(path, 0o700))
		}
		return os.Chmod(path, 0o600)
	})
}

func copyStore(t testing.TB, from store.Store) store.Store {
	t.Helper()
	to := mem.New()
	for object, err := range from.List(t.Context(), "", "") {
		must(t, err)
		content, err := from.Open(t.Context(), object.Name, 0, -1)
		must(t, err)
		_, err = to.Put(t.Context(), object.Name, content, store.PutOptions{})
		must(t, errors.Join(err, content.Close()))
	}
	return to
}

// copy gives a host in a world of its own that stands where the original does.
func (s *stopped) copy(t *testing.T, from store.Store) *host {
	t.Helper()
	w := &world{store: copyStore(t, from), root: s.h.root}
	var err error
	w.Repository, err = repository.Open(t.Context(), w.store, s.h.root.Public().Fingerprint())
	must(t, err)
	h := &host{world: w, dir: t.TempDir(), clients: s.h.clients}
	must(t, copyFolder(h.dir, s.h.dir))
	h.writer, err = repository.OpenWriter(filepath.Join(h.dir, "signer"))
	must(t, err)
	return h
}

// spoolFile gives the path of a file of the spool, counted from the oldest.
func (h *host) spoolFile(t testing.TB, n int, suffix string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(h.spoolFolder(), "*"+suffix))
	must(t, err)
	slices.Sort(names)
	return names[n]
}

// change rewrites a file.
func change(t testing.TB, path string, how func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, how(content), 0o600))
}

func half(b []byte) []byte { return b[:len(b)/2] }

// flip changes one bit in the middle; of JSON that can be a digit, which stays one.
func flip(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

// TestRemembered: whatever was done to what an archiver remembers, or to the repository under it, everything that can be had is
// covered once, and what cannot is told.
func TestRemembered(t *testing.T) {
	t.Parallel()
	s := newStopped(t)
	state := func(h *host) string { return filepath.Join(h.folder(), stateName) }
	noSpool := func(t *testing.T, h *host) { must(t, os.RemoveAll(h.spoolFolder())) }
	type damage struct {
		early     bool // the repository as it was after the first run
		do        func(t *testing.T, h *host)
		snapshots int
		lost      func() (first, last int64) // once it is compacted; nil for nothing
	}
	// Where the repository or the spool has everything up to there, the next revision is the first that can be lost.
	after := func(have *int64) func() (int64, int64) { return func() (int64, int64) { return *have + 1, s.last - 1 } }
	cases := map[string]damage{
		"nothing":      {do: func(*testing.T, *host) {}, lost: after(&s.spooled)},
		"no spool":     {do: noSpool, lost: after(&s.stored)},
		"sealed cut":   {do: func(t *testing.T, h *host) { change(t, h.spoolFile(t, 1, sealedSuffix), half) }},
		"sealed wrong": {do: func(t *testing.T, h *host) { change(t, h.spoolFile(t, 0, sealedSuffix), flip) }, lost: after(&s.stored)},
		"sealed gone":  {do: func(t *testing.T, h *host) { must(t, os.Remove(h.spoolFile(t, 0, sealedSuffix))) }, lost: after(&s.stored)},
		"draft cut":    {do: func(t *testing.T, h *host) { change(t, h.spoolFile(t, 1, draftSuffix), half) }},
		"draft wrong":  {do: func(t *testing.T, h *host) { change(t, h.spoolFile(t, 0, draftSuffix), flip) }, lost: after(&s.stored)},
		"draft with another revision": {do: func(t *testing.T, h *host) {
			change(t, h.spoolFile(t, 0, draftSuffix), func(b []byte) []byte {
				return []byte(strings.Replace(string(b), `"first":4`, `"first":5`, 1))
			})
		}, lost: after(&s.stored)},
		"draft gone": {do: func(t *testing.T, h *host) { must(t, os.Remove(h.spoolFile(t, 1, draftSuffix))) }},
		"draft empty": {do: func(t *testing.T, h *host) {
			change(t, h.spoolFile(t, 2, draftSuffix), func([]byte) []byte { return nil })
		}},
		"foreign files": {do: func(t *testing.T, h *host) {
			must(t, os.MkdirAll(filepath.Join(h.spoolFolder(), "lost+found", "x"), 0o700))
			must(t, os.WriteFile(filepath.Join(h.spoolFolder(), "notes.json"), []byte("{}"), 0o600))
			must(t, os.WriteFile(filepath.Join(h.spoolFolder(), "000000000000.sealed"), nil, 0o600))
		}, lost: after(&s.spooled)},
		"no state": {do: func(t *testing.T, h *host) { must(t, os.Remove(state(h))) }, lost: after(&s.spooled)},
		"no state and no spool": {do: func(t *testing.T, h *host) {
			noSpool(t, h)
			must(t, os.Remove(state(h)))
		}, snapshots: 1, lost: after(&s.stored)},
		"a state that is garbage": {do: func(t *testing.T, h *host) {
			noSpool(t, h)
			must(t, os.WriteFile(state(h), []byte("{{{ garbage \x00"), 0o600))
		}, snapshots: 1, lost: after(&s.stored)},
		"half a state": {do: func(t *testing.T, h *host) { change(t, state(h), half); noSpool(t, h) }, snapshots: 1, lost: after(&s.stored)},
		"an old state": {do: func(t *testing.T, h *host) {
			noSpool(t, h)
			change(t, state(h), func([]byte) []byte { return read(t, filepath.Join(s.early, stateName)) })
		}, lost: after(&s.stored)},
		"an old state and the spool": {do: func(t *testing.T, h *host) {
			change(t, state(h), func([]byte) []byte { return read(t, filepath.Join(s.early, stateName)) })
		}, lost: after(&s.spooled)},
		"an old repository":               {early: true, do: noSpool, snapshots: 1, lost: after(&s.first)},
		"an old repository and the spool": {early: true, do: func(*testing.T, *host) {}, snapshots: 1, lost: after(&s.first)},
		"a clock that was a day ahead": {do: func(t *testing.T, h *host) {
			noSpool(t, h)
			st, err := loadState(state(h))
			must(t, err)
			st.Position.Time = st.Position.Time.Add(24 * time.Hour)
			a := archiver{Options: Options{Dir: h.folder()}, state: st}
			must(t, a.saveState())
		}},
	}
	run := func(t *testing.T, tt damage, compacted bool) {
		from := s.h.store
		if tt.early {
			from = s.earlyStore
		}
		h := s.copy(t, from)
		tt.do(t, h)
		r := h.start(t, nil)
		var holes []history.Range
		snapshots := tt.snapshots
		if compacted {
			first, last := tt.lost()
			holes, snapshots = []history.Range{{First: history.Revision(first), Last: history.Revision(last)}}, 1
			r.await("the gap", func(events []Event) bool { return slices.ContainsFunc(events, isGap) })
		}
		poll(t, "everything is covered", func() bool { return int64(h.timelines(t)[0].Last()) >= s.last })
		r.stop()
		if n := r.count(isSnapshot); n != snapshots {
			t.Errorf("%d snapshots, want %d\n%s", n, snapshots, r)
		}
		if n := r.count(isLife); n > 0 {
			t.Errorf("a new timeline\n%s", r)
		}
		h.whole(t, s.seen, s.last, holes...)
		left, err := filepath.Glob(filepath.Join(h.spoolFolder(), "*"))
		must(t, err)
		foreign := 0
		for _, name := range left {
			if base := filepath.Base(name); base == "lost+found" || base == "notes.json" {
				foreign++
			}
		}
		if len(left) != foreign {
			t.Errorf("the spool holds %q", left)
		}
	}
	t.Run("all is there", func(t *testing.T) {
		for name, tt := range cases {
			t.Run(name, func(t *testing.T) { t.Parallel(); run(t, tt, false) })
		}
	})
	compactAt(t, s.server, s.last)
	t.Run("compacted", func(t *testing.T) {
		for name, tt := range cases {
			if tt.lost != nil {
				t.Run(name, func(t *testing.T) { t.Parallel(); run(t, tt, true) })
			}
		}
	})
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	return content
}

// TestSpoilt: what waits is damaged while the archiver runs. It is read again.
func TestSpoilt(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	seen := watchAll(t, server)
	w, faults := faulty(t)
	h := w.host(t, server.Endpoint)
	r := h.start(t, nil)
	r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	last := int64(0)
	for _, spoil := range []func(){
		func() { change(t, h.spoolFile(t, 0, sealedSuffix), flip) },
		func() { must(t, os.Remove(h.spoolFile(t, 0, sealedSuffix))) },
	} {
		last = put(t, server, 10)
		r.storedSegment(last)
		faults.Add(faultstore.Fault{On: faultstore.Put, Name: "clusters/" + cluster + "/segments/", Times: -1})
		last = put(t, server, 10)
		r.spooled(t, h, last)
		spoil()
		faults.Clear()
		r.storedSegment(last)
	}
	r.stop()
	if n := r.count(isSnapshot); n != 1 {
		t.Errorf("%d snapshots\n%s", n, r)
	}
	w.whole(t, seen(last), last)
	h.wantDrained(t)
}

// TestSetBack: a cluster that was set back to an earlier state goes on in another history, also when it has come further than
// what the archiver remembers, or when that remembers nothing.
func TestSetBack(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w := newWorld(t, nil)
	h := w.host(t, server.Endpoint)
	r := h.start(t, nil)
	r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	r.storedSegment(put(t, server, 20))
	r.stop()
	old := read(t, filepath.Join(h.folder(), stateName))
	must(t, server.Stop())
	kept := filepath.Join(t.TempDir(), "data")
	must(t, copyFolder(kept, server.DataDir))
	must(t, server.Restart(t.Context()))
	r = h.start(t, nil)
	archived := put(t, server, 100)
	r.storedSegment(archived)
	r.stop()

	must(t, server.Stop())
	must(t, os.RemoveAll(server.DataDir))
	must(t, copyFolder(server.DataDir, kept))
	must(t, server.Restart(t.Context()))
	again := put(t, server, 50)
	base := copyStore(t, w.store)
	for name, remember := range map[string]func(t *testing.T, path string){
		"old state": func(t *testing.T, path string) { must(t, os.WriteFile(path, old, 0o600)) },
		"no state":  func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"its state": func(*testing.T, string) {},
	} {
		t.Run(name, func(t *testing.T) {
			h := (&stopped{h: h}).copy(t, base)
			remember(t, filepath.Join(h.folder(), stateName))
			r := h.start(t, nil)
			r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
			r.stop()
			list := h.timelines(t)
			if len(list) != 2 || int64(list[0].Last()) != archived || int64(list[1].Last()) != again || r.count(isLife) != 1 {
				t.Errorf("timelines %+v\n%s", list, r)
			}
		})
	}
}
