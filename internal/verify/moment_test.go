package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// archived is a repository with the archive of a real etcd.
type archived struct {
	*repository.Repository
	store   *mem.Store
	writer  *repository.Writer
	server  *etcdtest.Server
	client  *member.Client
	options Options
	dir     string
}

func newArchived(t *testing.T, version string) *archived {
	t.Helper()
	w := &archived{store: mem.New(), dir: t.TempDir()}
	root, err := repository.NewKey()
	must(t, err)
	text, recipient, err := seal.GenerateIdentity(seal.X25519)
	must(t, err)
	file := filepath.Join(w.dir, "key")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	identities, err := seal.ReadIdentities(file)
	must(t, err)
	w.Repository, err = repository.Init(t.Context(), w.store, root, repository.Age, []seal.Recipient{recipient})
	must(t, err)
	w.writer, err = repository.OpenWriter(filepath.Join(w.dir, "signer"))
	must(t, err)
	for _, role := range []repository.Role{repository.RoleBackup, repository.RoleVerify} {
		must(t, w.Enroll(t.Context(), root, w.writer.Public(), role, "test"))
	}
	w.server = etcdtest.Start(t, etcdtest.Get(t, version), etcdtest.Options{})
	w.client, err = member.Dial(w.server.Endpoint, nil)
	must(t, err)
	t.Cleanup(func() { must(t, w.client.Close()) })
	w.options = Options{Identities: identities, Scratch: filepath.Join(w.dir, "scratch"), Program: os.Args[0]}
	return w
}

// archive archives while work goes on, until the revision that work gives is stored and hashes were taken after it.
func (w *archived) archive(t *testing.T, hashEvery time.Duration, work func() history.Revision) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stored, hashed atomic.Int64
	began := make(chan struct{})
	heard := make(chan struct{}, 1)
	o := archive.Options{Cluster: "prod", Dir: filepath.Join(w.dir, "archive"), Flush: 10 * time.Millisecond, HashEvery: hashEvery}
	o.Snapshot = func(ctx context.Context, what archive.Wanted) (repository.Manifest, error) {
		return backup.Run(ctx, w.Repository, w.writer, []*member.Client{w.client}, backup.Options{Cluster: "prod", NewTimeline: what.NewTimeline})
	}
	o.Observe = func(e archive.Event) {
		switch {
		case e.Snapshot != nil && stored.Load() == 0:
			stored.Store(1)
			close(began)
		case e.Stored != nil:
			stored.Store(int64(e.Stored.Segment.Last))
		case e.Hashes != nil:
			hashed.Store(int64(e.Hashes.Revision))
		}
		select {
		case heard <- struct{}{}:
		default:
		}
	}
	done := make(chan error, 1)
	go func() { done <- archive.Run(ctx, w.Repository, w.writer, archive.Fixed([]*member.Client{w.client}), o) }()
	timeout := time.After(time.Minute)
	select {
	case <-began:
	case err := <-done:
		t.Fatalf("the archiver ended: %v", err)
	case <-timeout:
		t.Fatal("no snapshot in a minute")
	}
	last := int64(work())
	for stored.Load() < last || hashEvery < time.Hour && hashed.Load() < last {
		select {
		case <-heard:
		case err := <-done:
			t.Fatalf("the archiver ended: %v", err)
		case <-timeout:
			t.Fatalf("stored up to %d, hashed at %d, wanted %d", stored.Load(), hashed.Load(), last)
		}
	}
	cancel()
	must(t, <-done)
}

// timeline is what is covered.
func (w *archived) timeline(t *testing.T) coverage.Timeline {
	t.Helper()
	reads, _, err := w.Snapshots(t.Context(), "prod")
	must(t, err)
	var manifests []repository.Manifest
	for _, read := range reads {
		must(t, read.Err)
		manifests = append(manifests, read.Manifest)
	}
	points, _, err := w.SegmentPoints(t.Context(), "prod", "")
	must(t, err)
	segmentReads, err := w.SegmentsOf(t.Context(), points)
	must(t, err)
	var segments []repository.Segment
	for _, read := range segmentReads {
		must(t, read.Err)
		segments = append(segments, read.Segment)
	}
	list := coverage.Of(manifests, segments, nil)
	if len(list) != 1 {
		t.Fatalf("%d timelines", len(list))
	}
	return list[0]
}

