package segment

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-project/holdfast/internal/history"
)

// FuzzReader reads any bytes as a segment, with the sum that they should have or with their own. Whatever comes: no panic,
// an error of a known class. What is found whole has the one form that there is: written again, by a Builder or a merge,
// it has the same bytes.
func FuzzReader(f *testing.F) {
	f.Add(smallSegment(f), false)
	for seed := range uint64(6) {
		r := newRandom(f, seed)
		r.revisions = 1 + int(seed)*2
		l := r.live()
		segment, _ := encoded(f, builder(f, l.batches), l.leases)
		f.Add(segment, seed%2 == 0)
	}
	fixtures, err := filepath.Glob("testdata/v1-*.seg")
	must(f, err)
	for _, name := range fixtures {
		segment, err := os.ReadFile(name)
		must(f, err)
		if len(segment) < 10_000 {
			f.Add(segment, true)
		}
	}
	f.Fuzz(func(t *testing.T, segment []byte, summed bool) {
		if summed && len(segment) >= footerSize {
			segment = resum(refooted(segment))
		}
		events, r, err := readAll(bytes.NewReader(segment), int64(len(segment)))
		if err != nil {
			known(t, "Reader", err)
			return
		}
		if again := rebuilt(t, r.Head(), events); !bytes.Equal(segment, again) {
			t.Fatalf("it is written again as other bytes:\n%x\n%x", segment, again)
		}
		if again, _ := merged(t, segment); !bytes.Equal(segment, again) {
			t.Fatalf("it is merged as other bytes:\n%x\n%x", segment, again)
		}
	})
}

// refooted counts the events anew, if they can be read, so that the fuzzer gets past the footer.
func refooted(segment []byte) []byte {
	start := len(segment) - footerSize
	r, err := NewReader(bytes.NewReader(segment), int64(len(segment)))
	if err != nil {
		return segment
	}
	for r.events < r.head.Events {
		if _, err := r.Next(); err != nil {
			return segment
		}
	}
	counts := bytesOf(uint64(r.events), uint64(r.keyBytes), uint64(r.valueBytes))
	return append(bytes.Clone(segment[:start]), counts[len(counts)-footerSize:]...)
}

// rebuilt gives a Builder what was read.
func rebuilt(t *testing.T, head Head, events []history.Event) []byte {
	t.Helper()
	events = slices.Clone(events)
	slices.SortFunc(events, byRevision)
	b := NewBuilder()
	for s := range head.Times.All() {
		n := 0
		for n < len(events) && events[n].Revision <= s.Last {
			n++
		}
		must(t, b.Add(events[:n], s.From, s.To))
		events = events[n:]
	}
	again, _ := encoded(t, b, head.Leases)
	return again
}
