package snapshot

import (
	"bytes"
	"fmt"
)

// maxDepth bounds how far down a tree goes. A tree of half-empty pages that fills 16 TiB has six levels.
const maxDepth = 64

// walker checks every tree of a file over the summaries of its pages.
type walker struct {
	s     *Scanner
	meta  meta
	seen  bitmap // pages that something leads to
	index *Index
	load  func(page int64) error
	facts facts
	queue []bucketRoot
}

// bucketRoot is a bucket that is still to be walked.
type bucketRoot struct {
	page  uint64
	name  string // of the top bucket that it is or is in
	level level
}

// level is how deep a bucket is nested. etcd has no buckets inside of its own.
type level uint8

const (
	rootLevel level = iota
	topLevel
	nestedLevel
)

func (b bucketRoot) isKey() bool { return b.level == topLevel && b.name == bucketKey }

// child is a bucket inside of b.
func (b bucketRoot) child(name string) bucketRoot {
	if b.level == rootLevel {
		return bucketRoot{name: name, level: topLevel}
	}
	return bucketRoot{name: b.name, level: nestedLevel}
}

// summary is a page's piece of the arena, read.
type summary struct {
	kind     byte
	fault    fault
	overflow uint64
	count    int
	first    key
	last     key
	gap      int64  // the greatest revision in the page, but its first, that has none right before it
	rest     packed // refs of items or of groups
}

func (s *Scanner) summary(r ref) summary {
	p := packed(s.sum.arena.get(r))
	sum := summary{kind: p.byte()}
	if sum.kind&kindMask == kindFaulty {
		sum.fault = fault(p.byte())
		return sum
	}
	sum.overflow, sum.count = p.uvarint(), int(p.uvarint())
	if sum.kind&kindMask == kindLeaf {
		if sum.count > 0 {
			var c keyCoder
			sum.first = c.read(&p)
			sum.last = c.read(&p)
		}
		if sum.kind&hasGap != 0 {
			main, _, _ := splitRevision(sum.last.slice())
			sum.gap = main - int64(p.uvarint())
		}
		if sum.kind&hasItems != 0 {
			p.uvarint()
		}
	}
	sum.rest = p
	return sum
}

// run walks the root, then every bucket that was found on the way, then holds the free pages against what was seen.
func (w *walker) run() error {
	w.seen.set(0)
	w.seen.set(1)
	list, err := w.freelist()
	if err != nil {
		return err
	}
	w.queue = append(w.queue, bucketRoot{page: w.meta.root})
	for len(w.queue) > 0 {
		b := w.queue[len(w.queue)-1]
		w.queue = w.queue[:len(w.queue)-1]
		if err := w.tree(b); err != nil {
			return err
		}
	}
	if list != nil {
		if err := w.free(list); err != nil {
			return err
		}
	}
	return w.facts.settle()
}

// bound is a key that those of a page are held against, if it is set.
type bound struct {
	key key
	set bool
}

// frame is a branch page on the way from the root to where the walk is.
type frame struct {
	children cursor
	below    bound // keys must be less
}

// tree walks one bucket in the order of its keys.
func (w *walker) tree(b bucketRoot) error {
	t := treeWalk{walker: w, bucket: b}
	if err := t.enter(b.page, bound{}, bound{}); err != nil {
		return err
	}
	for len(t.stack) > 0 {
		f := &t.stack[len(t.stack)-1]
		if !f.children.valid {
			t.stack = t.stack[:len(t.stack)-1]
			continue
		}
		from, page := bound{f.children.key, true}, f.children.page
		if f.below.set && !ascending(&from.key, &f.below.key) {
			return t.fail(page, "its key in the branch above is not below the next further up")
		}
		f.children.load()
		below := f.below
		if f.children.valid {
			below = bound{f.children.key, true}
		}
		if err := t.enter(page, from, below); err != nil {
			return err
		}
	}
	return nil
}

// treeWalk is the state of the walk through one bucket.
type treeWalk struct {
	*walker
	bucket bucketRoot
	stack  []frame
	prev   bound // the last key of the leaf before
}

func (t *treeWalk) fail(page uint64, what string) error {
	return &Corrupt{Page: int64(page), Bucket: t.bucket.name, What: what}
}

// enter goes to a page whose keys must be from one key on and below another.
func (t *treeWalk) enter(page uint64, from, below bound) error {
	sum, err := t.take(t.bucket, page)
	if err != nil {
		return err
	}
	if t.bucket.isKey() && sum.kind&hasRevisions == 0 {
		return t.fail(page, "a key is not a revision")
	}
	if sum.kind&kindMask == kindBranch {
		if len(t.stack) == maxDepth {
			return t.fail(page, "the tree is too deep")
		}
		f := frame{children: cursor{arena: t.s.sum.arena, refs: sum.rest}, below: below}
		f.children.load()
		if from.set && !notBelow(&f.children.key, &from.key) {
			return t.fail(page, "its first key is below that in the branch above")
		}
		t.stack = append(t.stack, f)
		return nil
	}
	if sum.count == 0 {
		if page != t.bucket.page {
			return t.fail(page, faultEmpty.String())
		}
		return t.leaf(t.bucket, int64(page), &sum)
	}
	switch {
	case from.set && !notBelow(&sum.first, &from.key):
		return t.fail(page, "its first key is below that in the branch above")
	case below.set && !ascending(&sum.last, &below.key):
		return t.fail(page, "its last key is not below the next in the branch above")
	case t.prev.set && !ascending(&t.prev.key, &sum.first):
		return t.fail(page, "its first key is not above the last of the page before")
	}
	t.prev = bound{sum.last, true}
	return t.leaf(t.bucket, int64(page), &sum)
}