func (w *archived) moment(t *testing.T, line coverage.Timeline, revision history.Revision) Moment {
	t.Helper()
	chain, err := coverage.Resolve([]coverage.Timeline{line}, coverage.Target{Revision: revision}, nil)
	must(t, err)
	m, err := FindHash(t.Context(), w.Repository, "prod", line, chain)
	must(t, err)
	return m
}

// drill drills, and wants nothing left of it.
func (w *archived) drill(t *testing.T, m Moment) (MomentResult, error) {
	t.Helper()
	result, err := RunMoment(t.Context(), w.Repository, m, w.options)
	left, globErr := filepath.Glob(filepath.Join(w.options.Scratch, benchPrefix+"*"))
	if globErr != nil || len(left) > 0 {
		t.Errorf("left in scratch: %v, %v", left, globErr)
	}
	return result, err
}

// churn writes all kinds of events, now and then compacting, and gives the last revision.
func (w *archived) churn(t *testing.T, r *rand.Rand, rounds int) (last history.Revision) {
	t.Helper()
	ctx, client := t.Context(), w.server.Client
	lease, err := client.Grant(ctx, 3600)
	must(t, err)
	key := func() string { return fmt.Sprintf("/registry/pods/ns/p%d", r.IntN(20)) }
	for i := range rounds {
		value := strings.Repeat("v", r.IntN(500))
		switch r.IntN(6) {
		case 0:
			_, err = client.Delete(ctx, key())
		case 1:
			_, err = client.Txn(ctx).Then(clientv3.OpPut(key()+"a", value), clientv3.OpPut(key()+"b", "x"), clientv3.OpDelete(key())).Commit()
		case 2:
			_, err = client.Put(ctx, key(), value, clientv3.WithLease(lease.ID))
		default:
			_, err = client.Put(ctx, key(), value)
		}
		must(t, err)
		if i%40 == 39 {
			now, err := client.Get(ctx, "x")
			must(t, err)
			_, err = client.Compact(ctx, now.Header.Revision-int64(r.IntN(10)), clientv3.WithCompactPhysical())
			must(t, err)
		}
	}
	reply, err := client.Put(ctx, "/last", "")
	must(t, err)
	return history.Revision(reply.Header.Revision)
}

// TestMoments: moments of a real cluster are proven by the hashes that it gave, also where it was compacted since.
func TestMoments(t *testing.T) {
	for _, version := range []string{"3.4", "3.5", "3.6", "3.7"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 6))
			t.Logf("seed %d", seed)
			w := newArchived(t, version)
			w.churn(t, r, 30)
			w.archive(t, 20*time.Millisecond, func() history.Revision { return w.churn(t, r, 150) })
			line := w.timeline(t)
			if len(line.Covered) != 1 || len(line.Segments) < 3 {
				t.Fatalf("covered %v by %d segments", line.Covered, len(line.Segments))
			}
			whole := line.Covered[0]
			for _, revision := range []history.Revision{whole.First, whole.First + history.Revision(r.Int64N(whole.Len())), whole.First + history.Revision(r.Int64N(whole.Len())), whole.Last} {
				m := w.moment(t, line, revision)
				result, err := w.drill(t, m)
				must(t, err)
				if !result.Passed || !result.Compared || result.Uncompared != "" || result.Last < revision || result.Hash != m.Hash.Hash || result.CompactRevision != m.Hash.CompactRevision {
					t.Errorf("revision %s of %s, hash %+v: %+v", revision, whole, m.Hash, result)
				}
				want, err := w.server.Client.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(int64(revision)), clientv3.WithCountOnly())
				if err == nil && want.Count != result.Keys { // the cluster may have compacted it
					t.Errorf("revision %s: %d keys, the cluster has %d", revision, result.Keys, want.Count)
				}
				recorded, err := w.PutDrill(t.Context(), w.writer, result.Drill)
				must(t, err)
				if !recorded.Proves() {
					t.Errorf("recorded is %+v", recorded)
				}
			}
		})
	}
}

