package snapshot

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"strconv"
)

const (
	trailerSize = sha256.Size
	// trailerModulus is etcd's own rule: pages are a multiple of it, so that a rest of 32 bytes is a trailer.
	trailerModulus = 512

	// What summaries may take: 32 bytes for each page and a constant. With four more in the list of pages and one
	// or two in bitmaps that is 40 bytes for each page.
	summaryPerPage  = 32
	summaryConstant = 32 << 20

	maxPages = 1 << 32
)

// Options of a Scanner. The zero value expects a file of any size.
type Options struct {
	// Size is the number of bytes that will come, with the trailer, or 0 when that is not known.
	Size int64
}

// Scanner is an io.Writer that is given a backend file once, front to back, in pieces of any size. It hashes what it
// is given and keeps at most 40 bytes for each page, and some constant memory. It does not keep the slices it is
// given.
type Scanner struct {
	opts Options
	size int64
	hash hash.Hash
	tail []byte // the last bytes, not hashed yet: they may be the trailer
	err  error

	pageSize int
	part     []byte // the start of the page that is coming; before the page size is known, of the file
	metas    [2]meta
	valid    [2]bool
	lists    []freelist // what the metas name, at most two

	pages    list // ref of each page's summary, 0 for what cannot be a tree page
	sum      summarizer
	pendings []*pending
	waiting  int   // bytes that pendings hold
	wake     int64 // offset of the first byte that a pending wants

	done  bool
	info  Info
	index *Index
	used  bitmap // pages of the trees, when free pages are not listed: what Recheck need not read
}

// NewScanner starts at the first byte of a file.
func NewScanner(opts Options) *Scanner {
	return &Scanner{opts: opts, hash: sha256.New(), tail: make([]byte, 0, trailerSize), sum: summarizer{arena: newArena()}}
}

// Write takes the next bytes. It fails, for good, as soon as it is plain that the file cannot be a whole backend, so
// that a stream can be given up early: ErrNotBackend, or ErrCorrupt for more bytes than expected.
func (s *Scanner) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.done {
		return 0, fmt.Errorf("write to a finished backend scan")
	}
	s.size += int64(len(p))
	if s.opts.Size > 0 && s.size > s.opts.Size {
		s.err = &Corrupt{Page: -1, What: "more bytes than expected",
			Want: strconv.FormatInt(s.opts.Size, 10), Got: "at least " + strconv.FormatInt(s.size, 10)}
		return 0, s.err
	}
	s.hashAllButTail(p)
	if s.err = s.feed(p); s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

// hashAllButTail hashes what comes but keeps the last 32 bytes of all back.
func (s *Scanner) hashAllButTail(p []byte) {
	if len(p) >= trailerSize {
		s.hash.Write(s.tail)
		s.hash.Write(p[:len(p)-trailerSize])
		s.tail = append(s.tail[:0], p[len(p)-trailerSize:]...)
		return
	}
	if over := len(s.tail) + len(p) - trailerSize; over > 0 {
		s.hash.Write(s.tail[:over])
		s.tail = s.tail[:copy(s.tail, s.tail[over:])]
	}
	s.tail = append(s.tail, p...)
}

// feed cuts the stream into pages.
func (s *Scanner) feed(p []byte) error {
	if s.pageSize == 0 {
		return s.probe(p)
	}
	if len(s.part) > 0 {
		n := min(len(p), s.pageSize-len(s.part))
		s.part = append(s.part, p[:n]...)
		p = p[n:]
		if len(s.part) < s.pageSize {
			return nil
		}
		if err := s.page(s.part); err != nil {
			return err
		}
		s.part = s.part[:0]
	}
	for len(p) >= s.pageSize {
		if err := s.page(p[:s.pageSize:s.pageSize]); err != nil {
			return err
		}
		p = p[s.pageSize:]
	}
	s.part = append(s.part, p...)
	return nil
}

// probe waits for the meta page that tells the page size. The first one is enough, if it is valid.
func (s *Scanner) probe(p []byte) error {
	const first, all = headerSize + metaSize, maxPageSize + headerSize + metaSize
	n := len(s.part)
	take := min(len(p), all-n)
	s.part = append(s.part, p[:take]...)
	size, ok := 0, false
	// Looking again is worth it when the first or the last bytes that count have come.
	if n < first && len(s.part) >= first || len(s.part) == all {
		size, ok = probePageSize(s.part)
	}
	if !ok {
		if len(s.part) < all {
			return nil
		}
		return fmt.Errorf("read backend: %w: no valid meta page", ErrNotBackend)
	}
	return s.begin(size, p[take:])
}

