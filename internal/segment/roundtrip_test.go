package segment

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
)

func TestRoundTrip(t *testing.T) {
	for seed := range uint64(150) {
		r := newRandom(t, seed)
		if seed%50 == 0 {
			r.big, r.revisions = true, 500
		}
		l := r.live()
		checkRoundTrip(t, l)
	}
}

// checkRoundTrip writes and reads a history, and compares all that is told of it with what can be counted.
func checkRoundTrip(t *testing.T, l line) {
	t.Helper()
	b, all := builder(t, l.batches), l.events()
	segment, written := encoded(t, b, l.leases)
	got, read := decoded(t, segment)
	equalEvents(t, sortedEvents(all), got)
	equalSummaries(t, written, read)

	want := Summary{
		Head: Head{Range: history.Range{First: all[0].Revision, Last: all[len(all)-1].Revision}, Events: int64(len(all)), Times: written.Times},
		Size: int64(len(segment)), SHA256: sha256.Sum256(segment),
	}
	ttls := map[int64]int64{}
	for _, lease := range l.leases {
		ttls[lease.ID] = lease.TTL
	}
	for _, id := range b.LeaseIDs() {
		want.Leases = append(want.Leases, history.Lease{ID: id, TTL: ttls[id]})
	}
	for _, e := range all {
		want.KeyBytes, want.ValueBytes = want.KeyBytes+int64(len(e.Key)), want.ValueBytes+int64(len(e.Value))
		if e.Lease != 0 && !slices.Contains(b.LeaseIDs(), e.Lease) {
			t.Fatalf("lease %x is missing", e.Lease)
		}
	}
	equalSummaries(t, want, written)
	if b.Range() != want.Range || b.Events() != len(all) || b.Size() < want.KeyBytes+want.ValueBytes {
		t.Fatalf("the builder says %v, %d events, %d bytes", b.Range(), b.Events(), b.Size())
	}
	checkTimes(t, l, read.Head)

	again, _ := encoded(t, b, l.leases)
	if !bytes.Equal(segment, again) {
		t.Fatal("a second Encode writes other bytes")
	}
	slow := iotest.DataErrReader(bytes.NewReader(segment))
	if len(segment) < 100_000 {
		slow = iotest.OneByteReader(slow)
	}
	got, _, err := readAll(slow, int64(len(segment)))
	must(t, err)
	equalEvents(t, sortedEvents(all), got)
}

// checkTimes wants spans that cover the range, go up, and say no less than what Add was told.
func checkTimes(t *testing.T, l line, head Head) {
	t.Helper()
	spans := head.Times.Spans()
	if len(spans) != head.Times.Len() || spans[0].First != head.First || spans[len(spans)-1].Last != head.Last {
		t.Fatalf("the spans are %v of %v", spans, head.Range)
	}
	for i, s := range spans {
		if s.Len() < 1 || s.From.After(s.To) || s.From.Location() != time.UTC || s.From.Nanosecond()%1e6 != 0 {
			t.Fatalf("odd span %v", s)
		}
		if i == 0 {
			continue
		}
		if p := spans[i-1]; s.First != p.Last+1 || s.From.Before(p.From) || s.To.Before(p.To) || s.From.Equal(p.From) && s.To.Equal(p.To) {
			t.Fatalf("span %v after %v", s, p)
		}
	}
	for _, b := range l.batches {
		for _, e := range b.events {
			if e.Sub > 0 {
				continue
			}
			i := slices.IndexFunc(spans, func(s history.Span) bool { return s.Contains(e.Revision) })
			if s := spans[i]; s.To.Before(b.to.Truncate(time.Millisecond)) || b.from.Equal(b.to) && !s.Exact() {
				t.Fatalf("revision %d came %v to %v, its span says %v to %v", e.Revision, b.from, b.to, s.From, s.To)
			}
		}
	}
}

// TestOrder: the bytes decide, not the text, and versions of a key follow each other.
func TestOrder(t *testing.T) {
	var events []history.Event
	keys := []string{"b", "a\x00", "a", "\xff", "a\x00\x00", "a/b", "ab", "\x00", "a\xff", "aaaaaaaaaaaaaaaaaa\x00", "aaaaaaaaaaaaaaaaaa"}
	for i := range 2 * len(keys) {
		rev := history.Revision(i + 5)
		events = append(events, history.Event{Revision: rev, Key: []byte(keys[i%len(keys)]), CreateRevision: rev, Version: 1})
	}
	segment, _ := encoded(t, builder(t, []batch{{events, day, day}}), nil)
	got, _ := decoded(t, segment)
	equalEvents(t, sortedEvents(events), got)
}

// TestOddFields has what no sane cluster makes, and what must be kept all the same.
func TestOddFields(t *testing.T) {
	const top = math.MaxInt64
	key := []byte("k")
	events := []history.Event{
		{Revision: top - 5, Key: key, CreateRevision: 1, Version: top - 1, Lease: math.MinInt64},
		{Revision: top - 4, Key: key, CreateRevision: 1, Version: top, Lease: -1},
		{Revision: top - 3, Key: key, CreateRevision: 1, Version: 1, Lease: 1},
		{Revision: top - 2, Key: key, CreateRevision: top - 2, Version: 2, Lease: top},
		{Revision: top - 1, Key: key, CreateRevision: 2, Version: 3, Value: key},
		{Revision: top, Key: key, Tombstone: true},
		{Revision: top, Sub: 1, Key: []byte("l"), Tombstone: true},
	}
	leases := []history.Lease{{ID: -1, TTL: -4}, {ID: 1, TTL: top}, {ID: 77, TTL: 1}, {ID: 1, TTL: 5}}
	b := builder(t, []batch{{events, time.Time{}, time.Time{}}})
	if err := b.Add([]history.Event{{Revision: math.MinInt64, Key: key, Tombstone: true}}, day, day); !errors.Is(err, ErrImpossible) {
		t.Errorf("after the greatest revision: %v", err)
	}
	segment, _ := encoded(t, b, leases)
	got, s := decoded(t, segment)
	equalEvents(t, events, got)
	want := []history.Lease{{ID: math.MinInt64}, {ID: -1}, {ID: 1, TTL: top}, {ID: top}}
	if diff := cmp.Diff(want, s.Leases); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	if at := s.Times.Spans()[0].From; !at.Equal(time.Unix(0, 0)) {
		t.Errorf("a time before 1970 becomes %v", at)
	}
}