// TestMomentsThatAreNot: another hash is bad, none is not compared, and damage is said of what is damaged.
func TestMomentsThatAreNot(t *testing.T) {
	w := newArchived(t, "3.7")
	r := rand.New(rand.NewPCG(1, 7))
	w.archive(t, time.Hour, func() history.Revision { return w.churn(t, r, 60) })
	line := w.timeline(t)
	middle := line.Last() - 10

	m := w.moment(t, line, middle)
	if m.Hash.Missing == "" || m.Compared.Revision != middle {
		t.Errorf("a hash where none was taken: %+v", m.Hash)
	}
	result, err := w.drill(t, m)
	must(t, err)
	if !result.Passed || result.Compared || !strings.Contains(result.Uncompared, "no hash") || result.Keys == 0 {
		t.Errorf("without a hash: %+v", result)
	}

	hash, compact, err := w.client.HashKV(t.Context(), line.Last())
	must(t, err)
	note := func(members ...repository.MemberHash) {
		t.Helper()
		h := repository.Hashes{Cluster: "prod", Timeline: line.ID, Revision: line.Last(), Taken: time.Now(), Members: members, Equal: true}
		for i := range members {
			h.Members[i].MemberID = fmt.Sprint(i)
		}
		for _, one := range members {
			if one.Missing == "" && one.Hash != members[0].Hash {
				h.Equal = false
				h.Suspects = append(h.Suspects, one.MemberID)
			}
		}
		_, err := w.PutHashes(t.Context(), w.writer, h)
		must(t, err)
	}
	forget := func() {
		t.Helper()
		for object, err := range w.store.List(t.Context(), "clusters/prod/archive/"+string(line.ID)+"/hashes/", "") {
			must(t, err)
			must(t, w.store.Delete(t.Context(), object.Name))
		}
	}
	right := repository.MemberHash{Hash: hash, CompactRevision: compact}
	wrong := repository.MemberHash{Hash: hash + 1, CompactRevision: compact}
	for what, tt := range map[string]struct {
		members          []repository.MemberHash
		passed, compared bool
		says             string
	}{
		"another hash":         {members: []repository.MemberHash{wrong}, says: "the live cluster had"},
		"one that is suspect":  {members: []repository.MemberHash{right, right, wrong}, passed: true, compared: true},
		"only missing ones":    {members: []repository.MemberHash{{Missing: "no answer"}}, passed: true, says: "no member that can be believed"},
		"compacted before all": {members: []repository.MemberHash{{Hash: hash, CompactRevision: line.Last() - 1}}, says: "the live cluster had"},
	} {
		forget()
		note(tt.members...)
		result, err := w.drill(t, w.moment(t, line, middle))
		if err != nil || result.Passed != tt.passed || result.Compared != tt.compared || !strings.Contains(result.Problem+result.Uncompared, tt.says) {
			t.Errorf("%s: %+v, %v", what, result, err)
		}
	}
	forget()
	note(right)

	// A hash beyond a hole says nothing.
	hole := line
	hole.Segments = slices.Clone(line.Segments[:len(line.Segments)-1])
	at := hole.Segments[len(hole.Segments)-1].Last
	if m, err := FindHash(t.Context(), w.Repository, "prod", hole, w.moment(t, line, at).Chain); err != nil || !strings.Contains(m.Hash.Missing, "without a hole") {
		t.Errorf("beyond a hole: %+v, %v", m.Hash, err)
	}

	// What is stored is damaged, and then gone.
	m = w.moment(t, line, middle)
	victim := m.Chain.Segments[0]
	content := w.read(t, victim.Object.Name)
	for what, stored := range map[string][]byte{"cut": content[:len(content)-1], "flipped": flip(content), "gone": nil} {
		w.replace(t, victim.Object.Name, stored)
		result, err := w.drill(t, m)
		if err != nil || result.Passed || result.Compared || result.Problem == "" {
			t.Errorf("%s: %+v, %v", what, result, err)
		}
	}
	w.replace(t, victim.Object.Name, content)
	good := w.options
	w.options.Identities = nil
	if _, err := w.drill(t, m); !errors.Is(err, seal.ErrEncrypted) {
		t.Errorf("without a key: %v", err)
	}
	w.options = good
	ctx, cancel := context.WithCancel(t.Context())
	w.options.Observe = writerFunc(cancel)
	if _, err := RunMoment(ctx, w.Repository, m, w.options); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	w.options = good
	if result, err := w.drill(t, m); err != nil || !result.Compared {
		t.Errorf("after all: %+v, %v", result, err)
	}
}

