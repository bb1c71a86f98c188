package segment

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unsafe"

	"github.com/holdfast-project/holdfast/internal/history"
)

const (
	// arenaBlock is how the memory for keys and values grows.
	arenaBlock = 256 << 10
	// keptBlocks and keptRecords are what Reset keeps for the next segment: up to 8 MiB and 9 MB, which is what an archiver
	// that seals 8 MiB at once comes to.
	keptBlocks  = 32
	keptRecords = 100_000
)

// Builder collects revisions as they come from a live member, and writes them as a segment.
type Builder struct {
	records []record
	blocks  [][]byte // of arenaBlock each, filled one after the other
	block   int      // the one that is being filled
	bytes   int64    // of keys and values
	last    history.Revision
	times   packer
	// prefix is as long as what all keys share; it is part of the first one.
	prefix []byte
	keys   [][]byte // of one revision, while it is checked
}

// record is an event in memory.
type record struct {
	data         []byte // key and value, in the arena
	key          int    // bytes of data that are the key
	revision     history.Revision
	created      history.Revision
	sub, version int64
	lease        int64
	tombstone    bool
}

const recordSize = int64(unsafe.Sizeof(record{}))

// NewBuilder gives an empty one.
func NewBuilder() *Builder { return &Builder{} }

// Add takes one or more whole revisions in order, each with its events by ascending sub, from 0 without a hole. The first
// call begins anywhere, each later one with the revision after the last. Keys and values are copied. No events change
// nothing.
//
// From and to say when these revisions came about, and are equal if they were seen as they came; then a time before the
// last To becomes that, so that times are monotone whatever the clock does. Otherwise they are bounds, and go up only as
// far as the bounds before. Times are cut to whole milliseconds and to the years 1970 to 9999; from after to counts as
// twice from. Whoever goes on with a line in another Builder gives no time before the last To of the one before, or Merge
// will raise it.
//
// Errors are an ErrDiscontinuous or an ErrImpossible; nothing was added then.
func (b *Builder) Add(events []history.Event, from, to time.Time) error {
	if len(events) == 0 {
		return nil
	}
	if err := b.check(events); err != nil {
		return fmt.Errorf("add revision %d to a segment: %w", events[0].Revision, err)
	}
	first, last := events[0].Revision, events[len(events)-1].Revision
	b.times.add(first, uint64(last-first)+1, clampMillis(from), clampMillis(to))
	if len(b.records) == 0 {
		b.prefix = append(b.prefix[:0], events[0].Key...)
	}
	for i := range events {
		b.keep(&events[i])
	}
	b.last = last
	return nil
}

// check refuses events that cannot be written, or would not be read back.
func (b *Builder) check(events []history.Event) error {
	if int64(len(b.records))+int64(len(events)) > maxEvents {
		return errors.New("too many events for one segment")
	}
	next := history.Event{Revision: b.last + 1}
	if len(b.records) == 0 {
		next.Revision = events[0].Revision
	}
	start := 0 // of the revision
	for i := range events {
		e := &events[i]
		if i > 0 && e.Revision == events[i-1].Revision {
			next = history.Event{Revision: e.Revision, Sub: next.Sub + 1}
		} else if i > 0 {
			if err := b.distinct(events[start:i]); err != nil {
				return err
			}
			start, next = i, history.Event{Revision: next.Revision + 1}
		}
		if e.Revision != next.Revision || e.Sub != next.Sub {
			return fmt.Errorf("%w: want %d.%d, got %d.%d", ErrDiscontinuous, next.Revision, next.Sub, e.Revision, e.Sub)
		}
		if what := impossible(e); what != "" {
			return fmt.Errorf("%w: %d.%d %s", ErrImpossible, e.Revision, e.Sub, what)
		}
	}
	return b.distinct(events[start:])
}

// impossible says what no event of etcd is, or "".
func impossible(e *history.Event) string {
	switch {
	case e.Revision < 1:
		return "has no revision"
	case len(e.Key) == 0:
		return "has no key"
	case e.Tombstone && (len(e.Value) > 0 || e.CreateRevision != 0 || e.Version != 0 || e.Lease != 0):
		return "is a tombstone with more than a key"
	case e.Tombstone:
		return ""
	case e.CreateRevision < 1 || e.CreateRevision > e.Revision:
		return "has no create revision before its own"
	case e.Version < 1:
		return "has no version"
	}
	return ""
}

// distinct refuses a revision that writes a key twice.
func (b *Builder) distinct(events []history.Event) error {
	if len(events) < 2 {
		return nil
	}
	b.keys = b.keys[:0]
	for i := range events {
		b.keys = append(b.keys, events[i].Key)
	}
	slices.SortFunc(b.keys, bytes.Compare)
	twice := false
	for i := range b.keys[1:] {
		twice = twice || bytes.Equal(b.keys[i], b.keys[i+1])
	}
	clear(b.keys) // they are the caller's
	if twice {
		return fmt.Errorf("%w: revision %d has a key twice", ErrImpossible, events[0].Revision)
	}
	return nil
}

