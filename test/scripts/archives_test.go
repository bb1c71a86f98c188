package scripts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"slices"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdFlip turns over one bit in the middle of a file.
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "flip FILE")
	change(ts, args[0], func(data []byte) { data[len(data)/2] ^= 1 })
}

// cmdZero overwrites the second half of a file, as a disk does that has lost it. The last 32 bytes stay.
func cmdZero(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "zero FILE")
	change(ts, args[0], func(data []byte) { clear(data[len(data)/2 : len(data)-32]) })
}

func change(ts *testscript.TestScript, file string, how func([]byte)) {
	file = ts.MkAbs(file)
	data, err := os.ReadFile(file)
	ts.Check(err)
	how(data)
	ts.Check(os.WriteFile(file, data, 0o600))
}

// cmdPack makes the archive that an operator would make by hand: "tar czf FILE ./db" in a folder with that file.
func cmdPack(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "pack FILE DB")
	db, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	writeArchive(ts, args[0], folder("./"), file("./db", db))
}

// entry is one entry of an archive.
type entry struct {
	header  tar.Header
	content []byte
}

func file(name string, content []byte) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content))}, content}
}

func folder(name string) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o700}}
}

func link(kind byte, name, target string) entry {
	return entry{header: tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o600}}
}

// badArchives are what no snapshot archive may hold. Each would, unpacked as it stands, write outside of its folder, make
// a file of another kind, or fill the disk.
var badArchives = map[string][]entry{
	"parent":   {folder("./"), file("../escaped", []byte("x")), file("./db", []byte("x"))},
	"absolute": {folder("./"), file("/tmp/holdfast-escaped", []byte("x"))},
	"symlink":  {folder("./"), link(tar.TypeSymlink, "./db", "/etc/passwd")},
	"hardlink": {folder("./"), link(tar.TypeLink, "./db", "/etc/passwd")},
	"device":   {folder("./"), {header: tar.Header{Typeflag: tar.TypeBlock, Name: "./db", Mode: 0o600, Devmajor: 8}}},
	"fifo":     {folder("./"), {header: tar.Header{Typeflag: tar.TypeFifo, Name: "./db", Mode: 0o600}}},
	"other":    {folder("./"), file("./readme", []byte("x"))},
	"twice":    {folder("./"), file("./db", []byte("x")), file("db", []byte("x"))},
	"both":     {folder("./"), file("./db", []byte("x")), folder("./member"), folder("./member/snap"), file("./member/snap/db", []byte("x"))},
	"empty":    {},
	"folders":  {folder("./")},
}

// cmdBadTar makes an archive of one of the bad kinds, or the bomb.
func cmdBadTar(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "badtar KIND FILE")
	entries, found := badArchives[args[0]]
	switch {
	case found:
		writeArchive(ts, args[1], entries...)
	case args[0] == "bomb":
		writeBomb(ts, args[1])
	default:
		ts.Fatalf("unknown kind %q", args[0])
	}
}

func writeArchive(ts *testscript.TestScript, name string, entries ...entry) {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for _, e := range entries {
		ts.Check(archive.WriteHeader(&e.header))
		_, err := archive.Write(e.content)
		ts.Check(err)
	}
	ts.Check(archive.Close())
	ts.Check(zipped.Close())
	ts.Check(os.WriteFile(ts.MkAbs(name), out.Bytes(), 0o600))
}

// writeBomb makes an archive of 10 MB whose ./db is 10 GB of zeros. gzip joins what is written one after the other, so one
// part is enough, many times.
func writeBomb(ts *testscript.TestScript, name string) {
	const part, parts = 64 << 20, 160
	var header bytes.Buffer
	ts.Check(tar.NewWriter(&header).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./db", Mode: 0o600, Size: part * parts}))
	zip := func(r io.Reader) []byte {
		var out bytes.Buffer
		zipped, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
		ts.Check(err)
		_, err = io.Copy(zipped, r)
		ts.Check(err)
		ts.Check(zipped.Close())
		return out.Bytes()
	}
	zeros := zip(io.LimitReader(zeroReader{}, part))
	bomb := slices.Concat(zip(&header), bytes.Repeat(zeros, parts), zip(io.LimitReader(zeroReader{}, 1024)))
	ts.Check(os.WriteFile(ts.MkAbs(name), bomb, 0o600))
	ts.Logf("a bomb of %d bytes", len(bomb))
}

// zeroReader never ends.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
