package replay

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/restore"
)

// TestServed makes data dirs of what was replayed and has a server of each version serve them.
func TestServed(t *testing.T) {
	t.Parallel()
	for i, v := range etcdtest.Versions(t) {
		t.Run(v.Minor, func(t *testing.T) {
			t.Parallel()
			l := newLife(t, v, 80+uint64(i), 120)
			last := l.now()
			must(t, l.server.Stop())
			for name, tt := range map[string]struct {
				base       int
				target     history.Revision
				keep, bump bool
			}{
				"all":         {base: 0, target: last},
				"middle":      {base: 1, target: l.bases[1].Info.Revision + 5},
				"inside":      {base: 1, target: l.bases[1].Info.Revision / 2},
				"nothing":     {base: 0, target: 1},
				"history":     {base: 4, target: last, keep: true},
				"all history": {base: 0, target: l.bases[1].Info.Revision + 3, keep: true},
				"bumped":      {base: 3, target: last, bump: true},
			} {
				t.Run(name, func(t *testing.T) {
					l.serve(t, l.bases[tt.base], tt.target, tt.keep, tt.bump)
				})
			}
		})
	}
}

func (l *life) serve(t *testing.T, base Base, target history.Revision, keep, bump bool) {
	dir, peer := filepath.Join(t.TempDir(), "data"), fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t))
	var made Result
	restored, err := restore.Fresh(t.Context(), restore.FreshOptions{
		DataDir: dir, Name: "m1", PeerURL: peer, Size: 8 << 20, Revision: target, KeepRevision: !bump,
		Build: func(ctx context.Context, path, work string) (err error) {
			made, err = Backend(ctx, path, base, l.line.segments(l.rnd, history.Range{First: 2, Last: l.line[len(l.line)-1].Revision}, l.known()...),
				Options{Target: target, KeepHistory: keep, Work: work})
			return err
		},
	})
	must(t, err)
	want := target
	if bump {
		want += restore.RevisionBump
	}
	s := etcdtest.Start(t, l.server.Version, etcdtest.Options{DataDir: dir, PeerURL: peer})
	ctx := t.Context()
	got, err := s.Client.Get(ctx, "\x00", clientv3.WithFromKey())
	must(t, err)
	state := map[string]history.Event{}
	attached := map[int64]bool{}
	for _, kv := range got.Kvs {
		state[string(kv.Key)] = eventOf(kv)
		if kv.Lease != 0 {
			attached[kv.Lease] = true
		}
	}
	if !same(state, l.line.at(target)) || got.Header.Revision != int64(want) || restored.Revision != want {
		t.Errorf("it serves %d keys at %d, want %d at %d", len(state), got.Header.Revision, len(l.line.at(target)), want)
	}
	leases, err := s.Client.Leases(ctx)
	must(t, err)
	if int64(len(leases.Leases)) != made.Leases {
		t.Errorf("%d leases, want %d", len(leases.Leases), made.Leases)
	}
	for id := range attached {
		left, err := s.Client.TimeToLive(ctx, clientv3.LeaseID(id), clientv3.WithAttachedKeys())
		must(t, err)
		if ttl := left.GrantedTTL; ttl != l.ttls[id] && ttl != DefaultTTL || len(left.Keys) == 0 {
			t.Errorf("lease %x has TTL %d of %d and %d keys", id, ttl, l.ttls[id], len(left.Keys))
		}
	}
	if hash, ok := l.hashes[floorOf(base.Info)][target]; keep && ok {
		if got, err := s.Client.HashKV(ctx, s.Endpoint, 0); err != nil || got.Hash != hash {
			t.Errorf("hash %+v, %v, want %d", got, err, hash)
		}
	} else if keep {
		t.Error("nobody knows the hash")
	}
	// A watch from the target sees what came about at it, and what comes.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	watch := s.Client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(int64(want)))
	for key := range state {
		// Such a put ends a server of which the lease was not restored.
		_, err := s.Client.Put(ctx, key, "again", clientv3.WithIgnoreLease())
		must(t, err)
	}
	_, err = s.Client.Put(ctx, "the end", "")
	must(t, err)
	var seen line
	for !slices.ContainsFunc(seen, func(e history.Event) bool { return string(e.Key) == "the end" }) {
		response, ok := <-watch
		if !ok || response.Err() != nil {
			t.Fatalf("watch: %v", errors.Join(response.Err(), ctx.Err()))
		}
		for _, e := range response.Events {
			event := eventOf(e.Kv)
			event.Tombstone = e.Type == clientv3.EventTypeDelete
			seen = append(seen, event)
		}
	}
	var expected line
	for _, e := range l.line {
		if e.Revision == target && !bump {
			expected = append(expected, e)
		}
	}
	if len(seen) != len(expected)+len(state)+1 {
		t.Errorf("the watch saw %d events, want %d of the target and %d since", len(seen), len(expected), len(state)+1)
	}
	for i, e := range expected {
		if e.Sub = 0; i >= len(seen) || fmt.Sprint(seen[i]) != fmt.Sprint(e) {
			t.Errorf("event %d of the target is not what it was", i)
		}
	}
}
