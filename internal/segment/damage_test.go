package segment

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/holdfast-project/holdfast/internal/history"
)

const secret = "TOPSECRET"

// small is a history that has everything, in few bytes.
func small() line {
	key := func(s string) []byte { return []byte(secret + s) }
	events := []history.Event{
		{Revision: 100, Key: key("/a"), CreateRevision: 40, Version: 7, Value: []byte(secret)},
		{Revision: 101, Key: key("/b"), CreateRevision: 101, Version: 1, Lease: 5},
		{Revision: 101, Sub: 1, Key: key("/a"), CreateRevision: 40, Version: 8, Value: []byte(secret), Lease: 300},
		{Revision: 101, Sub: 2, Key: key("/c/d"), Tombstone: true},
		{Revision: 102, Key: key("/a"), Tombstone: true},
		{Revision: 103, Key: key("/a"), CreateRevision: 103, Version: 1, Value: []byte("x\x00\n\xff")},
		{Revision: 104, Key: key("/a"), CreateRevision: 103, Version: 2, Lease: 5},
	}
	at := day.Add(3000)
	return line{
		batches: []batch{{events[:1], day, day}, {events[1:4], day, at}, {events[4:], at, at.Add(1e9)}},
		leases:  []history.Lease{{ID: 5, TTL: 60}, {ID: 300}},
	}
}

func smallSegment(t testing.TB) []byte {
	t.Helper()
	l := small()
	segment, _ := encoded(t, builder(t, l.batches), l.leases)
	return segment
}

// wantRefused wants an error of a documented class, which tells no key and no value.
func wantRefused(t *testing.T, what string, segment []byte, size int64) error {
	t.Helper()
	_, r, err := readAll(bytes.NewReader(segment), size)
	if err == nil {
		t.Errorf("%s: nothing is said", what)
		return nil
	}
	known(t, what, err)
	if r != nil {
		if _, again := r.Next(); again == nil || again.Error() != err.Error() {
			t.Errorf("%s: first %v, then %v", what, err, again)
		}
		if s := r.Summary(); s.Size != 0 {
			t.Errorf("%s: there is a summary all the same", what)
		}
	}
	return err
}

// known wants an error of a class that this package documents for bad segments.
func known(t *testing.T, what string, err error) {
	t.Helper()
	c, ok := errors.AsType[*Corrupt](err)
	if ok && (!errors.Is(err, ErrCorrupt) || c.Offset < 0 || len(c.Error()) > 300) {
		t.Errorf("%s: odd error %+v: %v", what, c, err)
	}
	if !ok && !errors.Is(err, ErrVersion) {
		t.Errorf("%s: an error of no known class: %v", what, err)
	}
	if strings.Contains(err.Error(), secret[:3]) {
		t.Errorf("%s: the error tells a secret: %v", what, err)
	}
}

func TestCutAtEveryByte(t *testing.T) {
	segment := smallSegment(t)
	for n := range segment {
		for _, size := range []int{len(segment), n} {
			err := wantRefused(t, fmt.Sprintf("cut to %d bytes of %d", n, size), segment[:n], int64(size))
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("cut to %d bytes of %d: %v", n, size, err)
			}
		}
	}
}

func TestFlipEveryBit(t *testing.T) {
	segment := smallSegment(t)
	for at := range segment {
		for bit := range 8 {
			bad := bytes.Clone(segment)
			bad[at] ^= 1 << bit
			what := fmt.Sprintf("byte %d bit %d", at, bit)
			err := wantRefused(t, what, bad, int64(len(bad)))
			newer := at == len(magic) && bit > 0
			if newer == errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: %v", what, err)
			}
			if at < len(segment)-footerSize {
				// With a sum that fits, such a segment is another one, or refused for what it says. FuzzReader wants
				// that it is written again as it was.
				bad = resum(bad)
				if _, _, err := readAll(bytes.NewReader(bad), int64(len(bad))); err != nil {
					known(t, what, err)
				}
			}
		}
	}
}

