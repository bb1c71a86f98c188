package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// readSegments reads what is after the base, from the newest segment to the oldest.
func (r *replay) readSegments(ctx context.Context, segments []Segment) error {
	for _, s := range slices.Backward(segments) {
		if err := r.readSegment(ctx, s); err != nil {
			return fmt.Errorf("read segment %s: %w", s.Range, err)
		}
	}
	return nil
}

func (r *replay) readSegment(ctx context.Context, s Segment) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	events, err := s.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, events.Close()) }()
	for _, lease := range events.Leases() {
		// The newest segment that knows is right: an id can be granted again.
		if _, ok := r.known[lease.ID]; !ok && lease.TTL > 0 && lease.TTL <= mostTTL {
			r.known[lease.ID] = lease.TTL
		}
	}
	run := run{r: r, within: s.Range}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e, err := events.Next()
		if errors.Is(err, io.EOF) {
			return run.settle()
		}
		if err != nil {
			return err
		}
		r.result.Events++
		r.result.Read += int64(len(e.Key)) + int64(len(e.Value))
		if err := run.take(e); err != nil {
			return err
		}
	}
}

// run goes through the events of one segment, which come key by key.
type run struct {
	r      *replay
	within history.Range

	key      []byte // of the last event; nil before the first
	revision history.Revision
	sub      int64
	id       keyID
	done     bool // a newer segment has decided the key

	// last is the message of the last event of the key that counts, once there is one.
	last  []byte
	place place
	found bool
}

// take takes the next event.
func (s *run) take(e history.Event) error {
	if what := s.wrong(e); what != "" {
		return fmt.Errorf("%w: revision %d: %s", ErrEvents, e.Revision, what)
	}
	if s.key == nil || !bytes.Equal(s.key, e.Key) {
		if err := s.settle(); err != nil {
			return err
		}
		s.key = append(s.key[:0], e.Key...)
		s.id = s.r.keys.id(e.Key)
		_, s.done = s.r.keys.seen[s.id]
	}
	s.revision, s.sub = e.Revision, e.Sub
	if e.Revision > s.r.o.Target || e.Revision <= s.r.base.Info.Revision || s.done && !s.r.o.KeepHistory {
		return nil
	}
	if s.found && s.r.o.KeepHistory {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.last = appendKeyValue(s.last[:0], e)
	var err error
	if s.place, err = newPlace(int64(e.Revision), e.Sub, int64(len(s.last)), e.Tombstone); err != nil {
		return fmt.Errorf("%w: %w", ErrEvents, err)
	}
	s.found = true
	return nil
}

// wrong says what cannot be about an event, without its key.
func (s *run) wrong(e history.Event) string {
	order := 1
	if s.key != nil {
		order = bytes.Compare(e.Key, s.key)
	}
	switch {
	case !s.within.Contains(e.Revision):
		return "it is not of this segment"
	case len(e.Key) == 0:
		return "an event has no key"
	case order < 0, order == 0 && (e.Revision < s.revision || e.Revision == s.revision && e.Sub <= s.sub):
		return "an event is not where its key and revision belong"
	case e.Tombstone && (len(e.Value) > 0 || e.CreateRevision != 0 || e.Version != 0 || e.Lease != 0):
		return "a delete has more than a key"
	case !e.Tombstone && (e.CreateRevision < 1 || e.CreateRevision > e.Revision || e.Version < 1):
		return "its create revision or version cannot be"
	}
	return ""
}

// settle ends a key.
func (s *run) settle() error {
	if !s.found {
		return nil
	}
	s.found = false
	if !s.done {
		s.r.keys.seen[s.id] = decided
		s.place.at |= markLatest
		if !s.r.o.KeepHistory && !s.r.leaves(s.place) {
			return nil
		}
	}
	return s.spill()
}

// spill keeps the last event.
func (s *run) spill() error {
	at, err := s.r.spill.put(s.last)
	if err != nil {
		return err
	}
	p := s.place
	p.at |= at | markSpilled
	s.place.at = 0
	_, err = s.r.places.add(p)
	return err
}

// leaves tells whether the last record of a key is still there after a compaction at the target.
func (r *replay) leaves(p place) bool { return !p.tombstone() || p.main == int64(r.o.Target) }

// readBase finds the records of the base that count.
func (r *replay) readBase(ctx context.Context) error {
	file, err := os.Open(r.base.File)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // Only read from.
	err = snapshot.Walk(cancelled{ctx, file}, r.base.Index, r.takeRecord)
	if err != nil {
		return err
	}
	r.result.Read += r.base.Info.Size
	if !r.o.KeepHistory {
		r.places.keep(r.leaves)
	}
	r.keys = nil
	return nil
}

// takeRecord takes a record of the base, in no order.
func (r *replay) takeRecord(rec snapshot.Record) error {
	r.result.BaseRecords++
	if rec.Revision > r.o.Target {
		return nil
	}
	id := r.keys.id(rec.Key)
	number, seen := r.keys.seen[id]
	if seen && number == decided && !r.o.KeepHistory {
		return nil
	}
	p, err := newPlace(int64(rec.Revision), rec.Sub, int64(len(rec.Stored)), rec.Tombstone)
	if err != nil {
		return err
	}
	newer := !seen || number != decided && p.compare(*r.places.at(number)) > 0
	if !newer && !r.o.KeepHistory {
		return nil
	}
	if rec.Offset >= 0 {
		p.at |= rec.Offset
	} else {
		at, err := r.spill.put(rec.Stored)
		if err != nil {
			return err
		}
		p.at |= at | markSpilled
	}
	if newer {
		p.at |= markLatest
	}
	if newer && seen {
		if !r.o.KeepHistory {
			*r.places.at(number) = p
			return nil
		}
		r.places.at(number).at &^= markLatest
	}
	number, err = r.places.add(p)
	if err == nil && newer {
		r.keys.seen[id] = number
	}
	return err
}

// cancelled ends a reader when its ctx has ended.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

// Read asks ctx first.
func (c cancelled) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
