package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math"
)

// split cuts the stream at its frames and gives them to the workers and, in order, to Read. It returns io.EOF when the
// index was read, agrees, and nothing follows.
func (r *Reader) split(in *input) error {
	// The entries that the index must have are hashed, not kept: a hostile object of tiny frames would make them as
	// large as itself.
	expected := sha256.New()
	var plain int64
	var scratch [indexEntry]byte
	for frames := 0; ; frames++ {
		start := in.offset
		var magic [4]byte
		if err := in.full(magic[:]); err != nil {
			return err
		}
		switch binary.LittleEndian.Uint32(magic[:]) {
		case indexMagic:
			if err := readIndex(in, frames, [sha256.Size]byte(expected.Sum(nil))); err != nil {
				return err
			}
			return r.checkEnd(in, plain)
		case frameMagic:
		default:
			return &Corrupt{What: "there is neither a frame nor the index", Offset: start}
		}
		if frames == maxFrames {
			return &Corrupt{What: "there are too many frames", Offset: start}
		}
		most := int64(math.MaxInt64)
		if r.plainSize >= 0 {
			most = r.plainSize - plain
		}
		f := &unpacking{start: start, done: make(chan struct{})}
		var ok bool
		if f.packed, ok = r.packs.take(r.halt); !ok {
			return r.halt.reason()
		}
		var err error
		if f.packed, f.entry, err = readFrame(in, f.packed, most); err != nil {
			return err
		}
		// Its memory is taken here, in the order of the frames, so that the frame which Read waits for always has some.
		if f.plain, ok = r.plains.take(r.halt); !ok {
			return r.halt.reason()
		}
		plain += int64(f.entry.plain)
		expected.Write(f.entry.append(scratch[:0]))
		r.jobs <- f // both have room for all frames that go round
		r.order <- f
	}
}

// readIndex reads the index frame, whose magic has been read, and compares it with the frames that came.
func readIndex(in *input, frames int, expected [sha256.Size]byte) error {
	start := in.offset - 4
	var size [4]byte
	if err := in.full(size[:]); err != nil {
		return err
	}
	if got := int64(binary.LittleEndian.Uint32(size[:])); got != indexSize(frames) {
		return differs("the size of the index is not that for the frames before it", start, indexSize(frames), got)
	}
	got := sha256.New()
	piece := make([]byte, 4096*indexEntry) // 48 KiB
	for left := frames * indexEntry; left > 0; left -= len(piece) {
		piece = piece[:min(left, len(piece))]
		if err := in.full(piece); err != nil {
			return err
		}
		got.Write(piece)
	}
	if [sha256.Size]byte(got.Sum(nil)) != expected {
		return &Corrupt{What: "the index does not agree with the frames before it", Offset: start}
	}
	var footer [indexFooter]byte
	if err := in.full(footer[:]); err != nil {
		return err
	}
	if !bytes.Equal(footer[:], indexEnd(frames)) {
		return &Corrupt{What: "the footer of the index is wrong", Offset: in.offset - indexFooter}
	}
	return nil
}

// checkEnd sees to it that nothing follows the index, and that all of the content was there.
func (r *Reader) checkEnd(in *input, plain int64) error {
	var one [1]byte
	switch _, err := io.ReadFull(in.r, one[:]); {
	case err == nil:
		return &Corrupt{What: "something follows the index", Offset: in.offset}
	case err != io.EOF:
		return err
	}
	if r.plainSize >= 0 && plain != r.plainSize {
		return differs("there is less content than expected", in.offset, r.plainSize, plain)
	}
	return io.EOF
}
