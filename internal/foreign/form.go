package foreign

import (
	"archive/tar"
	"bytes"
	"compress/lzw"
	"io"
	"regexp"
	"unicode/utf8"
)

// form is what bytes look like, in words that follow "it is".
type form string

// The forms that can be opened.
const (
	backendForm form = "a backend file"
	gzipForm    form = "a gzip file"
	zlibForm    form = "a zlib stream"
	lzwForm     form = "an LZW stream"
	zipForm     form = "a zip file"
	tarForm     form = "a tar file"
)

// Forms that are refused, and known to be met.
const (
	emptyForm   form = "empty"
	ageForm     form = "encrypted with age"
	pgpForm     form = "encrypted with OpenPGP"
	opensslForm form = "encrypted with openssl"
	deltaForm   form = "a delta snapshot of Gardener, the changes since a full one"
	jsonForm    form = "JSON"
	markupForm  form = "XML or HTML, perhaps what a server said instead of giving the file"
	textForm    form = "text"
	sqliteForm  form = "a SQLite database, as k3s has it without etcd"
	zstdForm    form = "compressed with zstd, which must be undone first"
	compForm    form = "compressed with compress, which must be undone first"
	xzForm      form = "compressed with xz, which must be undone first"
	bzip2Form   form = "compressed with bzip2, which must be undone first"
	sevenForm   form = "a 7z archive, which must be unpacked first"
	zeroForm    form = "zeros, perhaps of a copy that was never finished"
	dataForm    form = "data of an unknown form"
)

const (
	// headSize is how many bytes a form is told by; tar's magic is the last of what is looked for, at 257.
	headSize  = 512
	gzipMagic = "\x1f\x8b"
)

func formOf(head []byte) form {
	begins := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case len(head) == 0:
		return emptyForm
	case isBackend(head):
		return backendForm
	case begins(gzipMagic):
		return gzipForm
	case begins("PK\x03\x04"), begins("PK\x05\x06"): // the second is a zip file with nothing in it
		return zipForm
	case len(head) > 262 && string(head[257:262]) == "ustar":
		return tarForm
	case begins("age-encryption.org/"), begins("-----BEGIN AGE "):
		return ageForm
	case begins("-----BEGIN PGP MESSAGE"):
		return pgpForm
	case begins("Salted__"):
		return opensslForm
	case begins("SQLite format 3\x00"):
		return sqliteForm
	case begins("\x28\xb5\x2f\xfd"):
		return zstdForm
	case begins("\x1f\x9d"):
		return compForm
	case begins("\xfd7zXZ\x00"):
		return xzForm
	case begins("BZh") && !isText(head):
		return bzip2Form
	case begins("7z\xbc\xaf\x27\x1c"):
		return sevenForm
	case len(bytes.Trim(head, "\x00")) == 0:
		return zeroForm
	}
	return unmarked(head)
}

// unmarked tells what has no magic number at its beginning.
func unmarked(head []byte) form {
	trimmed := bytes.TrimSpace(head)
	switch {
	case bytes.HasPrefix(trimmed, []byte("[")) && bytes.Contains(head, []byte(`"etcdEvent"`)): // a short one ends with a sum that is no text
		return deltaForm
	case !isText(head):
	case bytes.HasPrefix(trimmed, []byte("{")), bytes.HasPrefix(trimmed, []byte("[")):
		return jsonForm
	case bytes.HasPrefix(trimmed, []byte("<")):
		return markupForm
	default:
		return textForm
	}
	switch {
	case isZlib(head):
		return zlibForm
	case isLZW(head):
		return lzwForm
	}
	return dataForm
}

// isText tells UTF-8 without control characters. The last character can be cut.
func isText(head []byte) bool {
	for i := 0; i < len(head); {
		r, n := utf8.DecodeRune(head[i:])
		if r == utf8.RuneError && n <= 1 && len(head)-i >= utf8.UTFMax || r < ' ' && r != '\n' && r != '\r' && r != '\t' {
			return false
		}
		i += n
	}
	return true
}

// isZlib tells the header of a zlib stream without a dictionary: the method, a window that it can have, and the check.
func isZlib(head []byte) bool {
	if len(head) < 2 {
		return false
	}
	method, flags := head[0], head[1]
	return method&0x0f == 8 && method>>4 <= 7 && flags&0x20 == 0 && (uint(method)<<8|uint(flags))%31 == 0
}

// isLZW undoes the start of what may be an LZW stream, which has no magic number, and looks for a backend there.
func isLZW(head []byte) bool {
	start := make([]byte, 20) // up to the end of a backend's magic number
	_, err := io.ReadFull(lzw.NewReader(bytes.NewReader(head), lzw.LSB, lzwWidth), start)
	return err == nil && isBackend(start)
}

// dataDirName is a name of a data dir's inside, wherever the data dir is in an archive.
var dataDirName = regexp.MustCompile(`(^|/)(member/(wal|snap)|wal/[0-9a-f]{16}-[0-9a-f]{16}\.wal)(/|$)`)

// holdsDataDir looks for a data dir in the start of a tar file.
func holdsDataDir(start []byte) bool {
	archive := tar.NewReader(bytes.NewReader(start))
	for {
		header, err := archive.Next()
		if err != nil {
			return false
		}
		if dataDirName.MatchString(header.Name) {
			return true
		}
	}
}
