package moment

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/recorder"
	"github.com/holdfast-project/holdfast/internal/history"
)

const (
	// steps is how many things a cluster does in its life; more than half of them make a revision.
	steps = 1000
	// pace is the shortest time between two of them, so that archivers get to work.
	pace = 6 * time.Millisecond
	// huge is the size of the biggest values, in bytes; etcd takes requests of 1.5 MiB.
	huge = 1<<20 + 1<<19 - 1000
)

// life is a cluster that is used at random, and what was seen of it by a watch of the test's own.
type life struct {
	*witness
	t        *testing.T
	server   *etcdtest.Server
	proxy    *recorder.Recorder
	place    *place
	archiver *archiver
	rnd      *rand.Rand
	leases   []clientv3.LeaseID

	settled int64 // what was archived when that was looked for last
	// compacted is up to where etcd itself cannot tell any more.
	compacted int64
	// wanted are the holes that compactions have made while nobody read.
	wanted []window
	// healing are what ends the troubles that are on, by the step at which they end.
	healing map[int][]func()
	looks   int
}

// window is where a hole must be: it ends with Last exactly, and begins in Earliest to Latest.
type window struct{ Earliest, Latest, Last int64 }

func newLife(t *testing.T, version etcdtest.Version, seed uint64) *life {
	t.Helper()
	l := &life{
		t: t, server: etcdtest.Start(t, version, etcdtest.Options{}), place: newPlace(t), rnd: rand.New(rand.NewPCG(seed, 0)),
		healing: map[int][]func(){},
	}
	l.witness = newWitness(t, l.server.Client)
	l.proxy = recorder.Start(t, l.server.Endpoint, nil)
	l.archiver = newArchiver(t, l.place, "--endpoints", l.proxy.Endpoint(), "--flush", "30ms", "--max-rate", "0")
	return l
}

// key is one of a few: some binary, some in a folder.
func (l *life) key() string {
	switch n := l.rnd.IntN(60); {
	case n < 6:
		return string([]byte{0, '\n', 0xff, byte(n), 0})
	case n < 9:
		return string([]byte{0xff, 0xff, byte(n)})
	case n < 25:
		return fmt.Sprintf("/folder/%02d", n)
	default:
		return fmt.Sprintf("/registry/pods/key-%02d", n)
	}
}

func (l *life) bytes(size int) string {
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(l.rnd.Uint32())
	}
	return string(value)
}

func (l *life) put(key string) clientv3.Op {
	size := []int{0, 0, 1, 30, 300, 1500, 5000}[l.rnd.IntN(7)]
	var opts []clientv3.OpOption
	if len(l.leases) > 0 && l.rnd.IntN(3) == 0 {
		opts = append(opts, clientv3.WithLease(l.leases[l.rnd.IntN(len(l.leases))]))
	}
	return clientv3.OpPut(key, l.bytes(size), opts...)
}

// step does one thing at random.
func (l *life) step(number int) {
	ctx, c := l.t.Context(), l.server.Client
	var err error
	switch n := l.rnd.IntN(14); {
	case number%(steps/2) == steps/8:
		_, err = c.Put(ctx, "/huge", l.bytes(huge))
	case n == 0:
		_, err = c.Delete(ctx, l.key())
	case n == 1:
		_, err = c.Delete(ctx, "/folder/1", clientv3.WithPrefix())
	case n < 6:
		_, err = c.Txn(ctx).Then(l.several()...).Commit()
	case n == 6:
		ttl := 1000 + l.rnd.Int64N(1000)
		if l.rnd.IntN(3) == 0 {
			ttl = 1 // a second, and some more
		}
		var granted *clientv3.LeaseGrantResponse
		if granted, err = c.Grant(ctx, ttl); err == nil && ttl > 1 {
			l.leases = append(l.leases, granted.ID)
		} else if err == nil {
			_, err = c.Put(ctx, l.key(), "goes soon", clientv3.WithLease(granted.ID))
		}
	case n == 7 && len(l.leases) > 3:
		i := l.rnd.IntN(len(l.leases))
		_, err = c.Revoke(ctx, l.leases[i])
		l.leases = slices.Delete(l.leases, i, i+1)
	default:
		_, err = c.Do(ctx, l.put(l.key()))
	}
	must(l.t, err)
}

