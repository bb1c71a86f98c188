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
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

func put(revision history.Revision, sub int64, key, value string) history.Event {
	return history.Event{Revision: revision, Sub: sub, Key: []byte(key), Value: []byte(value), CreateRevision: revision, Version: 1}
}

func remove(revision history.Revision, sub int64, key string) history.Event {
	return history.Event{Revision: revision, Sub: sub, Key: []byte(key), Tombstone: true}
}

// puts is a line that begins at a revision and puts so many keys, three each revision.
func puts(first history.Revision, n, size int) (l line) {
	value := strings.Repeat("v", size)
	for i := range n {
		l = append(l, put(first+history.Revision(i/3), int64(i%3), fmt.Sprintf("key-%06d", i), value))
	}
	return l
}

// based makes a base of a line, with its history.
func based(t testing.TB, l line) Base {
	t.Helper()
	empty := emptyBase(t)
	last := l[len(l)-1].Revision
	path := filepath.Join(t.TempDir(), "base")
	_, err := Backend(t.Context(), path, empty, []Segment{l.segment(history.Range{First: 2, Last: last})}, Options{Target: last, KeepHistory: true, Work: t.TempDir()})
	must(t, err)
	return scanBase(t, path)
}

// changed changes a base with bbolt.
func changed(t *testing.T, base Base, fn func(*bbolt.Tx) error) Base {
	t.Helper()
	db, err := bbolt.Open(base.File, 0o600, &bbolt.Options{NoFreelistSync: true})
	must(t, err)
	must(t, db.Update(fn))
	must(t, db.Close())
	return scanBase(t, base.File)
}

// fails wants an error, nothing in the folders and nothing open.
func fails(t *testing.T, ctx context.Context, base Base, segments []Segment, o Options) error {
	t.Helper()
	result := t.TempDir()
	o.Work = t.TempDir()
	before := openFiles(t)
	_, err := Backend(ctx, filepath.Join(result, "db"), base, segments, o)
	if err == nil {
		t.Error("it did not fail")
		return errors.New("no error")
	}
	checkEmpty(t, result)
	checkEmpty(t, o.Work)
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, %d before", after, before)
	}
	return err
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

