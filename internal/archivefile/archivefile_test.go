package archivefile_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/holdfast-project/holdfast/internal/archivefile"
)

const mib = 1 << 20

// backend is content that compresses like a database: part noise, part repetition.
func backend(size int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, size)
	for i := range data {
		if i/100%2 == 0 {
			data[i] = byte(random.Uint32())
		}
	}
	return data
}

func write(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := archivefile.Write(&out, bytes.NewReader(data), int64(len(data)), time.Unix(1537985042, 5)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// read walks an archive and gives the content of every entry by name.
func read(archive []byte, limit int64) (archivefile.Kind, map[string][]byte, error) {
	got := map[string][]byte{}
	kind, err := archivefile.Walk(bytes.NewReader(archive), limit, func(e archivefile.Entry, r io.Reader) error {
		content, err := io.ReadAll(r)
		got[e.Name] = content
		return err
	})
	return kind, got, err
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 511, 4096 + 32, 3*mib + 17} {
		data := backend(size)
		kind, got, err := read(write(t, data), int64(size)+mib)
		if err != nil || kind != archivefile.V3 || !bytes.Equal(got["db"], data) || len(got) != 1 {
			t.Errorf("size %d: kind %q, %d entries, equal %v, err %v", size, kind, len(got), bytes.Equal(got["db"], data), err)
		}
	}
}

// The stock tools are the judges of the layout.
func TestStockToolsReadIt(t *testing.T) {
	data := backend(2*mib + 32)
	dir := t.TempDir()
	name := filepath.Join(dir, "a.tar.gz")
	if err := os.WriteFile(name, write(t, data), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gzip", "-t", name).CombinedOutput(); err != nil {
		t.Fatalf("gzip -t: %v\n%s", err, out)
	}
	listing, err := exec.Command("tar", "tzf", name).CombinedOutput()
	if err != nil || string(listing) != "./\n./db\n" {
		t.Fatalf("tar tzf: %v\n%s", err, listing)
	}
	if out, err := exec.Command("tar", "xzf", name, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar xzf: %v\n%s", err, out)
	}
	extracted, err := os.ReadFile(filepath.Join(dir, "db"))
	if err != nil || !bytes.Equal(extracted, data) {
		t.Fatalf("extracted db differs: %v", err)
	}
	info, _ := os.Stat(filepath.Join(dir, "db"))
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode of db is %o", info.Mode().Perm())
	}
}

func TestWriteRefusesAnotherSize(t *testing.T) {
	data := backend(5000)
	for _, announced := range []int64{4999, 5001} {
		if err := archivefile.Write(io.Discard, bytes.NewReader(data), announced, time.Now()); err == nil {
			t.Errorf("5000 bytes announced as %d: no error", announced)
		}
	}
}

func TestWritePassesOnAFullDisk(t *testing.T) {
	full := errors.New("no space left on device")
	err := archivefile.Write(failAfter{n: new(int), most: mib, err: full}, bytes.NewReader(backend(8*mib)), 8*mib, time.Now())
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type failAfter struct {
	n    *int
	most int
	err  error
}

func (f failAfter) Write(p []byte) (int, error) {
	*f.n += len(p)
	if *f.n > f.most {
		return 0, f.err
	}
	return len(p), nil
}

func TestEveryCutIsSeen(t *testing.T) {
	data := backend(20_000)
	archive := write(t, data)
	for n := range len(archive) {
		_, _, err := read(archive[:n], mib)
		if n < 2 { // shorter than what tells an archive
			if !errors.Is(err, archivefile.ErrNotArchive) {
				t.Fatalf("cut at %d: %v", n, err)
			}
			continue
		}
		if err == nil || err.Error() != "the archive is cut off: it ends too early" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d of %d: %v", n, len(archive), err)
		}
	}
}