// begin goes over from probing to pages.
func (s *Scanner) begin(pageSize int, rest []byte) error {
	head := s.part
	s.pageSize, s.part = pageSize, make([]byte, 0, pageSize)
	if err := s.feed(head); err != nil {
		return err
	}
	return s.feed(rest)
}

// page takes the next whole page.
func (s *Scanner) page(data []byte) error {
	at := int64(s.pages.n)
	s.pages.append(0)
	if s.pages.n == maxPages {
		return &Corrupt{Page: -1, What: "more pages than can be checked"}
	}
	return s.pageAt(at, data)
}

// pageAt takes a page, of which those before it may have been taken.
func (s *Scanner) pageAt(at int64, data []byte) error {
	if at < 2 {
		s.meta(int(at), data)
	}
	if len(s.pendings) > 0 && s.wake < (at+1)*int64(s.pageSize) {
		s.feedPendings(at, data)
	}
	for i := range s.lists {
		if f := &s.lists[i]; f.page == uint64(at) {
			f.start(data, s.sum.arena)
		} else if f.state == freelistReading {
			if uint64(at) > f.page+uint64(f.overflow) {
				f.state = freelistBounds
				continue
			}
			f.take(data, s.sum.arena)
		}
	}
	*s.pages.at(int(at)) = uint32(s.summarize(at, data))
	if len(s.sum.arena.blocks)*arenaBlock > summaryConstant+s.pages.n*summaryPerPage {
		return &Corrupt{Page: -1, What: "summaries of its pages take more memory than allowed"}
	}
	return nil
}

func (s *Scanner) meta(i int, data []byte) {
	m, ok := parseMeta(data)
	s.valid[i] = ok && m.pageSize == s.pageSize
	if !s.valid[i] {
		return
	}
	s.metas[i] = m
	if m.freelist != noFreelist && m.freelist > 1 && (i == 0 || !s.valid[0] || s.metas[0].freelist != m.freelist) {
		s.lists = append(s.lists, freelist{page: m.freelist})
	}
}

// summarize gives the ref of the summary of the page at the given place, or 0 when it is no tree page, or not yet.
// Free pages keep their old content, so that whether a page matters is only known at the end.
func (s *Scanner) summarize(at int64, data []byte) ref {
	h := parseHeader(data)
	if h.id != uint64(at) || h.flags != leafPage && h.flags != branchPage {
		return 0
	}
	v := view{head: h, first: data, size: (int64(h.overflow) + 1) * int64(s.pageSize)}
	if h.overflow == 0 {
		return s.sum.page(&v)
	}
	if f := v.collect(int64(s.pageSize)); f != sound {
		return s.sum.faulty(f)
	}
	if len(v.windows) == 0 {
		return s.sum.page(&v)
	}
	return s.wait(at, v)
}

// wait puts a page aside until the rest of what its summary needs has come.
func (s *Scanner) wait(at int64, v view) ref {
	p := &pending{page: at, view: v, cost: s.pageSize}
	for _, w := range v.windows {
		p.cost += int(w.size) + 64
	}
	if s.waiting+p.cost > pendingLimit {
		return s.sum.faulty(faultBusy)
	}
	p.view.first = append([]byte(nil), v.first...)
	if p.feed(at, p.view.first) {
		return s.sum.page(&p.view)
	}
	s.waiting += p.cost
	wants := p.wants(int64(s.pageSize))
	if len(s.pendings) == 0 || wants < s.wake {
		s.wake = wants
	}
	s.pendings = append(s.pendings, p)
	return s.sum.faulty(faultCut)
}

