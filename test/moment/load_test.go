package moment

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

const (
	// loadPace is the shortest time between two writes of a load: few enough that nothing is ever far behind.
	loadPace = 10 * time.Millisecond
	// writeTime is how long a load waits for a member. What was not confirmed by then may be written all the same.
	writeTime = time.Second
)

// load is somebody who writes to a cluster all the time, over one member until that fails, and keeps what was confirmed.
type load struct {
	t       *testing.T
	members []*etcdtest.Server
	rnd     *rand.Rand
	stop    func() // and wait

	mu sync.Mutex
	// written is what was confirmed, by revision: the value of each key, nil for one that was deleted.
	written map[int64]map[string]*string
	last    int64
	failed  int
	// marks are revisions at which something happened to the cluster.
	marks []int64
}

func startLoad(t *testing.T, members []*etcdtest.Server, rnd *rand.Rand) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	// A generator of its own, as it writes beside the test; what it does is decided by the seed all the same.
	l := &load{t: t, members: members, rnd: rand.New(rand.NewPCG(rnd.Uint64(), 0)), written: map[int64]map[string]*string{}}
	done := make(chan struct{})
	l.stop = func() { cancel(); <-done }
	t.Cleanup(l.stop)
	go func() {
		defer close(done)
		tick := time.NewTicker(loadPace)
		defer tick.Stop()
		for at := 0; ctx.Err() == nil; {
			if !l.write(ctx, members[at%len(members)]) && ctx.Err() == nil {
				at++
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	return l
}

// write does one thing at random, and tells whether the member confirmed it. A load that is stopped waits for the answer.
func (l *load) write(ctx context.Context, to *etcdtest.Server) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	does := map[string]*string{}
	ops := []clientv3.Op{}
	for range 1 + l.rnd.IntN(4)/2 {
		key := fmt.Sprintf("/registry/configmaps/%02d", l.rnd.IntN(40))
		if _, twice := does[key]; twice {
			continue
		}
		if l.rnd.IntN(4) == 0 {
			does[key], ops = nil, append(ops, clientv3.OpDelete(key))
			continue
		}
		value := fmt.Sprintf("%0*x", 1+l.rnd.IntN(2000), l.rnd.Uint64())
		does[key], ops = &value, append(ops, clientv3.OpPut(key, value))
	}
	reply, err := to.Client.Txn(ctx).Then(ops...).Commit()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed++
		return false
	}
	changed := false
	for i, r := range reply.Responses {
		if d := r.GetResponseDeleteRange(); d != nil && d.Deleted == 0 {
			delete(does, string(ops[i].KeyBytes())) // there was none
			continue
		}
		changed = true
	}
	if changed { // otherwise the revision is another one's
		l.written[reply.Header.Revision] = does
		l.last = max(l.last, reply.Header.Revision)
	}
	return true
}

// confirmed is the last revision that a member confirmed.
func (l *load) confirmed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// mark remembers where the cluster is now.
func (l *load) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marks = append(l.marks, l.last)
}

// check holds what was confirmed against what the cluster says happened. The load has ended.
func (l *load) check(w *witness) {
	t := l.t
	t.Helper()
	t.Logf("%d writes were confirmed, %d were not", len(l.written), l.failed)
	if len(l.written) < 500 {
		t.Error("that was no load")
	}
	for at, does := range l.written {
		c := w.changes[at]
		if c == nil {
			t.Errorf("revision %d was confirmed, and never was", at)
			continue
		}
		for key, value := range does {
			if got, put := c.puts[key]; value == nil && !slices.Contains(c.deletes, key) || value != nil && (!put || got.Value != *value) {
				t.Errorf("revision %d does not have key %q as it was confirmed", at, key)
			}
		}
		if n := len(c.puts) + len(c.deletes); n != len(does) {
			t.Errorf("revision %d changed %d keys, want %d", at, n, len(does))
		}
	}
}
