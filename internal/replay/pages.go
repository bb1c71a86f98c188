package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// The layout of a bbolt file is in snapshot's documentation.
const (
	headerSize  = 16
	elementSize = 16
	bucketSize  = 16
	metaSize    = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	elementBucket = 0x01

	metaMagic   = 0xED0CDAED
	metaVersion = 2

	// Pages before the first of the tree: two of meta, the root, the empty list of free pages.
	pageRoot     = 2
	pageFreelist = 3
	pagesBefore  = 4

	// mostLong is how many elements bbolt leaves in a page that is longer than one; a longer one it would split.
	mostLong = 4
	// outBytes is how much is written at once.
	outBytes = 256 << 10
)

// pageWriter writes a bbolt file with one bucket, "key", from elements that come in order: each page once, front to back, full
// leaves, and every branch after what is below it. What bbolt would write instead goes through its nodes, pages and maps of
// both: four times the time and 100 MB for a million records of 1.1 KB (BenchmarkWriters). Memory: the largest element, a buffer and
// one page for each level.
type pageWriter struct {
	out      io.Writer
	pageSize int
	next     uint64 // page
	buffer   []byte // of pages that were not written yet

	leaf   leaf
	levels []branch // from the leaves' parents up
}

// leaf is the page that is being filled.
type leaf struct {
	data  []byte // keys and values
	sizes []elementSizes
	first [revisionSize + 1]byte // its first key
}

type elementSizes struct{ key, value uint32 }

// branch is a branch page that is being filled.
type branch struct {
	children []child
	written  bool // there are pages of this level already
	size     int  // of the page, in bytes
}

type child struct {
	key  [revisionSize + 1]byte
	size uint8 // of the key
	page uint64
}

func newPageWriter(out io.Writer, pageSize int) (*pageWriter, error) {
	if pageSize < 4<<10 || pageSize > 64<<10 || pageSize&(pageSize-1) != 0 {
		return nil, fmt.Errorf("a page of %d bytes cannot be", pageSize)
	}
	w := &pageWriter{out: out, pageSize: pageSize, next: pagesBefore, buffer: make([]byte, 0, outBytes+pageSize)}
	// What comes first is known last.
	return w, w.write(make([]byte, pagesBefore*pageSize))
}

// add adds an element and gives the room for its value, which must be filled before the next call. Keys ascend, and are
// those of records.
func (w *pageWriter) add(key []byte, size int) ([]byte, error) {
	l := &w.leaf
	if n := len(l.sizes); n > 0 {
		now := headerSize + n*elementSize + len(l.data)
		then := now + elementSize + len(key) + size
		if then > w.pageSize && (n >= mostLong || then > w.round(now) && now >= w.round(now)/4*3) {
			if err := w.endLeaf(); err != nil {
				return nil, err
			}
		}
	}
	if len(l.sizes) == 0 {
		copy(l.first[:], key)
	}
	l.sizes = append(l.sizes, elementSizes{uint32(len(key)), uint32(size)})
	l.data = append(l.data, key...)
	at := len(l.data)
	l.data = grow(l.data, size)
	return l.data[at:], nil
}

// grow makes a slice longer; what is new has any content.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		b = append(make([]byte, 0, max(2*cap(b), len(b)+n)), b...)
	}
	return b[:len(b)+n]
}

// round gives the bytes of the pages that so many bytes take.
func (w *pageWriter) round(n int) int { return (n + w.pageSize - 1) / w.pageSize * w.pageSize }

// endLeaf writes the leaf and tells the branch above.
func (w *pageWriter) endLeaf() error {
	l := &w.leaf
	table := headerSize + len(l.sizes)*elementSize
	page, err := w.header(flagLeaf, len(l.sizes), table+len(l.data))
	if err != nil {
		return err
	}
	at := table
	for i, s := range l.sizes {
		w.element(0, at-headerSize-i*elementSize, s.key, s.value)
		at += int(s.key + s.value)
	}
	if err := w.write(l.data); err != nil {
		return err
	}
	if err := w.pad(table + len(l.data)); err != nil {
		return err
	}
	c := child{key: l.first, page: page}
	if len(l.sizes) > 0 {
		c.size = uint8(l.sizes[0].key)
	}
	l.sizes, l.data = l.sizes[:0], l.data[:0]
	return w.push(0, c)
}

// push adds a page to the branch above it.
func (w *pageWriter) push(level int, c child) error {
	if level == len(w.levels) {
		w.levels = append(w.levels, branch{size: headerSize})
	}
	b := &w.levels[level]
	if need := elementSize + int(c.size); b.size+need <= w.pageSize {
		b.children, b.size = append(b.children, c), b.size+need
		return nil
	}
	// The last child goes with the new one, so that no branch has but one.
	last := len(b.children) - 1
	kept := b.children[last]
	if err := w.endBranch(level, b.children[:last]); err != nil {
		return err
	}
	b = &w.levels[level] // It may have been moved.
	b.children = append(b.children[:0], kept, c)
	b.size = headerSize + 2*elementSize + int(kept.size) + int(c.size)
	b.written = true
	return nil
}

