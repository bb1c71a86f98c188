package archive

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// TestMain lets more tests run at once than there are processors: they wait for most of their time.
func TestMain(m *testing.M) {
	flag.Parse()
	atOnce := max(6, runtime.GOMAXPROCS(0))
	if err := flag.Set("test.parallel", strconv.Itoa(atOnce)); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const cluster = "prod"

// world is a repository, and hosts that may archive into it.
type world struct {
	*repository.Repository
	store store.Store
	root  repository.Key
	owner []seal.Identity // none without encryption
}

// newWorld makes a repository; wrap may put something between it and its store once it is there.
func newWorld(t testing.TB, wrap func(store.Store) store.Store) *world {
	t.Helper()
	return newWorldFor(t, wrap, nil)
}

// newWorldFor is newWorld for owners; without any it is not encrypted.
func newWorldFor(t testing.TB, wrap func(store.Store) store.Store, owner []seal.Identity) *world {
	t.Helper()
	w := &world{store: mem.New(), owner: owner}
	var err error
	w.root, err = repository.NewKey()
	must(t, err)
	encryption, recipients := repository.None, []seal.Recipient(nil)
	for _, identity := range owner {
		encryption, recipients = repository.Age, append(recipients, identity.Recipient())
	}
	_, err = repository.Init(t.Context(), w.store, w.root, encryption, recipients)
	must(t, err)
	if wrap != nil {
		w.store = wrap(w.store)
	}
	w.Repository, err = repository.Open(t.Context(), w.store, w.root.Public().Fingerprint())
	must(t, err)
	return w
}

// host is a machine that may archive: a signing key and a folder.
type host struct {
	*world
	dir     string
	writer  *repository.Writer
	clients []*member.Client
}

func (w *world) host(t testing.TB, endpoints ...string) *host {
	t.Helper()
	h := &host{world: w, dir: t.TempDir()}
	var err error
	h.writer, err = repository.OpenWriter(filepath.Join(h.dir, "signer"))
	must(t, err)
	must(t, w.Enroll(t.Context(), w.root, h.writer.Public(), repository.RoleBackup, "test"))
	for _, endpoint := range endpoints {
		client, err := member.Dial(endpoint, nil)
		must(t, err)
		t.Cleanup(func() { must(t, client.Close()) })
		h.clients = append(h.clients, client)
	}
	return h
}

// running is an archiver on its way.
type running struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan error
	err    error
	ended  bool

	mu     sync.Mutex
	events []Event
	heard  chan struct{}
}

// start archives with options that make things quick.
func (h *host) start(t testing.TB, change func(*Options)) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, cancel: cancel, done: make(chan error, 1), heard: make(chan struct{})}
	o := Options{Cluster: cluster, Dir: filepath.Join(h.dir, "archive"), Flush: 20 * time.Millisecond, Takeover: time.Second, Observe: r.hear}
	o.Snapshot = func(ctx context.Context, what Wanted) (repository.Manifest, error) {
		m, err := backup.Run(ctx, h.Repository, h.writer, h.clients, backup.Options{Cluster: cluster, NewTimeline: what.NewTimeline})
		if errors.Is(err, backup.ErrOtherCluster) || errors.Is(err, backup.ErrWentBack) {
			err = store.Mark(err, ErrFinal)
		}
		return m, err
	}
	if change != nil {
		change(&o)
	}
	go func() { r.done <- Run(ctx, h.Repository, h.writer, Fixed(h.clients), o) }()
	t.Cleanup(func() { cancel(); r.wait() })
	return r
}

func (r *running) hear(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.heard)
	r.heard = make(chan struct{})
}

// await waits until what was told is enough.
func (r *running) await(what string, enough func([]Event) bool) {
	r.t.Helper()
	timeout := time.After(time.Minute)
	for {
		r.mu.Lock()
		done, heard := enough(r.events), r.heard
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-heard:
		case <-time.After(100 * time.Millisecond): // what is waited for may be another's doing
		case err := <-r.done:
			r.done <- err
			r.t.Fatalf("waited for %s: the archiver ended: %v\n%s", what, err, r)
		case <-timeout:
			r.t.Fatalf("waited a minute for %s\n%s", what, r)
		}
	}
}

// eventually waits until something is so that no archiver tells of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) { // between two looks
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// stored waits until a revision is in the repository.
func (r *running) stored(revision int64) {
	r.t.Helper()
	r.await(fmt.Sprintf("revision %d", revision), func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool {
			return e.Stored != nil && int64(e.Stored.Segment.Last) >= revision || e.Snapshot != nil && int64(e.Snapshot.Manifest.Content.Revision) >= revision
		})
	})
}

func (r *running) count(is func(Event) bool) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if is(e) {
			n++
		}
	}
	return n
}

func isSnapshot(e Event) bool { return e.Snapshot != nil }
func isGap(e Event) bool      { return e.Gap != nil }
func isLife(e Event) bool     { return e.NewTimeline != nil }

func (r *running) wait() error {
	if !r.ended {
		r.err, r.ended = <-r.done, true
	}
	return r.err
}

// stop ends the archiver as a signal does.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	began := time.Now()
	must(r.t, r.wait())
	if took := time.Since(began); took > 9*time.Second {
		r.t.Errorf("it took %s to end", took)
	}
}