func TestReach(t *testing.T) {
	l := puts(2, 300, 10) // up to revision 101
	base := based(t, l[:150])
	if base.Info.Revision != 51 {
		t.Fatalf("base at %d", base.Info.Revision)
	}
	within := func(first, last history.Revision) history.Range { return history.Range{First: first, Last: last} }
	lacking, compacted := base, base
	lacking.Info.Missing = 20
	compacted.Info.CompactRevision, compacted.Info.ScheduledCompactRevision = 10, 20
	for name, tt := range map[string]struct {
		base     Base
		ranges   []history.Range
		target   history.Revision
		keep     bool
		segments int    // how many are opened
		want     string // "" is no error
	}{
		"the base itself":         {base: base, target: 51},
		"inside the base":         {base: base, target: 30, ranges: []history.Range{within(40, 101)}},
		"revision 1":              {base: base, target: 1},
		"all":                     {base: base, target: 101, ranges: []history.Range{within(52, 60), within(61, 101)}, segments: 2},
		"overlap":                 {base: base, target: 101, ranges: []history.Range{within(2, 101)}, segments: 1},
		"only what is needed":     {base: base, target: 70, ranges: []history.Range{within(2, 51), within(52, 70), within(71, 101)}, segments: 1},
		"the missing is no harm":  {base: lacking, target: 60, ranges: []history.Range{within(52, 60)}, segments: 1},
		"the compaction":          {base: compacted, target: 20},
		"revision 0":              {base: base, target: 0, want: "no such revision"},
		"negative":                {base: base, target: -3, want: "no such revision"},
		"compacted":               {base: compacted, target: 19, want: "begins at revision 20"},
		"nothing":                 {base: base, target: 52, want: "end at revision 51"},
		"ends before":             {base: base, target: 101, ranges: []history.Range{within(52, 100)}, want: "end at revision 100"},
		"hole after the base":     {base: base, target: 101, ranges: []history.Range{within(53, 101)}, want: "revisions 52 to 52"},
		"hole":                    {base: base, target: 101, ranges: []history.Range{within(52, 60), within(62, 101)}, want: "does not follow"},
		"segments overlap":        {base: base, target: 101, ranges: []history.Range{within(52, 60), within(60, 101)}, want: "does not follow"},
		"order":                   {base: base, target: 101, ranges: []history.Range{within(61, 101), within(52, 60)}, want: "does not follow"},
		"no range":                {base: base, target: 101, ranges: []history.Range{{}}, want: "does not follow"},
		"lacks history":           {base: lacking, target: 51, keep: true, want: "lacks revision 20"},
		"lacks history before":    {base: lacking, target: 30, want: "lacks revision 20"},
		"overflow":                {base: base, target: 1<<63 - 1, ranges: []history.Range{within(52, 101)}, want: "end at revision 101"},
		"a segment without end":   {base: base, target: 101, ranges: []history.Range{within(52, 1<<63-1)}, segments: 1},
		"one after the last":      {base: base, target: 101, ranges: []history.Range{within(52, 1<<63-1), within(1, 3)}, want: "does not follow"},
		"begins after the target": {base: base, target: 60, ranges: []history.Range{within(70, 101)}, want: "end at revision 51"},
	} {
		t.Run(name, func(t *testing.T) {
			opened := 0
			var segments []Segment
			for _, r := range tt.ranges {
				s := l.segment(r)
				open := s.Open
				s.Open = func(ctx context.Context) (Events, error) { opened++; return open(ctx) }
				segments = append(segments, s)
			}
			o := Options{Target: tt.target, KeepHistory: tt.keep}
			if tt.want != "" {
				if err := fails(t, t.Context(), tt.base, segments, o); !errors.Is(err, ErrOutOfReach) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want %q", err, tt.want)
				}
				return
			}
			o.Work = t.TempDir()
			path := filepath.Join(t.TempDir(), "db")
			result, err := Backend(t.Context(), path, tt.base, segments, o)
			must(t, err)
			if got := scanBase(t, path); got.Info.Revision != tt.target || result.Keys != int64(len(l.at(tt.target))) || opened != tt.segments {
				t.Errorf("revision %d, %d keys, %d opened", got.Info.Revision, result.Keys, opened)
			}
		})
	}
}

// TestImpossibleEvents gives what no segment may give.
func TestImpossibleEvents(t *testing.T) {
	base := emptyBase(t)
	broken := errors.New("the sum is wrong")
	for name, tt := range map[string]struct {
		events line
		end    error
		want   error
	}{
		"damaged at its end": {events: puts(2, 6, 10), end: broken, want: broken},
		"damaged at once":    {end: broken, want: broken},
		"keys descend":       {events: line{put(2, 0, "b", ""), put(3, 0, "a", "")}},
		"revisions descend":  {events: line{put(3, 0, "a", ""), put(2, 0, "a", "")}},
		"twice":              {events: line{put(3, 0, "a", ""), put(3, 0, "a", "")}},
		"subs descend":       {events: line{put(3, 1, "a", ""), put(3, 0, "a", "")}},
		"two at one place":   {events: line{put(3, 1, "a", ""), put(3, 1, "b", "")}},
		"before":             {events: line{put(1, 0, "a", "")}},
		"after":              {events: line{put(10, 0, "a", "")}},
		"no key":             {events: line{put(2, 0, "", "x")}},
		"negative sub":       {events: line{put(2, -1, "a", "")}},
		"large sub":          {events: line{put(2, 1<<32, "a", "")}},
		"created later":      {events: line{{Revision: 2, Key: []byte("a"), CreateRevision: 3, Version: 1}}},
		"never created":      {events: line{{Revision: 2, Key: []byte("a"), Version: 1}}},
		"no version":         {events: line{{Revision: 2, Key: []byte("a"), CreateRevision: 2}}},
		"delete with value":  {events: line{{Revision: 2, Key: []byte("a"), Value: []byte("x"), Tombstone: true}}},
		"delete with lease":  {events: line{{Revision: 2, Key: []byte("a"), Lease: 1, Tombstone: true}}},
	} {
		for _, keep := range []bool{false, true} {
			end, want := tt.end, tt.want
			if end == nil {
				end, want = io.EOF, ErrEvents
			}
			events := &recorded{rest: tt.events, end: end}
			s := Segment{Range: history.Range{First: 2, Last: 9}, Open: func(context.Context) (Events, error) { return events, nil }}
			if err := fails(t, t.Context(), base, []Segment{s}, Options{Target: 9, KeepHistory: keep}); !errors.Is(err, want) || strings.Contains(err.Error(), "key-") {
				t.Errorf("%s: %v", name, err)
			}
			if events.closed != 1 {
				t.Errorf("%s: closed %d times", name, events.closed)
			}
		}
	}
	s := Segment{Range: history.Range{First: 2, Last: 9}, Open: func(context.Context) (Events, error) { return nil, broken }}
	if err := fails(t, t.Context(), base, []Segment{s}, Options{Target: 9}); !errors.Is(err, broken) {
		t.Errorf("a segment that cannot be opened: %v", err)
	}
}

