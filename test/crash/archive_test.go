package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/segment"
	filestore "github.com/holdfast-project/holdfast/internal/store/file"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// archiveRig is a cluster and a repository that it is archived into by a program that the test kills.
type archiveRig struct {
	*store
	*repository.Repository
	etcd *etcdtest.Server
	args []string
	puts int
	last history.Revision
}

func newArchiveRig(t *testing.T) *archiveRig {
	t.Helper()
	dir := t.TempDir()
	r := &archiveRig{etcd: etcdtest.Start(t, etcdtest.Get(t, "3.6"), etcdtest.Options{})}
	r.store = &store{Home: home.New(t), folder: filepath.Join(dir, "repo"), log: filepath.Join(dir, "log"), root: filepath.Join(dir, "root.key")}
	r.Env = []string{"HOLDFAST_REPO=file://" + r.folder}
	r.args = []string{"archive", "--cluster", "prod", "--endpoints", r.etcd.Endpoint, "--flush", "20ms", "--max-rate", "0"}
	r.Must(t, "repo", "init", "--encryption", "none", "--root-key", r.root)
	text, err := os.ReadFile(r.root)
	must(t, err)
	root, err := repository.ParseKey(text)
	must(t, err)
	s, err := filestore.Open(r.folder)
	must(t, err)
	r.Repository, err = repository.Open(t.Context(), s, root.Public().Fingerprint())
	must(t, err)
	t.Cleanup(func() {
		if log, err := os.ReadFile(r.log); t.Failed() && err == nil {
			t.Logf("the archivers said last:\n%s", log[max(0, len(log)-8000):])
		}
	})
	return r
}

// put writes some revisions.
func (r *archiveRig) put(t *testing.T, n int) {
	t.Helper()
	for range n {
		r.puts++
		reply, err := r.etcd.Client.Put(t.Context(), fmt.Sprintf("key-%d", r.puts%7), fmt.Sprintf("value %d", r.puts))
		must(t, err)
		r.last = history.Revision(reply.Header.Revision)
	}
}

// run archives what is written meanwhile, in a process that is killed before its durable call of that number, or asked to end
// when it has come so far. It gives the calls that it made.
func (r *archiveRig) run(t *testing.T, kill func(int, call) bool) (calls int, killed bool) {
	t.Helper()
	r.put(t, 3)
	p := trace(t, kill, r.log, r.Environment(), append([]string{r.Program}, r.args...)...)
	for range 2 {
		r.put(t, 3)
		r.await(t, func() bool { return p.gone() || r.archived(t) >= r.last })
	}
	p.end(syscall.SIGTERM)
	<-p.done
	must(t, p.err)
	if !p.killed() && p.status.ExitStatus() != 0 {
		t.Errorf("an archiver that was asked to end: exit code %d, signal %v", p.status.ExitStatus(), p.status.Signal())
	}
	return len(p.list()), p.killed()
}

func (r *archiveRig) await(t *testing.T, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(step)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %s, all is archived up to %d of %d", patience, r.archived(t), r.last)
		}
	}
}

// archived is the last revision of the last segment, or of a snapshot after it.
func (r *archiveRig) archived(t *testing.T) (last history.Revision) {
	t.Helper()
	timelines, err := r.Timelines(t.Context(), "prod")
	must(t, err)
	for _, line := range timelines {
		s, err := r.LastSegment(t.Context(), "prod", line)
		must(t, err)
		if s != nil {
			last = max(last, s.Last)
		}
	}
	points, _, err := r.Points(t.Context(), "prod")
	must(t, err)
	for _, p := range points {
		last = max(last, p.Last)
	}
	return last
}

// seen is what a watch of the test shows: the events of each revision, as text.
func (r *archiveRig) seen(t *testing.T) map[history.Revision][]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	all := map[history.Revision][]string{}
	for reply := range r.etcd.Client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1)) {
		must(t, reply.Err())
		for _, e := range reply.Events {
			at := history.Revision(e.Kv.ModRevision)
			all[at] = append(all[at], fmt.Sprintf("%q %q %d", e.Kv.Key, e.Kv.Value, e.Kv.Version))
		}
		if all[r.last] != nil {
			return all
		}
	}
	t.Fatal("the test's own watch has ended")
	return nil
}

// check wants everything to be covered, on one timeline, and every segment to hold what the cluster had, once.
func (r *archiveRig) check(t *testing.T) {
	t.Helper()
	reads, _, err := r.Snapshots(t.Context(), "prod")
	must(t, err)
	var manifests []repository.Manifest
	for _, read := range reads {
		must(t, read.Err)
		manifests = append(manifests, read.Manifest)
	}
	points, strange, err := r.SegmentPoints(t.Context(), "prod", "")
	must(t, err)
	found, err := r.SegmentsOf(t.Context(), points)
	must(t, err)
	seen, end := r.seen(t), history.Revision(0)
	var segments []repository.Segment
	for _, read := range found {
		must(t, read.Err)
		s := read.Segment
		segments = append(segments, s)
		if s.First <= end {
			t.Errorf("segment %s comes after revision %d", s.Range(), end)
		}
		end = s.Last
		for at, events := range r.events(t, s) {
			if !slices.Equal(events, seen[at]) {
				t.Errorf("revision %d is archived as %q, it was %q", at, events, seen[at])
			}
		}
	}
	lines := coverage.Of(manifests, segments, nil)
	if len(lines) != 1 || len(strange) > 0 || fmt.Sprint(lines[0].Covered) != fmt.Sprintf("[1-%d]", r.last) {
		t.Errorf("covered %+v, want 1 to %d; strange %q", lines, r.last, strange)
	}
}

func (r *archiveRig) events(t *testing.T, s repository.Segment) map[history.Revision][]string {
	t.Helper()
	content, err := r.OpenSegment(t.Context(), s, nil)
	must(t, err)
	defer content.Close()
	reader, err := segment.NewReader(content, s.Plain.Size)
	must(t, err)
	all := map[history.Revision][]string{}
	for {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all[e.Revision] = append(all[e.Revision], fmt.Sprintf("%q %q %d", e.Key, e.Value, e.Version))
	}
}

// TestKilledArchiver kills an archiver before each of its durable calls, one that goes on and one that begins with a snapshot.
// Whatever was left, the next one goes on there: everything is covered, and nothing is there twice with other content.
func TestKilledArchiver(t *testing.T) {
	t.Parallel()
	r := newArchiveRig(t)
	memory := filepath.Join(r.Dir, "archive")
	for _, fresh := range []bool{true, false} {
		calls, _ := r.run(t, never)
		kills := 0
		for _, at := range every(calls, 8) {
			if fresh {
				must(t, os.RemoveAll(memory))
			}
			if _, killed := r.run(t, before(at)); killed {
				kills++
			}
		}
		t.Logf("from nothing %v: killed %d times, in a run of %d durable calls", fresh, kills, calls)
		if kills < 6 {
			t.Errorf("only %d kills", kills)
		}
		r.run(t, never)
		r.check(t)
	}
	if left, err := filepath.Glob(filepath.Join(memory, "*", "prod", "spool", "*")); err != nil || len(left) > 0 {
		t.Errorf("the spool holds %q, %v", left, err)
	}
	if _, problems, code := r.Run(t, "verify", "--no-record"); code != 0 {
		t.Errorf("verify: exit code %d\n%s", code, problems)
	}
}
