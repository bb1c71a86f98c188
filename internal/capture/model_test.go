package capture

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/history"
)

// model writes to a cluster and knows which events must come of it.
type model struct {
	t      *testing.T
	client *clientv3.Client
	live   map[string]*history.Event
	events []history.Event
	// now is the revision of the last write.
	now history.Revision
}

func newModel(t *testing.T, client *clientv3.Client) *model {
	return &model{t: t, client: client, live: map[string]*history.Event{}, now: 1}
}

// write does all operations in one transaction.
func (m *model) write(ops ...clientv3.Op) {
	m.t.Helper()
	reply, err := m.client.Txn(m.t.Context()).Then(ops...).Commit()
	must(m.t, err)
	if m.now++; m.now != history.Revision(reply.Header.Revision) {
		m.t.Fatalf("revision %d, the model is at %s", reply.Header.Revision, m.now)
	}
	sub := int64(0)
	for _, op := range ops {
		if op.IsPut() {
			m.put(op, &sub)
		} else {
			m.remove(op.KeyBytes(), op.RangeBytes(), &sub)
		}
	}
}

func (m *model) put(op clientv3.Op, sub *int64) {
	key := string(op.KeyBytes())
	e := history.Event{Revision: m.now, Sub: *sub, Key: []byte(key), Value: op.ValueBytes(), CreateRevision: m.now, Version: 1}
	if before := m.live[key]; before != nil {
		e.CreateRevision, e.Version = before.CreateRevision, before.Version+1
	}
	m.add(e, sub)
}

func (m *model) add(e history.Event, sub *int64) {
	m.events = append(m.events, e)
	*sub++
	if e.Tombstone {
		delete(m.live, string(e.Key))
		return
	}
	m.live[string(e.Key)] = &e
}

func (m *model) remove(from, to []byte, sub *int64) {
	var gone []string
	for key := range m.live {
		if key == string(from) || len(to) > 0 && key >= string(from) && (string(to) == "\x00" || key < string(to)) {
			gone = append(gone, key)
		}
	}
	slices.Sort(gone)
	for _, key := range gone {
		m.add(history.Event{Revision: m.now, Sub: *sub, Tombstone: true, Key: []byte(key)}, sub)
	}
}

// lease writes keys with a lease of a time to live in seconds.
func (m *model) lease(ttl int64, keys ...string) {
	m.t.Helper()
	grant, err := m.client.Grant(m.t.Context(), ttl)
	must(m.t, err)
	var ops []clientv3.Op
	for _, key := range keys {
		ops = append(ops, clientv3.OpPut(key, "leased", clientv3.WithLease(grant.ID)))
	}
	m.write(ops...)
	for i := range keys {
		m.events[len(m.events)-1-i].Lease = int64(grant.ID)
	}
}

// expire waits until keys are gone with their lease.
func (m *model) expire(keys ...string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	watch := m.client.Watch(ctx, keys[0], clientv3.WithRev(int64(m.now)+1))
	reply := <-watch
	must(m.t, reply.Err())
	if m.now++; len(reply.Events) != 1 || reply.Events[0].Kv.ModRevision != int64(m.now) {
		m.t.Fatalf("after the lease: %v", reply.Events)
	}
	sub := int64(0)
	slices.Sort(keys)
	for _, key := range keys {
		m.remove([]byte(key), nil, &sub)
	}
}

// renew gives keys another lease and keeps their values, which are not sent: one revision of any size.
func (m *model) renew(keys ...string) {
	m.t.Helper()
	grant, err := m.client.Grant(m.t.Context(), 3600)
	must(m.t, err)
	values := map[string][]byte{}
	var ops []clientv3.Op
	for _, key := range keys {
		values[key] = m.live[key].Value
		ops = append(ops, clientv3.OpPut(key, "", clientv3.WithIgnoreValue(), clientv3.WithLease(grant.ID)))
	}
	m.write(ops...)
	for i := range m.events[len(m.events)-len(keys):] {
		e := &m.events[len(m.events)-len(keys)+i]
		e.Value, e.Lease = values[string(e.Key)], int64(grant.ID)
		m.live[string(e.Key)].Value = e.Value
	}
}

// fill makes all that a keyspace can go through: n small revisions, and some of each other kind.
func (m *model) fill(n int) {
	m.t.Helper()
	big := strings.Repeat("big", 500_000) // 1.5 MB: with its key just below the limit of a request
	for i := range n {
		m.write(clientv3.OpPut(fmt.Sprintf("small/%03d", i%400), fmt.Sprint(i)))
	}
	for _, key := range []string{"\x00", "\x00\x00", "\xff", "\xff\xff\x00", "a\nb", "é", strings.Repeat("long", 5000)} {
		m.write(clientv3.OpPut(key, ""))
		m.write(clientv3.OpPut(key, key))
		m.write(clientv3.OpDelete(key))
		m.write(clientv3.OpPut(key, "\x00\xff"))
	}
	for page := range 30 { // etcd takes 128 operations in one transaction
		var ops []clientv3.Op
		for i := range 100 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("many/%02d/%03d", page, i), "x"))
		}
		m.write(ops...)
	}
	m.write(clientv3.OpDelete("many/", clientv3.WithPrefix()))
	m.write(clientv3.OpPut("b", "1"), clientv3.OpDelete("small/00", clientv3.WithPrefix()), clientv3.OpPut("a", "2"), clientv3.OpDelete("small/01", clientv3.WithPrefix()), clientv3.OpPut("c", ""))
	for _, key := range []string{"big/1", "big/2", "big/3", "big/4"} {
		m.write(clientv3.OpPut(key, big))
	}
	m.renew("big/1", "big/2", "big/3", "big/4")
	m.write(clientv3.OpPut("after", "1"))
	m.renew("big/4", "small/200", "big/2")
	m.lease(2, "leased/2", "leased/1", "leased/3")
	m.expire("leased/2", "leased/1", "leased/3")
	m.write(clientv3.OpDelete("\x00", clientv3.WithFromKey()))
	m.write(clientv3.OpPut("last", "1"))
}

// from gives the events from a revision on.
func (m *model) from(first history.Revision) []history.Event {
	i := slices.IndexFunc(m.events, func(e history.Event) bool { return e.Revision >= first })
	return m.events[i:]
}

// compare reads a stream up to the last revision of the model and wants what the model has from a revision on. Each batch
// must end with a whole revision.
func (m *model) compare(e *Events, first history.Revision) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	for want := m.from(first); len(want) > 0; {
		batch, err := e.Next(ctx)
		must(m.t, err)
		if len(batch.Events) > len(want) {
			m.t.Fatalf("%d events, want no more than %d", len(batch.Events), len(want))
		}
		for i, event := range batch.Events {
			if !same(event, want[i]) {
				m.t.Fatalf("event %d.%d of %.40q, want %d.%d of %.40q, or another field", event.Revision, event.Sub, event.Key, want[i].Revision, want[i].Sub, want[i].Key)
			}
		}
		if n := len(batch.Events); n > 0 {
			if n < len(want) && want[n].Revision == want[n-1].Revision {
				m.t.Fatalf("a batch ends within revision %s", want[n].Revision)
			}
			if batch.Term == 0 || time.Since(batch.Arrived) > time.Minute {
				m.t.Fatalf("batch of term %d arrived at %s", batch.Term, batch.Arrived)
			}
		}
		want = want[len(batch.Events):]
	}
}

func same(a, b history.Event) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.Revision == b.Revision && a.Sub == b.Sub && a.Tombstone == b.Tombstone &&
		a.CreateRevision == b.CreateRevision && a.Version == b.Version && a.Lease == b.Lease
}
