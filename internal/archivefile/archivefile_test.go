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
	"strings"
	"testing"
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
		if _, _, err := read(archive[:n], mib); err == nil {
			t.Fatalf("cut at %d of %d: no error", n, len(archive))
		}
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
		"empty file":       {nil, "neither a snapshot archive"},
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
		"bytes after gzip": {append(write(t, backend(100)), "more"...), ""},
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

func TestKinds(t *testing.T) {
	bare := append(make([]byte, 16), 0xed, 0xda, 0x0c, 0xed)
	bare = append(bare, make([]byte, 5000)...)
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
