package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
)

// life is what was seen of a server that was used at random.
type life struct {
	t      *testing.T
	server *etcdtest.Server
	rnd    *rand.Rand
	leases []clientv3.LeaseID
	// ttls are the TTLs of all leases that ever were, in seconds.
	ttls map[int64]int64

	mu   sync.Mutex
	line line
	grew chan struct{} // one element when the line has grown

	// bases are snapshots that were taken on the way.
	bases    []Base
	contents []content
	// states are what etcd itself said it held, by revision.
	states map[history.Revision]map[string]history.Event
	// hashes are those of etcd, by compact revision and revision.
	hashes map[history.Revision]map[history.Revision]uint32
}

// newLife uses a new server of a version for so many rounds.
func newLife(t *testing.T, v etcdtest.Version, seed uint64, rounds int) *life {
	t.Helper()
	t.Logf("seed %d", seed)
	l := &life{
		t: t, server: etcdtest.Start(t, v, etcdtest.Options{}), rnd: rand.New(rand.NewPCG(seed, 0)), ttls: map[int64]int64{},
		grew: make(chan struct{}, 1), states: map[history.Revision]map[string]history.Event{}, hashes: map[history.Revision]map[history.Revision]uint32{},
	}
	ctx, cancel := context.WithCancel(t.Context())
	watching := make(chan struct{})
	t.Cleanup(func() { cancel(); <-watching })
	go l.watch(ctx, watching)
	l.snapshot() // of nothing
	c := l.server.Client
	for _, user := range []string{"root", "reader"} {
		_, err := c.UserAdd(ctx, user, "secret")
		must(t, err)
	}
	short, err := c.Grant(ctx, 1)
	must(t, err)
	l.ttls[int64(short.ID)] = short.TTL
	_, err = c.Put(ctx, "expires", "soon", clientv3.WithLease(short.ID))
	must(t, err)
	for round := range rounds {
		l.step()
		if l.rnd.IntN(10) == 0 {
			l.look()
		}
		switch round {
		case rounds / 4:
			l.snapshot() // with all its history
		case rounds / 2:
			l.compact(l.now() - history.Revision(l.rnd.IntN(20)))
			l.snapshot()
		case rounds * 3 / 4:
			l.snapshot() // with much history
			l.compact(l.now())
			l.snapshot() // with none
		}
	}
	l.until(func(line line) bool { return line.at(1 << 62)["expires"].Key == nil })
	_, err = c.Put(ctx, "last", "one")
	must(t, err)
	l.snapshot() // with history
	l.look()
	l.hashAll()
	return l
}

func (l *life) watch(ctx context.Context, done chan struct{}) {
	defer close(done)
	last, sub := int64(0), int64(0)
	for response := range l.server.Client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1), clientv3.WithFragment()) {
		if err := response.Err(); err != nil && ctx.Err() == nil {
			l.t.Errorf("watch: %v", err)
			return
		}
		l.mu.Lock()
		for _, e := range response.Events {
			if e.Kv.ModRevision != last {
				last, sub = e.Kv.ModRevision, 0
			}
			event := eventOf(e.Kv)
			event.Sub, event.Tombstone = sub, e.Type == clientv3.EventTypeDelete
			l.line = append(l.line, event)
			sub++
		}
		l.mu.Unlock()
		select {
		case l.grew <- struct{}{}:
		default:
		}
	}
}

func eventOf(kv *mvccpb.KeyValue) history.Event {
	return history.Event{Revision: history.Revision(kv.ModRevision), Key: kv.Key, Value: kv.Value,
		CreateRevision: history.Revision(kv.CreateRevision), Version: kv.Version, Lease: kv.Lease}
}

// until waits for the watch to have seen something.
func (l *life) until(seen func(line) bool) {
	l.t.Helper()
	deadline := time.After(time.Minute)
	for {
		l.mu.Lock()
		ok := seen(l.line)
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-l.grew:
		case <-deadline:
			l.t.Fatal("the watch does not see what it must")
		}
	}
}

// key is one of a few: some binary, some in a folder.
func (l *life) key() string {
	switch n := l.rnd.IntN(50); {
	case n < 5:
		return string([]byte{0, 0xff, byte(n), 0})
	case n < 20:
		return fmt.Sprintf("/folder/%02d", n)
	default:
		return fmt.Sprintf("key-%02d", n)
	}
}

