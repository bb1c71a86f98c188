package foreign

import (
	"bufio"
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zlib"

	"github.com/holdfast-project/holdfast/internal/archivefile"
)

const (
	// bufferSize is in bytes, as in archivefile.
	bufferSize = 256 << 10
	// lzwWidth is the number of bits of a literal in Gardener's files.
	lzwWidth = 8
)

// opener is one Open.
type opener struct {
	from *source
	in   *bufio.Reader
	size int64
	file *File
}

func open(name string, in input, size int64) (*File, error) {
	from := &source{in: in}
	o := &opener{from: from, in: bufio.NewReaderSize(from, bufferSize), size: size, file: &File{Size: -1}}
	o.file.named(filepath.Base(name))
	if err := o.file.readMeta(name); err != nil {
		return nil, err
	}
	if err := o.open(); err != nil {
		return nil, err
	}
	o.file.content = archivefile.Limit(o.file.content, archivefile.MostContent)
	return o.file, nil
}

// open goes by the first bytes.
func (o *opener) open() error {
	head, err := peek(o.in)
	if err != nil {
		return o.from.explain(err)
	}
	switch form := formOf(head); form {
	case backendForm:
		o.file.Size = o.size
		return o.backend(Plain, &decoded{from: o.from, decoder: o.in})
	case gzipForm:
		return o.gzip(head)
	case zlibForm:
		return o.zlib()
	case lzwForm:
		return o.backend(LZW, &decoded{from: o.from, decoder: lzw.NewReader(o.in, lzw.LSB, lzwWidth), rest: o.in})
	case zipForm:
		return o.zip()
	case tarForm:
		return o.tar(Tar, o.in)
	default:
		return refuse(form, "")
	}
}

// backend takes content that should be a backend.
func (o *opener) backend(kind Kind, content io.Reader) error {
	o.file.Kind = kind
	buffered, ok := content.(*bufio.Reader)
	if !ok {
		buffered = bufio.NewReaderSize(content, bufferSize)
	}
	head, err := peek(buffered)
	if err != nil {
		return err
	}
	if form := formOf(head); form != backendForm {
		return refuse(form, kind)
	}
	o.file.content = buffered
	return nil
}

// gzip takes a backend or a tar file.
func (o *opener) gzip(head []byte) error {
	if len(head) >= 8 {
		if stamp := binary.LittleEndian.Uint32(head[4:]); stamp > 0 {
			o.file.taken(time.Unix(int64(stamp), 0), ByGzip)
		}
	}
	decoder, err := archivefile.Unzip(o.in)
	if err != nil {
		return o.from.explain(err)
	}
	content := bufio.NewReaderSize(&decoded{from: o.from, decoder: decoder}, bufferSize)
	inside, err := peek(content)
	if err != nil {
		return err
	}
	if formOf(inside) == tarForm {
		return o.tar(TarGz, content)
	}
	return o.backend(Gzip, content)
}

func (o *opener) zlib() error {
	decoder, err := zlib.NewReader(o.in)
	if err != nil {
		return o.from.explain(err)
	}
	return o.backend(Zlib, &decoded{from: o.from, decoder: decoder, rest: o.in})
}

// tar takes an archive file, which is decompressed already.
func (o *opener) tar(kind Kind, content *bufio.Reader) error {
	start, err := content.Peek(bufferSize)
	if err != nil && !errors.Is(err, io.EOF) && len(start) < headSize {
		return o.from.explain(err)
	}
	if holdsDataDir(start) {
		return ErrDataDir
	}
	archive := archivefile.NewReader(content, archivefile.MostContent)
	entry, err := archive.Next()
	if err != nil {
		return err
	}
	if !entry.Backend() {
		return ErrDataDir
	}
	if entry.Modified.Unix() > 0 {
		// It is more exact than the time in the gzip header, which is that of the packing.
		o.file.Taken, o.file.TakenFrom = entry.Modified.UTC(), ByEntry
	}
	o.file.Size = entry.Size
	return o.backend(kind, &archived{archive})
}

// archived is the file that an archive is at, and must be the last.
type archived struct{ *archivefile.Reader }

func (a *archived) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		_, err = a.Next() // It allows no other file beside ./db.
	}
	return n, err
}

// peek gives the bytes that a form is told by, or all when there are fewer.
func peek(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(headSize)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return head, err
}

// refuse says what a file, or what is inside of one, looks like.
func refuse(form form, inside Kind) error {
	looks := string(form)
	if inside != "" && inside != Plain {
		looks = fmt.Sprintf("a %s file with something else in it than a backend: %s", inside, form)
	}
	switch form {
	case deltaForm:
		return fmt.Errorf("it is %s: only full snapshots (Full-...) can be imported", looks)
	case ageForm, pgpForm, opensslForm:
		return fmt.Errorf("it is %s: decrypt it first", looks)
	}
	return fmt.Errorf("it is %s; %w", looks, ErrNotBackup)
}

// isBackend tells a bbolt file by its first meta page: a 16-byte page header, then the magic number. archivefile knows it.
func isBackend(head []byte) bool {
	return archivefile.Sniff(bytes.NewReader(head)) == nil && !bytes.HasPrefix(head, []byte(gzipMagic))
}