func (s *Scanner) feedPendings(at int64, data []byte) {
	kept := s.pendings[:0]
	for _, p := range s.pendings {
		wants := p.wants(int64(s.pageSize))
		if wants < at*int64(s.pageSize) { // its page was left out: see Recheck
			s.waiting -= p.cost
			continue
		}
		if wants < (at+1)*int64(s.pageSize) {
			if p.feed(at, data) {
				*s.pages.at(int(p.page)) = uint32(s.sum.page(&p.view))
				s.waiting -= p.cost
				continue
			}
			wants = p.wants(int64(s.pageSize))
		}
		if len(kept) == 0 || wants < s.wake {
			s.wake = wants
		}
		kept = append(kept, p)
	}
	clear(s.pendings[len(kept):])
	s.pendings = kept
}

// Finish says that all bytes have come and judges them: ErrNotBackend, ErrTrailer or ErrCorrupt, or what the file
// holds. Calling it again gives the same answer.
func (s *Scanner) Finish() (Info, error) {
	if !s.done && s.err == nil {
		s.err = s.finish()
	}
	s.done = true
	if s.err != nil {
		return Info{}, s.err
	}
	return s.info, nil
}

// Index gives what Walk needs to read the file again. It is nil unless Finish has found the file whole.
func (s *Scanner) Index() *Index { return s.index }

func (s *Scanner) finish() error {
	if s.opts.Size > 0 && s.size != s.opts.Size {
		return &Corrupt{Page: -1, What: "fewer bytes than expected",
			Want: strconv.FormatInt(s.opts.Size, 10), Got: strconv.FormatInt(s.size, 10)}
	}
	if s.pageSize == 0 {
		size, ok := probePageSize(s.part)
		if !ok {
			return fmt.Errorf("read backend: %w: no valid meta page in %d bytes", ErrNotBackend, s.size)
		}
		if err := s.begin(size, nil); err != nil {
			return err
		}
	}
	trailer, err := s.trailer()
	if err != nil {
		return err
	}
	s.info = Info{Size: s.size, PageSize: s.pageSize, Trailer: trailer, SHA256: [32]byte(s.hash.Sum(nil))}
	index := &Index{
		pageSize: int64(s.pageSize), pages: int64(s.pages.n), size: s.size, trailer: trailer,
		sum: s.info.SHA256, leaves: newBitmap(int64(s.pages.n)),
	}
	w, err := s.judge(index, nil)
	if err != nil {
		return err
	}
	index.records, index.leases = s.info.Records, s.info.Leases
	s.index = index
	if w.meta.freelist == noFreelist {
		s.used = w.seen
	}
	return nil
}

// judge walks the trees over the summaries and gathers what they say. load, which may be nil, is called for each page that a
// tree leads to, before its summary is looked at.
func (s *Scanner) judge(index *Index, load func(page int64) error) (*walker, error) {
	m, err := s.chooseMeta()
	if err != nil {
		return nil, err
	}
	w := &walker{s: s, meta: m, seen: newBitmap(int64(m.highWater)), index: index, load: load, facts: facts{Info: &s.info}}
	if err := w.run(); err != nil {
		return nil, err
	}
	s.info.Pages = int64(m.highWater)
	return w, nil
}

// trailer decides what the last 32 bytes are, and checks them.
func (s *Scanner) trailer() (bool, error) {
	if s.size%trailerModulus != trailerSize {
		s.hash.Write(s.tail)
		return false, nil
	}
	want, got := [32]byte(s.tail), [32]byte(s.hash.Sum(nil))
	if want != got {
		return true, &TrailerMismatch{Want: want, Got: got}
	}
	return true, nil
}

// chooseMeta picks the meta page that bbolt would: the newest valid one.
func (s *Scanner) chooseMeta() (meta, error) {
	i := 0
	if s.valid[1] && (!s.valid[0] || s.metas[1].txid > s.metas[0].txid) {
		i = 1
	}
	m := s.metas[i]
	fail := func(what, want, got string) (meta, error) {
		return meta{}, &Corrupt{Page: int64(i), What: what, Want: want, Got: got}
	}
	switch {
	case !s.valid[i]:
		return fail("the file ends inside its first pages", "", "")
	case m.head.id != uint64(i) || m.head.flags != metaPage:
		return fail("the header is not that of a meta page", "", "")
	case m.highWater < 3 || m.highWater > uint64(s.pages.n):
		return fail("the file ends before its last page", fmt.Sprintf("%d pages", m.highWater),
			fmt.Sprintf("%d", s.pages.n))
	}
	return m, nil
}
