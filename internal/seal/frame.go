package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/klauspost/compress/zstd"
)

// input is a zstd stream that is read front to back.
type input struct {
	r io.Reader
	// offset of the next byte.
	offset int64
}

// full reads all of p. A stream that ends in it is corrupt.
func (in *input) full(p []byte) error {
	n, err := io.ReadFull(in.r, p)
	in.offset += int64(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &Corrupt{What: "the zstd stream is cut off", Offset: in.offset}
	}
	return err
}

// more reads n bytes behind buf, which will have most bytes at the end. The caller has checked both.
func (in *input) more(buf []byte, n, most int) ([]byte, error) {
	buf = grow(buf, n, most)
	err := in.full(buf[len(buf) : len(buf)+n])
	return buf[:len(buf)+n], err
}

// grow makes room for n bytes behind buf. It doubles the memory, but takes no more than most bytes in all, so that what is
// taken follows what has come and has a bound that can be told.
func grow(buf []byte, n, most int) []byte {
	const least = 16 << 10 // bytes
	need := len(buf) + n
	if need <= cap(buf) {
		return buf
	}
	size := max(2*cap(buf), least)
	if size > most/4*3 {
		size = most // rather than to move everything once more
	}
	larger := make([]byte, len(buf), max(size, need))
	copy(larger, buf)
	return larger
}

// readFrame reads the frame whose magic has been read, with the magic into buf, which it may replace by a larger one. It
// follows the headers of the frame and of its blocks and does not decompress. most is the largest content that is wanted.
func readFrame(in *input, buf []byte, most int64) ([]byte, entry, error) {
	start := in.offset - 4
	buf = binary.LittleEndian.AppendUint32(buf[:0], frameMagic)
	plain, buf, err := readFrameHeader(in, buf)
	if err != nil {
		return buf, entry{}, err
	}
	switch {
	case plain == 0:
		return buf, entry{}, &Corrupt{What: "a frame has no content", Offset: start}
	case plain > MaxFrame:
		return buf, entry{}, &Corrupt{What: "a frame is too large", Offset: start,
			Want: "at most " + strconv.Itoa(MaxFrame), Got: strconv.FormatUint(plain, 10)}
	case int64(plain) > most:
		return buf, entry{}, &Corrupt{What: "there is more content than expected", Offset: start,
			Want: "at most " + strconv.FormatInt(most, 10) + " more", Got: strconv.FormatUint(plain, 10)}
	}
	if buf, err = readBlocks(in, buf, start, int(plain)); err != nil {
		return buf, entry{}, err
	}
	if buf, err = in.more(buf, 4, maxPacked(int(plain))); err != nil {
		return buf, entry{}, err
	}
	return buf, entry{packed: len(buf), plain: int(plain), sum: binary.LittleEndian.Uint32(buf[len(buf)-4:])}, nil
}

// readFrameHeader reads what is between the magic and the first block, and gives the size of the content.
func readFrameHeader(in *input, buf []byte) (uint64, []byte, error) {
	at := in.offset
	buf, err := in.more(buf, 1, minFrame)
	if err != nil {
		return 0, buf, err
	}
	descriptor := buf[len(buf)-1]
	wrong := func(what string) (uint64, []byte, error) {
		return 0, buf, &Corrupt{What: what, Offset: at}
	}
	switch {
	case descriptor&reservedBits != 0:
		return wrong("a frame header has reserved bits set")
	case descriptor&dictionary != 0:
		return wrong("a frame wants a dictionary")
	case descriptor&withChecksum == 0:
		return wrong("a frame has no checksum")
	case descriptor&singleSegment == 0:
		// Such a frame may also lack the size of its content.
		return wrong("a frame is not in a single segment")
	}
	width := 1 << (descriptor >> 6) // bytes of the content size
	if buf, err = in.more(buf, width, minFrame); err != nil {
		return 0, buf, err
	}
	size := buf[len(buf)-width:]
	switch width {
	case 1:
		return uint64(size[0]), buf, nil
	case 2:
		return uint64(binary.LittleEndian.Uint16(size)) + 256, buf, nil // zstd's rule: what fits into 1 byte has 1
	case 4:
		return uint64(binary.LittleEndian.Uint32(size)), buf, nil
	}
	return binary.LittleEndian.Uint64(size), buf, nil
}

// readBlocks reads the blocks of a frame that starts at start.
func readBlocks(in *input, buf []byte, start int64, plain int) ([]byte, error) {
	largest := min(plain, maxBlock)
	for last := false; !last; {
		at := in.offset
		var err error
		if buf, err = in.more(buf, 3, maxPacked(plain)); err != nil {
			return buf, err
		}
		b := buf[len(buf)-3:]
		header := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		last = header&1 != 0
		kind, size := header>>1&3, header>>3
		if size > largest {
			return buf, differs("a block is larger than its frame or than zstd allows", at, int64(largest), int64(size))
		}
		switch kind {
		case 1: // one byte, repeated size times
			size = 1
		case 3:
			return buf, &Corrupt{What: "a block is of the reserved kind", Offset: at}
		}
		if len(buf)+size+4 > maxPacked(plain) {
			// Blocks may be empty, so that a frame could go on forever.
			return buf, differs("a frame is longer than its content can need", start, int64(maxPacked(plain)), int64(len(buf)+size+4))
		}
		if buf, err = in.more(buf, size, maxPacked(plain)); err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// decodeFrame decompresses a frame that readFrame read, which starts at start, into plain's memory or into new memory.
func decodeFrame(decoder *zstd.Decoder, packed, plain []byte, e entry, start int64) (_ []byte, err error) {
	// A bug of the decoder must not end a program that also looks after a running etcd.
	defer func() {
		if p := recover(); p != nil {
			err = &Corrupt{What: fmt.Sprintf("a frame does not decompress: %v", p), Offset: start}
		}
	}()
	if cap(plain) < e.plain {
		// The decoder is faster when it may write some bytes past the content.
		plain = make([]byte, 0, e.plain+16)
	}
	plain, err = decoder.DecodeAll(packed, plain[:0])
	switch {
	case errors.Is(err, zstd.ErrCRCMismatch):
		return nil, &Corrupt{What: "the content of a frame does not have its checksum", Offset: start}
	case err != nil:
		return nil, &Corrupt{What: "a frame does not decompress: " + err.Error(), Offset: start}
	case len(plain) != e.plain:
		return nil, differs("a frame has other content than it says", start, int64(e.plain), int64(len(plain)))
	}
	return plain, nil
}

// newDecoder gives a decoder for that many frames at a time, which uses no goroutines of its own.
func newDecoder(concurrency int) (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(concurrency), zstd.WithDecoderMaxMemory(MaxFrame))
}
