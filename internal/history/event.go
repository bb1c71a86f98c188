package history

import (
	"fmt"
	"time"
)

// Event is one put or delete of one key, as the cluster did it.
type Event struct {
	// Revision and Sub are those of the write: Sub counts the writes of one transaction, from 0. Every revision has at
	// least one event, so that events without a hole in their revisions are all events.
	Revision Revision
	Sub      int64
	// Tombstone marks a delete; it has a key and nothing of what follows.
	Tombstone bool
	// Key and Value belong to whoever gave the event, who says until when they are valid.
	Key, Value     []byte
	CreateRevision Revision
	// Version counts the puts since the key was created.
	Version int64
	// Lease is the lease that the key is attached to, or zero.
	Lease int64
}

// Range is the revisions from First to Last, both included. The zero Range is of no revision.
type Range struct{ First, Last Revision }

// Len is how many revisions there are.
func (r Range) Len() int64 {
	if r.First < 1 || r.Last < r.First {
		return 0
	}
	return int64(r.Last-r.First) + 1
}

// Contains tells whether a revision is one of them.
func (r Range) Contains(revision Revision) bool { return r.First <= revision && revision <= r.Last }

// String is "12-34".
func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// Words is "revisions 12 to 34", or "revision 12" where it is one.
func (r Range) Words() string {
	if r.First == r.Last {
		return fmt.Sprintf("revision %d", r.First)
	}
	return fmt.Sprintf("revisions %d to %d", r.First, r.Last)
}

// Span says when revisions came about: all of them not before From and not after To. Where they were seen as they came
// both are the same. Times are in UTC and whole milliseconds, and never go down from one revision to the next, whatever
// clocks did.
type Span struct {
	Range
	From, To time.Time
}

// Exact tells whether the revisions were seen as they came.
func (s Span) Exact() bool { return s.From.Equal(s.To) }

// Lease is a lease as far as it is known. TTL is what was granted, in seconds; 0 when nobody could be asked any more.
type Lease struct {
	ID  int64
	TTL int64
}