// resum puts the right sum at the end.
func resum(segment []byte) []byte {
	at := len(segment) - sha256.Size
	sum := sha256.Sum256(segment[:at])
	return append(bytes.Clone(segment[:at]), sum[:]...)
}

func TestMoreAndLess(t *testing.T) {
	segment := smallSegment(t)
	for name, bad := range map[string][]byte{
		"one byte more":  append(bytes.Clone(segment), 0),
		"many more":      append(bytes.Clone(segment), make([]byte, 1<<20)...),
		"twice":          slices.Concat(segment, segment),
		"another before": slices.Concat([]byte{0}, segment),
		"nothing":        nil,
		"zeros":          make([]byte, 500),
		"other magic":    slices.Concat([]byte("HF-SEG\n"), segment[len(magic):]),
	} {
		for _, size := range []int{len(segment), len(bad)} {
			if err := wantRefused(t, name, bad, int64(size)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, size %d: %v", name, size, err)
			}
		}
	}
	for _, size := range []int64{math.MinInt64, -1, 0, 1, int64(len(segment)) - 1, int64(len(segment)) + 1, 1 << 40, math.MaxInt64} {
		if err := wantRefused(t, "a wrong size", segment, size); !errors.Is(err, ErrCorrupt) {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

func TestNewerVersion(t *testing.T) {
	segment := smallSegment(t)
	for v, want := range map[byte]error{0: ErrCorrupt, 2: ErrVersion, 255: ErrVersion} {
		segment[len(magic)] = v
		if err := wantRefused(t, "version", segment, int64(len(segment))); !errors.Is(err, want) {
			t.Errorf("version %d: want %v, got %v", v, want, err)
		}
	}
}

// bytesOf makes a segment of numbers and strings, with the right magic and footer, so that only what is between them is
// wrong.
func bytesOf(events, keys, values uint64, parts ...any) []byte {
	b := append([]byte(magic), version)
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = binary.AppendUvarint(b, uint64(p))
		case uint64:
			b = binary.AppendUvarint(b, p)
		case string:
			b = append(b, p...)
		}
	}
	for _, v := range []uint64{events, keys, values} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return resum(append(b, make([]byte, sha256.Size)...))
}

// TestWritten has one event, written by hand from the documentation, that is right; then what is wrong in it.
func TestWritten(t *testing.T) {
	const top = uint64(math.MaxUint64)
	good := bytesOf(2, 2, 3, 9, 1, 2, 1, 14, 60, 1, 3, 1000, 5, "\x18", 0, 1, "k", 0, 0, 3, "val", "\x03", 0)
	events, s := decoded(t, good)
	equalEvents(t, []history.Event{
		{Revision: 9, Key: []byte("k"), CreateRevision: 9, Version: 1, Lease: 7, Value: []byte("val")},
		{Revision: 10, Key: []byte("k"), Tombstone: true},
	}, events)
	if spans := s.Times.Spans(); len(spans) != 1 || spans[0].From.UnixMilli() != 1000 || spans[0].To.UnixMilli() != 1005 || spans[0].Len() != 2 {
		t.Errorf("spans %v", spans)
	}
	for _, tt := range []struct {
		want  string
		bytes []byte
	}{
		{"first revision is 0", bytesOf(1, 1, 0, 0, 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"first revision is impossible", bytesOf(1, 1, 0, top, 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"last revision is impossible", bytesOf(1, 1, 0, 2, math.MaxInt64, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"number of events is impossible", bytesOf(1, 1, 0, 2, 0, top, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"more events than it has room for", bytesOf(1, 1, 0, 2, 0, 100, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"fewer events than revisions", bytesOf(1, 1, 0, 2, 1, 1, 0, 1, 2, 0, "\x01", 0, 1, "k", 0)},
		{"fewer events than revisions", bytesOf(1, 1, 0, 1, math.MaxInt64-1, 1, 0, 1, 2, 0, "\x01", 0, 1, "k", 0)},
		{"more leases than events", bytesOf(1, 1, 0, 2, 0, 1, 2, 14, 0, 1, 0, 1, 0, 0, "\x09", 0, 1, "k", 0, 0, 0)},
		{"a lease is 0", bytesOf(1, 1, 0, 2, 0, 1, 1, 0, 0, 1, 0, 0, "\x18", 0, 1, "k", 0, 0, 0)},
		{"a lease is there twice", bytesOf(2, 2, 0, 2, 0, 2, 2, 14, 0, 0, 0, 1, 0, 0, "\x18", 0, 1, "k", 0, 0, 0)},
		{"a lease is beyond", bytesOf(2, 2, 0, 2, 0, 2, 2, 14, 0, uint64(math.MaxInt64-6), 0, 1, 0, 0, "\x18", 0, 1, "k", 0, 0, 0)},
		{"a TTL is impossible", bytesOf(1, 1, 0, 2, 0, 1, 1, 14, top, 1, 0, 0, "\x18", 0, 1, "k", 0, 0, 0)},
		{"lease 0 of its table is of no event", bytesOf(1, 1, 0, 2, 0, 1, 1, 14, 0, 1, 0, 0, "\x10", 0, 1, "k", 0, 0)},
		{"a lease that is not in the table", bytesOf(1, 1, 0, 2, 0, 1, 1, 14, 0, 1, 0, 0, "\x18", 0, 1, "k", 0, 1, 0)},
		{"revisions without a time", bytesOf(1, 1, 0, 2, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"more spans than revisions", bytesOf(1, 1, 0, 2, 0, 1, 0, 2, 0, 0, 0, 1, "\x01", 0, 1, "k", 0)},
		{"spans of more revisions", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 2, 0, "\x01", 0, 1, "k", 0)},
		{"spans of more revisions", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, top, 0, 1, "\x01", 0, 1, "k", 0)},
		{"an inexact span has one time", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 1, 5, 0, "\x01", 0, 1, "k", 0)},
		{"two spans have the same times", bytesOf(2, 2, 0, 2, 1, 2, 0, 2, 0, 5, 0, 0, "\x01", 0, 1, "k", 0, "\x03", 0)},
		{"times go down", bytesOf(2, 2, 0, 2, 1, 2, 0, 2, 1, 5, 9, 1, 1, 7, "\x01", 0, 1, "k", 0, "\x03", 0)},
		{"a span starts too late", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, maxMillis+1, "\x01", 0, 1, "k", 0)},
		{"a span ends too late", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 1, maxMillis, 1, "\x01", 0, 1, "k", 0)},
		{"unknown flags", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x41", 0, 1, "k", 0)},
		{"a tombstone with the flags of a put", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x11", 0, 1, "k", 0)},
		{"no key before the first", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x03", 0, 0, "k", 0)},
		{"a next version that follows none", bytesOf(2, 2, 0, 2, 1, 2, 0, 1, 2, 0, "\x01", 0, 1, "k", 0, "\x22", 0, 0)},
		{"a next version that follows none", bytesOf(2, 2, 0, 2, 1, 2, 0, 1, 2, 0, "\x10", 0, 1, "k", 0, 0, "\x20", 0, 1, "l", 1, 0)},
		{"a version that its flags should tell", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x00", 0, 1, "k", 0, 0, 0, 0)},
		{"a version that its flags should tell", bytesOf(2, 2, 0, 2, 1, 2, 0, 1, 2, 0, "\x10", 0, 1, "k", 0, 0, "\x02", 0, 1, 1, 0)},
		{"a create revision before all", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x00", 0, 1, "k", 0, 2, 0, 0)},
		{"a version that is impossible", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x00", 0, 1, "k", 0, 1, uint64(math.MaxInt64), 0)},
		{"a key that is not after", bytesOf(1, 0, 0, 2, 0, 1, 0, 1, 0, 0, "\x01", 0, 0, 0)},
		{"a key that is not after", bytesOf(2, 2, 0, 2, 1, 2, 0, 1, 2, 0, "\x01", 0, 1, "k", 0, "\x01", 0, 1, "k", 1)},
		{"a key that is not after", bytesOf(2, 2, 0, 2, 1, 2, 0, 1, 2, 0, "\x01", 0, 1, "k", 0, "\x01", 0, 1, "j", 1)},
		{"a key that is not after", bytesOf(2, 3, 0, 2, 1, 2, 0, 1, 2, 0, "\x01", 0, 1, "k", 0, "\x01", 0, 2, "kk", 1)},
		{"a key shares more", bytesOf(2, 3, 0, 2, 1, 2, 0, 1, 2, 0, "\x01", 0, 1, "k", 0, "\x01", 2, 1, "k", 1)},
		{"a key that is too long", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x01", 0, 1<<40, "k", 0)},
		{"a value that is too long", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x10", 0, 1, "k", 0, 2)},
		{"a revision after the last", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 1)},
		{"a revision after the last", bytesOf(2, 2, 0, 2, 0, 2, 0, 1, 0, 0, "\x01", 0, 1, "k", 0, "\x03", 0)},
		{"a revision after the last", bytesOf(2, 2, 0, 2, 1, 2, 0, 1, 2, 0, "\x01", 0, 1, "k", 0, "\x03", 1)},
		{"a sub that is too great", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x05", 0, 1, "k", 0, 0)},
		{"a sub that is too great", bytesOf(2, 2, 0, 2, 0, 2, 0, 1, 0, 0, "\x05", 0, 1, "k", 0, top, "\x05", 0, 1, "l", 0, 0)},
		{"revision 2 lacks events", bytesOf(2, 2, 0, 2, 0, 2, 0, 1, 0, 0, "\x01", 0, 1, "k", 0, "\x01", 0, 1, "l", 0)},
		{"revision 2 has no event", bytesOf(2, 2, 0, 2, 1, 2, 0, 1, 2, 0, "\x01", 0, 1, "k", 1, "\x01", 0, 1, "l", 1)},
		{"revision 2 lacks events", bytesOf(2, 2, 0, 2, 0, 2, 0, 1, 0, 0, "\x05", 0, 1, "k", 0, 0, "\x05", 0, 1, "l", 0, 0)},
		{"its footer counts otherwise: want 2, got 1", bytesOf(2, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"its footer counts otherwise: want 2, got 1", bytesOf(1, 2, 0, 2, 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"its footer counts otherwise: want 9, got 0", bytesOf(1, 1, 9, 2, 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"its events do not end where the footer starts", bytesOf(1, 1, 0, 2, 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0, 0)},
		{"a number is longer than it must be", bytesOf(1, 1, 0, "\x82\x00", 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
		{"a number has more than 64 bits", bytesOf(1, 1, 0, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 0, 1, 0, 1, 0, 0, "\x01", 0, 1, "k", 0)},
	} {
		if err := wantRefused(t, tt.want, tt.bytes, int64(len(tt.bytes))); err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want %q, got %v", tt.want, err)
		}
	}
}

// TestSwapped puts two events in the other order, and one in the place of another.
func TestSwapped(t *testing.T) {
	a, b := "\x10\x00\x01a\x00\x01x", "\x10\x00\x01b\x01\x01y"
	parts := func(events ...string) []byte {
		return bytesOf(2, 2, 2, 2, 1, 2, 0, 1, 2, 0, strings.Join(events, ""))
	}
	decoded(t, parts(a, b))
	for _, bad := range [][]byte{parts(b, a), parts(a, a), parts(b, b), parts(a), parts(a, b, b)} {
		if err := wantRefused(t, "swapped", bad, int64(len(bad))); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v", err)
		}
	}
}

// TestSubsAreProven gives a revision subs that have the number, the sum, and the greatest of the right ones.
func TestSubsAreProven(t *testing.T) {
	for _, subs := range [][]uint64{{0}, {3, 1, 0, 2}, {0, 1, 2}} {
		if !proven(subs) {
			t.Errorf("%v are refused", subs)
		}
	}
	for _, subs := range [][]uint64{{}, {1}, {0, 0}, {0, 2}, {0, 0, 3, 3}, {0, 2, 2, 2, 4}, {1, 1, 1, 3, 4, 5}, {0, 1, 2, 4}} {
		if proven(subs) {
			t.Errorf("%v are believed", subs)
		}
	}
}

func proven(subs []uint64) bool {
	c := newContiguity(history.Range{First: 7, Last: 7})
	for _, sub := range subs {
		c.add(0, sub)
	}
	_, _, found := c.hole()
	return !found
}

// TestHostileHeads: little is believed of a few bytes, also where somebody vouched for a great size.
func TestHostileHeads(t *testing.T) {
	const size = 1 << 33
	for name, parts := range map[string][]any{
		"events":  {2, 0, maxEvents, 0, 1, 0, 0, "\x00"},
		"range":   {2, maxEvents - 1, maxEvents, 0, 1, 2 * (maxEvents - 1), 0, "\x00"},
		"leases":  {2, 0, maxEvents, maxEvents, 14},
		"spans":   {2, maxEvents - 1, maxEvents, 0, maxEvents, 0, 1},
		"a key":   {2, 0, 9, 0, 1, 0, 0, "\x00", 0, math.MaxInt32, "k"},
		"a value": {2, 0, 9, 0, 1, 0, 0, "\x10", 0, 1, "k", 0, math.MaxInt32, "v"},
	} {
		bad := bytesOf(1, 1, 1, parts...)
		bad = bad[:len(bad)-footerSize]
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := wantRefused(t, name, bad, size)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		// The list of blocks of the proof is 1/256 of the size that was vouched for at the most.
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<25 {
			t.Errorf("%s: %d bytes were taken", name, got)
		}
	}
}

var errTest = errors.New("the source is gone")

// failing gives errTest after so many bytes.
func failing(segment []byte, n int) io.Reader {
	return io.MultiReader(bytes.NewReader(segment[:n]), iotest.ErrReader(errTest))
}

// TestSourceFails: what a source says is passed on, and is not damage.
func TestSourceFails(t *testing.T) {
	segment := smallSegment(t)
	for n := range len(segment) + 1 {
		_, _, err := readAll(failing(segment, n), int64(len(segment)))
		if !errors.Is(err, errTest) || errors.Is(err, ErrCorrupt) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	if _, _, err := readAll(lazy{}, int64(len(segment))); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a source without bytes: %v", err)
	}
}

type lazy struct{}

func (lazy) Read([]byte) (int, error) { return 0, nil }

// limited takes so many bytes and then fails, or takes only a part of what it is given without saying why.
type limited struct {
	left  int
	short bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(l.left, len(p))
	l.left -= n
	if n < len(p) && !l.short {
		return n, errTest
	}
	return n, nil
}

func TestDestinationFails(t *testing.T) {
	r := newRandom(t, 3)
	r.big, r.revisions = true, 300
	l := r.live()
	b := builder(t, l.batches)
	segment, _ := encoded(t, b, l.leases)
	for _, short := range []bool{false, true} {
		want := errTest
		if short {
			want = io.ErrShortWrite
		}
		for left := 0; left < len(segment); left += 1 + len(segment)/20 {
			if s, err := b.Encode(&limited{left, short}, l.leases); !errors.Is(err, want) || s.Size != 0 {
				t.Errorf("Encode after %d bytes: %v", left, err)
			}
			input, err := NewReader(bytes.NewReader(segment), int64(len(segment)))
			must(t, err)
			if s, err := Merge(&limited{left, short}, []*Reader{input}); !errors.Is(err, want) || s.Size != 0 {
				t.Errorf("Merge after %d bytes: %v", left, err)
			}
		}
	}
}
