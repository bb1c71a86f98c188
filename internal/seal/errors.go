package seal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What can keep an object from being read. Ask with errors.Is. Errors of the source itself are none of them: they are
// wrapped as they are, and another try may succeed.
var (
	// ErrCorrupt means that the object is not what a Writer wrote.
	ErrCorrupt = errors.New("corrupt object")
	// ErrNoIdentity means that the object is encrypted to other keys than the given ones. An object whose first bytes
	// are damaged looks the same: age cannot tell a wrong key from a damaged one.
	ErrNoIdentity = errors.New("no identity matches")
	// ErrEncrypted means that the object is encrypted, and that it was to be read without an identity.
	ErrEncrypted = errors.New("the object is encrypted, and no identity was given")
	// ErrNotEncrypted means that the object is readable for everybody although identities were given. Anybody could
	// have put it there, so it is not taken for the encrypted one that was asked for.
	ErrNotEncrypted = errors.New("the object is not encrypted, although identities were given")
)

// Corrupt is the first thing that was found wrong in an object. It is an ErrCorrupt.
type Corrupt struct {
	// What is wrong, one clause.
	What string
	// Offset is the place in bytes from the start of the zstd stream: of the stored object when it is not encrypted, of
	// what age gives when it is.
	Offset int64
	// Want and Got may be empty. They never hold content of the object.
	Want, Got string
}

// Error is one line for a person.
func (e *Corrupt) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "unseal object: byte %d: %s", e.Offset, e.What)
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

var (
	errAborted = errors.New("seal object: it was given up")
	errClosed  = errors.New("seal object: it is already closed")
	errUnread  = errors.New("unseal object: its reader is closed")
)
