package segment

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
)

// open makes Readers of segments.
func open(t testing.TB, segments ...[]byte) (inputs []*Reader) {
	t.Helper()
	for _, s := range segments {
		r, err := NewReader(bytes.NewReader(s), int64(len(s)))
		must(t, err)
		inputs = append(inputs, r)
	}
	return inputs
}

func merged(t testing.TB, segments ...[]byte) ([]byte, Summary) {
	t.Helper()
	var out bytes.Buffer
	s, err := Merge(&out, open(t, segments...))
	must(t, err)
	return out.Bytes(), s
}

// split writes a history as up to n segments.
func split(t testing.TB, r *random, l line, n int) (parts [][]byte) {
	t.Helper()
	cuts := []int{0, len(l.batches)}
	for range n - 1 {
		cuts = append(cuts, r.IntN(len(l.batches)))
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for i := range cuts[1:] {
		part, _ := encoded(t, builder(t, l.batches[cuts[i]:cuts[i+1]]), l.leases)
		parts = append(parts, part)
	}
	return parts
}

// TestMergeIsOneBuild: whichever way a history is cut, and the parts merged in whatever order and steps, the bytes are
// those of one Builder.
func TestMergeIsOneBuild(t *testing.T) {
	for seed := range uint64(100) {
		r := newRandom(t, seed)
		if seed%50 == 0 {
			r.big, r.revisions = true, 300
		}
		l := r.live()
		want, summary := encoded(t, builder(t, l.batches), l.leases)
		parts := split(t, r, l, 1+r.IntN(12))

		shuffled := slices.Clone(parts)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got, s := merged(t, shuffled...)
		if !bytes.Equal(want, got) {
			t.Fatalf("seed %d: %d parts merged have other bytes", seed, len(parts))
		}
		equalSummaries(t, summary, s)

		middle := r.IntN(len(parts))
		var steps [][]byte
		for _, some := range [][][]byte{parts[:middle], parts[middle:]} {
			if len(some) > 0 {
				step, _ := merged(t, some...)
				steps = append(steps, step)
			}
		}
		if got, _ := merged(t, steps...); !bytes.Equal(want, got) {
			t.Fatalf("seed %d: merged in two steps at %d of %d it has other bytes", seed, middle, len(parts))
		}
	}
}

func TestMergeLeasesAndTimes(t *testing.T) {
	part := func(revision history.Revision, at time.Duration, leases ...history.Lease) []byte {
		var events []history.Event
		for i, l := range leases {
			e := put(revision, int64(i), string(rune('a'+i)))
			e.Lease = l.ID
			events = append(events, e)
		}
		s, _ := encoded(t, builder(t, []batch{{events, day.Add(at), day.Add(at)}}), leases)
		return s
	}
	_, s := merged(t,
		part(7, 3*time.Second, history.Lease{ID: 1, TTL: 10}, history.Lease{ID: 2}, history.Lease{ID: 3, TTL: 30}),
		part(8, time.Second, history.Lease{ID: 1}, history.Lease{ID: 2, TTL: 20}, history.Lease{ID: 3, TTL: 31}),
		part(9, 4*time.Second, history.Lease{ID: -9}, history.Lease{ID: 1}),
	)
	wantLeases := []history.Lease{{ID: -9}, {ID: 1, TTL: 10}, {ID: 2, TTL: 20}, {ID: 3, TTL: 31}}
	if diff := cmp.Diff(wantLeases, s.Leases); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	at := func(first, last history.Revision, after time.Duration) history.Span {
		return history.Span{Range: history.Range{First: first, Last: last}, From: day.Add(after), To: day.Add(after)}
	}
	if diff := cmp.Diff([]history.Span{at(7, 8, 3*time.Second), at(9, 9, 4*time.Second)}, s.Times.Spans()); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}

func TestMergeRefuses(t *testing.T) {
	l := line{}
	for rev := range history.Revision(9) {
		l.batches = append(l.batches, batch{[]history.Event{put(rev+1, 0, "k")}, day, day})
	}
	part := func(first, last int) []byte {
		s, _ := encoded(t, builder(t, l.batches[first-1:last]), nil)
		return s
	}
	refused := func(what string, want error, inputs ...*Reader) {
		t.Helper()
		var out bytes.Buffer
		if s, err := Merge(&out, inputs); err == nil || want != nil && !errors.Is(err, want) || s.Size != 0 || out.Len() > 0 {
			t.Errorf("%s: want %v, got %v; %d bytes", what, want, err, out.Len())
		}
	}
	refused("nothing", nil)
	refused("a hole", ErrApart, open(t, part(1, 3), part(5, 6))...)
	refused("an overlap", ErrApart, open(t, part(1, 3), part(3, 6))...)
	refused("one inside another", ErrApart, open(t, part(1, 9), part(3, 4))...)
	refused("one twice", ErrApart, open(t, part(1, 3), part(1, 3))...)
	used := open(t, part(1, 3), part(4, 6))
	_, err := used[1].Next()
	must(t, err)
	refused("one that was begun", nil, used...)
	if in := open(t, part(4, 6), part(1, 3)); true {
		order := slices.Clone(in)
		_, err := Merge(io.Discard, in)
		must(t, err)
		if !slices.Equal(in, order) {
			t.Error("the order of the inputs was changed")
		}
		refused("those that were read", nil, in...)
	}
}

// TestMergeOfDamage cuts and flips one of two inputs: the error is that of the input, and there is no summary.
func TestMergeOfDamage(t *testing.T) {
	l := small()
	first, _ := encoded(t, builder(t, l.batches[:1]), l.leases)
	second, _ := encoded(t, builder(t, l.batches[1:]), l.leases)
	merged(t, first, second)
	try := func(what string, src io.Reader, want error) {
		t.Helper()
		r, err := NewReader(src, int64(len(second)))
		if err == nil {
			var s Summary
			s, err = Merge(io.Discard, append(open(t, first), r))
			if s.Size != 0 {
				t.Errorf("%s: there is a summary", what)
			}
		}
		if !errors.Is(err, want) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrApart) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for at := range second {
		try("cut", bytes.NewReader(second[:at]), ErrCorrupt)
		try("source", failing(second, at), errTest)
		bad := bytes.Clone(second)
		bad[at] ^= 1 << (at % 8)
		try("flip", bytes.NewReader(bad), ErrCorrupt)
	}
}
