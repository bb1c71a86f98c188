package seal

import (
	"encoding/binary"
)

const (
	// DefaultFrame is the size of a frame in bytes of content: 1 to 4 MiB lose 1 % to one long stream, and the larger,
	// the fewer requests a reader of a whole object in pieces needs.
	DefaultFrame = 4 << 20
	// MaxFrame is the largest frame, in bytes of content, that is written or read. It bounds what a hostile object makes
	// a reader allocate.
	MaxFrame = 16 << 20

	frameMagic = 0xFD2FB528
	indexMagic = 0x184D2A5E // one of the 16 of skippable frames
	tableMagic = 0x8F92EAB1 // the last 4 bytes of the zstd stream

	// Bits of a frame header descriptor; the two highest bits say how long the content size is.
	singleSegment = 1 << 5
	reservedBits  = 1<<4 | 1<<3
	withChecksum  = 1 << 2
	dictionary    = 1<<1 | 1<<0

	// maxBlock is zstd's, in bytes, before and after compression.
	maxBlock = 128 << 10
	// minFrame is magic, descriptor, content size and one block of one byte, and the checksum.
	minFrame = 4 + 1 + 1 + 3 + 1 + 4

	// Parts of the index frame, in bytes.
	indexHeader = 8
	indexEntry  = 12
	indexFooter = 9
	// tableChecksums is the descriptor of an index that has checksums; all other bits are reserved.
	tableChecksums = 1 << 7
	// maxFrames is the seekable format's limit: 512 TiB in frames of 4 MiB.
	maxFrames = 0x8000000
)

// entry is what the index says of one frame.
type entry struct {
	// packed and plain are its bytes with and without compression.
	packed, plain int
	// sum is the low half of the xxh64 of the content, which zstd also writes behind the frame.
	sum uint32
}

// append adds the entry to an index.
func (e entry) append(index []byte) []byte {
	index = binary.LittleEndian.AppendUint32(index, uint32(e.packed))
	index = binary.LittleEndian.AppendUint32(index, uint32(e.plain))
	return binary.LittleEndian.AppendUint32(index, e.sum)
}

func parseEntry(b []byte) entry {
	return entry{
		packed: int(binary.LittleEndian.Uint32(b)),
		plain:  int(binary.LittleEndian.Uint32(b[4:])),
		sum:    binary.LittleEndian.Uint32(b[8:]),
	}
}

// maxPacked bounds a frame with so much content, in bytes. It is zstd's own bound, ZSTD_compressBound, rounded up: blocks
// that do not compress are stored as they are, with 3 bytes each.
func maxPacked(plain int) int { return plain + plain>>8 + 128 }

// sane tells whether there can be a frame like that.
func (e entry) sane() bool {
	return e.plain >= 1 && e.plain <= MaxFrame && e.packed >= minFrame && e.packed <= maxPacked(e.plain)
}

// indexStart gives the header of the index frame.
func indexStart(frames int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, indexMagic)
	return binary.LittleEndian.AppendUint32(b, uint32(indexSize(frames)))
}

// indexSize is what the header of the index frame says: its bytes without the header. It fits into 32 bits for as many
// frames as there may be.
func indexSize(frames int) int64 { return int64(frames)*indexEntry + indexFooter }

// indexEnd gives the footer.
func indexEnd(frames int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(frames))
	b = append(b, tableChecksums)
	return binary.LittleEndian.AppendUint32(b, tableMagic)
}
