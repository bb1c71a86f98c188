package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-project/holdfast/internal/history"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var day = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// batch is what one call of Add takes.
type batch struct {
	events   []history.Event
	from, to time.Time
}

// line is a life of a keyspace.
type line struct {
	batches []batch
	leases  []history.Lease
}

func (l line) events() (all []history.Event) {
	for _, b := range l.batches {
		all = append(all, b.events...)
	}
	return all
}

// builder holds some of the batches.
func builder(t testing.TB, batches []batch) *Builder {
	t.Helper()
	b := NewBuilder()
	for _, x := range batches {
		must(t, b.Add(x.events, x.from, x.to))
	}
	return b
}

// encoded writes what a Builder holds.
func encoded(t testing.TB, b *Builder, leases []history.Lease) ([]byte, Summary) {
	t.Helper()
	var out bytes.Buffer
	s, err := b.Encode(&out, leases)
	must(t, err)
	return out.Bytes(), s
}

// clone makes an event its own.
func clone(e history.Event) history.Event {
	e.Key, e.Value = bytes.Clone(e.Key), bytes.Clone(e.Value)
	return e
}

// readAll gives what comes until the end, and the error, or nil when it is whole.
func readAll(src io.Reader, size int64) (events []history.Event, r *Reader, err error) {
	r, err = NewReader(src, size)
	if err != nil {
		return nil, nil, err
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return events, r, nil
		} else if err != nil {
			return events, r, err
		}
		events = append(events, clone(e))
	}
}

// decoded reads a whole segment.
func decoded(t testing.TB, segment []byte) ([]history.Event, Summary) {
	t.Helper()
	events, r, err := readAll(bytes.NewReader(segment), int64(len(segment)))
	must(t, err)
	return events, r.Summary()
}

// byKey sorts as a segment does.
func byKey(a, b history.Event) int {
	if c := bytes.Compare(a.Key, b.Key); c != 0 {
		return c
	}
	return int(a.Revision - b.Revision)
}

// byRevision sorts as a cluster does.
func byRevision(a, b history.Event) int {
	if a.Revision != b.Revision {
		return int(a.Revision - b.Revision)
	}
	return int(a.Sub - b.Sub)
}

// equalEvents compares without reflection, which would take longer than all the rest.
func equalEvents(t testing.TB, want, got []history.Event) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		w, g := want[i], got[i]
		same := bytes.Equal(w.Key, g.Key) && bytes.Equal(w.Value, g.Value)
		w.Key, w.Value, g.Key, g.Value = nil, nil, nil, nil
		if !same || !reflect.DeepEqual(w, g) {
			t.Fatalf("event %d (-want +got):\n%.3000s", i, cmp.Diff(want[i], got[i]))
		}
	}
	if len(want) != len(got) {
		t.Fatalf("want %d events, got %d", len(want), len(got))
	}
}

func equalSummaries(t testing.TB, want, got Summary) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Times{}), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("summaries (-want +got):\n%.3000s", diff)
	}
}

// random lives like a cluster that knows no shame.
type random struct {
	*rand.Rand
	first     history.Revision
	revisions int
	big       bool // with long values and long transactions
}

func newRandom(t testing.TB, seed uint64) *random {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	r := rand.New(rand.NewPCG(seed, 7))
	return &random{Rand: r, first: history.Revision(1 + r.IntN(1000)), revisions: 1 + r.IntN(300)}
}

var alphabet = []byte("ab/\x00\n\xff\x7f ")

func (r *random) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return b
}

// live makes a history: keys are made, changed, removed and made again, with leases, by transactions of any length.
func (r *random) live() line {
	type state struct {
		created history.Revision
		version int64
	}
	var l line
	for range r.IntN(5) {
		l.leases = append(l.leases, history.Lease{ID: int64(r.Uint64()) | 1, TTL: r.Int64N(4000)})
	}
	keys, alive := make([][]byte, 1+r.IntN(60)), map[string]state{}
	for i := range keys {
		keys[i] = append([]byte("/registry/"), r.bytes(r.IntN(9))...)
		if r.IntN(9) == 0 {
			keys[i] = r.bytes(1 + r.IntN(300))
		}
	}
	now := day
	var current batch
	for i := range r.revisions {
		revision := r.first + history.Revision(i)
		n, written := 1+r.IntN(4)/3*r.IntN(6), map[string]bool{}
		if r.big && r.IntN(100) == 0 {
			n = 3000
		}
		for len(written) < n {
			key := keys[r.IntN(len(keys))]
			if len(written) > len(keys)/2 || written[string(key)] {
				key = fmt.Appendf(nil, "/registry/other/%d-%d", i/2, len(written))
			}
			e := history.Event{Revision: revision, Sub: int64(len(written)), Key: key}
			was := alive[string(key)]
			if was.version > 0 && r.IntN(4) == 0 {
				e.Tombstone = true
				delete(alive, string(key))
			} else {
				if was.version == 0 {
					was.created = revision
				}
				was.version++
				alive[string(key)] = was
				e.CreateRevision, e.Version, e.Value = was.created, was.version, r.value()
				if len(l.leases) > 0 && r.IntN(3) == 0 {
					e.Lease = l.leases[r.IntN(len(l.leases))].ID
				}
			}
			written[string(key)] = true
			current.events = append(current.events, e)
		}
		if r.IntN(3) > 0 || i == r.revisions-1 {
			now = now.Add(time.Duration(r.IntN(5)-1) * time.Millisecond) // clocks go back, too
			current.from, current.to = now, now
			if r.IntN(10) == 0 {
				current.from = now.Add(-time.Duration(r.IntN(4000)) * time.Microsecond)
			}
			l.batches = append(l.batches, current)
			current = batch{}
		}
	}
	return l
}

func (r *random) value() []byte {
	switch r.IntN(8) {
	case 0:
		return nil
	case 1:
		if r.big && r.IntN(200) == 0 {
			return bytes.Repeat(r.bytes(1<<10), 3<<9) // 1.5 MiB, the most that etcd takes unless it is told otherwise
		}
	}
	return r.bytes(r.IntN(200))
}

// sortedEvents is what a segment of them gives.
func sortedEvents(events []history.Event) []history.Event {
	events = slices.Clone(events)
	slices.SortFunc(events, byKey)
	return events
}
