package archivefile

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"
)

// Kind is what an archive file holds.
type Kind string

const (
	// V3 is one backend, ./db.
	V3 Kind = "v3"
	// V2 is a data dir of the v2 store, ./member with its WAL and raft snapshots.
	V2 Kind = "v2"
	// Bare is a backend that is not in an archive: a file of "etcdctl snapshot save", or a copied member/snap/db.
	Bare Kind = "bare"
)

// ErrNotArchive says that a file is neither an archive file nor a backend.
var ErrNotArchive = errors.New("neither a snapshot archive nor an etcd backend file")

// ErrEmpty says of such a file that there is nothing in it. It is an ErrNotArchive too.
var ErrEmpty = fmt.Errorf("it is empty, %w", ErrNotArchive)

// Entry is one file of an archive, by the clean name inside it: "db", or "member/snap/db".
type Entry struct {
	Name string
	// Size is the number of bytes that the reader gives; -1 for Bare, whose size shows only at its end.
	Size int64
	// Modified is the time of the file as the archive has it; zero for Bare.
	Modified time.Time
}

// Backend tells whether the entry is the backend that the archive is about.
func (e Entry) Backend() bool { return e.Name == backendName }

const (
	backendName = "db"
	// mostEntries bounds a v2 data dir: etcd keeps 5 WAL files and 5 raft snapshots by default.
	mostEntries = 1000
)

// memberFile are the files of a v2 data dir that etcd reads.
var memberFile = regexp.MustCompile(`^member/(wal/[0-9a-f]{16}-[0-9a-f]{16}\.wal|snap/[0-9a-f]{16}-[0-9a-f]{16}\.snap|snap/db)$`)

// MostContent bounds in bytes what an archive may unpack to: far above any backend, far below an endless stream.
const MostContent = 1 << 40

// Walk reads an archive file, or a bare backend, from r and calls visit for each file in it. visit must read the entry to
// its end before it acts on it: the end is where a cut or damaged archive shows. Walk refuses more than limit bytes of
// content, any name or type that an archive file does not have, the same name twice, and bytes after the end.
func Walk(r io.Reader, limit int64, visit func(Entry, io.Reader) error) (Kind, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	packed, err := sniff(buffered)
	switch {
	case err != nil:
		return "", err
	case packed:
		return walkArchive(buffered, limit, visit)
	}
	return Bare, visit(Entry{Name: backendName, Size: -1}, Limit(buffered, limit))
}

// Sniff looks at the beginning of a file only. Its error is ErrNotArchive when Walk would not even start on it; what it
// lets pass can still be cut off, damaged, or an archive of something else.
func Sniff(r io.Reader) error {
	_, err := sniff(bufio.NewReaderSize(r, bareMagicEnd))
	return err
}

// A bbolt file starts with meta page 0: a 16-byte page header, then the magic number in the machine's byte order.
const (
	bareMagicStart = 16
	bareMagicEnd   = 20
)

const (
	gzipMagic = "\x1f\x8b"
	bareMagic = "\xed\xda\x0c\xed"
)

// sniff tells an archive from a bare backend.
func sniff(r *bufio.Reader) (packed bool, err error) {
	head, err := r.Peek(bareMagicEnd)
	switch {
	case strings.HasPrefix(string(head), gzipMagic):
		return true, nil
	case len(head) == bareMagicEnd && string(head[bareMagicStart:]) == bareMagic:
		return false, nil
	case err != nil && !errors.Is(err, io.EOF):
		return false, fmt.Errorf("read archive: %w", err)
	case len(head) == 0:
		return false, ErrEmpty
	}
	return false, ErrNotArchive
}

func walkArchive(r *bufio.Reader, limit int64, visit func(Entry, io.Reader) error) (Kind, error) {
	content, err := Unzip(r)
	if err != nil {
		return "", inReading(err)
	}
	archive := NewReader(content, limit)
	for {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return archive.Kind(), nil
		}
		if err != nil {
			return "", err
		}
		if err := visit(entry, archive); err != nil {
			return "", err
		}
	}
}

