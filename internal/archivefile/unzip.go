package archivefile

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// broken is an archive that ends too early or whose bytes are wrong, in words for people. The cause is that of the reader
// that noticed.
type broken struct {
	text  string
	cause error
}

func (b *broken) Error() string { return b.text }
func (b *broken) Unwrap() error { return b.cause }

// ErrMore says that an archive has an end, and that it is not the end of the file.
var ErrMore error = &broken{text: "read archive: there are bytes after its end"}

// Broken gives an error of a decoder, about the bytes that it was given, as one that says so in words for people: they
// are cut off, or damaged. It stays the cause.
func Broken(err error) error {
	if _, done := errors.AsType[*broken](err); done {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &broken{text: "the archive is cut off: it ends too early", cause: err}
	}
	return &broken{text: fmt.Sprintf("the archive is damaged: %v", err), cause: err}
}

// explain gives an error of gzip's or tar's reader that is about the bytes of the archive as Broken does. Others, such as
// those of the disk that it is read from, stay as they are.
func explain(err error) error {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	if corrupt || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, tar.ErrHeader) {
		return Broken(err)
	}
	return err
}

// inReading is explain for an error that has no words yet on what was being done.
func inReading(err error) error {
	err = explain(err)
	if _, told := errors.AsType[*broken](err); told {
		return err
	}
	return fmt.Errorf("read archive: %w", err)
}

// unzipped is what is in a gzip stream. Like the gzip program it goes on where another stream follows; it tells what is no
// stream from one that is cut off.
type unzipped struct {
	r      *bufio.Reader
	stream *gzip.Reader
}

// Unzip gives what is in a gzip stream to the end of r. Errors are those of the decoder and of r.
func Unzip(r *bufio.Reader) (io.Reader, error) {
	z := &unzipped{r: r, stream: new(gzip.Reader)}
	return z, z.open()
}

func (z *unzipped) open() error {
	err := z.stream.Reset(z.r)
	z.stream.Multistream(false)
	if errors.Is(err, io.EOF) { // inside the header
		return io.ErrUnexpectedEOF
	}
	return err
}

func (z *unzipped) Read(p []byte) (int, error) {
	n, err := z.stream.Read(p)
	if errors.Is(err, io.EOF) {
		err = z.next()
	}
	return n, err
}

// next goes on with the stream that follows. The error is io.EOF when the file is at its end.
func (z *unzipped) next() error {
	head, err := z.r.Peek(len(gzipMagic))
	switch {
	case string(head) == gzipMagic:
		return z.open()
	case len(head) > 0:
		return ErrMore
	}
	return err
}