// several are the operations of one transaction, which may name a key once.
func (l *life) several() (list []clientv3.Op) {
	ops := map[string]clientv3.Op{}
	for range 1 + l.rnd.IntN(8) {
		if k := l.key(); l.rnd.IntN(3) == 0 {
			ops[k] = clientv3.OpDelete(k)
		} else {
			ops[k] = l.put(k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(ops)) {
		list = append(list, ops[k])
	}
	if l.rnd.IntN(4) == 0 {
		list = append(list, clientv3.OpDelete("/gone/", clientv3.WithPrefix()), clientv3.OpPut(fmt.Sprintf("/kept/%d", l.rnd.IntN(5)), "x"))
	} else {
		list = append(list, clientv3.OpPut(fmt.Sprintf("/gone/%d", l.rnd.IntN(9)), "x"))
	}
	l.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// live uses the cluster, troubles the archiver, and compacts twice behind its back and twice not.
func (l *life) live(steps int) {
	l.archiver.start(l.t)
	l.settle()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for number := range steps {
		for _, heal := range l.healing[number] {
			heal()
		}
		delete(l.healing, number)
		l.step(number)
		switch number {
		case steps / 5, steps * 3 / 5:
			l.settle()
			l.compact(l.now() - 10 - l.rnd.Int64N(50))
		case steps * 2 / 5, steps * 4 / 5:
			l.compactUnseen()
		case steps / 10, steps * 3 / 10, steps / 2, steps * 7 / 10, steps * 9 / 10:
			l.place.Must(l.t, "backup", "--cluster", cluster, "--endpoints", l.server.Endpoint, "--max-rate", "0", "--quiet")
		default:
			if l.rnd.IntN(30) == 0 {
				l.trouble(number)
			}
		}
		<-tick.C
	}
}

// trouble does something to the archiver that ends some steps later.
func (l *life) trouble(number int) {
	until := number + 1 + l.rnd.IntN(25)
	heal := func(how func()) { l.healing[until] = append(l.healing[until], how) }
	start := func() { l.archiver.start(l.t) }
	if !l.archiver.running() {
		return
	}
	switch l.rnd.IntN(10) {
	case 0, 1, 2, 3:
		l.archiver.kill(l.t)
		heal(start)
	case 4:
		l.archiver.end(l.t)
		heal(start)
	case 5, 6:
		l.archiver.stop(l.t)
		heal(func() { l.archiver.goOn(l.t) })
	case 7:
		l.proxy.Cut()
	case 8:
		l.proxy.Pause()
		heal(l.proxy.Resume)
	case 9:
		l.proxy.Refuse(true)
		l.proxy.Cut()
		heal(func() { l.proxy.Refuse(false) })
	}
}

// heal ends all troubles.
func (l *life) heal() {
	for _, number := range slices.Sorted(maps.Keys(l.healing)) {
		for _, heal := range l.healing[number] {
			heal()
		}
		delete(l.healing, number)
	}
}

// settle waits until everything up to now is archived.
func (l *life) settle() {
	l.t.Helper()
	l.heal()
	l.archiver.start(l.t)
	target := history.Revision(l.now())
	poll(l.t, fmt.Sprintf("revision %d is archived", target), func() bool { return l.place.archived(l.t) >= target })
	l.settled = int64(target)
}

func (l *life) compact(to int64) {
	l.t.Helper()
	l.look()
	_, err := l.server.Client.Compact(l.t.Context(), to, clientv3.WithCompactPhysical())
	must(l.t, err)
	l.compacted = to
}

// compactUnseen compacts what no archiver has read.
func (l *life) compactUnseen() {
	l.t.Helper()
	l.settle()
	l.archiver.kill(l.t)
	w := window{Earliest: int64(l.place.archived(l.t)) + 1, Latest: l.now() + 1}
	for range 60 {
		l.step(0)
	}
	l.compact(l.now() - 3)
	w.Last = l.compacted - 1
	l.wanted = append(l.wanted, w)
	l.archiver.start(l.t)
	l.settle()
}

// look holds the model against what etcd itself says it had, at some revisions that it can tell of.
func (l *life) look() {
	l.t.Helper()
	now := l.now()
	revisions := []int64{now, l.compacted + 1}
	for range 15 {
		revisions = append(revisions, l.compacted+1+l.rnd.Int64N(now-l.compacted))
	}
	slices.Sort(revisions)
	l.model(revisions, func(at int64, want state) {
		got, err := read(l.t.Context(), l.server.Client, at)
		must(l.t, err)
		l.looks++
		if diff := want.diff(got); diff != "" {
			l.t.Fatalf("the test's own watch and etcd's own answer at revision %d differ: %s", at, diff)
		}
	})
}

// read gives what a server has at a revision, 0 for now.
func read(ctx context.Context, client *clientv3.Client, revision int64) (state, error) {
	got, err := client.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(revision))
	if err != nil {
		return nil, err
	}
	s := state{}
	for _, kv := range got.Kvs {
		s[string(kv.Key)] = record{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
	}
	return s, nil
}

// diff says how another state differs, without values; "" when it does not.
func (s state) diff(other state) string {
	if maps.Equal(s, other) {
		return ""
	}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		want := s[key]
		got, found := other[key]
		if !found {
			return fmt.Sprintf("key %q is missing, %d of %d keys are there", key, len(other), len(s))
		}
		if got != want {
			return fmt.Sprintf("key %q is of revision %d, version %d, created at %d, lease %x, %d bytes; want %d, %d, %d, %x, %d", key,
				got.Mod, got.Version, got.Create, got.Lease, len(got.Value), want.Mod, want.Version, want.Create, want.Lease, len(want.Value))
		}
	}
	return fmt.Sprintf("there are %d keys, want %d", len(other), len(s))
}
