package snapshot

import "io"

// Tee is an io.Writer that gives the same bytes to a Scanner and to another writer, to both at a time: hashing takes as long
// as writing. Write returns when both have taken the bytes. It belongs to one goroutine, and has one of its own until Close.
type Tee struct {
	dst     io.Writer
	scanner *Scanner
	pieces  chan []byte
	scanned chan error
}

// NewTee begins. Nobody else writes to the Scanner or asks it anything before Close.
func NewTee(scanner *Scanner, dst io.Writer) *Tee {
	t := &Tee{dst: dst, scanner: scanner, pieces: make(chan []byte), scanned: make(chan error)}
	go func() {
		defer close(t.scanned)
		for p := range t.pieces {
			_, err := scanner.Write(p)
			t.scanned <- err
		}
	}()
	return t
}

// Write gives bytes to both. An error of the other writer goes before one of the Scanner.
func (t *Tee) Write(p []byte) (int, error) {
	t.pieces <- p
	n, err := t.dst.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if scanErr := <-t.scanned; err == nil {
		err = scanErr
	}
	if err != nil {
		return n, err
	}
	return len(p), nil
}

// Close ends the goroutine. It is called once, and is always nil.
func (t *Tee) Close() error {
	close(t.pieces)
	<-t.scanned
	return nil
}