// keep copies an event.
func (b *Builder) keep(e *history.Event) {
	data := b.room(len(e.Key) + len(e.Value))
	copy(data, e.Key)
	copy(data[len(e.Key):], e.Value)
	b.bytes += int64(len(data))
	b.records = append(b.records, record{
		data: data, key: len(e.Key), revision: e.Revision, sub: e.Sub,
		created: e.CreateRevision, version: e.Version, lease: e.Lease, tombstone: e.Tombstone,
	})
	if !bytes.HasPrefix(e.Key, b.prefix) {
		b.prefix = b.prefix[:sharedPrefix(b.prefix, e.Key)]
	}
}

// room gives n bytes of the arena. What would waste much of a block has memory of its own.
func (b *Builder) room(n int) []byte {
	if n > arenaBlock/8 {
		return make([]byte, n)
	}
	for {
		if b.block == len(b.blocks) {
			b.blocks = append(b.blocks, make([]byte, 0, arenaBlock))
		}
		block := &b.blocks[b.block]
		if at := len(*block); at+n <= cap(*block) {
			*block = (*block)[:at+n]
			return (*block)[at : at+n : at+n]
		}
		b.block++
	}
}

// Size is the memory that the events in it take, in bytes. What Reset kept for the next ones is not counted.
func (b *Builder) Size() int64 {
	return b.bytes + int64(len(b.records))*recordSize + int64(len(b.times.packed.runs))
}

// Range is the revisions in it; the zero Range when there are none.
func (b *Builder) Range() history.Range {
	if len(b.records) == 0 {
		return history.Range{}
	}
	return history.Range{First: b.records[0].revision, Last: b.last}
}

// Events is how many there are.
func (b *Builder) Events() int { return len(b.records) }

// LeaseIDs gives the leases that events refer to, ascending, each once: those whose TTL Encode wants.
func (b *Builder) LeaseIDs() []int64 {
	var ids []int64
	for i := range b.records {
		// Neighbours often have the same.
		if id := b.records[i].lease; id != 0 && (len(ids) == 0 || ids[len(ids)-1] != id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Reset makes it empty, and keeps some memory for the next segment.
func (b *Builder) Reset() {
	clear(b.records)
	blocks, records := b.blocks[:min(len(b.blocks), keptBlocks)], b.records[:0]
	if cap(records) > keptRecords {
		records = nil
	}
	for i := range blocks {
		blocks[i] = blocks[i][:0]
	}
	clear(b.blocks[len(blocks):])
	*b = Builder{blocks: blocks, records: records, prefix: b.prefix[:0], keys: b.keys[:0]}
}

// Encode writes all that is in it as a segment. Leases tell the TTLs that are known; the first one counts of those with
// the same ID, a TTL below 0 is unknown, and leases that no event refers to are left out. The Builder stays as it is, so
// that another try is possible; what was written before an error is of no use. An empty one is an error.
func (b *Builder) Encode(w io.Writer, leases []history.Lease) (Summary, error) {
	if len(b.records) == 0 {
		return Summary{}, errors.New("write segment: there are no events")
	}
	e, err := encode(w, Head{Range: b.Range(), Events: int64(len(b.records)), Leases: b.leaseTable(leases), Times: b.times.times()})
	if err != nil {
		return Summary{}, err
	}
	for _, i := range b.sorted() {
		r := &b.records[i.index]
		ev := history.Event{
			Revision: r.revision, Sub: r.sub, Tombstone: r.tombstone, Key: r.data[:r.key], Value: r.data[r.key:],
			CreateRevision: r.created, Version: r.version, Lease: r.lease,
		}
		if err := e.add(&ev); err != nil {
			return Summary{}, err
		}
	}
	return e.finish()
}

// leaseTable has each lease that is referred to.
func (b *Builder) leaseTable(known []history.Lease) []history.Lease {
	ids := b.LeaseIDs()
	if len(ids) == 0 {
		return nil
	}
	known = slices.Clone(known)
	slices.SortStableFunc(known, func(a, b history.Lease) int { return cmp.Compare(a.ID, b.ID) })
	table := make([]history.Lease, len(ids))
	for i, id := range ids {
		table[i].ID = id
		if at, found := slices.BinarySearchFunc(known, id, compareLease); found {
			table[i].TTL = max(known[at].TTL, 0)
		}
	}
	return table
}

func compareLease(l history.Lease, id int64) int { return cmp.Compare(l.ID, id) }

// place is where a record is, with the bytes of its key that follow what all keys share: most comparisons need no more.
type place struct {
	start uint64
	index uint32
}

// sorted gives the records by key, and those of a key by revision, which is the order in which they came.
func (b *Builder) sorted() []place {
	places := make([]place, len(b.records))
	var start [8]byte
	for i := range b.records {
		r := &b.records[i]
		start = [8]byte{}
		copy(start[:], r.data[len(b.prefix):r.key])
		places[i] = place{binary.BigEndian.Uint64(start[:]), uint32(i)}
	}
	slices.SortFunc(places, func(x, y place) int {
		if x.start != y.start {
			return cmp.Compare(x.start, y.start)
		}
		p, q := &b.records[x.index], &b.records[y.index]
		return cmp.Or(bytes.Compare(p.data[:p.key], q.data[:q.key]), cmp.Compare(x.index, y.index))
	})
	return places
}
