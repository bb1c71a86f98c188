package seal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// ReaderAt reads any part of an object's content and decompresses only the frames that are needed. It checks each of
// them, but only a Reader can say that the whole object is sound. It keeps the frame that it read last, and 20 bytes for
// each frame of the object. It is safe for concurrent use.
//
// It asks the source of an encrypted object for pieces of 64 KiB, one after the other. A source that is far away should
// read ahead.
type ReaderAt struct {
	stream  io.ReaderAt // the zstd stream
	decoder *zstd.Decoder

	// Offsets of each frame in the zstd stream and in the content, and of the end.
	starts, plains []int64
	sums           []uint32

	last    atomic.Pointer[decoded]
	scratch sync.Pool // of *[2][]byte, a packed frame each
}

// decoded is the content of a frame. It is never changed.
type decoded struct {
	number int
	plain  []byte
}

// NewReaderAt reads the index of an object that has size bytes. Without identities the object must not be encrypted; with
// some, it must be.
func NewReaderAt(src io.ReaderAt, size int64, identities []Identity) (*ReaderAt, error) {
	stream, length, err := openAt(src, size, identities)
	if err != nil {
		return nil, err
	}
	n, err := workers(0)
	if err != nil {
		return nil, err
	}
	r := &ReaderAt{stream: stream, scratch: sync.Pool{New: func() any { return new([2][]byte) }}}
	if r.decoder, err = newDecoder(n); err != nil {
		return nil, fmt.Errorf("unseal object: %w", err)
	}
	if err := r.readIndex(length); err != nil {
		return nil, err
	}
	return r, nil
}

// Size is the number of bytes of the content.
func (r *ReaderAt) Size() int64 { return r.plains[len(r.plains)-1] }

// readFull reads all of p.
func (r *ReaderAt) readFull(p []byte, offset int64) error {
	n, err := r.stream.ReadAt(p, offset)
	switch {
	case n == len(p):
		return nil
	case err == nil, err == io.EOF:
		return &Corrupt{What: "the zstd stream is cut off", Offset: offset + int64(n)}
	}
	return explain(err, offset+int64(n))
}

// readIndex reads the index from the end of a stream that has length bytes. Everything is checked against the length
// before memory is taken for it.
func (r *ReaderAt) readIndex(length int64) error {
	if length < indexHeader+indexFooter {
		return &Corrupt{What: "the zstd stream is too short for an index", Offset: length}
	}
	var footer [indexFooter]byte
	if err := r.readFull(footer[:], length-indexFooter); err != nil {
		return err
	}
	frames := int64(binary.LittleEndian.Uint32(footer[:]))
	if frames > maxFrames || !bytes.Equal(footer[:], indexEnd(int(frames))) {
		return &Corrupt{What: "the footer of the index is wrong", Offset: length - indexFooter}
	}
	start := length - indexHeader - indexSize(int(frames))
	if start < frames*minFrame {
		return &Corrupt{What: "the index has more frames than the object", Offset: length - indexFooter}
	}
	var header [indexHeader]byte
	if err := r.readFull(header[:], start); err != nil {
		return err
	}
	if !bytes.Equal(header[:], indexStart(int(frames))) {
		return &Corrupt{What: "the header of the index is wrong", Offset: start}
	}
	return r.readEntries(int(frames), start)
}

// readEntries reads the entries of the index at start, where the last frame must end.
func (r *ReaderAt) readEntries(frames int, start int64) error {
	r.starts, r.plains = make([]int64, frames+1), make([]int64, frames+1)
	r.sums = make([]uint32, frames)
	table := bufio.NewReaderSize(io.NewSectionReader(r.stream, start+indexHeader, int64(frames)*indexEntry), 64<<10)
	var b [indexEntry]byte
	for i := range frames {
		at := start + indexHeader + int64(i)*indexEntry
		switch _, err := io.ReadFull(table, b[:]); err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return &Corrupt{What: "the zstd stream is cut off", Offset: at}
		default:
			return explain(err, at)
		}
		e := parseEntry(b[:])
		if !e.sane() {
			return &Corrupt{What: fmt.Sprintf("the index has a frame that cannot be: %d bytes for %d of content", e.packed, e.plain), Offset: at}
		}
		r.starts[i+1], r.plains[i+1], r.sums[i] = r.starts[i]+int64(e.packed), r.plains[i]+int64(e.plain), e.sum
	}
	if r.starts[frames] != start {
		return differs("the frames of the index do not end where it begins", start, start, r.starts[frames])
	}
	return nil
}

// ReadAt reads content as io.ReaderAt says.
func (r *ReaderAt) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, errors.New("unseal object: read before its start")
	}
	n := 0
	for n < len(p) {
		at := offset + int64(n)
		if at >= r.Size() {
			return n, io.EOF
		}
		i := sort.Search(len(r.sums), func(i int) bool { return r.plains[i+1] > at })
		plain, err := r.frame(i)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], plain[at-r.plains[i]:])
	}
	return n, nil
}

// frame gives the content of a frame, which the caller does not change.
func (r *ReaderAt) frame(i int) ([]byte, error) {
	if last := r.last.Load(); last != nil && last.number == i {
		return last.plain, nil
	}
	scratch := r.scratch.Get().(*[2][]byte)
	defer r.scratch.Put(scratch)
	start := r.starts[i]
	want := entry{packed: int(r.starts[i+1] - start), plain: int(r.plains[i+1] - r.plains[i]), sum: r.sums[i]}
	if cap(scratch[0]) < want.packed {
		scratch[0] = make([]byte, want.packed)
	}
	stored := scratch[0][:want.packed]
	if err := r.readFull(stored, start); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(stored) != frameMagic {
		return nil, &Corrupt{What: "there is no frame where the index has one", Offset: start}
	}
	packed, got, err := readFrame(&input{r: bytes.NewReader(stored[4:]), offset: start + 4}, scratch[1], int64(want.plain))
	scratch[1] = packed
	if err != nil {
		return nil, err
	}
	if got != want {
		return nil, &Corrupt{What: "a frame is not as the index has it", Offset: start}
	}
	plain, err := decodeFrame(r.decoder, packed, nil, got, start)
	if err != nil {
		return nil, err
	}
	r.last.Store(&decoded{i, plain})
	return plain, nil
}
