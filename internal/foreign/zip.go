package foreign

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/holdfast-project/holdfast/internal/archivefile"
)

// A zip file has its directory at the end, so that this is the only form that is not read front to back.

const (
	zipEnd       = "PK\x05\x06" // the record at the end
	zipEndSize   = 22
	zipComment   = 1<<16 - 1    // the longest comment behind that record
	zip64Locator = "PK\x06\x07" // right before that record; its bytes 8 to 16 say where the 64-bit record is
	zip64LocSize = 20
	zip64End     = "PK\x06\x06" // the 64-bit record; its bytes 32 to 40 are the number of entries
	zip64EndSize = 56
	// zipEntries bounds what a zip reader makes room for on the word of the file alone; what is wanted has one.
	zipEntries = 1<<16 - 1
	// zipDirectory bounds in bytes what is read to find the directory and for the directory.
	zipDirectory = 1 << 20
	// zipEncrypted is the bit of an entry's flags.
	zipEncrypted = 1
)

func (o *opener) zip() error {
	if err := o.checkZipEnd(); err != nil {
		return err
	}
	budget := &budgeted{from: o.from, left: zipDirectory}
	archive, err := zip.NewReader(budget, o.size)
	if budget.left < 0 && o.from.err == nil {
		return fmt.Errorf("the directory of the zip file is larger than any with one entry; %w", ErrNotBackup)
	}
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // Names are not used as such.
		return o.from.explain(err)
	}
	budget.open = true
	entry, err := onlyFile(archive)
	if err != nil {
		return err
	}
	content, err := entry.Open()
	if errors.Is(err, zip.ErrAlgorithm) {
		return fmt.Errorf("the file in the zip is compressed by method %d, which is not supported; only 0 (stored) and 8 (deflate) are", entry.Method)
	}
	if err != nil {
		return o.from.explain(err)
	}
	o.file.Size = int64(entry.UncompressedSize64)
	var inside File
	if inside.named(path.Base(entry.Name)); !inside.Taken.IsZero() { // It stays when somebody gives the zip file another name.
		o.file.Tool, o.file.Node, o.file.Taken, o.file.TakenFrom = inside.Tool, inside.Node, inside.Taken, inside.TakenFrom
	}
	return o.backend(Zip, &decoded{from: o.from, decoder: content})
}

func onlyFile(archive *zip.Reader) (*zip.File, error) {
	var only *zip.File
	for _, entry := range archive.File {
		switch {
		case strings.HasSuffix(entry.Name, "/"): // a folder
			continue
		case only != nil:
			return nil, fmt.Errorf("it is a zip file with several files in it; %w", ErrNotBackup)
		}
		only = entry
	}
	switch {
	case only == nil:
		return nil, fmt.Errorf("it is a zip file with nothing in it; %w", ErrNotBackup)
	case only.Flags&zipEncrypted != 0:
		return nil, errors.New("the file in the zip is encrypted: unpack it first")
	case !only.Mode().IsRegular():
		return nil, fmt.Errorf("what is in the zip is a link or another special file; %w", ErrNotBackup)
	case only.UncompressedSize64 > archivefile.MostContent:
		return nil, fmt.Errorf("the file in the zip announces %d bytes, above the limit of %d", only.UncompressedSize64, int64(archivefile.MostContent))
	}
	return only, nil
}

// checkZipEnd wants a record at the end, and no claim of more entries than there should be room for: the zip package
// believes the number.
func (o *opener) checkZipEnd() error {
	tail := make([]byte, min(o.size, zipEndSize+zipComment+zip64LocSize))
	if _, err := o.from.ReadAt(tail, o.size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	found := false
	// Which of several records counts is for the zip package to say; none may claim too much.
	for at := len(tail); ; {
		at = bytes.LastIndex(tail[:at], []byte(zipEnd))
		if at < 0 {
			break
		}
		if len(tail)-at < zipEndSize {
			continue
		}
		found = true
		if at < zip64LocSize || !bytes.HasPrefix(tail[at-zip64LocSize:], []byte(zip64Locator)) {
			continue // The number is in 16 bits.
		}
		record := make([]byte, zip64EndSize)
		where := binary.LittleEndian.Uint64(tail[at-zip64LocSize+8:])
		if where > uint64(o.size) {
			continue
		}
		if _, err := o.from.ReadAt(record, int64(where)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if bytes.HasPrefix(record, []byte(zip64End)) && binary.LittleEndian.Uint64(record[32:]) > zipEntries {
			return fmt.Errorf("it is a zip file with very many files in it; %w", ErrNotBackup)
		}
	}
	if !found {
		return archivefile.Broken(io.ErrUnexpectedEOF)
	}
	return nil
}

// budgeted gives a number of bytes only, until it is open.
type budgeted struct {
	from *source
	left int64
	open bool
}

func (b *budgeted) ReadAt(p []byte, off int64) (int, error) {
	if !b.open {
		if b.left -= int64(len(p)); b.left < 0 {
			return 0, errors.New("the directory is too large")
		}
	}
	return b.from.ReadAt(p, off)
}