// TestBaseIsAsItWas changes the base behind its back.
func TestBaseIsAsItWas(t *testing.T) {
	base := based(t, puts(2, 300, 100))
	whole, err := os.ReadFile(base.File)
	must(t, err)
	for name, change := range map[string]func([]byte) []byte{
		"a bit":   func(b []byte) []byte { b[bytes.LastIndex(b, []byte("vvvv"))] ^= 1; return b },
		"shorter": func(b []byte) []byte { return b[:len(b)-4096] },
		"longer":  func(b []byte) []byte { return append(b, make([]byte, 4096)...) },
		"empty":   func([]byte) []byte { return nil },
	} {
		must(t, os.WriteFile(base.File, change(bytes.Clone(whole)), 0o600))
		if err := fails(t, t.Context(), base, nil, Options{Target: 50}); !errors.Is(err, snapshot.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, os.Remove(base.File))
	if err := fails(t, t.Context(), base, nil, Options{Target: 50}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	base := based(t, puts(2, 3, 10))
	path := filepath.Join(t.TempDir(), "db")
	must(t, os.WriteFile(path, []byte("mine"), 0o600))
	if _, err := Backend(t.Context(), path, base, nil, Options{Target: 2, Work: t.TempDir()}); err == nil {
		t.Error("it wrote over a file")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("the file is %q: %v", b, err)
	}
	if _, err := Backend(t.Context(), path+"2", base, nil, Options{Target: 2, Work: filepath.Join(t.TempDir(), "absent")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder to work in: %v", err)
	}
}

// stopping is a context that ends when it was asked so many times.
type stopping struct {
	context.Context
	left   int
	cancel context.CancelCauseFunc
}

var errStopped = errors.New("somebody pressed a key")

func (s *stopping) Err() error {
	if s.left--; s.left == 0 {
		s.cancel(errStopped)
	}
	return s.Context.Err()
}

// TestCancel ends the context at the n-th look at it, for every n there is.
func TestCancel(t *testing.T) {
	l := puts(2, 300, 1000)
	base := based(t, l[:150])
	l[299].Lease = 7
	stopped := 0
	for n := 1; ; n += 1 + n/8 {
		ctx, cancel := context.WithCancelCause(t.Context())
		asked := &stopping{ctx, n, cancel}
		work := t.TempDir()
		segments := []Segment{l.segment(history.Range{First: 52, Last: 101})}
		_, err := Backend(asked, filepath.Join(work, "db"), base, segments, Options{Target: 101, Work: work})
		cancel(nil)
		if err == nil {
			if asked.left < 1 {
				t.Errorf("it went on though it was stopped at look %d", n)
			}
			break
		}
		stopped++
		if !errors.Is(err, errStopped) {
			t.Fatalf("look %d: %v", n, err)
		}
		checkEmpty(t, work)
	}
	if stopped < 20 {
		t.Errorf("stopped only %d times", stopped)
	}
}

// TestNoGoroutine holds that all is over when Backend returns.
func TestNoGoroutine(t *testing.T) {
	base, work := based(t, puts(2, 30, 10)), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		_, err := Backend(t.Context(), filepath.Join(work, "db"), base, nil, Options{Target: 5, Work: work})
		must(t, err)
	})
}

// TestDeletes is what a compaction at the target leaves of deletes: those of the target itself.
func TestDeletes(t *testing.T) {
	l := line{put(2, 0, "a", "1"), put(3, 0, "b", "2"), put(3, 1, "c", "3"), remove(4, 0, "a"), remove(5, 0, "b"), remove(5, 1, "c")}
	small := changed(t, emptyBase(t), func(tx *bbolt.Tx) error { // Its records are inside the page of the root.
		for _, e := range l {
			p, err := newPlace(int64(e.Revision), e.Sub, 0, e.Tombstone)
			if err := errors.Join(err, tx.Bucket(bucketKey).Put(appendKey(nil, p), appendKeyValue(nil, e))); err != nil {
				return err
			}
		}
		return nil
	})
	for _, base := range []Base{emptyBase(t), based(t, l[:3]), based(t, l[:4]), based(t, l), small} {
		for target := max(base.Info.Revision-2, 1); target <= 5; target++ {
			for _, keep := range []bool{false, true} {
				m := replayed(t, base, []Segment{l.segment(history.Range{First: 2, Last: 5})}, target, keep)
				if got, want := m.content(t).records(), l.wantRecords(0, target, keep); !slices.Equal(got, want) {
					t.Errorf("base %d, target %d, history %v: %q, want %q", base.Info.Revision, target, keep, got, want)
				}
			}
		}
	}
}

// TestRaisedBase takes a base that a restore with a raised revision has written to: a record without key at its end.
func TestRaisedBase(t *testing.T) {
	l := puts(2, 9, 100)
	const raised = 1_000_000_004
	base := changed(t, based(t, l), func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket(bucketKey).Put(appendRevision(nil, raised), nil),
			tx.Bucket(bucketMeta).Put(scheduledKey, appendRevision(nil, raised)), tx.Bucket(bucketMeta).Put(finishedKey, appendRevision(nil, raised)))
	})
	l = append(l, put(raised+1, 0, "new", "x"))
	for _, keep := range []bool{false, true} {
		m := replayed(t, base, []Segment{l.segment(history.Range{First: raised + 1, Last: raised + 1})}, raised+1, keep)
		if m.result.Keys != 10 || m.result.Records != 11 {
			t.Errorf("%+v", m.result)
		}
		if m := replayed(t, base, nil, raised, keep); m.result.Keys != 9 || m.result.Records != 10 {
			t.Errorf("%+v", m.result)
		}
	}
	if err := fails(t, t.Context(), base, nil, Options{Target: 4}); !errors.Is(err, ErrOutOfReach) {
		t.Errorf("below the raise: %v", err)
	}
}

