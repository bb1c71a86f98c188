package snapshot

import (
	"errors"
	"fmt"
	"strings"
)

// Classes of what can be wrong with a backend file. Ask with errors.Is.
var (
	// ErrTrailer means that the bytes do not have the sha256 that etcd wrote behind them.
	ErrTrailer = errors.New("trailer mismatch")
	// ErrCorrupt means that the file is a bbolt database, but not a whole or coherent one.
	ErrCorrupt = errors.New("corrupt backend")
	// ErrNotBackend means that the file is no bbolt database at all, or was cut inside its first pages.
	ErrNotBackend = errors.New("not an etcd backend file")
)

// TrailerMismatch is the error of a file whose bytes do not have the sha256 in its trailer. It is an ErrTrailer.
type TrailerMismatch struct {
	// Want is the trailer, Got the sha256 of the bytes before it.
	Want, Got [32]byte
}

// Error tells both sums.
func (e *TrailerMismatch) Error() string {
	return fmt.Sprintf("check backend trailer: sha256 mismatch: want %x, got %x", e.Want, e.Got)
}

// Is makes the error an ErrTrailer.
func (e *TrailerMismatch) Is(target error) bool { return target == ErrTrailer }

// Corrupt is the first incoherence that was found in a backend file. It is an ErrCorrupt.
type Corrupt struct {
	// Page is the number of the page, or -1 when the file as a whole is meant.
	Page int64
	// Bucket is the bucket that the page was reached through; empty for the root and for the file.
	Bucket string
	// What is wrong, one clause.
	What string
	// Want and Got may be empty. They never hold keys or values of users.
	Want, Got string
}

// Error is one line for a person.
func (e *Corrupt) Error() string {
	var b strings.Builder
	b.WriteString("check backend")
	if e.Page >= 0 {
		fmt.Fprintf(&b, " page %d", e.Page)
	}
	if e.Bucket != "" {
		fmt.Fprintf(&b, " of bucket %q", e.Bucket)
	}
	fmt.Fprintf(&b, ": %s", e.What)
	if e.Want != "" {
		fmt.Fprintf(&b, ": want %s, got %s", e.Want, e.Got)
	}
	return b.String()
}

// Is makes the error an ErrCorrupt.
func (e *Corrupt) Is(target error) bool { return target == ErrCorrupt }

// fault says in one byte what is wrong with one page. Most faulty pages are free ones that nobody looks at again, so
// that no text is made until a tree leads to one.
type fault uint8

const (
	sound fault = iota
	faultTable
	faultLayout
	faultBounds
	faultKey
	faultOrder
	faultFlags
	faultSlack
	faultEmpty
	faultBucket
	faultWide
	faultBusy
	faultCut
	faultSelf
)

// String completes the sentence "page N: ...".
func (f fault) String() string {
	switch f {
	case sound:
		return "nothing is wrong"
	case faultTable:
		return "more elements than fit into the page"
	case faultLayout:
		return "an element does not start where the one before ends"
	case faultBounds:
		return "an element reaches past the end of the page"
	case faultKey:
		return "an element has no key"
	case faultOrder:
		return "keys are not ascending"
	case faultFlags:
		return "an element has unknown flags"
	case faultSlack:
		return "the page is longer than its content"
	case faultEmpty:
		return "the page has no elements"
	case faultBucket:
		return "a bucket inside the page is malformed"
	case faultWide:
		return "too many elements outside its first page"
	case faultBusy:
		return "too many overlapping pages before it to check it"
	case faultCut:
		return "the file ends inside the page"
	case faultSelf:
		return "the page leads to itself"
	}
	return "unknown fault"
}
