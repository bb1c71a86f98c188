package segment

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/holdfast-project/holdfast/internal/history"
)

// encoderBuffer is how much is collected before it is written, so that small events cost no call each.
const encoderBuffer = 64 << 10

// encoder writes a segment. Its callers give a right head, and events in order.
type encoder struct {
	w       io.Writer
	buf     []byte
	digest  hash.Hash
	summary Summary

	events int64
	before previous
	lease  int // index of the one that was asked for last
}

// previous is what an event is told by: the one before it.
type previous struct {
	key      []byte // our own
	revision history.Revision
	created  history.Revision
	version  int64 // 0 for a tombstone
	any      bool
}

// encode starts a segment with its head.
func encode(w io.Writer, head Head) (*encoder, error) {
	e := &encoder{w: w, buf: make([]byte, 0, encoderBuffer+4<<10), digest: sha256.New(), summary: Summary{Head: head}}
	e.buf = append(append(e.buf, magic...), version)
	for _, v := range []int64{int64(head.First), int64(head.Last - head.First), head.Events} {
		e.uvarint(uint64(v))
	}
	e.uvarint(uint64(len(head.Leases)))
	for i, lease := range head.Leases {
		if i == 0 {
			e.buf = binary.AppendVarint(e.buf, lease.ID)
		} else {
			e.uvarint(uint64(lease.ID) - uint64(head.Leases[i-1].ID)) // right for negative ones, too
		}
		e.uvarint(uint64(lease.TTL))
	}
	e.uvarint(uint64(head.Times.count))
	if err := e.write(head.Times.runs); err != nil {
		return nil, err
	}
	return e, nil
}

// add writes the next event.
func (e *encoder) add(ev *history.Event) error {
	b := &e.before
	sameKey := b.any && bytes.Equal(b.key, ev.Key)
	flags := e.flags(ev, sameKey)
	e.buf = append(e.buf, flags)
	if sameKey {
		e.uvarint(uint64(ev.Revision-b.revision) - 1)
	} else {
		shared := sharedPrefix(b.key, ev.Key)
		e.uvarint(uint64(shared))
		e.uvarint(uint64(len(ev.Key) - shared))
		if err := e.write(ev.Key[shared:]); err != nil {
			return err
		}
		b.key = append(b.key[:shared], ev.Key[shared:]...)
		e.uvarint(uint64(ev.Revision - e.summary.First))
	}
	if flags&flagSub != 0 {
		e.uvarint(uint64(ev.Sub) - 1)
	}
	if flags&(flagTombstone|flagFirst|flagNext) == 0 {
		e.uvarint(uint64(ev.Revision - ev.CreateRevision))
		e.uvarint(uint64(ev.Version) - 1)
	}
	if flags&flagLease != 0 {
		e.uvarint(uint64(e.leaseIndex(ev.Lease)))
	}
	b.any, b.revision, b.created, b.version = true, ev.Revision, ev.CreateRevision, ev.Version
	e.events++
	e.summary.KeyBytes += int64(len(ev.Key))
	if ev.Tombstone {
		return e.write(nil)
	}
	e.summary.ValueBytes += int64(len(ev.Value))
	e.uvarint(uint64(len(ev.Value)))
	return e.write(ev.Value)
}

func (e *encoder) flags(ev *history.Event, sameKey bool) byte {
	var flags byte
	if sameKey {
		flags |= flagSameKey
	}
	if ev.Sub != 0 {
		flags |= flagSub
	}
	switch {
	case ev.Tombstone:
		return flags | flagTombstone
	case ev.Version == 1 && ev.CreateRevision == ev.Revision:
		flags |= flagFirst
	case sameKey && e.before.next(ev.CreateRevision, ev.Version):
		flags |= flagNext
	}
	if ev.Lease != 0 {
		flags |= flagLease
	}
	return flags
}

// next tells whether these are what the next put of the same key has.
func (p *previous) next(created history.Revision, version int64) bool {
	return p.version > 0 && created == p.created && version-1 == p.version
}

// leaseIndex finds a lease that is in the table. Neighbours often have the same.
func (e *encoder) leaseIndex(id int64) int {
	if e.summary.Leases[e.lease].ID != id {
		e.lease, _ = slices.BinarySearchFunc(e.summary.Leases, id, compareLease)
	}
	return e.lease
}

// finish writes the footer and tells what was written.
func (e *encoder) finish() (Summary, error) {
	s := &e.summary
	if e.events != s.Events {
		return Summary{}, fmt.Errorf("write segment: %d events came, and its head says %d", e.events, s.Events)
	}
	for _, v := range []int64{s.Events, s.KeyBytes, s.ValueBytes} {
		e.buf = binary.LittleEndian.AppendUint64(e.buf, uint64(v))
	}
	if err := e.flush(); err != nil {
		return Summary{}, err
	}
	e.buf = e.digest.Sum(e.buf)
	if err := e.flush(); err != nil {
		return Summary{}, err
	}
	s.SHA256 = [sha256.Size]byte(e.digest.Sum(nil))
	return *s, nil
}

func (e *encoder) uvarint(v uint64) {
	if v < 0x80 {
		e.buf = append(e.buf, byte(v))
		return
	}
	e.buf = binary.AppendUvarint(e.buf, v)
}

// write puts bytes behind the buffer, and writes it when it is full. Long ones go straight on.
func (e *encoder) write(b []byte) error {
	if len(e.buf)+len(b) < encoderBuffer {
		e.buf = append(e.buf, b...)
		return nil
	}
	if err := e.flush(); err != nil {
		return err
	}
	if len(b) < encoderBuffer/4 {
		e.buf = append(e.buf, b...)
		return nil
	}
	return e.put(b)
}

func (e *encoder) flush() error {
	err := e.put(e.buf)
	e.buf = e.buf[:0]
	return err
}

func (e *encoder) put(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	e.digest.Write(b) // it never fails
	e.summary.Size += int64(len(b))
	n, err := e.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write segment: %w", err)
	}
	return nil
}

// sharedPrefix is how many bytes two keys have in common at their start.
func sharedPrefix(a, b []byte) int {
	n, i := min(len(a), len(b)), 0
	for i+8 <= n && binary.LittleEndian.Uint64(a[i:]) == binary.LittleEndian.Uint64(b[i:]) {
		i += 8
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}
