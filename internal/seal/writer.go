package seal

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxWindow is how far back a frame refers to itself, in bytes. With more, what etcd holds becomes no smaller, and
	// each worker needs twice as much memory.
	maxWindow = 1 << 20
	// outBuffer joins age's header lines and its pieces of 64 KiB to fewer writes, in bytes.
	outBuffer = 256 << 10
)

// Options of a Writer. The zero value compresses and does not encrypt.
type Options struct {
	// Recipients can read the object; without any, everybody can.
	Recipients []Recipient
	// Concurrency is the number of frames that are compressed at a time; 0 is GOMAXPROCS, and 4 at most.
	Concurrency int
	// FrameSize is the content of a frame in bytes, up to MaxFrame; 0 is DefaultFrame.
	FrameSize int
	// Fast takes less time and makes larger objects. It is zstd all the same.
	Fast bool
	// Memory, when it is set, is shared with the Writers before and after this one.
	Memory *Memory
}

// Writer seals a stream: an io.Writer for the plain bytes, which writes the object to another. It keeps
//
//	(workers + 2) * (frame size + largest packed frame) + workers * 3 MiB
//
// in memory, 38 MiB for two workers and the default frame, and much less while there is little to write. A Writer belongs
// to one goroutine. It writes to dst from a goroutine of its own, and not after Close or Abort has returned; these wait
// for a write to dst that does not return.
type Writer struct {
	frameSize int
	writerMemory
	kind   memoryKind
	shared *Memory        // where the memory goes in the end; may be nil
	age    io.WriteCloser // to out, which goes to dst; nil when the object is not encrypted

	raw     []byte        // the frame that is being filled; nil when there is none
	long    bool          // there was a full frame, so that another one will be full, too
	jobs    chan *packing // for the workers
	order   chan *packing // the same frames in order, for the goroutine that writes
	halt    *halt
	running sync.WaitGroup
	index   []byte // entries of the frames that were written

	closed bool
	result error // of Close
}

// packing is a frame on its way through a worker.
type packing struct {
	raw, packed []byte
	plain       int // len(raw), which goes back before the frame is written
	done        chan struct{}
}

// NewWriter begins an object. Nothing may have been written to dst when it returns. Whoever began one ends it with Close
// or Abort.
func NewWriter(dst io.Writer, opts Options) (*Writer, error) {
	n, err := workers(opts.Concurrency)
	if err != nil {
		return nil, fmt.Errorf("seal object: %w", err)
	}
	w := &Writer{
		frameSize: opts.FrameSize, shared: opts.Memory,
		jobs: make(chan *packing, n+2), order: make(chan *packing, n+2), halt: newHalt(),
	}
	switch {
	case opts.FrameSize == 0:
		w.frameSize = DefaultFrame
	case opts.FrameSize < 0 || opts.FrameSize > MaxFrame:
		return nil, fmt.Errorf("seal object: frame size is %d bytes, want 1 to %d", opts.FrameSize, MaxFrame)
	}
	w.kind = memoryKind{workers: n, window: windowFor(w.frameSize), fast: opts.Fast}
	if w.writerMemory, err = opts.Memory.take(dst, w.kind); err != nil {
		return nil, err
	}
	if len(opts.Recipients) > 0 {
		if err := CheckRecipients(opts.Recipients); err != nil {
			return nil, fmt.Errorf("seal object: %w", err)
		}
		if w.age, err = age.Encrypt(w.out, ageRecipients(opts.Recipients)...); err != nil {
			return nil, fmt.Errorf("seal object: begin encryption: %w", err)
		}
	}
	for range n {
		w.running.Go(w.work)
	}
	w.running.Go(w.emit)
	return w, nil
}

// windowFor gives the largest window, a power of two, that is not larger than a frame.
func windowFor(frameSize int) int {
	window := maxWindow
	for window > frameSize && window > zstd.MinWindowSize {
		window /= 2
	}
	return window
}

// Write takes the next bytes. It waits while all buffers are in use. An error may be that of bytes which were taken
// before; it is final.
func (w *Writer) Write(p []byte) (int, error) {
	if w.closed {
		return 0, errClosed
	}
	if err := w.halt.reason(); err != nil {
		return 0, err
	}
	taken := 0
	for len(p) > 0 {
		if w.raw == nil {
			raw, ok := w.raws.take(w.halt)
			if !ok {
				return taken, w.halt.reason()
			}
			if w.long && cap(raw) < w.frameSize {
				raw = make([]byte, 0, w.frameSize)
			}
			w.raw = raw
		}
		n := min(len(p), w.frameSize-len(w.raw))
		w.raw = append(grow(w.raw, n, w.frameSize), p[:n]...)
		p, taken = p[n:], taken+n
		if len(w.raw) == w.frameSize {
			w.long = true
			if err := w.dispatch(); err != nil {
				return taken, err
			}
		}
	}
	return taken, nil
}