// take gives the summary of a page that a tree leads to, and notes that it and its overflow are taken.
func (w *walker) take(b bucketRoot, page uint64) (summary, error) {
	fail := func(what, want, got string) (summary, error) {
		return summary{}, &Corrupt{Page: int64(page), Bucket: b.name, What: what, Want: want, Got: got}
	}
	if page < 2 || page >= w.meta.highWater {
		return fail("a tree leads out of the file", fmt.Sprintf("a page from 2 to %d", w.meta.highWater-1), fmt.Sprint(page))
	}
	if w.load != nil {
		if err := w.load(int64(page)); err != nil {
			return summary{}, err
		}
	}
	r := ref(*w.s.pages.at(int(page)))
	if r == 0 {
		return fail("a tree leads to what is no tree page of that number", "", "")
	}
	sum := w.s.summary(r)
	if sum.fault != sound {
		return fail(sum.fault.String(), "", "")
	}
	if sum.overflow >= w.meta.highWater-page {
		return fail("the page reaches past the end of the file", "", "")
	}
	for i := page; i <= page+sum.overflow; i++ {
		if w.seen.has(int64(i)) {
			return fail("two places lead to the page, or it overlaps another", "", "")
		}
		w.seen.set(int64(i))
	}
	return sum, nil
}

// leaf takes what a leaf page says about the bucket.
func (w *walker) leaf(b bucketRoot, page int64, sum *summary) error {
	if b.level == rootLevel && sum.kind&hasBuckets == 0 {
		return &Corrupt{Page: page, What: "the root has an element that is no bucket"}
	}
	if b.isKey() {
		w.index.leaves.set(page)
		if sum.count > 0 {
			main, _, _ := splitRevision(sum.first.slice())
			w.facts.record(main, sum.kind&hasJump != 0)
			w.facts.gap = max(w.facts.gap, sum.gap)
			w.facts.last, _, _ = splitRevision(sum.last.slice())
		}
	}
	w.facts.count(b, sum.count)
	if sum.kind&hasItems == 0 {
		return nil
	}
	for p := sum.rest; len(p) > 0; {
		if err := w.item(b, packed(w.s.sum.arena.get(p.ref()))); err != nil {
			return err
		}
	}
	return nil
}

// item takes one element that was worth keeping.
func (w *walker) item(b bucketRoot, p packed) error {
	kind := p.byte()
	name := p.bytes(int(p.byte()))
	switch kind {
	case itemValue:
		return w.facts.fact(b, name, p)
	case itemBucket:
		child := b.child(string(name))
		child.page = p.uvarint()
		w.queue = append(w.queue, child)
		if uint64(len(w.queue)) > w.meta.highWater {
			return &Corrupt{Page: -1, What: "more buckets than pages"}
		}
		return nil
	}
	child := b.child(string(name))
	w.facts.count(child, int(p.uvarint()))
	for len(p) > 0 {
		v := packed(w.s.sum.arena.get(p.ref()))
		v.byte()
		k := v.bytes(int(v.byte()))
		if child.isKey() {
			main, _, _ := splitRevision(k)
			w.facts.record(main, isJump(k, int64(len(v))))
			w.index.inline = append(w.index.inline, inlineRecord{key: bytes.Clone(k), value: bytes.Clone(v)})
			continue
		}
		if err := w.facts.fact(child, k, v); err != nil {
			return err
		}
	}
	return nil
}

// freelist gives the list of free pages, or nil when the file has none.
func (w *walker) freelist() (*freelist, error) {
	id := w.meta.freelist
	if id == noFreelist {
		return nil, nil
	}
	fail := func(what string) (*freelist, error) {
		return nil, &Corrupt{Page: int64(id), What: "list of free pages: " + what}
	}
	if id < 2 || id >= w.meta.highWater {
		return fail("it is outside of the file")
	}
	for i := range w.s.lists {
		f := &w.s.lists[i]
		if f.page != id {
			continue
		}
		switch {
		case f.state == freelistOrder:
			return fail("its numbers do not ascend")
		case f.state == freelistMisplaced:
			return fail("another kind of page is there")
		case f.state != freelistRead:
			return fail("it is longer than its pages")
		case uint64(f.overflow) >= w.meta.highWater-id:
			return fail("it reaches past the end of the file")
		}
		for p := id; p <= id+uint64(f.overflow); p++ {
			w.seen.set(int64(p))
		}
		return f, nil
	}
	return fail("it is missing")
}

// free checks that each page is either in use or free.
func (w *walker) free(f *freelist) error {
	var err error
	f.each(w.s.sum.arena, func(id uint64) bool {
		switch {
		case id < 2 || id >= w.meta.highWater:
			err = &Corrupt{Page: int64(f.page), What: "list of free pages: it names a page outside of the file"}
		case w.seen.has(int64(id)):
			err = &Corrupt{Page: int64(id), What: "the page is in use and in the list of free pages"}
		default:
			w.seen.set(int64(id))
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	for i := range int64(w.meta.highWater) {
		if !w.seen.has(i) {
			return &Corrupt{Page: i, What: "the page is neither in use nor in the list of free pages"}
		}
	}
	return nil
}

// cursor steps through the children of a branch page.
type cursor struct {
	arena *arena
	refs  packed
	group packed
	coder keyCoder
	valid bool
	key   key
	page  uint64
}

// load goes to the next child; valid tells whether there was one.
func (c *cursor) load() {
	if len(c.group) == 0 {
		if len(c.refs) == 0 {
			c.valid = false
			return
		}
		c.group, c.coder, c.page = packed(c.arena.get(c.refs.ref())), keyCoder{}, 0
	}
	c.key = c.coder.read(&c.group)
	c.page += uint64(c.group.varint())
	c.valid = true
}
