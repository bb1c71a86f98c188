package moment

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// record is what a client sees of a key.
type record struct {
	Value          string
	Create, Mod    int64
	Version, Lease int64
}

// state is a keyspace.
type state map[string]record

// change is what one revision did.
type change struct {
	puts    state
	deletes []string
}

// witness sees all that a cluster does from its beginning, by a watch of the test's own.
type witness struct {
	t      *testing.T
	client *clientv3.Client

	mu      sync.Mutex
	changes map[int64]*change
	last    int64
	grew    chan struct{} // one element when there is more
}

// newWitness watches until the test ends.
func newWitness(t *testing.T, client *clientv3.Client) *witness {
	w := &witness{t: t, client: client, changes: map[int64]*change{}, last: 1, grew: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	watching := make(chan struct{})
	t.Cleanup(func() { cancel(); <-watching })
	go w.watch(ctx, watching)
	return w
}

func (w *witness) watch(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	for reply := range w.client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1), clientv3.WithFragment()) {
		if err := reply.Err(); err != nil && ctx.Err() == nil {
			w.t.Errorf("the test's own watch: %v", err)
			return
		}
		w.mu.Lock()
		for _, e := range reply.Events {
			at := e.Kv.ModRevision
			if w.changes[at] == nil {
				w.changes[at] = &change{puts: state{}}
			}
			if e.Type == clientv3.EventTypeDelete {
				w.changes[at].deletes = append(w.changes[at].deletes, string(e.Kv.Key))
			} else {
				w.changes[at].puts[string(e.Kv.Key)] = record{string(e.Kv.Value), e.Kv.CreateRevision, at, e.Kv.Version, e.Kv.Lease}
			}
			w.last = at
		}
		w.mu.Unlock()
		select {
		case w.grew <- struct{}{}:
		default:
		}
	}
}

// now is the revision of the cluster, once the watch has seen all up to it.
func (w *witness) now() int64 {
	w.t.Helper()
	got, err := w.client.Get(w.t.Context(), "x")
	must(w.t, err)
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		seen := w.last
		w.mu.Unlock()
		if seen >= got.Header.Revision {
			return got.Header.Revision
		}
		select {
		case <-w.grew:
		case <-deadline:
			w.t.Fatalf("the test's own watch is at %d, the cluster at %d", seen, got.Header.Revision)
		}
	}
}

// model gives the states at revisions, which are ascending.
func (w *witness) model(revisions []int64, visit func(int64, state)) {
	w.mu.Lock()
	changes, last := maps.Clone(w.changes), w.last
	w.mu.Unlock()
	now, i := state{}, 0
	for at := int64(1); at <= last; at++ {
		if c := changes[at]; c != nil {
			for _, key := range c.deletes {
				delete(now, key)
			}
			maps.Copy(now, c.puts)
		}
		for ; i < len(revisions) && revisions[i] == at; i++ {
			visit(at, now)
		}
	}
}
