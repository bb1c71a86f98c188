package moment

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

const (
	// samples is how many revisions of each version of etcd are restored.
	samples = 50
	// programs is how many of them are restored by the program and served by a real server, on each way to get there.
	programs = 2
)

// stored is what the repository has in the end.
type stored struct {
	manifests []repository.Manifest
	segments  []repository.Segment
	line      coverage.Timeline
}

// read reads every manifest. There is one timeline.
func (p *place) read(t *testing.T) (s stored) {
	t.Helper()
	reads, strange, err := p.Snapshots(t.Context(), cluster)
	must(t, err)
	for _, read := range reads {
		must(t, read.Err)
		s.manifests = append(s.manifests, read.Manifest)
	}
	points, odd, err := p.SegmentPoints(t.Context(), cluster, "")
	must(t, err)
	segments, err := p.SegmentsOf(t.Context(), points)
	must(t, err)
	for _, read := range segments {
		must(t, read.Err)
		s.segments = append(s.segments, read.Segment)
	}
	lines := coverage.Of(s.manifests, s.segments, nil)
	if len(lines) != 1 || len(strange)+len(odd) > 0 {
		t.Fatalf("%d timelines, strange objects %q", len(lines), append(strange, odd...))
	}
	s.line = lines[0]
	return s
}

// check is what the life was for.
func (l *life) check() {
	t := l.t
	s := l.place.read(t)
	now := l.now()
	t.Logf("%d revisions; %d snapshots, %d segments, covered %v; %d kills, %d looks", now, len(s.manifests), len(s.segments), s.line.Covered, l.archiver.kills, l.looks)
	if l.archiver.kills < 5 || now < steps/2 || len(s.segments) < 20 || l.archiver.told(t, "new-timeline") > 0 {
		t.Error("that was no life")
	}
	// A lease can end, and its keys with it, between the last look at what is archived and the end of the archiver.
	if first, last := s.line.Covered[0].First, s.line.Last(); first != 1 || int64(last) < l.settled || int64(last) > now {
		t.Errorf("covered %v, want all from 1 to %d but holes", s.line.Covered, l.settled)
	}
	l.checkHoles(s)
	l.checkTruth(s)
	revisions := l.sample(s)
	l.checkStates(s, revisions)
	l.checkPrograms(s, revisions)
}

// checkHoles wants exactly the holes that must be, recorded, and refused by the program, which names what is beside them.
func (l *life) checkHoles(s stored) {
	t := l.t
	t.Helper()
	gaps := s.line.Gaps()
	reads, strange, err := l.place.Gaps(t.Context(), cluster, s.line.ID)
	must(t, err)
	var told []history.Range
	for _, read := range reads {
		must(t, read.Err)
		told = append(told, history.Range{First: read.Note.First, Last: read.Note.Last})
	}
	if !slices.Equal(gaps, told) || len(gaps) != len(l.wanted) || len(strange) > 0 {
		t.Fatalf("holes %v, recorded %v, want %+v; %q", gaps, told, l.wanted, strange)
	}
	for i, gap := range gaps {
		if w := l.wanted[i]; int64(gap.First) < w.Earliest || int64(gap.First) > w.Latest || int64(gap.Last) != w.Last {
			t.Errorf("hole %s, want %+v", gap, w)
		}
		for _, revision := range []history.Revision{gap.First, gap.First + history.Revision(l.rnd.Int64N(gap.Len())), gap.Last} {
			target := filepath.Join(t.TempDir(), "data")
			stdout, said, code := l.place.Run(t, "restore", "--revision", revision.String(), "--no-bump", "--data-dir", target)
			if code != 1 || !strings.Contains(said, fmt.Sprintf("nearest before: revision %d ", gap.First-1)) ||
				!strings.Contains(said, fmt.Sprintf("nearest after: revision %d", gap.Last+1)) {
				t.Errorf("restore of revision %d, which is in hole %s: exit code %d\n%s%s", revision, gap, code, stdout, said)
			}
			if _, err := os.Stat(target); err == nil {
				t.Errorf("restore of revision %d, which is in a hole, left a data dir", revision)
			}
		}
	}
}