// dispatch gives the filled frame to the workers. It takes the memory for the result here, in the order of the frames:
// workers that took it themselves could all wait for the one whose frame must be written first.
func (w *Writer) dispatch() error {
	packed, ok := w.packs.take(w.halt)
	if !ok {
		return w.halt.reason()
	}
	f := &packing{raw: w.raw, packed: packed, plain: len(w.raw), done: make(chan struct{})}
	w.raw = nil
	w.jobs <- f // both have room for all frames that go round
	w.order <- f
	return nil
}

// work compresses frames until there are no more.
func (w *Writer) work() {
	for {
		select {
		case <-w.halt.done:
			return
		case f, ok := <-w.jobs:
			if !ok {
				return
			}
			if err := w.pack(f); err != nil {
				w.halt.with(err)
				return
			}
			w.raws.give(f.raw)
			close(f.done)
		}
	}
}

// pack compresses one frame.
func (w *Writer) pack(f *packing) (err error) {
	// A bug of the encoder must not end a program that also looks after a running etcd.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("seal object: compress: %v", p)
		}
	}()
	if bound := w.encoder.MaxEncodedSize(len(f.raw)); cap(f.packed) < bound {
		f.packed = make([]byte, 0, bound)
	}
	f.packed = w.encoder.EncodeAll(f.raw, f.packed)
	return nil
}

// emit writes the frames in order.
func (w *Writer) emit() {
	for {
		var f *packing
		select {
		case <-w.halt.done:
			return
		case next, ok := <-w.order:
			if !ok {
				return
			}
			f = next
		}
		select {
		case <-w.halt.done:
			return
		case <-f.done:
		}
		if err := w.emitFrame(f); err != nil {
			w.halt.with(err)
			return
		}
		w.packs.give(f.packed)
	}
}

func (w *Writer) emitFrame(f *packing) error {
	e := entry{packed: len(f.packed), plain: f.plain}
	if !e.sane() {
		return fmt.Errorf("seal object: a frame of %d bytes became one of %d bytes", e.plain, e.packed)
	}
	e.sum = binary.LittleEndian.Uint32(f.packed[len(f.packed)-4:])
	if len(w.index) == maxFrames*indexEntry {
		return fmt.Errorf("seal object: it is too long: more than %d frames of %d bytes", maxFrames, w.frameSize)
	}
	w.index = e.append(w.index)
	return w.write(f.packed)
}

func (w *Writer) write(b []byte) error {
	var to io.Writer = w.out
	if w.age != nil {
		to = w.age
	}
	if _, err := to.Write(b); err != nil {
		return fmt.Errorf("seal object: write: %w", err)
	}
	return nil
}

// Close writes what is left, the index and the end of the encryption. Without an error dst has all of the object. Asked
// again, it answers the same.
func (w *Writer) Close() error {
	if w.closed {
		return w.result
	}
	w.closed = true
	if len(w.raw) > 0 {
		_ = w.dispatch() // when it fails, halt has the reason
	}
	close(w.jobs)
	close(w.order)
	w.running.Wait()
	if w.result = w.halt.reason(); w.result == nil {
		w.result = w.finish()
	}
	if w.result == nil {
		w.shared.give(w.kind, w.writerMemory)
	}
	return w.result
}

func (w *Writer) finish() error {
	frames := len(w.index) / indexEntry
	for _, part := range [][]byte{indexStart(frames), w.index, indexEnd(frames)} {
		if err := w.write(part); err != nil {
			return err
		}
	}
	if w.age != nil {
		if err := w.age.Close(); err != nil {
			return fmt.Errorf("seal object: end encryption: %w", err)
		}
	}
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("seal object: write: %w", err)
	}
	return nil
}

// Abort ends the object where it is; what dst got is no whole object and is never taken for one. It returns when all
// goroutines have ended. After Close it does nothing.
func (w *Writer) Abort() {
	if w.closed {
		return
	}
	w.closed = true
	w.halt.with(errAborted)
	w.running.Wait()
	w.result = w.halt.reason()
}
