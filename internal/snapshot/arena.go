package snapshot

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
)

const (
	// arenaBlock is how the arena grows; what it holds is far smaller.
	arenaBlock = 128 << 10
	// internSlots bounds the memory of what was seen before: 64 KiB.
	internSlots = 16 << 10
)

// ref names a piece of an arena; zero names none.
type ref uint32

// arena keeps many small pieces of bytes without a header or a pointer each, and keeps equal ones once if they come
// near each other: etcd rewrites the right edge of its trees ten times a second, and the free pages of a real backend
// are full of copies that differ in their last few elements.
type arena struct {
	blocks [][]byte
	seed   maphash.Seed
	slots  []ref
}

func newArena() *arena { return &arena{seed: maphash.MakeSeed(), slots: make([]ref, internSlots)} }

// put keeps a copy of b, which must be shorter than a block.
func (a *arena) put(b []byte) ref {
	need := len(b) + binary.MaxVarintLen32
	if need >= arenaBlock {
		panic("snapshot: piece too long for the arena")
	}
	last := len(a.blocks) - 1
	if last < 0 || cap(a.blocks[last])-len(a.blocks[last]) < need {
		block := make([]byte, 0, arenaBlock)
		if last < 0 {
			block = append(block, 0) // so that no piece is at zero
		}
		a.blocks = append(a.blocks, block)
		last++
	}
	block := a.blocks[last]
	at := ref(last*arenaBlock + len(block))
	block = binary.AppendUvarint(block, uint64(len(b)))
	a.blocks[last] = append(block, b...)
	return at
}

// intern is put, but may give the ref of an equal piece.
func (a *arena) intern(b []byte) ref {
	slot := &a.slots[maphash.Bytes(a.seed, b)%internSlots]
	if *slot != 0 && bytes.Equal(a.get(*slot), b) {
		return *slot
	}
	*slot = a.put(b)
	return *slot
}

// get gives the piece itself; it must not be changed.
func (a *arena) get(r ref) []byte {
	b := a.blocks[r/arenaBlock][r%arenaBlock:]
	size, n := binary.Uvarint(b)
	return b[n : n+int(size)]
}

// size is the memory taken, in bytes, without the table of interned pieces.
func (a *arena) size() int {
	n := cap(a.blocks) * 24
	for _, b := range a.blocks {
		n += cap(b)
	}
	return n
}

// packed reads back what was appended to a piece. Pieces are our own, so that a malformed one is a bug and panics.
type packed []byte

func (p *packed) byte() byte {
	b := (*p)[0]
	*p = (*p)[1:]
	return b
}

func (p *packed) bytes(n int) []byte {
	b := (*p)[:n]
	*p = (*p)[n:]
	return b
}

func (p *packed) uvarint() uint64 {
	v, n := binary.Uvarint(*p)
	*p = (*p)[n:]
	return v
}

func (p *packed) varint() int64 {
	v, n := binary.Varint(*p)
	*p = (*p)[n:]
	return v
}

func (p *packed) ref() ref {
	return ref(binary.NativeEndian.Uint32(p.bytes(4)))
}

func appendRef(to []byte, r ref) []byte { return binary.NativeEndian.AppendUint32(to, uint32(r)) }

// list is a slice of uint32 that grows in blocks, so that growing copies nothing and wastes little.
type list struct {
	blocks [][]uint32
	n      int
}

const listBlock = 16 << 10

func (l *list) append(v uint32) {
	if l.n%listBlock == 0 {
		l.blocks = append(l.blocks, make([]uint32, listBlock))
	}
	l.blocks[l.n/listBlock][l.n%listBlock] = v
	l.n++
}

func (l *list) at(i int) *uint32 { return &l.blocks[i/listBlock][i%listBlock] }

// size is the memory taken, in bytes.
func (l *list) size() int { return len(l.blocks)*listBlock*4 + cap(l.blocks)*24 }

// bitmap has one bit for each page.
type bitmap []uint64

func newBitmap(n int64) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) has(i int64) bool { return b[i/64]&(1<<(i%64)) != 0 }

// holds is has for a number that may be beyond the end.
func (b bitmap) holds(i int64) bool { return i < int64(len(b))*64 && b.has(i) }

func (b bitmap) set(i int64) { b[i/64] |= 1 << (i % 64) }