// TestLeases takes TTLs from where they are known.
func TestLeases(t *testing.T) {
	leased := func(e history.Event, id int64) history.Event { e.Lease = id; return e }
	l := line{
		leased(put(2, 0, "kept", ""), 1), leased(put(3, 0, "let go", ""), 2), leased(put(4, 0, "granted again", ""), 3),
		leased(put(5, 0, "lost", ""), 4), leased(put(6, 0, "gone", ""), 5),
		leased(put(7, 0, "new", ""), 10), leased(put(7, 1, "unknown", ""), -11), leased(put(7, 2, "endless", ""), 12),
		{Revision: 8, Key: []byte("let go"), CreateRevision: 3, Version: 2}, remove(9, 0, "gone"),
	}
	stored := func(id, ttl, left int64) string { return string(appendNumber(appendLease(nil, id, ttl), 3<<3, left)) }
	name := func(id int64) string { return string(binary.BigEndian.AppendUint64(nil, uint64(id))) }
	base := changed(t, based(t, l[:5]), func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketLease)
		if err := b.Delete([]byte(name(4))); err != nil {
			return err
		}
		for id, value := range map[int64]string{1: stored(1, 100, 50), 2: stored(2, 200, 0), 3: stored(3, 300, 20), 5: stored(5, 500, 0), 6: stored(6, 600, 0)} {
			if err := b.Put([]byte(name(id)), []byte(value)); err != nil {
				return err
			}
		}
		return nil
	})
	segments := []Segment{
		l.segment(history.Range{First: 7, Last: 7}, history.Lease{ID: 1, TTL: 100}, history.Lease{ID: 3, TTL: 30}, history.Lease{ID: 10, TTL: 1000}, history.Lease{ID: 12, TTL: 1 << 62}),
		l.segment(history.Range{First: 8, Last: 9}, history.Lease{ID: 3, TTL: 31}, history.Lease{ID: 10}, history.Lease{ID: 99, TTL: 1}),
	}
	after := map[string]string{
		name(1): stored(1, 100, 50), name(3): stored(3, 31, 0), name(4): stored(4, DefaultTTL, 0), name(10): stored(10, 1000, 0),
		name(-11): stored(-11, DefaultTTL, 0), name(12): stored(12, DefaultTTL, 0),
	}
	for _, keep := range []bool{false, true} {
		for _, tt := range []struct {
			target    history.Revision
			want      map[string]string
			defaulted int64
		}{
			{9, after, 3},
			{6, map[string]string{name(1): stored(1, 100, 50), name(2): stored(2, 200, 0), name(3): stored(3, 300, 20), name(4): stored(4, DefaultTTL, 0), name(5): stored(5, 500, 0), name(6): stored(6, 600, 0)}, 1},
			{3, map[string]string{name(1): stored(1, 100, 50), name(2): stored(2, 200, 0)}, 0},
		} {
			m := replayed(t, base, segments, tt.target, keep)
			if got := m.content(t)["lease"]; !maps.Equal(got, tt.want) || m.result.DefaultedLeases != tt.defaulted {
				t.Errorf("target %d, history %v: %q, want %q; %+v", tt.target, keep, got, tt.want, m.result)
			}
		}
	}
	// What is no message of a lease has no TTL.
	for _, b := range []string{"", "\x08", "\x10\xff", "\x08\x01\x10", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
		if ttl := ttlOf([]byte(b)); ttl != 0 {
			t.Errorf("%q has TTL %d", b, ttl)
		}
	}
}

