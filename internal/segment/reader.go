package segment

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Reader gives the events of a segment, and checks all of it.
type Reader struct {
	in      *input
	head    Head
	used    []bool // which leases of the table events refer to
	proof   contiguity
	before  previous
	summary Summary

	events               int64 // that came
	keyBytes, valueBytes int64
}

// NewReader reads the head. Size is that of the plain segment as whoever vouches for it says, in bytes: it bounds what is
// believed of the head. An error is an ErrCorrupt, an ErrVersion, or that of the source.
//
// Events that were read before an error or io.EOF are checked for themselves, and nothing else is: only io.EOF says that
// they are what was written, and all of it.
func NewReader(r io.Reader, size int64) (*Reader, error) {
	if size < 0 || size == math.MaxInt64 {
		return nil, &Corrupt{What: "its promised size is impossible", Want: "a size", Got: strconv.FormatInt(size, 10)}
	}
	s := &Reader{in: newInput(r, size)}
	s.readHead()
	if s.in.err != nil {
		return nil, s.in.err
	}
	s.proof = newContiguity(s.head.Range)
	return s, nil
}

// Head is what the segment says of itself. It is checked for itself; that events agree with it is known after io.EOF. The
// leases are the Reader's and must not be changed.
func (r *Reader) Head() Head { return r.head }

// Summary is what is known after Next gave io.EOF; before that it is zero.
func (r *Reader) Summary() Summary { return r.summary }

// Next gives the next event: sorted by key, then by revision. Its Key and Value are valid until the next call, and must
// not be changed. io.EOF comes when all events were given, and counts, sum, end of input, leases, and that no revision
// lacks an event, were checked. Each error is for good. It is an ErrCorrupt, or that of the source.
func (r *Reader) Next() (history.Event, error) {
	if r.in.err == nil && r.events == r.head.Events {
		r.readFooter()
	}
	if r.in.err != nil {
		return history.Event{}, r.in.err
	}
	e := r.readEvent()
	if r.in.err != nil {
		return history.Event{}, r.in.err
	}
	return e, nil
}

func (r *Reader) readHead() {
	in, h := r.in, &r.head
	if start := in.bytes(len(magic)); in.err == nil && string(start) != magic {
		in.at = 0
		in.corrupt("it does not start as a segment")
	}
	switch v := in.byte(); {
	case in.err == nil && v == 0:
		in.corrupt("its version is 0")
	case in.err == nil && v > version:
		in.fail(fmt.Errorf("read segment: %w: want version %d, got %d", ErrVersion, version, v))
	}
	h.First = history.Revision(in.int64("its first revision is impossible"))
	if in.err == nil && h.First == 0 {
		in.corrupt("its first revision is 0")
	}
	h.Last = h.First + history.Revision(in.uvarint(uint64(math.MaxInt64-h.First), "its last revision is impossible"))
	h.Events = in.int64("its number of events is impossible")
	switch {
	case in.err != nil:
	case h.Events > maxEvents || h.Events > in.left()/minEvent:
		in.fail(differs("more events than it has room for", in.offset(), min(maxEvents, in.left()/minEvent), h.Events))
	case int64(h.Last-h.First) >= h.Events: // Len might overflow
		in.fail(differs("fewer events than revisions", in.offset(), int64(h.Last-h.First), h.Events))
	}
	r.readLeases()
	r.readTimes()
}

func (r *Reader) readLeases() {
	in := r.in
	count := in.uvarint(uint64(r.head.Events), "more leases than events")
	var before int64
	for i := range count {
		lease := history.Lease{}
		if i == 0 {
			lease.ID = in.zigzag()
		} else {
			// The distance to the greatest number fits into 64 bits, whatever the sign is.
			step := in.uvarint(uint64(math.MaxInt64)-uint64(before), "a lease is beyond all numbers")
			if in.err == nil && step == 0 {
				in.corrupt("a lease is there twice")
			}
			lease.ID = int64(uint64(before) + step)
		}
		lease.TTL = in.int64("a TTL is impossible")
		if in.err == nil && lease.ID == 0 {
			in.corrupt("a lease is 0")
		}
		if in.err != nil {
			return
		}
		r.head.Leases = append(r.head.Leases, lease)
		before = lease.ID
	}
	r.used = make([]bool, count)
}

