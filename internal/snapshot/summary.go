package snapshot

import (
	"bytes"
	"encoding/binary"
)

// What a piece of the arena says of one page. All numbers are varints, refs four bytes:
//
//	faulty   kind | fault
//	leaf     kind | overflow | count | first key, last key unless count is 0 | with a gap: last revision - gap
//	         | with items: how many, a ref each
//	branch   kind | overflow | count | a ref for each group of up to 16 children: key, page (as a difference) ...
//	item     'v' | key size, key | value              an element worth keeping
//	         'b' | name size, name | root             a bucket with pages of its own
//	         'i' | name size, name | count | ref ...  an inline bucket and its items
const (
	kindFaulty = 0
	kindLeaf   = 1
	kindBranch = 2
	kindMask   = 3

	hasRevisions = 1 << 2 // every element is a record of the key bucket, by its form
	hasBuckets   = 1 << 3 // every element is a bucket
	hasItems     = 1 << 4
	hasGap       = 1 << 5 // a revision is missing before one of the elements but the first
	hasJump      = 1 << 6 // the first element may come after missing revisions

	itemValue  = 'v'
	itemBucket = 'b'
	itemInline = 'i'

	groupSize = 16
	// nameLimit cuts names of buckets; etcd's are shorter than 20.
	nameLimit = 64
	// keptValue is the longest value that is kept, in bytes: a member with a very long list of URLs.
	keptValue = 8 << 10
	// maxWindows is how many pieces of one page may lie outside its first page. bbolt splits every page of more than
	// four elements that is longer than one page.
	maxWindows = 8
)

// view gives access to the parts of a tree page, which may be longer than what is at hand.
type view struct {
	head    header
	first   []byte // the first page of the run
	size    int64  // of the whole run
	windows []window
}

// window is a part of a run that is not inside its first page.
type window struct {
	off  int64
	size int64
	data []byte
}

// at gives n bytes at off, or nil when they are not at hand.
func (v *view) at(off, n int64) []byte {
	if off+n <= int64(len(v.first)) {
		return v.first[off : off+n : off+n]
	}
	for _, w := range v.windows {
		if w.off == off && w.size >= n {
			return w.data[:n]
		}
	}
	return nil
}

// keyAt gives a key, cut when it is long and outside the first page.
func (v *view) keyAt(e *element) (k []byte, cut bool) {
	if e.value <= int64(len(v.first)) {
		return v.first[e.key:e.value], false
	}
	n := min(e.keySize, keyLimit+1)
	return v.at(e.key, n), n < e.keySize
}

// collect lists the windows that a summary of the page needs.
func (v *view) collect(pageSize int64) fault {
	es, f := newElements(v.first, v.size)
	if f != sound {
		return f
	}
	revisions := false
	for i := 0; es.more(); i++ {
		e, f := es.next()
		if f != sound {
			return f
		}
		if i == 0 && e.value <= pageSize {
			revisions = isRevision(v.first[e.key:e.value])
		}
		if e.value > pageSize {
			v.windows = append(v.windows, window{off: e.key, size: min(e.keySize, keyLimit+1)})
		}
		bucket := e.flags == bucketElement
		if bucket && (e.valueSize < bucketSize || e.valueSize > bucketSize+pageSize) {
			return faultBucket
		}
		if es.end > pageSize && (bucket || es.leaf && !revisions && e.valueSize > 0 && e.valueSize <= keptValue) {
			v.windows = append(v.windows, window{off: e.value, size: e.valueSize})
		}
		if len(v.windows) > maxWindows {
			return faultWide
		}
	}
	return sound
}

// summarizer turns pages into pieces of an arena. Its buffers are used again for each page.
type summarizer struct {
	arena  *arena
	out    []byte
	piece  []byte
	items  []ref
	groups []ref
	nested []ref
}

// page summarizes a tree page of which everything needed is at hand.
func (s *summarizer) page(v *view) ref {
	f := s.encode(v)
	if f != sound {
		s.out = append(s.out[:0], kindFaulty, byte(f))
		return s.arena.intern(s.out)
	}
	return s.arena.put(s.out)
}

func (s *summarizer) faulty(f fault) ref {
	return s.arena.intern([]byte{kindFaulty, byte(f)})
}

func (s *summarizer) encode(v *view) fault {
	es, f := newElements(v.first, v.size)
	if f != sound {
		return f
	}
	if es.leaf {
		return s.leaf(v, &es)
	}
	return s.branch(v, &es)
}

