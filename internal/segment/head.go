package segment

import (
	"crypto/sha256"
	"math"

	"github.com/holdfast-project/holdfast/internal/history"
)

// magic is how each segment starts; its last byte is the version of the format.
const (
	magic   = "hf-seg\n"
	version = 1
)

const (
	// maxEvents is the limit of events in one segment; a busy cluster makes some millions a day.
	maxEvents = math.MaxUint32
	// minEvent is the least that an event takes: flags and revision.
	minEvent = 2
	// footerSize is that of three counts and a sum.
	footerSize = 3*8 + sha256.Size
)

// What the flags of an event say.
const (
	flagTombstone = 1 << iota
	flagSameKey
	flagSub   // its sub is not 0
	flagLease // it is attached to a lease
	flagFirst // a put that made the key: its create revision is its revision, its version is 1
	flagNext  // a put of the same key as the put before it, with the same create revision and a version that is 1 more
	flagsEnd
)

// Head is what a segment says of itself before its events.
type Head struct {
	// Range is the revisions whose events are all in the segment.
	history.Range
	// Events is how many there are.
	Events int64
	// Leases are those that events refer to, and no others, by ascending ID.
	Leases []history.Lease
	// Times tell when each of the revisions came about.
	Times Times
}

// Summary is what is known of a segment once all of it was written, or read and checked.
type Summary struct {
	Head
	// Size is that of the plain segment, in bytes.
	Size int64
	// SHA256 is that of all its bytes, the footer with its own sum included.
	SHA256 [sha256.Size]byte
	// KeyBytes and ValueBytes are the sums over all events, each with its whole key.
	KeyBytes, ValueBytes int64
}
