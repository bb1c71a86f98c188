package replay

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
)

// place is where the KeyValue message of one record is: 24 bytes.
type place struct {
	main int64
	at   int64 // offset in base or spill file, with marks
	sub  uint32
	size uint32
}

const (
	markSpilled   = 1 << 62
	markTombstone = 1 << 61
	// markLatest is on the last record of a key, which is what the key is at the target.
	markLatest = 1 << 60
	marks      = markSpilled | markTombstone | markLatest
)

func (p place) offset() int64   { return p.at &^ marks }
func (p place) spilled() bool   { return p.at&markSpilled != 0 }
func (p place) tombstone() bool { return p.at&markTombstone != 0 }
func (p place) latest() bool    { return p.at&markLatest != 0 }

func (p place) compare(q place) int {
	switch {
	case p.main != q.main:
		if p.main < q.main {
			return -1
		}
		return 1
	case p.sub != q.sub:
		if p.sub < q.sub {
			return -1
		}
		return 1
	}
	return 0
}

// newPlace is for what was read; a number that it has no room for is an error.
func newPlace(main, sub, size int64, tombstone bool) (place, error) {
	if main < 1 || sub < 0 || sub > math.MaxUint32 || size > math.MaxUint32 {
		return place{}, fmt.Errorf("record %d/%d of %d bytes is none that can be kept", main, sub, size)
	}
	p := place{main: main, sub: uint32(sub), size: uint32(size)}
	if tombstone {
		p.at = markTombstone
	}
	return p, nil
}

// placeBlock is how many places are kept together: 1.5 MB, sorted in some 10 ms.
const placeBlock = 1 << 16

// places is a list that grows in blocks, so that growing copies nothing.
type places struct {
	blocks [][]place
	n      uint32
}

func newPlaces() *places { return &places{} }

// add gives the number of the new place.
func (l *places) add(p place) (uint32, error) {
	if l.n == decided {
		return 0, errors.New("there are more records than can be kept")
	}
	if l.n%placeBlock == 0 {
		l.blocks = append(l.blocks, make([]place, 0, placeBlock))
	}
	last := &l.blocks[len(l.blocks)-1]
	*last = append(*last, p)
	l.n++
	return l.n - 1, nil
}

// at is valid until sort.
func (l *places) at(i uint32) *place { return &l.blocks[i/placeBlock][i%placeBlock] }

// keep drops what want does not want. Numbers of places are no longer valid.
func (l *places) keep(want func(place) bool) {
	for i, block := range l.blocks {
		l.blocks[i] = slices.DeleteFunc(block, func(p place) bool { return !want(p) })
	}
}

// sort prepares for each. No place may be added after it.
func (l *places) sort(ctx context.Context) error {
	for _, block := range l.blocks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		slices.SortFunc(block, place.compare)
	}
	return nil
}

// each merges the sorted blocks and gives all places by ascending revision. Two at one revision and sub revision are an
// error.
func (l *places) each(fn func(place) error) error {
	var rest heads
	for _, block := range l.blocks {
		if len(block) > 0 {
			rest = append(rest, block)
		}
	}
	heap.Init(&rest)
	last := place{}
	for len(rest) > 0 {
		p := rest[0][0]
		if last.compare(p) >= 0 {
			return fmt.Errorf("%w: two records are of revision %d/%d", ErrEvents, p.main, p.sub)
		}
		if err := fn(p); err != nil {
			return err
		}
		last = p
		if rest[0] = rest[0][1:]; len(rest[0]) == 0 {
			heap.Pop(&rest)
		} else {
			heap.Fix(&rest, 0)
		}
	}
	return nil
}

// heads is a heap of sorted lists by their first place.
type heads [][]place

func (h heads) Len() int           { return len(h) }
func (h heads) Less(i, j int) bool { return h[i][0].compare(h[j][0]) < 0 }
func (h heads) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *heads) Push(x any)        { *h = append(*h, x.([]place)) }
func (h *heads) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