func (s *summarizer) leaf(v *view, es *elements) fault {
	s.items = s.items[:0]
	kind := byte(kindLeaf | hasRevisions | hasBuckets)
	var first, last []byte
	var lastCut bool
	var main, gap int64
	for es.more() {
		e, f := es.next()
		if f != sound {
			return f
		}
		k, cut := v.keyAt(&e)
		if first == nil {
			first = k
		} else if f := inOrder(last, lastCut, k, cut); f != sound {
			return f
		}
		last, lastCut = k, cut
		if e.flags == bucketElement {
			kind &^= hasRevisions
			item, f := s.bucket(k, v.at(e.value, e.valueSize))
			if f != sound {
				return f
			}
			s.items = append(s.items, item)
			continue
		}
		kind &^= hasBuckets
		if isRevision(k) {
			if now := int64(binary.BigEndian.Uint64(k)); now != main {
				if now != main+1 && main != 0 && !isJump(k, e.valueSize) {
					gap = now
				}
				main = now
			}
			if es.i == 1 && isJump(k, e.valueSize) {
				kind |= hasJump
			}
			continue
		}
		kind &^= hasRevisions
		if e.valueSize <= keptValue {
			if value := v.at(e.value, e.valueSize); value != nil && wanted(k, value) {
				s.items = append(s.items, s.value(k, value))
			}
		}
	}
	if es.end < int64(v.head.overflow)*int64(len(v.first)) {
		return faultSlack
	}
	if len(s.items) > 0 {
		kind |= hasItems
	}
	if kind&hasRevisions == 0 {
		gap = 0
	}
	if gap > 0 {
		kind |= hasGap
	}
	s.out = append(s.out[:0], kind)
	s.out = binary.AppendUvarint(s.out, uint64(v.head.overflow))
	s.out = binary.AppendUvarint(s.out, uint64(es.count))
	if es.count > 0 {
		var c keyCoder
		s.out = c.append(s.out, first)
		s.out = c.append(s.out, last)
	}
	if gap > 0 {
		s.out = binary.AppendUvarint(s.out, uint64(main-gap))
	}
	if len(s.items) > 0 {
		s.out = binary.AppendUvarint(s.out, uint64(len(s.items)))
		for _, item := range s.items {
			s.out = appendRef(s.out, item)
		}
	}
	return sound
}

// isJump tells whether a record is the one that a restore writes to raise the revision: a put of nothing.
func isJump(k []byte, valueSize int64) bool { return valueSize == 0 && len(k) == revisionSize }

// inOrder is the check of a < b where both may have been cut.
func inOrder(a []byte, aCut bool, b []byte, bCut bool) fault {
	if c := bytes.Compare(a, b); c > 0 || c == 0 && !aCut && !bCut {
		return faultOrder
	}
	return sound
}

func (s *summarizer) branch(v *view, es *elements) fault {
	s.groups = s.groups[:0]
	s.piece = s.piece[:0]
	kind := byte(kindBranch | hasRevisions)
	var last []byte
	var lastCut bool
	var c keyCoder
	var page uint64
	for i := 0; es.more(); i++ {
		e, f := es.next()
		if f != sound {
			return f
		}
		if e.child == v.head.id {
			return faultSelf
		}
		k, cut := v.keyAt(&e)
		if i > 0 {
			if f := inOrder(last, lastCut, k, cut); f != sound {
				return f
			}
		}
		last, lastCut = k, cut
		if kind&hasRevisions != 0 && !isRevision(k) {
			kind &^= hasRevisions
		}
		if i > 0 && i%groupSize == 0 {
			s.groups = append(s.groups, s.arena.intern(s.piece))
			s.piece, c, page = s.piece[:0], keyCoder{}, 0
		}
		s.piece = c.append(s.piece, k)
		s.piece = binary.AppendVarint(s.piece, int64(e.child-page))
		page = e.child
	}
	if es.end < int64(v.head.overflow)*int64(len(v.first)) {
		return faultSlack
	}
	s.groups = append(s.groups, s.arena.intern(s.piece))
	s.out = append(s.out[:0], kind)
	s.out = binary.AppendUvarint(s.out, uint64(v.head.overflow))
	s.out = binary.AppendUvarint(s.out, uint64(es.count))
	for _, g := range s.groups {
		s.out = appendRef(s.out, g)
	}
	return sound
}

// bucket keeps a bucket element, and what is inside when it is inline.
func (s *summarizer) bucket(name, value []byte) (ref, fault) {
	if len(value) < bucketSize {
		return 0, faultBucket
	}
	name = name[:min(len(name), nameLimit)]
	root := binary.NativeEndian.Uint64(value)
	if root != 0 {
		if len(value) != bucketSize {
			return 0, faultBucket
		}
		s.piece = append(append(s.piece[:0], itemBucket, byte(len(name))), name...)
		s.piece = binary.AppendUvarint(s.piece, root)
		return s.arena.intern(s.piece), sound
	}
	page := value[bucketSize:]
	if len(page) < headerSize {
		return 0, faultBucket
	}
	h := parseHeader(page)
	es, f := newElements(page, int64(len(page)))
	if f != sound || h.flags != leafPage || h.overflow != 0 || h.id != 0 {
		return 0, faultBucket
	}
	s.nested = s.nested[:0]
	var last []byte
	for es.more() {
		e, f := es.next()
		if f != sound || e.flags == bucketElement {
			return 0, faultBucket
		}
		k, v := page[e.key:e.value], page[e.value:es.end]
		if last != nil && bytes.Compare(last, k) >= 0 {
			return 0, faultBucket
		}
		last = k
		record := string(name) == bucketKey
		if record && !isRevision(k) {
			return 0, faultBucket
		}
		if record || wanted(k, v) && len(v) <= keptValue {
			s.nested = append(s.nested, s.value(k, v))
		}
	}
	if es.end != int64(len(page)) {
		return 0, faultBucket
	}
	s.piece = append(append(s.piece[:0], itemInline, byte(len(name))), name...)
	s.piece = binary.AppendUvarint(s.piece, uint64(es.count))
	for _, r := range s.nested {
		s.piece = appendRef(s.piece, r)
	}
	return s.arena.intern(s.piece), sound
}

func (s *summarizer) value(k, v []byte) ref {
	s.piece = append(append(s.piece[:0], itemValue, byte(len(k))), k...)
	s.piece = append(s.piece, v...)
	return s.arena.intern(s.piece)
}
