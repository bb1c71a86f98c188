package network

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Range is a part of an object, as store.Store's Open takes it.
type Range struct{ From, Length int64 }

// Last is the number of the last byte that is asked for; math.MaxInt64 when that is all to the end.
func (r Range) Last() int64 {
	if r.Length > 0 && r.Length <= math.MaxInt64-r.From {
		return r.From + r.Length - 1
	}
	return math.MaxInt64
}

// All tells whether it is the whole object.
func (r Range) All() bool { return r.From == 0 && r.Length < 0 }

// Header is what a request says in Range; "" for all of the object. No header asks for no bytes.
func (r Range) Header() string {
	switch {
	case r.All():
		return ""
	case r.Last() == math.MaxInt64:
		return fmt.Sprintf("bytes=%d-", r.From)
	}
	return fmt.Sprintf("bytes=%d-%d", r.From, r.Last())
}

// CheckBegin refuses an answer whose Content-Range does not begin where it was asked to.
func (r Range) CheckBegin(contentRange string) error {
	if r.All() || strings.HasPrefix(contentRange, fmt.Sprintf("bytes %d-", r.From)) {
		return nil
	}
	return store.Mark(fmt.Errorf("the store gives the range %q of it, not that from byte %d", Printable(contentRange), r.From), store.ErrFinal)
}

// Reader is how a driver reads an object.
type Reader struct {
	// Key gives the key of the object with a name.
	Key func(name string) (string, error)
	// Look tells whether an object is there.
	Look func(key string) error
	// Get asks for a part of an object, which is at least a byte long. It gives http.NoBody when the object ends before it.
	Get func(key string, part Range) (io.ReadCloser, error)
	// Explain puts an error of a connection into the store's words. It is called while the body is read, too.
	Explain func(error) error
}

// Open is that of store.Store.
func (r Reader) Open(name string, from, length int64) (io.ReadCloser, error) {
	raw, err := r.open(name, Range{from, length})
	if err != nil {
		return nil, fmt.Errorf("open object %q: %w", name, err)
	}
	return &body{raw: raw, name: name, left: length, explain: r.Explain}, nil
}

func (r Reader) open(name string, part Range) (io.ReadCloser, error) {
	key, err := r.Key(name)
	if err == nil {
		err = store.CheckRange(part.From, part.Length)
	}
	if err != nil {
		return nil, err
	}
	if part.Length == 0 { // no range says that
		return http.NoBody, r.Look(key)
	}
	return r.Get(key, part)
}

// body is what is read of an object.
type body struct {
	raw     io.ReadCloser
	name    string
	left    int64 // at most; -1 when there is no limit
	explain func(error) error
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.raw.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read object %q: %w", b.name, b.explain(err))
	}
	return n, err
}

func (b *body) Close() error { return b.raw.Close() }