// checkTruth wants every revision in one live segment at most, and times that go up.
func (l *life) checkTruth(s stored) {
	l.t.Helper()
	var before repository.Segment
	for _, segment := range s.line.Segments {
		if segment.First <= before.Last || segment.FirstTime.Before(before.LastTime) {
			l.t.Errorf("segment %s from %s comes after %s until %s", segment.Range(), segment.FirstTime, before.Range(), before.LastTime)
		}
		before = segment
	}
}

// sample gives revisions that are covered, the ends of what is covered among them, ascending.
func (l *life) sample(s stored) (revisions []int64) {
	for _, r := range s.line.Covered {
		revisions = append(revisions, int64(r.First), int64(r.Last))
	}
	for len(revisions) < samples {
		at := history.Revision(1 + l.rnd.Int64N(int64(s.line.Last())))
		if !slices.Contains(revisions, int64(at)) && slices.ContainsFunc(s.line.Covered, func(r history.Range) bool { return r.Contains(at) }) {
			revisions = append(revisions, int64(at))
		}
	}
	slices.Sort(revisions)
	return slices.Compact(revisions)
}

// route is one way to a revision.
type route struct {
	name  string
	chain chain.Chain
}

// routes gives the chain that the program takes, and those from the oldest and from the newest snapshot that lead there, by
// segments and by a snapshot's own history. Without everyWay it gives the first alone.
func (s stored) routes(t *testing.T, revision int64, everyWay bool) (all []route) {
	t.Helper()
	target := coverage.Target{Revision: history.Revision(revision)}
	add := func(name string, manifests []repository.Manifest, segments []repository.Segment) bool {
		found, err := coverage.Resolve(coverage.Of(manifests, segments, nil), target, nil)
		if _, is := errors.AsType[*coverage.Unreachable](err); is {
			return false
		}
		must(t, err)
		c := chain.Chain{Base: found.Base, Segments: found.Segments, Revision: found.Revision}
		if !slices.ContainsFunc(all, func(r route) bool { return r.chain.Base.ID == c.Base.ID && len(r.chain.Segments) == len(c.Segments) }) {
			all = append(all, route{name, c})
		}
		return true
	}
	if !add("the least to read", s.manifests, s.segments) {
		t.Errorf("revision %d is covered, and nothing leads to it", revision)
	}
	if !everyWay {
		return all
	}
	for _, m := range s.line.Snapshots {
		if add("the oldest snapshot", []repository.Manifest{m}, s.segments) {
			break
		}
	}
	for _, m := range slices.Backward(s.line.Snapshots) {
		if m.Content.Revision <= target.Revision && add("the newest snapshot before it", []repository.Manifest{m}, s.segments) {
			break
		}
	}
	for _, m := range slices.Backward(s.line.Snapshots) {
		if add("the history of a snapshot", []repository.Manifest{m}, nil) {
			break
		}
	}
	return all
}

// checkStates restores revisions by every route, and holds what comes out against the model.
func (l *life) checkStates(s stored, revisions []int64) {
	t := l.t
	t.Helper()
	taken, n := map[string]int{}, 0
	parts := chain.Parts{Repository: l.place.Repository, Identities: l.place.identities}
	work := t.TempDir()
	must(t, os.Chmod(work, 0o700))
	l.model(revisions, func(revision int64, want state) {
		n++
		for i, r := range s.routes(t, revision, n%2 == 0) { // each costs a third of a second
			taken[r.name]++
			r.chain.KeepHistory = i == 0 && revision%3 == 0
			path := filepath.Join(work, "db")
			_, err := parts.Backend(t.Context(), r.chain, path, work)
			if err != nil {
				t.Fatalf("revision %d by %s: %v", revision, r.name, err)
			}
			read := readBackend
			if r.chain.KeepHistory {
				read = readServed
			}
			got, err := read(t, path, revision)
			if err != nil {
				t.Errorf("revision %d by %s: %v", revision, r.name, err)
			}
			if diff := want.diff(got); diff != "" {
				t.Errorf("revision %d by %s: %s", revision, r.name, diff)
			}
			entries, err := os.ReadDir(work)
			must(t, err)
			for _, e := range entries {
				must(t, os.Remove(filepath.Join(work, e.Name())))
			}
		}
	})
	t.Logf("%d revisions, by %v", len(revisions), taken)
	if len(taken) < 3 {
		t.Errorf("some routes were never taken: %v", taken)
	}
}

