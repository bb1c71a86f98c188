package foreign

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/holdfast-project/holdfast/internal/archivefile"
)

// Kind is the form of a file, as its bytes tell it.
type Kind string

// The kinds of files that can be opened.
const (
	// Plain is a backend that is not packed: a file of "etcdctl snapshot save", or a copied member/snap/db.
	Plain Kind = "plain"
	// Gzip, Zlib and LZW are such a file compressed. LZW is that of Go with the bits and width that Gardener uses, not that
	// of the compress program.
	Gzip Kind = "gzip"
	Zlib Kind = "zlib"
	LZW  Kind = "lzw"
	// Zip is a zip file with such a file in it and nothing else.
	Zip Kind = "zip"
	// TarGz and Tar are an archive file, see the archivefile package, and one that is not compressed.
	TarGz Kind = "tar.gz"
	Tar   Kind = "tar"
)

// ErrNotBackup says that a file is none that can be imported. The text around it says what it looks like.
var ErrNotBackup = errors.New("no backup that can be imported: that is a backend file, as of etcdctl snapshot save or a copied member/snap/db, " +
	"as it is, in gzip or zlib, alone in a zip, or as ./db in a tar.gz")

// ErrDataDir says that a file has a data dir with its WAL in it, as the backups of etcd v2 are.
var ErrDataDir = errors.New("it holds a data dir with its WAL, as backups of etcd v2 do: that cannot be imported, only a backend file with v3 keys can")

// File is an open backup file. Its reader gives the backend, with etcd's trailer where the backup has it, once. It must be
// read to its end: there a damaged or cut file shows.
type File struct {
	// Kind is the form of the file.
	Kind Kind
	// Tool is the program that made the file, as its name tells: K3s, EtcdManager, Gardener or CharmedEtcd. It is empty when
	// the name does not tell.
	Tool string
	// Taken is when the backup was taken, in UTC, and zero when that is not known. TakenFrom is what tells it: ByName,
	// ByMeta, ByEntry or ByGzip.
	Taken     time.Time
	TakenFrom string
	// EtcdVersion is that of the etcd that was backed up, such as "3.5.21"; empty when not known.
	EtcdVersion string
	// Node is the name of the machine that was backed up; empty when not known.
	Node string
	// Size is the number of bytes that the reader gives, and -1 when the file does not tell. Another number is an error.
	Size int64

	content io.Reader
	given   int64 // bytes read so far
	err     error // what Read ended with
	closer  io.Closer
}

// Open opens a backup file. The error is or wraps ErrNotBackup or ErrDataDir for a file of another kind.
func Open(name string) (*File, error) {
	disk, size, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	f, err := open(name, disk, size)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %q: %w", name, err), disk.Close())
	}
	f.closer = disk
	return f, nil
}

// openRegular opens a file that is not a folder or a device, and gives its size in bytes.
func openRegular(name string) (*os.File, int64, error) {
	// A named pipe would otherwise keep the open waiting for a writer.
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %q: not a regular file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// Read reads the backend. Errors say what is wrong with the file, but not its name.
func (f *File) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.content.Read(p)
	f.given += int64(n)
	switch {
	case f.Size >= 0 && f.given > f.Size:
		err = fmt.Errorf("the backend is longer than the %d bytes that the file announces", f.Size)
	case errors.Is(err, io.EOF) && f.Size > f.given:
		err = archivefile.Broken(io.ErrUnexpectedEOF)
	case errors.Is(err, io.EOF):
		err = io.EOF
	}
	f.err = err
	return n, err
}

// Close closes the file.
func (f *File) Close() error {
	if f.err == nil {
		f.err = os.ErrClosed
	}
	return f.closer.Close()
}

// input is a file, or what a test has for one.
type input interface {
	io.Reader
	io.ReaderAt
}

// source is the file that is opened. It remembers what the disk said, so that all other errors of a decoder are known to
// be about the bytes.
type source struct {
	in  input
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	return n, s.note(err)
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.in.ReadAt(p, off)
	return n, s.note(err)
}

func (s *source) note(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return err
}

// explain gives an error of a decoder as one for people.
func (s *source) explain(err error) error {
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return err
	case s.err != nil:
		return s.err
	}
	return archivefile.Broken(err)
}

// decoded is a decoder whose errors are explained. When it is at its end, so must be what it reads, where that is given.
type decoded struct {
	from    *source
	decoder io.Reader
	rest    *bufio.Reader
}

func (d *decoded) Read(p []byte) (int, error) {
	n, err := d.decoder.Read(p)
	if errors.Is(err, io.EOF) && d.rest != nil {
		_, err = d.rest.Peek(1)
		if err == nil {
			err = archivefile.ErrMore
		}
	}
	return n, d.from.explain(err)
}
