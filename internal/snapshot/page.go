package snapshot

import (
	"encoding/binary"
	"hash/fnv"
)

const (
	headerSize  = 16
	elementSize = 16 // of branch and leaf elements alike
	bucketSize  = 16
	metaSize    = 64

	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10

	bucketElement = 0x01

	magic   = 0xED0CDAED
	version = 2

	// bbolt takes the page size of the operating system it runs on.
	minPageSize = 4 << 10
	maxPageSize = 64 << 10

	// noFreelist in a meta page says that free pages are not listed: etcd's way.
	noFreelist = ^uint64(0)
)

// header is the start of a page.
type header struct {
	id       uint64
	flags    uint16
	count    uint16
	overflow uint32
}

func parseHeader(b []byte) header {
	_ = b[headerSize-1]
	return header{
		id:       binary.NativeEndian.Uint64(b),
		flags:    binary.NativeEndian.Uint16(b[8:]),
		count:    binary.NativeEndian.Uint16(b[10:]),
		overflow: binary.NativeEndian.Uint32(b[12:]),
	}
}

// meta is the content of a valid meta page.
type meta struct {
	pageSize  int
	root      uint64
	freelist  uint64
	highWater uint64
	txid      uint64
	head      header
}

// parseMeta reads the meta page that b begins with. It tells false for anything that bbolt would not open.
func parseMeta(b []byte) (meta, bool) {
	if len(b) < headerSize+metaSize {
		return meta{}, false
	}
	m := b[headerSize : headerSize+metaSize]
	sum := fnv.New64a()
	sum.Write(m[:56])
	if binary.NativeEndian.Uint32(m) != magic || binary.NativeEndian.Uint32(m[4:]) != version ||
		binary.NativeEndian.Uint64(m[56:]) != sum.Sum64() {
		return meta{}, false
	}
	return meta{
		pageSize:  int(binary.NativeEndian.Uint32(m[8:])),
		root:      binary.NativeEndian.Uint64(m[16:]),
		freelist:  binary.NativeEndian.Uint64(m[32:]),
		highWater: binary.NativeEndian.Uint64(m[40:]),
		txid:      binary.NativeEndian.Uint64(m[48:]),
		head:      parseHeader(b),
	}, true
}

func validPageSize(n int) bool {
	return n >= minPageSize && n <= maxPageSize && n&(n-1) == 0
}

// probePageSize finds the page size in the first bytes of a file: in meta page 0, else in a meta page 1 at each place
// where one can be. It tells false when no meta page is valid.
func probePageSize(b []byte) (int, bool) {
	if m, ok := parseMeta(b); ok {
		return m.pageSize, validPageSize(m.pageSize)
	}
	for size := minPageSize; size <= maxPageSize && size < len(b); size *= 2 {
		if m, ok := parseMeta(b[size:]); ok && m.pageSize == size {
			return size, true
		}
	}
	return 0, false
}

// element is one element of a tree page. Offsets are bytes from the start of the page.
type element struct {
	flags     uint32 // leaf
	child     uint64 // branch
	key       int64
	keySize   int64
	value     int64 // leaf
	valueSize int64 // leaf
}

// elements steps through a tree page and holds each element against the layout that bbolt always writes: a table of
// elements, then their keys and values in the same order with no hole. That is stricter than what bbolt reads, and
// finds most damage to the table itself.
type elements struct {
	table []byte // the page's first bytes: header and at least the table
	leaf  bool
	count int
	size  int64 // of the page with its overflow
	end   int64 // where the data of the next element must start
	i     int
}

// newElements starts at the first element. b holds the page or at least its first page; size is that of the whole.
func newElements(b []byte, size int64) (elements, fault) {
	h := parseHeader(b)
	e := elements{table: b, leaf: h.flags == leafPage, count: int(h.count), size: size}
	e.end = headerSize + int64(e.count)*elementSize
	if e.end > int64(len(b)) {
		return e, faultTable
	}
	if e.count == 0 && !e.leaf {
		return e, faultEmpty
	}
	if e.count == 0 && len(b) >= headerSize+elementSize {
		// bbolt zeroes what it does not use: a position here is a table whose count was lost.
		for _, c := range b[headerSize : headerSize+elementSize] {
			if c != 0 {
				return e, faultEmpty
			}
		}
	}
	return e, sound
}

// more tells whether next may be called.
func (e *elements) more() bool { return e.i < e.count }

// next gives the next element.
func (e *elements) next() (element, fault) {
	at := int64(headerSize + e.i*elementSize)
	b := e.table[at : at+elementSize : at+elementSize]
	e.i++
	var el element
	var pos int64
	if e.leaf {
		el.flags = binary.NativeEndian.Uint32(b)
		pos = int64(binary.NativeEndian.Uint32(b[4:]))
		el.keySize = int64(binary.NativeEndian.Uint32(b[8:]))
		el.valueSize = int64(binary.NativeEndian.Uint32(b[12:]))
	} else {
		pos = int64(binary.NativeEndian.Uint32(b))
		el.keySize = int64(binary.NativeEndian.Uint32(b[4:]))
		el.child = binary.NativeEndian.Uint64(b[8:])
	}
	el.key = at + pos
	el.value = el.key + el.keySize
	if el.key != e.end {
		return el, faultLayout
	}
	e.end = el.value + el.valueSize
	switch {
	case e.end > e.size:
		return el, faultBounds
	case el.keySize == 0:
		return el, faultKey
	case el.flags&^bucketElement != 0:
		return el, faultFlags
	}
	return el, sound
}