// Reader gives the files of an archive, which is unzipped already, one after the other: Next goes to a file, Read reads
// it. It holds an archive to the rules of Walk. Other than Walk it can be left where its user wants to.
type Reader struct {
	limit   int64
	content *limited
	archive *tar.Reader
	kind    Kind
	seen    map[string]bool
}

// NewReader reads the tar stream of an archive. It gives an error instead of more than limit bytes of it.
func NewReader(content io.Reader, limit int64) *Reader {
	// The budget counts what comes out of the decompressor, so headers and padding of a bomb count as well.
	budget := &limited{r: content, left: limit}
	return &Reader{limit: limit, content: budget, archive: tar.NewReader(budget), seen: map[string]bool{}}
}

// Kind is what the archive holds by the files that Next gave so far.
func (a *Reader) Kind() Kind { return a.kind }

// Next goes to the next file, also where this one was not read to its end. Its error is io.EOF when there is no more, and
// then the archive was whole to its end.
func (a *Reader) Next() (Entry, error) {
	for {
		header, err := a.archive.Next()
		if errors.Is(err, io.EOF) {
			return Entry{}, a.end()
		}
		if err != nil {
			return Entry{}, inReading(err)
		}
		name, err := checkHeader(header)
		if err != nil {
			return Entry{}, err
		}
		if a.seen[name] || len(a.seen) >= mostEntries {
			return Entry{}, fmt.Errorf("read archive: %q is in it twice, or it has more than %d entries", name, mostEntries)
		}
		a.seen[name] = true
		if header.Typeflag != tar.TypeDir {
			return a.file(name, header)
		}
	}
}

func (a *Reader) file(name string, header *tar.Header) (Entry, error) {
	kind := V2
	if name == backendName {
		kind = V3
	}
	if a.kind != "" && a.kind != kind {
		return Entry{}, errors.New("read archive: it holds both ./db and ./member; one archive holds the v3 keys or the v2 keys")
	}
	a.kind = kind
	if header.Size > a.content.left {
		return Entry{}, fmt.Errorf("read archive: %q announces %d bytes, above the limit of %d", name, header.Size, a.limit)
	}
	return Entry{Name: name, Size: header.Size, Modified: header.ModTime}, nil
}

func (a *Reader) end() error {
	if a.kind == "" {
		return errors.New("read archive: it holds neither ./db nor ./member")
	}
	if err := checkEnd(a.content); err != nil {
		return err
	}
	return io.EOF
}

// Read reads the file that Next went to.
func (a *Reader) Read(p []byte) (int, error) {
	n, err := a.archive.Read(p)
	return n, explain(err)
}

// checkEnd reads the rest of the archive, which may only be tar's padding, so that gzip's own checksum is reached.
func checkEnd(content io.Reader) error {
	block := make([]byte, 32<<10)
	for {
		n, err := content.Read(block)
		if len(bytes.Trim(block[:n], "\x00")) > 0 {
			return ErrMore
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return inReading(err)
		}
	}
}

// checkHeader gives the clean name of an entry that an archive file may have.
func checkHeader(header *tar.Header) (string, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(header.Name, "./"), "/")
	if name == "" {
		name = "."
	}
	if path.Clean(name) != name || path.IsAbs(header.Name) || strings.HasPrefix(name, "..") {
		return "", fmt.Errorf("read archive: unsafe name %q", header.Name)
	}
	switch header.Typeflag {
	case tar.TypeDir:
		switch name {
		case ".", "member", "member/wal", "member/snap":
			return name, nil
		}
	case tar.TypeReg:
		if name == backendName || memberFile.MatchString(name) {
			return name, nil
		}
	default:
		return "", fmt.Errorf("read archive: %q is a link, device or other special file", header.Name)
	}
	return "", fmt.Errorf("read archive: unexpected entry %q", header.Name)
}

// Limit gives what r gives, and an error instead of more than most bytes.
func Limit(r io.Reader, most int64) io.Reader { return &limited{r: r, left: most} }

// limited gives at most left bytes and then an error, unlike io.LimitedReader, which pretends an end.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		var one [1]byte
		if n, err := l.r.Read(one[:]); n == 0 {
			return 0, err
		}
		return 0, errors.New("the content is larger than the limit")
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}
