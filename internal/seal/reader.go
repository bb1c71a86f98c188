package seal

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// ReaderOptions of a Reader. There is no default for PlainSize: the zero value expects an object without content.
type ReaderOptions struct {
	// Identities are the secret keys to try. Without any, the object must not be encrypted; with some, it must be.
	Identities []Identity
	// Concurrency is the number of frames that are decompressed at a time; 0 is GOMAXPROCS, and 4 at most.
	Concurrency int
	// PlainSize is how many bytes of content there must be, or -1 when that is not known.
	PlainSize int64
}

// Reader unseals an object: an io.Reader for the plain bytes. Each byte that it gives has been decrypted and compared with
// the checksum of its frame; that the object is whole is known only at io.EOF. It keeps
//
//	(workers + 2) * (largest frame + largest packed frame)
//
// in memory: 24 MiB for two workers and default frames of what etcd holds, 32 MiB when they do not compress, and 145 MiB
// for the worst that can be made. A Reader belongs to one goroutine; it reads the source from a goroutine of its own.
type Reader struct {
	decoder       *zstd.Decoder
	plainSize     int64
	packs, plains buffers
	jobs          chan *unpacking // for the workers
	order         chan *unpacking // the same frames in order, for Read
	halt          *halt
	running       sync.WaitGroup
	end           error // what follows the last frame; set before order is closed

	plain []byte // the frame that is being read; nil when there is none
	rest  []byte // its bytes that were not read yet
	err   error
}

// unpacking is a frame on its way through a worker.
type unpacking struct {
	packed, plain []byte
	entry         entry
	start         int64 // offset of the frame
	err           error // set before done is closed
	done          chan struct{}
}

// NewReader begins to read an object: it reads the start of it, so that a wrong key shows here. Whoever began one ends it
// with Close.
func NewReader(src io.Reader, opts ReaderOptions) (*Reader, error) {
	n, err := workers(opts.Concurrency)
	if err != nil {
		return nil, fmt.Errorf("unseal object: %w", err)
	}
	if opts.PlainSize < -1 {
		return nil, fmt.Errorf("unseal object: plain size is %d, want -1 or more", opts.PlainSize)
	}
	in, err := open(src, opts.Identities)
	if err != nil {
		return nil, err
	}
	r := &Reader{
		plainSize: opts.PlainSize, halt: newHalt(),
		// One frame of each worker, one that waits for a worker or for Read, and one that is read from the source or by
		// Read.
		packs: newBuffers(n + 2), plains: newBuffers(n + 2),
		jobs: make(chan *unpacking, n+2), order: make(chan *unpacking, n+2),
	}
	if r.decoder, err = newDecoder(n); err != nil {
		return nil, fmt.Errorf("unseal object: %w", err)
	}
	for range n {
		r.running.Go(r.work)
	}
	r.running.Go(func() {
		r.end = r.split(&input{r: in})
		close(r.jobs)
		close(r.order)
	})
	return r, nil
}

// work decompresses frames until there are no more.
func (r *Reader) work() {
	for f := range r.jobs {
		if f.err = r.halt.reason(); f.err == nil {
			f.plain, f.err = decodeFrame(r.decoder, f.packed, f.plain, f.entry, f.start)
		}
		r.packs.give(f.packed)
		close(f.done)
	}
}

// Read gives the next bytes of the content. It is io.EOF only after the whole object was read and everything in it
// agrees. Any other error is final.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, r.err
	}
	for len(r.rest) == 0 {
		if r.err == nil {
			r.err = r.next()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo writes what was not read yet, whole frames where it can. It is nil only where Read would be io.EOF in the end.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		for len(r.rest) == 0 {
			if r.err == nil {
				r.err = r.next()
			}
			if r.err == io.EOF {
				return written, nil
			}
			if r.err != nil {
				return written, r.err
			}
		}
		n, err := w.Write(r.rest)
		written += int64(n)
		if err == nil && n < len(r.rest) {
			err = io.ErrShortWrite
		}
		r.rest = r.rest[n:]
		if err != nil {
			return written, err
		}
	}
}

// next waits for the next frame.
func (r *Reader) next() error {
	if r.plain != nil {
		r.plains.give(r.plain)
		r.plain = nil
	}
	f, more := <-r.order
	if !more {
		return r.end
	}
	<-f.done
	if f.err != nil {
		r.halt.with(f.err)
		return f.err
	}
	r.plain, r.rest = f.plain, f.plain
	return nil
}

// Close ends the reading, at any time, and returns when all goroutines have ended. It waits for a read of the source that
// is under way: whoever cannot wait ends the source first. It is always nil.
func (r *Reader) Close() error {
	r.halt.with(errUnread)
	r.running.Wait()
	r.rest = nil
	if r.err == nil {
		r.err = errUnread
	}
	return nil
}
