package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

const (
	// readBlock is how much is read at once.
	readBlock = 256 << 10
	// maxRun bounds one page with its overflow, in bytes. etcd's largest message is far below.
	maxRun = 1 << 30
)

// Walk reads a file again that a Scanner has judged, from its first byte, and calls fn for each record of the key
// bucket: in the order of pages, which is no order of revisions. The record's slices are fn's until it returns. An
// error of fn ends the walk and is returned as it is.
//
// The bytes are hashed on the way. Only when Walk returns nil are they known to be those that were judged; until
// then, what fn was given must not be relied upon, nor what is read at the offsets that it was given. Otherwise the error is ErrCorrupt, or that of r. Memory: the
// largest record's pages.
func Walk(r io.Reader, index *Index, fn func(Record) error) error {
	w := reader{r: r, left: index.content(), hash: sha256.New()}
	count := int64(0)
	emit := func(page, value int64, k, v []byte) error {
		rec, what := parseRecord(k, v)
		if what != "" {
			return &Corrupt{Page: page, Bucket: bucketKey, What: what}
		}
		if page >= 0 {
			rec.Offset = page*index.pageSize + value
		}
		count++
		return fn(rec)
	}
	for _, in := range index.inline {
		if err := emit(-1, 0, in.key, in.value); err != nil {
			return err
		}
	}
	for page := int64(0); page < index.pages; {
		n := int64(1)
		data, err := w.peek(index.pageSize)
		if err != nil {
			return err
		}
		if index.leaves.has(page) {
			if n, err = w.leaf(page, data, index, emit); err != nil {
				return err
			}
		}
		w.skip(n * index.pageSize)
		page += n
	}
	if err := w.finish(index); err != nil {
		return err
	}
	if count != index.records {
		return &Corrupt{Page: -1, Bucket: bucketKey, What: "the number of records changed",
			Want: fmt.Sprint(index.records), Got: fmt.Sprint(count)}
	}
	return nil
}

// reader hashes a stream and gives pieces of it. Its buffer grows only as bytes arrive.
type reader struct {
	r    io.Reader
	left int64 // bytes of content that were not read yet
	hash hash.Hash
	buf  []byte // from start on: read, but not taken
	at   int
}

// peek gives the next n bytes, which stay there. They are valid until the next peek.
func (w *reader) peek(n int64) ([]byte, error) {
	for int64(len(w.buf)-w.at) < n {
		if w.at > 0 {
			w.buf = w.buf[:copy(w.buf, w.buf[w.at:])]
			w.at = 0
		}
		if cap(w.buf)-len(w.buf) < readBlock {
			grown := make([]byte, len(w.buf), max(2*cap(w.buf), len(w.buf)+readBlock))
			copy(grown, w.buf)
			w.buf = grown
		}
		if err := w.fill(); err != nil {
			return nil, err
		}
	}
	return w.buf[w.at : w.at+int(n)], nil
}

func (w *reader) fill() error {
	free := w.buf[len(w.buf):cap(w.buf)]
	n, err := w.r.Read(free[:min(int64(len(free)), w.left)])
	w.hash.Write(free[:n])
	w.buf = w.buf[:len(w.buf)+n]
	w.left -= int64(n)
	switch {
	case n > 0:
		return nil
	case errors.Is(err, io.EOF) || err == nil && w.left == 0:
		return changed("the file is shorter than the one that was checked")
	case err != nil:
		return fmt.Errorf("read backend: %w", err)
	}
	return nil
}

func (w *reader) skip(n int64) { w.at += int(n) }

// leaf gives the records of a leaf page and tells how many pages it takes.
func (w *reader) leaf(page int64, data []byte, index *Index, emit func(page, value int64, k, v []byte) error) (int64, error) {
	h := parseHeader(data)
	n := int64(h.overflow) + 1
	size := n * index.pageSize
	fail := func(what string) (int64, error) {
		return 0, &Corrupt{Page: page, Bucket: bucketKey, What: what}
	}
	switch {
	case h.id != uint64(page) || h.flags != leafPage:
		return fail("it is not the page that was checked")
	case n > index.pages-page:
		return fail("the page reaches past the end of the file")
	case size > maxRun:
		return fail("the page is longer than any record can be")
	}
	data, err := w.peek(size)
	if err != nil {
		return 0, err
	}
	es, f := newElements(data, size)
	for f == sound && es.more() {
		var e element
		if e, f = es.next(); f != sound {
			break
		}
		if e.flags != 0 {
			f = faultFlags
			break
		}
		if err := emit(page, e.value, data[e.key:e.value], data[e.value:es.end]); err != nil {
			return 0, err
		}
	}
	if f != sound {
		return fail(f.String())
	}
	return n, nil
}

// finish reads what is left and checks that everything is as it was.
func (w *reader) finish(index *Index) error {
	if _, err := io.CopyN(w.hash, w.r, w.left); errors.Is(err, io.EOF) {
		return changed("the file is shorter than the one that was checked")
	} else if err != nil {
		return fmt.Errorf("read backend: %w", err)
	}
	rest := index.size - index.content()
	n, err := io.Copy(io.Discard, io.LimitReader(w.r, rest+1))
	if err != nil {
		return fmt.Errorf("read backend: %w", err)
	}
	if n != rest {
		return changed("the file is not as long as the one that was checked")
	}
	if got := [32]byte(w.hash.Sum(nil)); got != index.sum {
		return &Corrupt{Page: -1, What: "the file is not the one that was checked",
			Want: fmt.Sprintf("sha256 %x", index.sum), Got: fmt.Sprintf("%x", got)}
	}
	return nil
}

func changed(what string) error { return &Corrupt{Page: -1, What: what} }