func flip(content []byte) []byte {
	flipped := slices.Clone(content)
	flipped[len(flipped)/2] ^= 1
	return flipped
}

func (w *archived) read(t *testing.T, name string) []byte {
	t.Helper()
	body, err := w.store.Open(t.Context(), name, 0, -1)
	must(t, err)
	content, err := io.ReadAll(body)
	must(t, errors.Join(err, body.Close()))
	return content
}

func (w *archived) replace(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := w.store.Delete(t.Context(), name); err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	if content != nil {
		_, err := store.PutBytes(t.Context(), w.store, name, content, store.PutOptions{})
		must(t, err)
	}
}

// TestSegments: what is right passes, what is damaged or is not what its manifest says is told, and a missing key says nothing.
func TestSegments(t *testing.T) {
	w := newArchived(t, "3.7")
	r := rand.New(rand.NewPCG(2, 7))
	w.archive(t, time.Hour, func() history.Revision { return w.churn(t, r, 40) })
	line := w.timeline(t)
	look := func(s repository.Segment, level repository.Level) (string, error) {
		return Segment(t.Context(), w.Repository, s, level, w.options)
	}
	for _, s := range line.Segments {
		for _, level := range []repository.Level{repository.LevelCiphertext, repository.LevelChecksum, repository.LevelDrill} {
			if problem, err := look(s, level); problem != "" || err != nil {
				t.Errorf("%s, segment %s: %s, %v", level, s.Range(), problem, err)
			}
		}
	}
	s := line.Segments[len(line.Segments)/2]
	for what, change := range map[string]func(*repository.Segment){
		"events": func(s *repository.Segment) { s.Events++ }, "leases": func(s *repository.Segment) { s.Leases++ }, "revisions": func(s *repository.Segment) { s.Last++ },
		"a time": func(s *repository.Segment) { s.LastTime = s.LastTime.Add(time.Second) }, "exactness": func(s *repository.Segment) { s.Exact = !s.Exact },
		"the sum": func(s *repository.Segment) { s.Plain.SHA256 = strings.Repeat("0", 64) },
	} {
		other := s
		change(&other)
		if problem, err := look(other, repository.LevelChecksum); problem == "" || err != nil {
			t.Errorf("another manifest, %s: %q, %v", what, problem, err)
		}
	}
	content := w.read(t, s.Object.Name)
	for what, stored := range map[string][]byte{"cut": content[:len(content)-1], "flipped": flip(content), "gone": nil} {
		w.replace(t, s.Object.Name, stored)
		for _, level := range []repository.Level{repository.LevelCiphertext, repository.LevelChecksum} {
			if problem, err := look(s, level); problem == "" || err != nil {
				t.Errorf("%s, %s: %q, %v", what, level, problem, err)
			}
		}
	}
	w.replace(t, s.Object.Name, content)
	w.options.Identities = nil
	if problem, err := look(s, repository.LevelChecksum); problem != "" || !errors.Is(err, seal.ErrEncrypted) {
		t.Errorf("without a key: %q, %v", problem, err)
	}
}
