package archive

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// TestPrompt: the snapshot that a line begins with is urgent, and those that are due later are not.
func TestPrompt(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	put(t, server, 5)
	h := newWorld(t, nil).host(t, server.Endpoint)
	var mu sync.Mutex
	var wanted []Wanted
	r := h.start(t, func(o *Options) {
		o.SnapshotEvery = 100 * time.Millisecond
		take := o.Snapshot
		o.Snapshot = func(ctx context.Context, what Wanted) (repository.Manifest, error) {
			mu.Lock()
			wanted = append(wanted, what)
			mu.Unlock()
			return take(ctx, what)
		}
	})
	r.await("three snapshots", func(events []Event) bool {
		n := 0
		for _, e := range events {
			if isSnapshot(e) {
				n++
			}
		}
		return n >= 3
	})
	r.stop()
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(wanted[:3], []Wanted{{Prompt: true}, {}, {}}) {
		t.Errorf("wanted were %+v", wanted)
	}
}

func TestOwnWord(t *testing.T) {
	lease := func(session string, revision history.Revision) repository.Lease {
		return repository.Lease{ID: repository.ID{Time: time.Unix(1, 0), Random: "00000001"}, Session: session, Revision: revision}
	}
	segment := func(session string, last history.Revision) *repository.Segment {
		return &repository.Segment{Session: session, First: last, Last: last}
	}
	for name, tt := range map[string]struct {
		h    horizon
		want bool
	}{
		"nothing":                {horizon{}, false},
		"own lease":              {horizon{lease: lease("a", 7)}, true},
		"own lease, own segment": {horizon{lease: lease("a", 7), last: segment("a", 7)}, true},
		"own segment after":      {horizon{lease: lease("b", 7), last: segment("a", 9)}, true},
		"other segment after":    {horizon{lease: lease("a", 7), last: segment("b", 9)}, false},
		"other lease":            {horizon{lease: lease("b", 9), last: segment("a", 9)}, false},
		"merged segment":         {horizon{last: segment("", 9)}, false},
	} {
		if got := tt.h.own("a"); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