func (r *Reader) readTimes() {
	in, length := r.in, uint64(r.head.Last-r.head.First)+1
	var p packer
	var before run
	count := in.uvarint(length, "more spans than revisions")
	left := length
	for range count {
		n := in.uvarint(math.MaxUint64, "")
		s := run{length: n>>1 + 1}
		s.from = before.from + int64(in.uvarint(uint64(maxMillis-before.from), "a span starts too late"))
		s.to = s.from
		if n&1 != 0 {
			s.to += int64(in.uvarint(uint64(maxMillis-s.from), "a span ends too late"))
		}
		if in.err != nil {
			return
		}
		switch {
		case s.length > left:
			in.corrupt("spans of more revisions than there are")
		case n&1 != 0 && s.to == s.from:
			in.corrupt("an inexact span has one time")
		case s.to < before.to:
			in.corrupt("times go down")
		case before.length > 0 && s.from == before.from && s.to == before.to:
			in.corrupt("two spans have the same times")
		}
		if in.err != nil {
			return
		}
		p.add(r.head.First, s.length, s.from, s.to)
		left -= s.length
		before = s
	}
	if in.err == nil && left > 0 {
		in.corrupt("revisions without a time")
	}
	r.head.Times = p.times()
}

func (r *Reader) readEvent() history.Event {
	in, b := r.in, &r.before
	flags := in.byte()
	if in.err == nil {
		r.checkFlags(flags)
	}
	var offset uint64 // of the revision, from First
	length := uint64(r.head.Last - r.head.First)
	if flags&flagSameKey == 0 {
		r.readKey()
		offset = in.uvarint(length, "a revision after the last one")
	} else {
		offset = uint64(b.revision-r.head.First) + 1
		if in.err == nil && offset > length {
			in.corrupt("a revision after the last one")
		}
		offset += in.uvarint(length-min(offset, length), "a revision after the last one")
	}
	e := history.Event{Revision: r.head.First + history.Revision(offset), Tombstone: flags&flagTombstone != 0, Key: b.key}
	if flags&flagSub != 0 {
		// Each of the other revisions has at least one of the events.
		most := uint64(r.head.Events) - length - 1
		e.Sub = 1 + int64(in.uvarint(most, "a sub that is too great"))
		if in.err == nil && uint64(e.Sub) > most {
			in.corrupt("a sub that is too great")
		}
	}
	if !e.Tombstone {
		r.readPut(&e, flags)
	}
	if in.err != nil {
		return history.Event{}
	}
	r.proof.add(offset, uint64(e.Sub))
	b.any, b.revision, b.created, b.version = true, e.Revision, e.CreateRevision, e.Version
	r.events++
	r.keyBytes += int64(len(e.Key))
	r.valueBytes += int64(len(e.Value))
	return e
}

// checkFlags refuses what contradicts itself or the event before.
func (r *Reader) checkFlags(flags byte) {
	switch b := &r.before; {
	case flags >= flagsEnd:
		r.in.corrupt("unknown flags")
	case flags&flagTombstone != 0 && flags&(flagLease|flagFirst|flagNext) != 0:
		r.in.corrupt("a tombstone with the flags of a put")
	case flags&flagSameKey != 0 && !b.any:
		r.in.corrupt("no key before the first one")
	case flags&flagNext != 0 && (flags&(flagFirst|flagSameKey) != flagSameKey || b.version == 0 || b.version == math.MaxInt64):
		r.in.corrupt("a next version that follows none")
	}
}