// endBranch writes a branch page and tells the one above.
func (w *pageWriter) endBranch(level int, children []child) error {
	page, err := w.branch(children)
	if err != nil {
		return err
	}
	return w.push(level+1, child{key: children[0].key, size: children[0].size, page: page})
}

func (w *pageWriter) branch(children []child) (uint64, error) {
	at := headerSize + len(children)*elementSize
	size := at
	for _, c := range children {
		size += int(c.size)
	}
	page, err := w.header(flagBranch, len(children), size)
	if err != nil {
		return 0, err
	}
	for i, c := range children {
		w.buffer = binary.NativeEndian.AppendUint32(w.buffer, uint32(at-headerSize-i*elementSize))
		w.buffer = binary.NativeEndian.AppendUint32(w.buffer, uint32(c.size))
		w.buffer = binary.NativeEndian.AppendUint64(w.buffer, c.page)
		at += int(c.size)
	}
	for _, c := range children {
		w.buffer = append(w.buffer, c.key[:c.size]...)
	}
	return page, w.pad(size)
}

// header starts a page of so many bytes and gives its number.
func (w *pageWriter) header(flags uint16, count, size int) (uint64, error) {
	pages := w.round(size) / w.pageSize
	if count > math.MaxUint16-1 || pages > math.MaxUint32 {
		return 0, errors.New("a page gets too large")
	}
	page := w.next
	w.buffer = appendHeader(w.buffer, page, flags, uint16(count), uint32(pages-1))
	w.next += uint64(pages)
	return page, nil
}

func appendHeader(to []byte, page uint64, flags, count uint16, overflow uint32) []byte {
	to = binary.NativeEndian.AppendUint64(to, page)
	to = binary.NativeEndian.AppendUint16(to, flags)
	to = binary.NativeEndian.AppendUint16(to, count)
	return binary.NativeEndian.AppendUint32(to, overflow)
}

func (w *pageWriter) element(flags uint32, position int, key, value uint32) {
	w.buffer = binary.NativeEndian.AppendUint32(w.buffer, flags)
	w.buffer = binary.NativeEndian.AppendUint32(w.buffer, uint32(position))
	w.buffer = binary.NativeEndian.AppendUint32(w.buffer, key)
	w.buffer = binary.NativeEndian.AppendUint32(w.buffer, value)
}

// pad ends a page with zeros.
func (w *pageWriter) pad(size int) error {
	n := w.round(size) - size
	w.buffer = grow(w.buffer, n)
	clear(w.buffer[len(w.buffer)-n:])
	if len(w.buffer) >= outBytes {
		return w.flush()
	}
	return nil
}

// write takes bytes that may be many.
func (w *pageWriter) write(b []byte) error {
	if len(b) < outBytes {
		w.buffer = append(w.buffer, b...)
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	_, err := w.out.Write(b)
	return err
}

func (w *pageWriter) flush() error {
	_, err := w.out.Write(w.buffer)
	w.buffer = w.buffer[:0]
	return err
}

// finish writes what is open, and then the pages that lead to it.
func (w *pageWriter) finish(file io.WriterAt) error {
	if len(w.leaf.sizes) > 0 || len(w.levels) == 0 {
		if err := w.endLeaf(); err != nil {
			return err
		}
	}
	root := uint64(0)
	for level := 0; ; level++ {
		b := &w.levels[level]
		if !b.written && len(b.children) == 1 {
			root = b.children[0].page
			break
		}
		if err := w.endBranch(level, b.children); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	_, err := file.WriteAt(w.front(root), 0)
	return err
}

// front is the pages before the tree: both meta pages say the same, so that either will do.
func (w *pageWriter) front(tree uint64) []byte {
	front := make([]byte, pagesBefore*w.pageSize)
	for txid := range uint64(2) {
		page := appendHeader(front[int(txid)*w.pageSize:][:0], txid, flagMeta, 0, 0)
		page = binary.NativeEndian.AppendUint32(page, metaMagic)
		page = binary.NativeEndian.AppendUint32(page, metaVersion)
		page = binary.NativeEndian.AppendUint32(page, uint32(w.pageSize))
		page = binary.NativeEndian.AppendUint32(page, 0)
		for _, n := range []uint64{pageRoot, 0, pageFreelist, w.next, txid} {
			page = binary.NativeEndian.AppendUint64(page, n)
		}
		sum := fnv.New64a()
		sum.Write(page[headerSize:])
		binary.NativeEndian.AppendUint64(page, sum.Sum64())
	}
	page := appendHeader(front[pageRoot*w.pageSize:][:0], pageRoot, flagLeaf, 1, 0)
	for _, n := range []uint32{elementBucket, elementSize, uint32(len(bucketKey)), bucketSize} {
		page = binary.NativeEndian.AppendUint32(page, n)
	}
	page = append(page, bucketKey...)
	page = binary.NativeEndian.AppendUint64(page, tree)
	binary.NativeEndian.AppendUint64(page, 0)
	appendHeader(front[pageFreelist*w.pageSize:][:0], pageFreelist, flagFreelist, 0, 0)
	return front
}
