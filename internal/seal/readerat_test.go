package seal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"
)

// counted counts the bytes that are read of an object.
type counted struct {
	*bytes.Reader
	mu sync.Mutex
	n  int
}

func (c *counted) ReadAt(p []byte, offset int64) (int, error) {
	n, err := c.Reader.ReadAt(p, offset)
	c.mu.Lock()
	c.n += n
	c.mu.Unlock()
	return n, err
}

func TestReadAt(t *testing.T) {
	o := newOwner(t, X25519)
	plain := append(text(600_000), noise(400_000)...)
	for _, to := range [][]Recipient{nil, {o.recipient}} {
		var identities []Identity
		if to != nil {
			identities = []Identity{o.identity}
		}
		object := sealed(t, plain, Options{FrameSize: 30_000, Recipients: to})
		src := &counted{Reader: bytes.NewReader(object)}
		r, err := NewReaderAt(src, int64(len(object)), identities)
		if err != nil {
			t.Fatal(err)
		}
		if r.Size() != int64(len(plain)) {
			t.Errorf("size is %d, want %d", r.Size(), len(plain))
		}
		if src.n > 150_000 {
			t.Errorf("opening reads %d bytes", src.n)
		}
		src.n = 0
		p := make([]byte, 1000)
		for range 3 {
			if n, err := r.ReadAt(p, 700_100); n != len(p) || err != nil || !bytes.Equal(p, plain[700_100:701_100]) {
				t.Errorf("got %d bytes, %v", n, err)
			}
		}
		// One frame that does not compress, in one or two pieces of age, and once.
		if src.n > 30_100+2*66_000 {
			t.Errorf("reading 1,000 bytes three times reads %d", src.n)
		}
		if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), plain); err != nil {
			t.Error(err)
		}
		for _, offset := range []int64{-1, r.Size(), r.Size() + 1, 1 << 62} {
			n, err := r.ReadAt(p, offset)
			if n != 0 || err == nil || (offset >= 0) != (err == io.EOF) || errors.Is(err, ErrCorrupt) {
				t.Errorf("offset %d: %d, %v", offset, n, err)
			}
		}
		if n, err := r.ReadAt(nil, 5); n != 0 || err != nil {
			t.Errorf("reading nothing gives %d, %v", n, err)
		}
		var wait sync.WaitGroup
		for reader := range 4 {
			wait.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(reader), 0))
				p := make([]byte, 70_000)
				for range 30 {
					at := rnd.IntN(len(plain))
					n, err := r.ReadAt(p[:rnd.IntN(len(p))], int64(at))
					if err != nil && err != io.EOF || !bytes.Equal(p[:n], plain[at:at+n]) {
						t.Errorf("offset %d: %d bytes, %v", at, n, err)
					}
				}
			})
		}
		wait.Wait()
	}
}

// TestOneBadFrame still gives all other frames.
func TestOneBadFrame(t *testing.T) {
	plain := noise(100_000)
	object := sealed(t, plain, Options{FrameSize: 10_000})
	object[45_000] ^= 1
	r, err := NewReaderAt(bytes.NewReader(object), int64(len(object)), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10_000)
	for i := range 10 {
		n, err := r.ReadAt(p, int64(i)*10_000)
		switch {
		case i == 4 && (!errors.Is(err, ErrCorrupt) || n > 0):
			t.Errorf("the bad frame gives %d bytes, %v", n, err)
		case i != 4 && (err != nil || !bytes.Equal(p, plain[i*10_000:(i+1)*10_000])):
			t.Errorf("frame %d: %v", i, err)
		}
	}
	// A read that begins before it gives what is before it.
	if n, err := r.ReadAt(p, 35_000); n != 5_000 || !errors.Is(err, ErrCorrupt) || !bytes.Equal(p[:n], plain[35_000:40_000]) {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

// TestWrongSize opens an object with a size that it does not have.
func TestWrongSize(t *testing.T) {
	o := newOwner(t, X25519)
	for _, to := range [][]Recipient{nil, {o.recipient}} {
		var identities []Identity
		if to != nil {
			identities = []Identity{o.identity}
		}
		object := sealed(t, text(5000), Options{FrameSize: 1000, Recipients: to})
		for _, size := range []int64{-1, 0, 1, int64(len(object)) - 1, int64(len(object)) + 1, 1 << 40, 1<<63 - 1} {
			if _, err := NewReaderAt(bytes.NewReader(object), size, identities); !errors.Is(err, ErrCorrupt) {
				t.Errorf("size %d: %v", size, err)
			}
		}
	}
}