// readKey reads a key that is told by the one before.
func (r *Reader) readKey() {
	in, b := r.in, &r.before
	shared := in.uvarint(uint64(len(b.key)), "a key shares more than the one before has")
	n := in.uvarint(uint64(min(in.left(), math.MaxInt32)), "a key that is too long")
	rest := in.bytes(int(n))
	switch {
	case in.err != nil:
		return
	case len(rest) == 0:
		in.corrupt("a key that is not after the one before")
		return
	case int(shared) < len(b.key) && rest[0] <= b.key[shared]:
		// It would be before, or share more.
		in.corrupt("a key that is not after the one before")
		return
	}
	b.key = append(b.key[:shared], rest...)
}

// readPut reads what a tombstone has not.
func (r *Reader) readPut(e *history.Event, flags byte) {
	in, b := r.in, &r.before
	sameKey := flags&flagSameKey != 0
	switch {
	case flags&flagFirst != 0:
		e.CreateRevision, e.Version = e.Revision, 1
	case flags&flagNext != 0:
		e.CreateRevision, e.Version = b.created, b.version+1
	default:
		e.CreateRevision = e.Revision - history.Revision(in.uvarint(uint64(e.Revision-1), "a create revision before all"))
		e.Version = 1 + int64(in.uvarint(math.MaxInt64-1, "a version that is impossible"))
		if in.err == nil && (e.Version == 1 && e.CreateRevision == e.Revision || sameKey && b.next(e.CreateRevision, e.Version)) {
			in.corrupt("a version that its flags should tell")
		}
	}
	if flags&flagLease != 0 {
		i := in.uvarint(math.MaxUint64, "")
		if in.err == nil && i >= uint64(len(r.used)) {
			in.corrupt("a lease that is not in the table")
		}
		if in.err != nil {
			return
		}
		r.used[i] = true
		e.Lease = r.head.Leases[i].ID
	}
	n := in.uvarint(uint64(min(in.left(), math.MaxInt32)), "a value that is too long")
	e.Value = in.bytes(int(n))
}

// readFooter checks all that can only be checked at the end. It leaves io.EOF when all is well.
func (r *Reader) readFooter() {
	in := r.in
	start := in.offset()
	if end := in.size - footerSize; in.err == nil && start != end {
		in.fail(differs("its events do not end where the footer starts", start, end, start))
		return
	}
	counts := bytes.Clone(in.bytes(3 * 8))
	in.hash()
	sum := [sha256.Size]byte(in.digest.Sum(nil))
	stored := bytes.Clone(in.bytes(sha256.Size))
	if in.err != nil {
		return
	}
	in.hash()
	if !bytes.Equal(stored, sum[:]) {
		in.fail(&Corrupt{What: "sha256 mismatch", Offset: start + 3*8, Want: fmt.Sprintf("%x", stored), Got: fmt.Sprintf("%x", sum)})
		return
	}
	for i, got := range []int64{r.events, r.keyBytes, r.valueBytes} {
		if want := int64(binary.LittleEndian.Uint64(counts[8*i:])); want != got {
			in.fail(differs("its footer counts otherwise", start+int64(8*i), want, got))
			return
		}
	}
	if in.fill(1) {
		in.corrupt("more bytes after its end")
	}
	if in.err != nil {
		return
	}
	r.checkWhole()
	if in.err != nil {
		return
	}
	r.summary = Summary{
		Head: r.head, Size: in.offset(), SHA256: [sha256.Size]byte(in.digest.Sum(nil)),
		KeyBytes: r.keyBytes, ValueBytes: r.valueBytes,
	}
	in.fail(io.EOF)
}

// checkWhole wants events in each revision, and for each lease.
func (r *Reader) checkWhole() {
	for i, used := range r.used {
		if !used {
			r.in.corrupt("lease " + strconv.Itoa(i) + " of its table is of no event")
			return
		}
	}
	if revision, some, found := r.proof.hole(); found {
		what := "has no event"
		if some {
			what = "lacks events"
		}
		r.in.corrupt("revision " + revision.String() + " " + what)
	}
}