// TestCutInside cuts what is packed: the gzip stream around it is whole.
func TestCutInside(t *testing.T) {
	unzipped, err := gzip.NewReader(bytes.NewReader(write(t, backend(20_000))))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{100, 600, 5000} {
		if _, _, err := read(zip(t, content[:n]), mib); err == nil || err.Error() != "the archive is cut off: it ends too early" {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	content[512+100] ^= 1 // the header of ./db
	if _, _, err := read(zip(t, content), mib); err == nil || err.Error() != "the archive is damaged: archive/tar: invalid tar header" || !errors.Is(err, tar.ErrHeader) {
		t.Errorf("a bad header: %v", err)
	}
}

func zip(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	if _, err := zipped.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestDamageIsNamed wants the words for people, and the cause for programs.
func TestDamageIsNamed(t *testing.T) {
	archive := write(t, backend(20_000))
	change := func(at int, to byte) []byte {
		changed := bytes.Clone(archive)
		changed[at] = to
		return changed
	}
	end := len(archive)
	for name, test := range map[string]struct {
		archive []byte
		want    string
		cause   error
	}{
		"sum":         {change(end-5, ^archive[end-5]), "the archive is damaged: gzip: invalid checksum", gzip.ErrChecksum},
		"method":      {change(2, 9), "the archive is damaged: gzip: invalid header", gzip.ErrHeader},
		"first block": {change(10, 7), "the archive is damaged: flate: corrupt input before offset ", nil},
		"second part": {slices.Concat(archive, change(2, 9)), "the archive is damaged: gzip: invalid header", gzip.ErrHeader},
		"cut second":  {slices.Concat(archive, archive[:5]), "the archive is cut off: it ends too early", io.ErrUnexpectedEOF},
		"cut name":    {[]byte{0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0, 'a'}, "the archive is cut off: it ends too early", io.ErrUnexpectedEOF},
		"one more":    {slices.Concat(archive, []byte{0}), "read archive: there are bytes after its end", nil},
		"two":         {slices.Concat(archive, archive), "read archive: there are bytes after its end", nil},
	} {
		_, _, err := read(test.archive, mib)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) || test.cause != nil && !errors.Is(err, test.cause) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	// What the disk says is not about the archive.
	disk := errors.New("input/output error")
	_, err := archivefile.Walk(io.MultiReader(bytes.NewReader(archive[:2000]), iotest.ErrReader(disk)), mib, func(_ archivefile.Entry, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if !errors.Is(err, disk) || strings.Contains(err.Error(), "archive is") {
		t.Errorf("a bad disk: %v", err)
	}
}

// TestPartsAreOneArchive reads what "cat" made of the parts of a gzip stream, as the gzip program does.
func TestPartsAreOneArchive(t *testing.T) {
	data := backend(20_000)
	unzipped, err := gzip.NewReader(bytes.NewReader(write(t, data)))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	kind, got, err := read(slices.Concat(zip(t, content[:700]), zip(t, nil), zip(t, content[700:])), mib)
	if err != nil || kind != archivefile.V3 || !bytes.Equal(got["db"], data) {
		t.Errorf("kind %q, equal %v, err %v", kind, bytes.Equal(got["db"], data), err)
	}
}

func TestFlippedBitsAreSeen(t *testing.T) {
	data := backend(20_000)
	archive := write(t, data)
	const gzipHeader = 10 // name, time and system in it are not covered by any checksum
	for n := gzipHeader; n < len(archive); n += 7 {
		damaged := bytes.Clone(archive)
		damaged[n] ^= 1 << (n % 8)
		if _, got, err := read(damaged, mib); err == nil && !bytes.Equal(got["db"], data) {
			t.Fatalf("bit flipped at %d of %d: other content and no error", n, len(archive))
		}
	}
}

// pack makes an archive of any headers, as an attacker would.
func pack(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for _, h := range headers {
		if h.Mode == 0 {
			h.Mode = 0o600
		}
		if err := archive.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestHostileArchives(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 10} }
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
	link := func(kind byte, name, target string) tar.Header {
		return tar.Header{Typeflag: kind, Name: name, Linkname: target}
	}
	tests := map[string]struct {
		archive []byte
		want    string
	}{
		"empty file":       {nil, "it is empty, neither a snapshot archive"},
		"text":             {[]byte("hello, this is not an archive at all"), "neither a snapshot archive"},
		"gzip of nothing":  {pack(t), "neither ./db nor ./member"},
		"only folders":     {pack(t, dir("./"), dir("./member/")), "neither ./db nor ./member"},
		"parent":           {pack(t, file("../db")), "unsafe name"},
		"inner parent":     {pack(t, file("./member/../../db")), "unsafe name"},
		"absolute":         {pack(t, file("/etc/passwd")), "unsafe name"},
		"symbolic link":    {pack(t, link(tar.TypeSymlink, "./db", "/etc/shadow")), "special file"},
		"hard link":        {pack(t, link(tar.TypeLink, "./db", "/etc/shadow")), "special file"},
		"device":           {pack(t, tar.Header{Typeflag: tar.TypeChar, Name: "./db", Devmajor: 1, Devminor: 3}), "special file"},
		"fifo":             {pack(t, tar.Header{Typeflag: tar.TypeFifo, Name: "./db"}), "special file"},
		"foreign file":     {pack(t, file("./db"), file("./.bashrc")), "unexpected entry"},
		"file named wal":   {pack(t, file("./wal")), "unexpected entry"},
		"twice":            {pack(t, file("./db"), file("./db")), "twice"},
		"v2 and v3":        {pack(t, file("./db"), file("./member/snap/db")), "both ./db and ./member"},
		"too large":        {pack(t, tar.Header{Typeflag: tar.TypeReg, Name: "./db", Size: 3 * mib}), "above the limit"},
		"bomb in padding":  {bomb(t), "larger than the limit"},
		"bytes after gzip": {append(write(t, backend(100)), "more"...), "there are bytes after its end"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(test.archive, mib)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// bomb is a small archive with a sound ./db and then gigabytes of zeros, which tar calls padding.
func bomb(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	archive := tar.NewWriter(zipped)
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./db"}); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	for range 64 {
		if _, err := zipped.Write(make([]byte, mib)); err != nil {
			t.Fatal(err)
		}
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestSniff wants the same of a file as Walk does, by its beginning.
func TestSniff(t *testing.T) {
	archive, bare := write(t, backend(5000)), bareFile()
	for name, test := range map[string]struct {
		content []byte
		want    error
	}{
		"archive": {archive, nil}, "cut archive": {archive[:2], nil}, "bare": {bare, nil}, "cut bare": {bare[:20], nil},
		"shorter": {bare[:19], archivefile.ErrNotArchive}, "half a magic number": {archive[:1], archivefile.ErrNotArchive},
		"empty": {nil, archivefile.ErrEmpty}, "text": {[]byte("notes, of which there are many"), archivefile.ErrNotArchive},
	} {
		if err := archivefile.Sniff(bytes.NewReader(test.content)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if _, _, err := read(test.content, mib); errors.Is(err, archivefile.ErrNotArchive) != (test.want != nil) {
			t.Errorf("%s: Walk says %v", name, err)
		}
	}
	disk := errors.New("input/output error")
	if err := archivefile.Sniff(iotest.ErrReader(disk)); !errors.Is(err, disk) {
		t.Errorf("a bad disk: %v", err)
	}
}

func bareFile() []byte {
	return append(append(make([]byte, 16), 0xed, 0xda, 0x0c, 0xed), make([]byte, 5000)...)
}

func TestKinds(t *testing.T) {
	bare := bareFile()
	kind, got, err := read(bare, mib)
	if err != nil || kind != archivefile.Bare || !bytes.Equal(got["db"], bare) {
		t.Errorf("bare: kind %q, err %v", kind, err)
	}
	v2 := pack(t, tar.Header{Typeflag: tar.TypeDir, Name: "./"},
		tar.Header{Typeflag: tar.TypeReg, Name: "./member/snap/db", Size: 5},
		tar.Header{Typeflag: tar.TypeReg, Name: "./member/wal/0000000000000000-0000000000000000.wal", Size: 7},
		tar.Header{Typeflag: tar.TypeReg, Name: "./member/snap/0000000000000002-0000000000000008.snap", Size: 7})
	kind, got, err = read(v2, mib)
	if err != nil || kind != archivefile.V2 || len(got) != 3 {
		t.Errorf("v2: kind %q, %d entries, err %v", kind, len(got), err)
	}
}