// String shows what was told.
func (r *running) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := ""
	for _, e := range r.events {
		switch {
		case e.Stored != nil:
			text += fmt.Sprintf("stored %s of %s\n", e.Stored.Segment.Range(), e.Stored.Segment.Timeline)
		case e.Snapshot != nil:
			text += fmt.Sprintf("snapshot at %s of %s: %s\n", e.Snapshot.Manifest.Content.Revision, e.Snapshot.Manifest.Timeline, e.Snapshot.Why)
		case e.Watching != nil:
			text += fmt.Sprintf("watching %+v\n", *e.Watching)
		case e.Gap != nil:
			text += fmt.Sprintf("gap %+v\n", *e.Gap)
		case e.Standby != nil:
			text += "standby\n"
		case e.Merged != nil:
			text += fmt.Sprintf("merged %d to %s, level %d\n", e.Merged.Inputs, e.Merged.Segment.Range(), e.Merged.Segment.Level)
		case e.Progress != nil || e.Ended != nil:
			text += fmt.Sprintf("progress %+v, ended %+v\n", e.Progress, e.Ended)
		case e.Well != "":
			text += fmt.Sprintf("well again: %s\n", e.Well)
		default:
			text += fmt.Sprintf("trouble of %s: %v, new timeline %v\n", e.Part, e.Trouble, e.NewTimeline)
		}
	}
	return text
}

// timelines is what the repository covers.
func (w *world) timelines(t testing.TB) []coverage.Timeline {
	t.Helper()
	reads, _, err := w.Snapshots(t.Context(), cluster)
	must(t, err)
	var manifests []repository.Manifest
	for _, read := range reads {
		must(t, read.Err)
		manifests = append(manifests, read.Manifest)
	}
	return coverage.Of(manifests, w.segments(t), nil)
}

func (w *world) segments(t testing.TB) (list []repository.Segment) {
	t.Helper()
	points, strange, err := w.SegmentPoints(t.Context(), cluster, "")
	must(t, err)
	reads, err := w.SegmentsOf(t.Context(), points)
	must(t, err)
	for _, read := range reads {
		must(t, read.Err)
		list = append(list, read.Segment)
	}
	if len(strange) > 0 {
		t.Errorf("strange objects %q", strange)
	}
	return list
}

// checkEvents holds what is in the segments against what a client's own watch saw.
func (w *world) checkEvents(t testing.TB, seen map[history.Revision][]history.Event) {
	t.Helper()
	for _, s := range w.segments(t) {
		content, err := w.OpenSegment(t.Context(), s, w.owner)
		must(t, err)
		reader, err := segment.NewReader(content, s.Plain.Size)
		must(t, err)
		got := map[history.Revision][]history.Event{}
		for {
			e, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			e.Key, e.Value = slices.Clone(e.Key), slices.Clone(e.Value)
			got[e.Revision] = append(got[e.Revision], e)
		}
		must(t, content.Close())
		for r := s.First; r <= s.Last; r++ {
			slices.SortFunc(got[r], func(a, b history.Event) int { return int(a.Sub - b.Sub) })
			if want, known := seen[r]; known && markOf(got[r]) != markOf(want) {
				t.Errorf("revision %s is archived as %d events, it had %d", r, len(got[r]), len(want))
			}
		}
	}
}

// watchAll records everything that a server does from its beginning, until stop is called, which waits for a revision.
func watchAll(t testing.TB, server *etcdtest.Server) (stop func(revision int64) map[history.Revision][]history.Event) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	seen := map[history.Revision][]history.Event{}
	last := make(chan int64, 1)
	done := make(chan struct{})
	watch := server.Client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1))
	go func() {
		defer close(done)
		for reply := range watch {
			for _, e := range reply.Events {
				at := history.Revision(e.Kv.ModRevision)
				seen[at] = append(seen[at], history.Event{
					Revision: at, Sub: int64(len(seen[at])), Tombstone: e.Type == clientv3.EventTypeDelete, Key: e.Kv.Key, Value: e.Kv.Value,
					CreateRevision: history.Revision(e.Kv.CreateRevision), Version: e.Kv.Version, Lease: e.Kv.Lease,
				})
				select {
				case <-last:
				default:
				}
				last <- e.Kv.ModRevision
			}
		}
	}()
	t.Cleanup(cancel)
	return func(revision int64) map[history.Revision][]history.Event {
		t.Helper()
		timeout := time.After(30 * time.Second)
		for now := int64(0); now < revision; {
			select {
			case now = <-last:
			case <-timeout:
				t.Fatalf("the test's own watch has come to revision %d of %d", now, revision)
			}
		}
		cancel()
		<-done
		return seen
	}
}

// put writes n revisions and gives the last one.
func put(t testing.TB, server *etcdtest.Server, n int) (revision int64) {
	t.Helper()
	for i := range n {
		reply, err := server.Client.Put(t.Context(), fmt.Sprintf("/registry/key-%d", i%7), fmt.Sprintf("value %d", i))
		must(t, err)
		revision = reply.Header.Revision
	}
	return revision
}

// heldBack tells when a snapshot is asked for, and takes it when it is let.
func heldBack(take func(context.Context, Wanted) (repository.Manifest, error), begun chan<- bool, goOn <-chan error) func(context.Context, Wanted) (repository.Manifest, error) {
	return func(ctx context.Context, what Wanted) (repository.Manifest, error) {
		begun <- what.NewTimeline
		select {
		case err := <-goOn:
			if err != nil {
				return repository.Manifest{}, err
			}
		case <-ctx.Done():
			return repository.Manifest{}, context.Cause(ctx)
		}
		return take(ctx, what)
	}
}
