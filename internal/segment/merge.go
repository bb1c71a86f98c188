package segment

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Merge writes the segments of adjacent ranges as one, with the bytes that one Builder would have made. The inputs come in
// any order, none of them with an event already read, and are read to their ends. It takes the memory of its inputs: a
// buffer and a proof each.
//
// A lease has the TTL of the last input that knows one. Times are made monotone over all inputs.
//
// Ranges with a hole between them, or that overlap, are an ErrApart. Other errors are those of an input or of the writer;
// what was written before an error is of no use, since the inputs were not checked to their ends.
func Merge(w io.Writer, inputs []*Reader) (Summary, error) {
	inputs = slices.Clone(inputs)
	slices.SortFunc(inputs, func(a, b *Reader) int { return cmp.Compare(a.head.First, b.head.First) })
	head, err := joined(inputs)
	if err != nil {
		return Summary{}, fmt.Errorf("merge segments: %w", err)
	}
	sources := make([]*source, 0, len(inputs))
	for i, r := range inputs {
		s := &source{r: r, order: i}
		if more, err := s.next(); err != nil {
			return Summary{}, err
		} else if more {
			sources = append(sources, s)
		}
	}
	e, err := encode(w, head)
	if err != nil {
		return Summary{}, fmt.Errorf("merge segments: %w", err)
	}
	for i := len(sources)/2 - 1; i >= 0; i-- {
		sink(sources, i)
	}
	for len(sources) > 0 {
		first := sources[0]
		if err := e.add(&first.event); err != nil {
			return Summary{}, fmt.Errorf("merge segments: %w", err)
		}
		more, err := first.next()
		if err != nil {
			return Summary{}, err
		}
		if !more {
			last := len(sources) - 1
			sources[0], sources = sources[last], sources[:last]
		}
		sink(sources, 0)
	}
	return e.finish()
}

// joined makes the head of inputs that are sorted by their first revision.
func joined(inputs []*Reader) (Head, error) {
	if len(inputs) == 0 {
		return Head{}, errors.New("there are none")
	}
	head := Head{Range: history.Range{First: inputs[0].head.First}}
	ttls := map[int64]int64{}
	var times packer
	for i, r := range inputs {
		h := &r.head
		if i > 0 && h.First-1 != head.Last {
			return Head{}, fmt.Errorf("%w: after revision %d comes %s", ErrApart, head.Last, h.Range)
		}
		if r.events > 0 || r.in.err != nil {
			return Head{}, fmt.Errorf("events of %s were already read", h.Range)
		}
		head.Last = h.Last
		if head.Events += h.Events; head.Events > maxEvents {
			return Head{}, errors.New("too many events for one segment")
		}
		for _, lease := range h.Leases {
			if _, found := ttls[lease.ID]; !found || lease.TTL > 0 {
				ttls[lease.ID] = lease.TTL
			}
		}
		for s := range h.Times.each() {
			times.add(h.First, s.length, s.from, s.to)
		}
	}
	for id, ttl := range ttls {
		head.Leases = append(head.Leases, history.Lease{ID: id, TTL: ttl})
	}
	slices.SortFunc(head.Leases, func(a, b history.Lease) int { return cmp.Compare(a.ID, b.ID) })
	head.Times = times.times()
	return head, nil
}

// source is an input with the event that it is at.
type source struct {
	r     *Reader
	event history.Event
	order int // of its range among the inputs
}

// next tells whether there is another event.
func (s *source) next() (bool, error) {
	e, err := s.r.Next()
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("merge segment %s: %w", s.r.head.Range, err)
	}
	s.event = e
	return true, nil
}

func (s *source) before(other *source) bool {
	if c := bytes.Compare(s.event.Key, other.event.Key); c != 0 {
		return c < 0
	}
	return s.order < other.order
}

// sink moves a source of the heap down to its place.
func sink(heap []*source, i int) {
	for {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && heap[child+1].before(heap[child]) {
			child++
		}
		if heap[i].before(heap[child]) {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}
