package snapshot

import (
	"errors"
	"fmt"
	"io"
)

// Recheck judges a file that Finish has found whole once more, after one transaction of bbolt has changed it and it lost
// its trailer: every page is held to the same rules, and the answer is that of a Scanner that was given all of the file,
// but for SHA256, which stays zero.
//
// It reads the meta pages and, of the pages that a tree leads to, those that no tree led to before. bbolt never writes to
// the others: what a transaction changes goes to free pages and to the end of the file. That they are as they were is taken
// for granted, so that nobody else may have written to the file. The Index is none of the changed file. Recheck may be
// called once.
func (s *Scanner) Recheck(r io.ReaderAt, size int64) (Info, error) {
	if s.index == nil {
		return Info{}, errors.New("recheck backend: it was not found whole before")
	}
	pages := size / int64(s.pageSize)
	if pages >= maxPages || pages < 2 {
		return Info{}, &Corrupt{Page: -1, What: fmt.Sprintf("a backend of %d bytes cannot be checked", size)}
	}
	l := loader{s: s, r: r, used: s.used, pages: pages, page: make([]byte, s.pageSize)}
	s.used, s.index, s.lists, s.pendings, s.waiting = nil, nil, nil, nil, 0
	s.valid = [2]bool{}
	for int64(s.pages.n) < pages {
		s.pages.append(0)
	}
	s.pages.n = int(pages)
	for at := range int64(2) {
		if err := l.take(at); err != nil {
			return Info{}, err
		}
	}
	for i := range s.lists {
		if err := l.run(int64(s.lists[i].page)); err != nil {
			return Info{}, err
		}
	}
	s.info = Info{Size: size, PageSize: s.pageSize, Trailer: size%trailerModulus == trailerSize}
	if _, err := s.judge(&Index{leaves: newBitmap(pages)}, l.load); err != nil {
		return Info{}, err
	}
	return s.info, nil
}

// loader summarizes pages of a changed file when a tree leads to them.
type loader struct {
	s     *Scanner
	r     io.ReaderAt
	used  bitmap // what was in a tree before, and is as it was
	pages int64  // in the file
	page  []byte
}

// load summarizes a page that may have changed, with those that it goes on for.
func (l *loader) load(page int64) error {
	if l.used.holds(page) {
		return nil
	}
	return l.run(page)
}

// run takes a page and its overflow, up to where that cannot be right.
func (l *loader) run(page int64) error {
	if page >= l.pages {
		return nil // Whoever led here is told.
	}
	if err := l.take(page); err != nil {
		return err
	}
	end := min(page+int64(parseHeader(l.page).overflow), l.pages-1)
	for at := page + 1; at <= end && !l.used.holds(at); at++ {
		if err := l.take(at); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) take(at int64) error {
	if _, err := l.r.ReadAt(l.page, at*int64(len(l.page))); err != nil {
		return fmt.Errorf("recheck backend: %w", err)
	}
	return l.s.pageAt(at, l.page)
}