// readBackend reads a file that holds one revision and no history: every record is a key that lives, or was deleted by that
// very revision.
func readBackend(_ *testing.T, path string, _ int64) (s state, err error) {
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	s = state{}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("key")).ForEach(func(k, v []byte) error {
			if k[len(k)-1] == 't' && len(k) > 17 {
				return nil
			}
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(v, &kv); err != nil {
				return err
			}
			s[string(kv.Key)] = record{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
			return nil
		})
	})
	return s, err
}

// readServed lets etcd's own code read the file at a revision.
func readServed(t *testing.T, path string, revision int64) (s state, err error) {
	config := backend.DefaultBackendConfig(zap.NewNop())
	config.Path, config.UnsafeNoFsync, config.MmapSize = path, true, 64<<20
	b := backend.New(config)
	defer func() { err = errors.Join(err, b.Close()) }()
	kv := mvcc.New(zap.NewNop(), b, &lease.FakeLessor{}, mvcc.StoreConfig{})
	defer kv.Close()
	got, err := kv.Range(t.Context(), []byte{0}, []byte{}, mvcc.RangeOptions{Rev: revision})
	if err != nil {
		return nil, err
	}
	if kv.Rev() != revision {
		return nil, fmt.Errorf("it is at revision %d", kv.Rev())
	}
	s = state{}
	for _, kv := range got.KVs {
		s[string(kv.Key)] = record{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
	}
	return s, nil
}

// checkPrograms goes the way of a person: by holdfast restore, and by holdfast export and etcd's own tool, to a real server.
func (l *life) checkPrograms(s stored, revisions []int64) {
	t := l.t
	t.Helper()
	wanted := map[int64]state{}
	for range programs {
		wanted[revisions[1+l.rnd.IntN(len(revisions)-1)]] = nil
	}
	l.model(revisions, func(at int64, now state) {
		if _, is := wanted[at]; is {
			wanted[at] = maps.Clone(now)
		}
	})
	var once sync.Once
	for at, want := range wanted {
		revision := fmt.Sprint(at)
		peers := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t))
		restored := filepath.Join(t.TempDir(), "data")
		l.place.Must(t, "restore", "--revision", revision, "--no-bump", "--data-dir", restored, "--name", "m1", "--initial-advertise-peer-urls", peers)
		served(t, l.server.Version, "holdfast restore", at, want, restored, peers)

		exported := filepath.Join(t.TempDir(), "snapshot.db")
		l.place.Must(t, "export", "--revision", revision, exported)
		stock := filepath.Join(t.TempDir(), "data")
		peers = fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t))
		l.server.Version.Restore(t, exported, stock, "--name=m1", "--initial-cluster=m1="+peers, "--initial-advertise-peer-urls="+peers)
		served(t, l.server.Version, "holdfast export and etcd's own restore", at, want, stock, peers)

		once.Do(func() {
			kept := filepath.Join(t.TempDir(), "data")
			l.place.Must(t, "restore", "--revision", revision, "--data-dir", kept, "--name", "m1", "--initial-advertise-peer-urls", peers)
			served(t, l.server.Version, "holdfast restore with a bump", at, want, kept, peers)
		})
	}
}

// served starts a server on a data dir and holds it against the model.
func served(t *testing.T, version etcdtest.Version, how string, at int64, want state, dataDir, peers string) {
	t.Helper()
	server := etcdtest.Start(t, version, etcdtest.Options{DataDir: dataDir, PeerURL: peers})
	got, err := read(t.Context(), server.Client, 0)
	must(t, err)
	if diff := want.diff(got); diff != "" {
		t.Errorf("revision %d by %s: %s", at, how, diff)
	}
	if header, err := server.Client.Get(t.Context(), "x"); err != nil || header.Header.Revision < at {
		t.Errorf("revision %d by %s: it is served as revision %d, %v", at, how, header.Header.Revision, err)
	}
	must(t, server.Stop())
}
