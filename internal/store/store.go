// Package store is the contract of plain object storage, as little of it as a repository needs: put an object that is not
// there yet, read a part of one, look at one, list names in order. Its folders hold the drivers; storetest is the one suite
// that all of them pass, and faultstore makes them fail on purpose.
//
// It is below the repository, which decides what objects mean. Every Store is safe for concurrent use, also by several
// processes. What a store gives back is not to be believed: who reads compares with what was signed.
//
// Not promised: that a listing shows an object as soon as it was put, or no more once it was deleted. Stat and Open tell.
// Nor that an object and a folder can have the same name, such as "a" beside "a/b": file systems cannot.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// Object is what a store tells of an object.
type Object struct {
	Name string
	// Size is in bytes.
	Size int64
	// Modified is by the store's clock: something to show to people, and nothing to derive an order from.
	Modified time.Time
}

var (
	// ErrExists means that an object of that name is there already, durable. It was not touched.
	ErrExists = errors.New("object exists")
	// ErrNotFound means that no object of that name is there.
	ErrNotFound = errors.New("object not found")
	// ErrDenied means that the store refuses these credentials for that.
	ErrDenied = errors.New("access denied")
	// ErrUnsupported means that a store cannot do what was asked for; nothing was done.
	ErrUnsupported = errors.New("not supported by this store")
	// ErrFinal marks every other error after which the next try would end the same way: a name that is not allowed, an
	// address that does not exist, a disk that is full. What is neither this nor one of the above may be gone next time.
	ErrFinal = errors.New("another try cannot help")
)

// Locked is the error of a Delete that an object lock refuses.
type Locked struct {
	// Until is when the lock ends; zero when the store does not say.
	Until time.Time
}

// Error says until when.
func (l Locked) Error() string {
	if l.Until.IsZero() {
		return "object is locked"
	}
	return "object is locked until " + l.Until.UTC().Format(time.RFC3339)
}

// Refused tells whether an error is of one of the classes above: the store has said no, so that a call had no effect.
func Refused(err error) bool {
	for _, class := range []error{ErrExists, ErrNotFound, ErrDenied, ErrUnsupported, ErrFinal} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// Mark puts an error into a class, such as ErrFinal, without a change of its text.
func Mark(err, class error) error { return marked{err, class} }

type marked struct {
	error
	class error
}

func (m marked) Unwrap() []error { return []error{m.error, m.class} }

// PutOptions of a Put. The zero value locks nothing.
type PutOptions struct {
	// RetainUntil locks the object until then, in stores that can; in others Put is ErrUnsupported, and writes nothing. It
	// is a moment to come.
	RetainUntil time.Time
}

// Store is object storage. All methods may be called from any goroutine, at the same time, any number of times. Each checks
// its names; one that CheckName refuses is ErrFinal. An error names the object and never holds credentials. When ctx ends,
// the error is its cause.
type Store interface {
	// Put makes an object of what content gives up to io.EOF; its size is not known before. Any other error of content,
	// which Put's then wraps, or the end of ctx, gives the object up. It never replaces one: ErrExists, also when another
	// writer was faster. Without an error the object is there whole and durable; with one, nothing of it is visible, unless
	// the store's answer was lost for good.
	//
	// content is read from one goroutine and not after the return. A Read of it that blocks is not interrupted. A driver
	// repeats what it can repeat; nobody can repeat a Put from outside, but PutBytes.
	Put(ctx context.Context, name string, content io.Reader, opts PutOptions) (Object, error)
	// Open gives length bytes of an object from the offset from on; all that follow when length is -1. What is asked for
	// beyond its end is not there: the reader ends early, or at once. An object that is missing is ErrNotFound here, not at
	// the first Read. The caller closes the reader; ctx bounds it too, up to its last Read.
	Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error)
	// Stat looks at an object, or is ErrNotFound. It is the word of the store: an object that Put has made is seen at once.
	Stat(ctx context.Context, name string) (Object, error)
	// List gives the objects whose names begin with prefix and come after the name after, by bytes ascending. An error ends
	// it. It fetches page by page, so that the caller may take its time, stop, and delete what was given. Names that
	// CheckName refuses, which somebody else put there, are left out.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]
}

// Deleter is a store that lets objects be deleted. Backing up does not need it.
type Deleter interface {
	// Delete removes an object; it is gone for good when Delete returns. One that is not there is no error. One that a lock
	// holds is a Locked error.
	Delete(ctx context.Context, name string) error
}

// Sweeper is a store in which a Put that was killed can leave something that no listing shows and that takes space.
type Sweeper interface {
	// Sweep removes such leftovers that are older than that, by the store's clock, and tells how many. A Put that is under
	// way for longer fails by it: a day is a good age. It is called now and then, by whoever may delete.
	Sweep(ctx context.Context, olderThan time.Duration) (removed int, err error)
}

// Combine makes one store of a decorated one and the optional abilities that it has; those that are nil it has not.
func Combine(s Store, d Deleter, w Sweeper) Store {
	switch {
	case d != nil && w != nil:
		return struct {
			Store
			Deleter
			Sweeper
		}{s, d, w}
	case d != nil:
		return struct {
			Store
			Deleter
		}{s, d}
	case w != nil:
		return struct {
			Store
			Sweeper
		}{s, w}
	}
	return s
}

const (
	mostName    = 900 // bytes; object stores take 1,024, and a prefix comes before it
	mostElement = 200 // bytes; file systems take 255, and temporary names are longer
)

// CheckName refuses names that some store could understand in another way. What passes is safe below a folder.
func CheckName(name string) error {
	bad := func(why string) error { return Mark(fmt.Errorf("object name %q: %s", name, why), ErrFinal) }
	if len(name) > mostName {
		return bad("it is too long")
	}
	for element := range strings.SplitSeq(name, "/") {
		switch {
		case element == "" || element[0] == '.':
			return bad("it has an empty or hidden part")
		case len(element) > mostElement:
			return bad("a part of it is too long")
		}
		for _, c := range []byte(element) {
			if c != '.' && c != '_' && c != '-' && c != '=' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return bad("it has a character that is not allowed")
			}
		}
	}
	return nil
}

// CheckRange refuses a range that Open cannot mean.
func CheckRange(from, length int64) error {
	if from < 0 || length < -1 {
		return Mark(fmt.Errorf("range from %d, length %d: it is negative", from, length), ErrFinal)
	}
	return nil
}