// TestChains replays lives with few and many keys through random chains: all ways lead to the same file content.
func TestChains(t *testing.T) {
	const seed = 11
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 12 {
		l := randomLine(rnd)
		last := l[len(l)-1].Revision
		target := 1 + history.Revision(rnd.Int64N(int64(last)))
		base := emptyBase(t)
		for range 3 {
			for _, keep := range []bool{false, true} {
				m := replayed(t, base, l.segments(rnd, history.Range{First: 2, Last: last}), target, keep)
				if !slices.Equal(m.content(t).records(), l.wantRecords(floorOf(base.Info), target, keep)) {
					t.Fatalf("base %d, target %d, history %v: other records", base.Info.Revision, target, keep)
				}
			}
			// Once more from further on: sometimes with its history, sometimes compacted.
			if on := base.Info.Revision + history.Revision(rnd.Int64N(int64(last-base.Info.Revision)+1)); on > target && rnd.IntN(2) == 0 || on <= target {
				base = replayed(t, base, l.segments(rnd, history.Range{First: 2, Last: last}), on, on > target || rnd.IntN(2) == 0).Base
			}
		}
	}
}

func randomLine(rnd *rand.Rand) (l line) {
	keys, revision := 1+rnd.IntN(200), history.Revision(1)
	live := map[string]history.Event{}
	for range 20 + rnd.IntN(500) {
		revision++
		for sub, n := range rnd.Perm(keys)[:1+rnd.IntN(min(keys, 6))] {
			key := fmt.Sprint("key-", n)
			e := live[key]
			if e.Version > 0 && rnd.IntN(4) == 0 {
				delete(live, key)
				l = append(l, remove(revision, int64(sub), key))
				continue
			}
			if e.Version == 0 {
				e = history.Event{Key: []byte(key), CreateRevision: revision}
			}
			e.Revision, e.Sub, e.Version, e.Lease = revision, int64(sub), e.Version+1, int64(rnd.IntN(3))
			e.Value = bytes.Repeat([]byte{byte(n)}, rnd.IntN(1<<rnd.IntN(14)))
			live[key] = e
			l = append(l, e)
		}
	}
	return l
}
