package seal

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

var errTest = errors.New("no more of this")

// limited takes so many bytes and then fails, or takes only a part of what it is given without saying why.
type limited struct {
	left  int
	short bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(l.left, len(p))
	l.left -= n
	if n < len(p) && !l.short {
		return n, errTest
	}
	return n, nil
}

// TestDestinationFails lets dst fail after each number of bytes. Whoever writes must hear of it, at the latest from Close.
func TestDestinationFails(t *testing.T) {
	noLeaks(t)
	o := newOwner(t, X25519)
	plain := noise(700_000)
	for _, to := range [][]Recipient{nil, {o.recipient}} {
		opts := Options{FrameSize: 40_000, Concurrency: 2, Recipients: to}
		whole := len(sealed(t, plain, opts))
		for _, short := range []bool{false, true} {
			want := errTest
			if short {
				want = io.ErrShortWrite
			}
			for left := 0; left < whole; left += 1 + whole/30 {
				w, err := NewWriter(&limited{left, short}, opts)
				if err != nil {
					t.Fatal(err)
				}
				_, err = w.Write(plain)
				if err != nil && !errors.Is(err, want) {
					t.Errorf("after %d of %d bytes: Write says %v", left, whole, err)
				}
				for range 2 {
					if err := w.Close(); !errors.Is(err, want) {
						t.Errorf("after %d of %d bytes: Close says %v", left, whole, err)
					}
				}
				if _, err := w.Write(plain); err == nil {
					t.Error("Write after Close says nothing")
				}
			}
		}
	}
	w, err := NewWriter(&limited{left: 1 << 20}, Options{FrameSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	// The error comes without Close, too, or an endless stream would be read for nothing.
	for n := 0; ; n++ {
		if _, err := w.Write(noise(1000)); errors.Is(err, errTest) {
			break
		} else if err != nil || n > 1<<14 {
			t.Fatalf("after %d writes: %v", n, err)
		}
	}
	w.Abort()
	if err := w.Close(); !errors.Is(err, errTest) {
		t.Errorf("Close says %v", err)
	}
}

// TestAbort gives up at every stage. What dst got must never look whole.
func TestAbort(t *testing.T) {
	noLeaks(t)
	o := newOwner(t, X25519)
	for _, to := range [][]Recipient{nil, {o.recipient}} {
		var identities []Identity
		if to != nil {
			identities = []Identity{o.identity}
		}
		for frames := range 12 {
			plain := text(frames * 5000)
			var object bytes.Buffer
			w, err := NewWriter(&object, Options{FrameSize: 5000, Concurrency: 3, Recipients: to})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(plain); err != nil {
				t.Fatal(err)
			}
			w.Abort()
			w.Abort()
			if err := w.Close(); !errors.Is(err, errAborted) {
				t.Errorf("Close says %v", err)
			}
			if _, err := w.Write(plain[:1*min(1, len(plain))]); err == nil {
				t.Error("Write after Abort says nothing")
			}
			wantStart(t, "aborted", object.Bytes(), plain, identities...)
		}
	}
	// After Close it does nothing, so that it can be deferred.
	var object bytes.Buffer
	w, err := NewWriter(&object, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	read(t, object.Bytes(), nil)
}

// TestAbortOfABlockedWriter has a destination that takes nothing until it is ended, as a pipe to a store that hangs.
func TestAbortOfABlockedWriter(t *testing.T) {
	noLeaks(t)
	reader, pipe := io.Pipe()
	w, err := NewWriter(pipe, Options{FrameSize: 300_000, Concurrency: 2})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for {
			if _, err := w.Write(noise(100_000)); err != nil {
				done <- err
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, reader, 400_000); err != nil {
		t.Fatal(err)
	}
	if err := reader.CloseWithError(errTest); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, errTest) {
		t.Errorf("Write says %v", err)
	}
	w.Abort()
}

// TestSourceFails lets the source fail after each number of bytes: that is no damage.
func TestSourceFails(t *testing.T) {
	noLeaks(t)
	o := newOwner(t, X25519)
	plain := text(300_000)
	for _, to := range [][]Recipient{nil, {o.recipient}} {
		var identities []Identity
		if to != nil {
			identities = []Identity{o.identity}
		}
		object := sealed(t, plain, Options{FrameSize: 20_000, Recipients: to})
		for _, failure := range []error{errTest, io.ErrUnexpectedEOF, io.ErrClosedPipe} {
			for n := 0; n <= len(object); n += max(1, len(object)/50) {
				src := io.MultiReader(bytes.NewReader(object[:n]), iotest.ErrReader(failure))
				got, err := unsealed(src, ReaderOptions{Identities: identities, PlainSize: -1})
				if !errors.Is(err, failure) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNoIdentity) {
					t.Errorf("after %d of %d bytes: %v", n, len(object), err)
				}
				if !bytes.HasPrefix(plain, got) {
					t.Errorf("after %d of %d bytes: gives other content", n, len(object))
				}
			}
			at := failingAt{bytes.NewReader(object), failure}
			if _, err := NewReaderAt(at, int64(len(object)), identities); !errors.Is(err, failure) || errors.Is(err, ErrCorrupt) {
				t.Errorf("ReaderAt says %v", err)
			}
		}
	}
}

// failingAt fails for all but the first 30,000 bytes.
type failingAt struct {
	io.ReaderAt
	err error
}

func (f failingAt) ReadAt(p []byte, offset int64) (int, error) {
	if offset+int64(len(p)) > 30_000 {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, offset)
}

// TestCloseOfReader ends the reading at every stage.
func TestCloseOfReader(t *testing.T) {
	noLeaks(t)
	o := newOwner(t, X25519)
	plain := text(200_000)
	object := sealed(t, plain, Options{FrameSize: 9_000, Recipients: []Recipient{o.recipient}})
	for n := 0; n < len(plain); n += 7_777 {
		r, err := NewReader(bytes.NewReader(object), ReaderOptions{Identities: []Identity{o.identity}, PlainSize: -1, Concurrency: 2})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if n, err := r.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errUnread) {
			t.Errorf("Read after Close gives %d, %v", n, err)
		}
	}
}

// TestNothingRunsAfterAnError reads a damaged object and forgets to close: all goroutines end by themselves.
func TestNothingRunsAfterAnError(t *testing.T) {
	noLeaks(t)
	object := sealed(t, noise(500_000), Options{FrameSize: 10_000})
	object[100_000] ^= 1
	r, err := NewReader(bytes.NewReader(object), ReaderOptions{PlainSize: -1, Concurrency: 2})
	if err != nil {
		t.Fatal(err)
	}
	var first error
	for range 3 {
		n, err := io.Copy(io.Discard, r)
		if first == nil {
			first = err
		}
		if !errors.Is(err, ErrCorrupt) || err != first {
			t.Errorf("after %d more bytes: %v", n, err)
		}
	}
}
