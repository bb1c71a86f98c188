package segment

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What can be wrong with events that come in. Ask with errors.Is; the Builder is then as it was before.
var (
	// ErrDiscontinuous means that events are not whole revisions, each the one after the one before.
	ErrDiscontinuous = errors.New("revisions do not follow one another")
	// ErrImpossible means that an event is one that no etcd makes, such as one without a key.
	ErrImpossible = errors.New("impossible event")
)

// What can keep a segment from being read. Ask with errors.Is. Errors of the source itself are none of them: they are
// wrapped as they are, and another try may succeed.
var (
	// ErrCorrupt means that the bytes are not what a Builder or Merge wrote.
	ErrCorrupt = errors.New("corrupt segment")
	// ErrVersion means that the segment has a newer format than this package knows.
	ErrVersion = errors.New("segment of a newer format")
	// ErrApart means that segments that were to be merged have ranges with a hole between them, or that overlap.
	ErrApart = errors.New("segments do not join")
)

// Corrupt is the first thing that was found wrong in a segment. It is an ErrCorrupt.
type Corrupt struct {
	// What is wrong, one clause.
	What string
	// Offset is the place in bytes from the start of the segment, about where it was found.
	Offset int64
	// Want and Got may be empty. They never hold keys or values.
	Want, Got string
}

// Error is one line for a person.
func (e *Corrupt) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "read segment: byte %d: %s", e.Offset, e.What)
	if e.Want != "" {
		fmt.Fprintf(&b, ": want %s, got %s", e.Want, e.Got)
	}
	return b.String()
}

// Is makes the error an ErrCorrupt.
func (e *Corrupt) Is(target error) bool { return target == ErrCorrupt }

// differs is a Corrupt with two numbers.
func differs(what string, offset, want, got int64) *Corrupt {
	return &Corrupt{What: what, Offset: offset, Want: strconv.FormatInt(want, 10), Got: strconv.FormatInt(got, 10)}
}