func (l *life) put(key string) clientv3.Op {
	size := []int{0, 1, 30, 300, 1500, 5000}[l.rnd.IntN(6)]
	if l.rnd.IntN(60) == 0 {
		size = 300_000
	}
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(l.rnd.Uint32())
	}
	var opts []clientv3.OpOption
	if len(l.leases) > 0 && l.rnd.IntN(3) == 0 {
		opts = append(opts, clientv3.WithLease(l.leases[l.rnd.IntN(len(l.leases))]))
	}
	return clientv3.OpPut(key, string(value), opts...)
}

// step does one thing at random.
func (l *life) step() {
	ctx, c := l.t.Context(), l.server.Client
	var err error
	switch l.rnd.IntN(12) {
	case 0:
		_, err = c.Delete(ctx, l.key())
	case 1:
		_, err = c.Delete(ctx, "/folder/1", clientv3.WithPrefix())
	case 2, 3, 4:
		ops := map[string]clientv3.Op{}
		for range 1 + l.rnd.IntN(8) {
			if k := l.key(); l.rnd.IntN(3) == 0 {
				ops[k] = clientv3.OpDelete(k)
			} else {
				ops[k] = l.put(k)
			}
		}
		var list []clientv3.Op
		for _, k := range slices.Sorted(maps.Keys(ops)) {
			list = append(list, ops[k])
		}
		l.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		_, err = c.Txn(ctx).Then(list...).Commit()
	case 5:
		var granted *clientv3.LeaseGrantResponse
		if granted, err = c.Grant(ctx, 1000+l.rnd.Int64N(1000)); err == nil {
			l.leases = append(l.leases, granted.ID)
			l.ttls[int64(granted.ID)] = granted.TTL
		}
	case 6:
		if n := len(l.leases); n > 3 {
			i := l.rnd.IntN(n)
			_, err = c.Revoke(ctx, l.leases[i])
			l.leases = slices.Delete(l.leases, i, i+1)
		}
	default:
		_, err = c.Do(ctx, l.put(l.key()))
	}
	must(l.t, err)
}

// now is the revision, once the watch has seen all up to it.
func (l *life) now() history.Revision {
	got, err := l.server.Client.Get(l.t.Context(), "x")
	must(l.t, err)
	now := history.Revision(got.Header.Revision)
	l.until(func(line line) bool { return now == 1 || len(line) > 0 && line[len(line)-1].Revision >= now })
	return now
}

// look reads everything, as of a revision.
func (l *life) look() {
	got, err := l.server.Client.Get(l.t.Context(), "\x00", clientv3.WithFromKey())
	must(l.t, err)
	state := map[string]history.Event{}
	for _, kv := range got.Kvs {
		state[string(kv.Key)] = eventOf(kv)
	}
	l.states[history.Revision(got.Header.Revision)] = state
}

func (l *life) compact(to history.Revision) {
	l.hashAll()
	_, err := l.server.Client.Compact(l.t.Context(), int64(to), clientv3.WithCompactPhysical())
	must(l.t, err)
}

// hashAll asks for the hash of every revision that is not compacted.
func (l *life) hashAll() {
	for revision := l.now(); revision > 0; revision-- {
		got, err := l.server.Client.HashKV(l.t.Context(), l.server.Endpoint, int64(revision))
		if err != nil {
			return // It is compacted; etcd 3.4 says so of the compact revision itself, too.
		}
		compacted := max(0, history.Revision(got.CompactRevision))
		if l.hashes[compacted] == nil {
			l.hashes[compacted] = map[history.Revision]uint32{}
		}
		l.hashes[compacted][revision] = got.Hash
	}
}

func (l *life) snapshot() {
	path := filepath.Join(l.t.TempDir(), "base")
	from, err := l.server.Client.Snapshot(l.t.Context())
	must(l.t, err)
	to, err := os.Create(path)
	must(l.t, err)
	_, err = io.Copy(to, from)
	must(l.t, errors.Join(err, from.Close(), to.Close()))
	base := scanBase(l.t, path)
	l.bases, l.contents = append(l.bases, base), append(l.contents, base.content(l.t))
}