func put(revision history.Revision, sub int64, key string) history.Event {
	return history.Event{Revision: revision, Sub: sub, Key: []byte(key), CreateRevision: revision, Version: 1}
}

func TestAddRefuses(t *testing.T) {
	with := func(change func(*history.Event)) []history.Event {
		e := put(12, 0, "x")
		change(&e)
		return []history.Event{e}
	}
	for name, tt := range map[string]struct {
		events []history.Event
		want   error
	}{
		"a hole":                  {[]history.Event{put(13, 0, "a")}, ErrDiscontinuous},
		"a repeat":                {[]history.Event{put(11, 0, "a")}, ErrDiscontinuous},
		"the rest of a revision":  {[]history.Event{put(11, 1, "c")}, ErrDiscontinuous},
		"no first sub":            {[]history.Event{put(12, 1, "a")}, ErrDiscontinuous},
		"a hole inside":           {[]history.Event{put(12, 0, "a"), put(14, 0, "b")}, ErrDiscontinuous},
		"a step back":             {[]history.Event{put(12, 0, "a"), put(11, 0, "b")}, ErrDiscontinuous},
		"a sub twice":             {[]history.Event{put(12, 0, "a"), put(12, 0, "b")}, ErrDiscontinuous},
		"a sub that is missing":   {[]history.Event{put(12, 0, "a"), put(12, 2, "b")}, ErrDiscontinuous},
		"no sub 0 later":          {[]history.Event{put(12, 0, "a"), put(13, 1, "b")}, ErrDiscontinuous},
		"a key twice":             {[]history.Event{put(12, 0, "a"), put(12, 1, "b"), put(12, 2, "a")}, ErrImpossible},
		"a key twice, not last":   {[]history.Event{put(12, 0, "a"), put(12, 1, "a"), put(13, 0, "a")}, ErrImpossible},
		"no key":                  {with(func(e *history.Event) { e.Key = nil }), ErrImpossible},
		"no version":              {with(func(e *history.Event) { e.Version = 0 }), ErrImpossible},
		"no create revision":      {with(func(e *history.Event) { e.CreateRevision = 0 }), ErrImpossible},
		"created later":           {with(func(e *history.Event) { e.CreateRevision = 13 }), ErrImpossible},
		"a tombstone with fields": {with(func(e *history.Event) { e.Tombstone = true }), ErrImpossible},
		"a tombstone with a value": {with(func(e *history.Event) {
			*e = history.Event{Revision: 12, Key: e.Key, Tombstone: true, Value: e.Key}
		}), ErrImpossible},
	} {
		t.Run(name, func(t *testing.T) {
			b := builder(t, []batch{{[]history.Event{put(10, 0, "a"), put(11, 0, "b")}, day, day}})
			before, _ := encoded(t, b, nil)
			if err := b.Add(tt.events, day.Add(time.Hour), day.Add(time.Hour)); !errors.Is(err, tt.want) {
				t.Errorf("want %v, got %v", tt.want, err)
			}
			if after, _ := encoded(t, b, nil); !bytes.Equal(before, after) {
				t.Error("something was added")
			}
			must(t, b.Add([]history.Event{put(12, 0, "a")}, day, day))
		})
	}
	if err := NewBuilder().Add([]history.Event{put(0, 0, "a")}, day, day); !errors.Is(err, ErrImpossible) {
		t.Errorf("revision 0 gives %v", err)
	}
}

func TestEmptyAndReset(t *testing.T) {
	b := NewBuilder()
	must(t, b.Add(nil, day, day))
	if _, err := b.Encode(new(bytes.Buffer), nil); err == nil || b.Size() != 0 || b.Range().Len() != 0 || b.LeaseIDs() != nil {
		t.Errorf("an empty builder: %v, %d bytes, range %v, leases %v", err, b.Size(), b.Range(), b.LeaseIDs())
	}
	for seed := range uint64(30) {
		l := newRandom(t, seed).live()
		for _, x := range l.batches {
			must(t, b.Add(x.events, x.from, x.to))
		}
		got, _ := encoded(t, b, l.leases)
		if want, _ := encoded(t, builder(t, l.batches), l.leases); !bytes.Equal(want, got) {
			t.Fatal("a builder that was used before writes other bytes")
		}
		b.Reset()
		if b.Size() != 0 || b.Events() != 0 || b.Range() != (history.Range{}) {
			t.Fatalf("after Reset: %d bytes, %d events, range %v", b.Size(), b.Events(), b.Range())
		}
	}
}

// TestCopies changes what Add was given.
func TestCopies(t *testing.T) {
	key, value := []byte("key"), []byte("value")
	b := builder(t, []batch{{[]history.Event{{Revision: 1, Key: key, Value: value, CreateRevision: 1, Version: 1}}, day, day}})
	copy(key, "xxx")
	copy(value, "xxxxx")
	segment, _ := encoded(t, b, nil)
	got, _ := decoded(t, segment)
	if string(got[0].Key) != "key" || string(got[0].Value) != "value" {
		t.Errorf("got %q: %q", got[0].Key, got[0].Value)
	}
}
