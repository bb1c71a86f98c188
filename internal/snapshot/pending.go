package snapshot

import "encoding/binary"

// pendingLimit bounds the memory of pages that wait for their later bytes, in bytes. A real backend has a few: the
// value that passes by, and stale ones that free pages still announce.
const pendingLimit = 8 << 20

// pending is a tree page whose summary needs bytes that have not come yet.
type pending struct {
	page int64
	view view
	next int // the first window that is not full
	cost int
}

// wants is the offset in the file of the next byte that is needed.
func (p *pending) wants(pageSize int64) int64 {
	w := &p.view.windows[p.next]
	return p.page*pageSize + w.off + int64(len(w.data))
}

// feed takes what the page at the given number has for it and tells whether everything is there.
func (p *pending) feed(page int64, data []byte) bool {
	base := (page - p.page) * int64(len(data)) // of data, in the run
	for p.next < len(p.view.windows) {
		w := &p.view.windows[p.next]
		from := w.off + int64(len(w.data)) - base
		if from >= int64(len(data)) {
			return false
		}
		n := min(w.size-int64(len(w.data)), int64(len(data))-from)
		w.data = append(w.data, data[from:from+n]...)
		if int64(len(w.data)) < w.size {
			return false
		}
		p.next++
	}
	return true
}

// freelist collects the list of free pages that a meta page names, as differences in the arena.
type freelist struct {
	page     uint64
	overflow uint32
	state    freelistState
	count    uint64 // as announced
	read     uint64
	last     uint64
	pieces   []ref
	buf      []byte
}

type freelistState uint8

const (
	freelistUnseen freelistState = iota
	freelistReading
	freelistRead
	freelistMisplaced // another kind of page is there
	freelistOrder     // ids do not ascend
	freelistBounds    // it is longer than its pages
)

// start reads the header in the first page of the list.
func (f *freelist) start(data []byte, a *arena) {
	h := parseHeader(data)
	if h.id != f.page || h.flags != freelistPage {
		f.state = freelistMisplaced
		return
	}
	f.overflow, f.count, f.state = h.overflow, uint64(h.count), freelistReading
	data = data[headerSize:]
	if h.count == 0xFFFF {
		// The count does not fit into the header: it is the first number.
		f.count = binary.NativeEndian.Uint64(data)
		data = data[8:]
	}
	f.take(data, a)
}

// take reads the numbers of one page.
func (f *freelist) take(data []byte, a *arena) {
	for f.read < f.count && len(data) >= 8 {
		id := binary.NativeEndian.Uint64(data)
		data = data[8:]
		if id <= f.last {
			f.state = freelistOrder
			return
		}
		f.buf = binary.AppendUvarint(f.buf, id-f.last)
		f.last = id
		f.read++
	}
	f.pieces = append(f.pieces, a.put(f.buf))
	f.buf = f.buf[:0]
	if f.read == f.count {
		f.state = freelistRead
	}
}

// each calls fn for each free page, ascending, until it tells false.
func (f *freelist) each(a *arena, fn func(id uint64) bool) {
	id := uint64(0)
	for _, r := range f.pieces {
		for p := packed(a.get(r)); len(p) > 0; {
			id += p.uvarint()
			if !fn(id) {
				return
			}
		}
	}
}
