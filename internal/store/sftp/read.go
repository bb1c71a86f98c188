package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/pkg/sftp"

	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	// pieceSize is how much is asked for at once, in bytes, and pieces how many are on their way: together they are what an
	// SSH client lets a server send ahead.
	pieceSize = 512 << 10
	pieces    = 4
)

// Stat looks at an object. See store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Object, error) {
	object, err := s.stat(ctx, name)
	if err != nil {
		return store.Object{}, fmt.Errorf("look at object %q: %w", name, err)
	}
	return object, nil
}

func (s *Store) stat(ctx context.Context, name string) (object store.Object, err error) {
	if err := store.CheckName(name); err != nil {
		return object, err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return object, err
	}
	defer c.release()
	return c.stat(ctx, name)
}

// stat looks at an object. What is no file is none.
func (c *conn) stat(ctx context.Context, name string) (object store.Object, err error) {
	if err := c.checkFolder(ctx, path.Dir(name)); err != nil {
		return object, err
	}
	info, err := c.lstat(ctx, c.store.path(name))
	if err != nil {
		return object, err
	}
	if !info.Mode().IsRegular() {
		return object, store.ErrNotFound
	}
	return objectOf(name, info), nil
}

func objectOf(name string, info fs.FileInfo) store.Object {
	return store.Object{Name: name, Size: info.Size(), Modified: info.ModTime().UTC()}
}

// Open reads a part of an object. See store.Store.
func (s *Store) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	body, err := s.open(ctx, name, from, length)
	if err != nil {
		return nil, fmt.Errorf("open object %q: %w", name, err)
	}
	return body, nil
}

func (s *Store) open(ctx context.Context, name string, from, length int64) (*body, error) {
	err := store.CheckName(name)
	if err == nil {
		err = store.CheckRange(from, length)
	}
	if err != nil {
		return nil, err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.release()
	// Not a pipe, which would have the server wait for a writer.
	object, err := c.stat(ctx, name)
	if err != nil {
		return nil, err
	}
	file, err := askThen(ctx, c, func() (*sftp.File, error) { return c.client.OpenFile(s.path(name), os.O_RDONLY) },
		func(file *sftp.File) { _ = file.Close() }) // nothing is lost
	if err != nil {
		return nil, err
	}
	end := object.Size // objects never change
	if length >= 0 && length < end-from {
		end = from + length
	}
	c.hold()
	return &body{ctx: ctx, conn: c, file: file, name: name, asked: from, end: end}, nil
}

// body is what is read of an object. It is for one goroutine, as any reader.
type body struct {
	ctx  context.Context // that of Open
	conn *conn
	file *sftp.File
	name string
	// asked is up to where pieces were asked for, and end where they end, as offsets in the object.
	asked, end int64
	// coming are the pieces on their way, in order.
	coming []<-chan piece
	left   []byte // of the piece that is being read
	err    error  // of the last Read
	closed bool
}

// piece is the answer to one question. Its bytes are the reader's.
type piece struct {
	bytes []byte
	err   error
}

func (b *body) Read(p []byte) (int, error) {
	if b.closed {
		return 0, fmt.Errorf("read object %q: %w", b.name, fs.ErrClosed)
	}
	if b.ctx.Err() != nil {
		return 0, fmt.Errorf("read object %q: %w", b.name, context.Cause(b.ctx))
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(b.left) == 0 && b.err == nil {
		b.left, b.err = b.next()
	}
	if len(b.left) == 0 {
		return 0, b.err
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

// next waits for a piece, and asks for more.
func (b *body) next() ([]byte, error) {
	for len(b.coming) < pieces && b.asked < b.end {
		b.ask()
	}
	if len(b.coming) == 0 {
		return nil, io.EOF
	}
	select {
	case <-b.ctx.Done():
		return nil, fmt.Errorf("read object %q: %w", b.name, context.Cause(b.ctx))
	case next := <-b.coming[0]:
		b.coming = b.coming[1:]
		if next.err != nil {
			return next.bytes, fmt.Errorf("read object %q: %w", b.name, next.err)
		}
		return next.bytes, nil
	}
}

// ask asks for the next piece. The question goes on by itself when the reader is closed, at most until the end of the
// connection.
func (b *body) ask() {
	c, file, from := b.conn, b.file, b.asked
	size := min(b.end-from, pieceSize)
	b.asked += size
	answer := make(chan piece, 1)
	b.coming = append(b.coming, answer)
	c.hold()
	go func() {
		defer c.release()
		bytes := make([]byte, size)
		n, err := readAt(file, bytes, from)
		if errors.Is(err, io.EOF) { // the end of the file, or of the connection
			if _, err = file.Stat(); err == nil {
				err = &shorter{from + int64(n)}
			}
		}
		if _, ended := errors.AsType[*shorter](err); !ended {
			err = c.explain(err)
		}
		answer <- piece{bytes[:n], err}
	}()
}

// readAt fills p, with as many questions as it takes: a server may give less than it is asked for.
func readAt(file *sftp.File, p []byte, from int64) (n int, err error) {
	for n < len(p) {
		m, err := file.ReadAt(p[n:], from+int64(n))
		n += m
		if err != nil && (m == 0 || !errors.Is(err, io.EOF)) { // the client takes less for the end
			return n, err
		}
	}
	return n, nil
}

// shorter means that a file ends before it should.
type shorter struct{ end int64 }

func (s *shorter) Error() string { return fmt.Sprintf("it ends at byte %d, and was longer", s.end) }

func (s *shorter) Unwrap() error { return store.ErrFinal }

// Close lets go of the object. What is still on its way is not waited for.
func (b *body) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	go func() {
		defer b.conn.release()
		_ = b.file.Close() // it was only read; this waits for the pieces on their way
	}()
	return nil
}