// TestOracle replays the lives of servers of all versions, from every snapshot to many revisions.
func TestOracle(t *testing.T) {
	t.Parallel()
	for i, v := range etcdtest.Versions(t) {
		t.Run(v.Minor, func(t *testing.T) {
			t.Parallel()
			l := newLife(t, v, 40+uint64(i), 300)
			last := l.now()
			for revision, state := range l.states {
				if !same(l.line.at(revision), state) {
					t.Fatalf("the watch and etcd's own answer differ at revision %d", revision)
				}
			}
			t.Logf("%d events, %d revisions, bases at %v", len(l.line), last, revisions(l.bases))
			hashes := 0
			for number, base := range l.bases {
				targets := []history.Revision{floorOf(base.Info), floorOf(base.Info) + 1, base.Info.Revision - 1, base.Info.Revision, base.Info.Revision + 1, last - 1, last}
				for range 8 {
					targets = append(targets, 1+history.Revision(l.rnd.Int64N(int64(last))))
				}
				for _, target := range targets {
					for _, keep := range []bool{false, true} {
						if target >= max(1, floorOf(base.Info)) && target <= last {
							hashes += l.check(number, target, keep)
						}
					}
				}
			}
			if hashes < 30 {
				t.Errorf("only %d hashes were compared", hashes)
			}
			// What a compaction leaves has the hash of the server that was compacted.
			l.compact(last)
			got, err := l.server.Client.HashKV(t.Context(), l.server.Endpoint, 0)
			must(t, err)
			for _, base := range l.bases {
				m := replayed(t, base, l.line.segments(l.rnd, history.Range{First: 2, Last: last}), last, false)
				open(t, m, func(kv mvcc.KV) {
					if hash, _, err := kv.HashStorage().HashByRev(0); err != nil || hash.Hash != got.Hash || hash.CompactRevision != int64(last) {
						t.Errorf("hash %+v, %v, want %+v", hash, err, got)
					}
				})
			}
		})
	}
}

// same compares states in all that a client sees.
func same(a, b map[string]history.Event) bool {
	return maps.EqualFunc(a, b, func(a, b history.Event) bool {
		return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.Revision == b.Revision &&
			a.CreateRevision == b.CreateRevision && a.Version == b.Version && a.Lease == b.Lease
	})
}

func revisions(bases []Base) (all []history.Revision) {
	for _, b := range bases {
		all = append(all, b.Info.Revision)
	}
	return all
}

// check replays from one of the bases to a target, and tells how many hashes it has compared.
func (l *life) check(number int, target history.Revision, keep bool) int {
	t, base := l.t, l.bases[number]
	t.Helper()
	floor := floorOf(base.Info)
	what := fmt.Sprintf("base %d-%d, target %d, history %v", floor, base.Info.Revision, target, keep)
	// Some begin before the end of the base, and some go on after the target.
	first := 1 + base.Info.Revision - history.Revision(l.rnd.Int64N(min(int64(base.Info.Revision), 10)))
	end := min(target+history.Revision(l.rnd.IntN(10)), l.line[len(l.line)-1].Revision)
	segments := l.line.segments(l.rnd, history.Range{First: max(first, 2), Last: end}, l.known()...)
	m := replayed(t, base, segments, target, keep)
	live := l.line.at(target)
	if m.result.Keys != int64(len(live)) {
		t.Errorf("%s: %d keys, want %d", what, m.result.Keys, len(live))
	}
	before, after := l.contents[number], m.content(t)
	got, want := after.records(), l.line.wantRecords(floor, target, keep)
	if keep || target == floor {
		// Whether a compaction leaves the deletes of its own revision depends on the version of etcd.
		optional := func(record string) bool {
			return record[revisionSize] == tombstoneEnd && strings.HasPrefix(record, string(appendRevision(nil, floor)[:8]))
		}
		got, want = slices.DeleteFunc(got, optional), slices.DeleteFunc(want, optional)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%s: the records are not those of the cluster: %d, want %d", what, len(got), len(want))
	}
	l.checkLeases(what, m, base, before["lease"], after["lease"], live)
	l.checkOthers(what, m, before, after, keep)
	hashes := 0
	open(t, m, func(kv mvcc.KV) {
		if kv.Rev() != int64(target) {
			t.Errorf("%s: opened at %d", what, kv.Rev())
		}
		checkRange(t, what, kv, target, live)
		if !keep {
			return
		}
		if floor < target {
			between := max(1, floor) + history.Revision(l.rnd.Int64N(int64(target-floor)))
			checkRange(t, what, kv, between, l.line.at(between))
		}
		want, ok := l.hashes[floor][target]
		if !ok {
			return
		}
		hashes++
		hash, _, err := kv.HashStorage().HashByRev(int64(target))
		if err != nil || hash.Hash != want || max(0, hash.CompactRevision) != int64(floor) {
			t.Errorf("%s: hash %+v, %v, want %d", what, hash, err, want)
		}
	})
	return hashes
}

// known are the leases of which segments know the TTL: some.
func (l *life) known() (all []history.Lease) {
	for id, ttl := range l.ttls {
		switch id % 3 {
		case 0:
			all = append(all, history.Lease{ID: id, TTL: ttl})
		case 1:
			all = append(all, history.Lease{ID: id})
		}
	}
	return all
}

func (l *life) checkLeases(what string, m made, base Base, before, after map[string]string, live map[string]history.Event) {
	t := l.t
	t.Helper()
	want := map[string]string{}
	defaulted := int64(0)
	if m.result.Revision == base.Info.Revision {
		maps.Copy(want, before)
	}
	for _, e := range live {
		key := string(binary.BigEndian.AppendUint64(nil, uint64(e.Lease)))
		if e.Lease == 0 || want[key] != "" {
			continue
		}
		ttl := l.ttls[e.Lease]
		if want[key] = before[key]; want[key] != "" {
			continue
		}
		if e.Lease%3 != 0 || m.result.Revision <= base.Info.Revision {
			ttl = DefaultTTL
			defaulted++
		}
		b, err := proto.Marshal(&leasepb.Lease{ID: e.Lease, TTL: ttl})
		must(t, err)
		want[key] = string(b)
	}
	if !maps.Equal(want, after) || m.result.DefaultedLeases != defaulted || m.result.Leases != int64(len(want)) {
		t.Errorf("%s: leases %q, want %q; %+v", what, after, want, m.result)
	}
}

// checkOthers wants every other bucket as it was.
func (l *life) checkOthers(what string, m made, before, after content, keep bool) {
	l.t.Helper()
	if len(before) < 8 || len(before) != len(after) {
		l.t.Errorf("%s: %d buckets, want %d", what, len(after), len(before))
	}
	for name, bucket := range before {
		if name == "key" || name == "lease" {
			continue
		}
		want := maps.Clone(bucket)
		if name == "meta" && !keep {
			for _, name := range [][]byte{finishedKey, scheduledKey} {
				want[string(name)] = string(appendRevision(nil, m.result.Revision))
			}
		}
		if !maps.Equal(want, after[name]) {
			l.t.Errorf("%s: bucket %s is %q, want %q", what, name, after[name], want)
		}
	}
}

// open lets etcd's own code open what was made, which changes it.
func open(t *testing.T, m made, fn func(mvcc.KV)) {
	t.Helper()
	config := backend.DefaultBackendConfig(zap.NewNop())
	config.Path, config.UnsafeNoFsync, config.MmapSize = m.File, true, 64<<20
	b := backend.New(config)
	kv := mvcc.New(zap.NewNop(), b, &lease.FakeLessor{}, mvcc.StoreConfig{})
	fn(kv)
	kv.Close()
	must(t, b.Close())
}

func checkRange(t *testing.T, what string, kv mvcc.KV, revision history.Revision, live map[string]history.Event) {
	t.Helper()
	got, err := kv.Range(t.Context(), []byte{0}, []byte{}, mvcc.RangeOptions{Rev: int64(revision)})
	if err != nil {
		t.Errorf("%s: range at %d: %v", what, revision, err)
		return
	}
	state := map[string]history.Event{}
	for _, kv := range got.KVs {
		state[string(kv.Key)] = eventOf(kv)
	}
	if !same(state, live) {
		t.Errorf("%s: etcd reads %d keys at %d, not the %d that lived", what, len(got.KVs), revision, len(live))
	}
}
