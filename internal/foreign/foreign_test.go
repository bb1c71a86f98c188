package foreign

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-project/holdfast/internal/archivefile"
)

// TestOpen reads each form that a tool makes, under the name that the tool gives it.
func TestOpen(t *testing.T) {
	raw, data := copied(t), saved(t)
	size := int64(len(data))
	unix := time.Unix(1744272483, 0).UTC()
	dated := func(w io.Writer) io.WriteCloser {
		z := gzip.NewWriter(w)
		z.ModTime = time.Unix(1744272483, 0)
		return z
	}
	charm := tarred(t, tarFile{"./", nil}, tarFile{"./db", raw})
	for name, test := range map[string]struct {
		name string
		file []byte
		meta string // what etcd-manager writes beside it
		want File
		data []byte // when it is not that with the trailer
	}{
		"etcdctl":            {name: "snapshot.db", file: data, want: File{Kind: Plain, Size: size}},
		"copy":               {name: "db", file: raw, want: File{Kind: Plain, Size: int64(len(raw))}, data: raw},
		"charmed operator":   {name: "2025-06-16T16:42:45Z", file: data, want: File{Kind: Plain, Tool: CharmedEtcd, Taken: time.Date(2025, 6, 16, 16, 42, 45, 0, time.UTC), TakenFrom: ByName, Size: size}},
		"no time":            {name: "2025-66-16T16:42:45Z", file: data, want: File{Kind: Plain, Size: size}},
		"k3s":                {name: "etcd-snapshot-ip-10-0-0-1.ec2.internal-1744272483", file: data, want: File{Kind: Plain, Tool: K3s, Node: "ip-10-0-0-1.ec2.internal", Taken: unix, TakenFrom: ByName, Size: size}},
		"RKE2 on demand":     {name: "on-demand-server-1-1744272483", file: data, want: File{Kind: Plain, Tool: K3s, Node: "server-1", Taken: unix, TakenFrom: ByName, Size: size}},
		"k3s, chosen name":   {name: "before-upgrade-server1-1744272483", file: data, want: File{Kind: Plain, Taken: unix, TakenFrom: ByName, Size: size}},
		"k3s zip":            {name: "etcd-snapshot-server1-1744272483.zip", file: zipped(t, zipFile{name: "etcd-snapshot-server1-1744272483", data: data}), want: File{Kind: Zip, Tool: K3s, Node: "server1", Taken: unix, TakenFrom: ByName, Size: size}},
		"k3s zip, renamed":   {name: "old-1600000000.zip", file: zipped(t, zipFile{name: "on-demand-server1-1744272483", data: data}), want: File{Kind: Zip, Tool: K3s, Node: "server1", Taken: unix, TakenFrom: ByName, Size: size}},
		"zip, stored":        {name: "a.zip", file: zipped(t, zipFile{name: "sub/"}, zipFile{"../../etc/passwd", data, func(h *zip.FileHeader) { h.Method = zip.Store }}), want: File{Kind: Zip, Size: size}},
		"etcd-manager":       {name: "2018-01-30T01:02:03Z-000009/etcd.backup.gz", file: packed(t, data, toGzip), meta: `{"etcdVersion":"3.4.13","timestamp":"1744272483","clusterSpec":{"memberCount":3}}`, want: File{Kind: Gzip, Tool: EtcdManager, EtcdVersion: "3.4.13", Taken: unix, TakenFrom: ByMeta, Size: -1}},
		"etcd-manager, old":  {name: "x/etcd.backup.tgz", file: packed(t, data, toGzip), meta: `{"etcd_version":"3.1.12","timestamp":1744272483}`, want: File{Kind: Gzip, Tool: EtcdManager, EtcdVersion: "3.1.12", Taken: unix, TakenFrom: ByMeta, Size: -1}},
		"etcd-manager alone": {name: "2018-01-30T01:02:03Z-000009/etcd.backup.gz", file: packed(t, data, toGzip), want: File{Kind: Gzip, Tool: EtcdManager, Taken: time.Date(2018, 1, 30, 1, 2, 3, 0, time.UTC), TakenFrom: ByName, Size: -1}},
		"Gardener":           {name: "Full-00000000-00012345-1744272483", file: data, want: File{Kind: Plain, Tool: Gardener, Taken: unix, TakenFrom: ByName, Size: size}},
		"Gardener gzip":      {name: "Full-00000000-3607431063-1744272483.gz.final", file: packed(t, data, toGzip), want: File{Kind: Gzip, Tool: Gardener, Taken: unix, TakenFrom: ByName, Size: -1}},
		"Gardener zlib":      {name: "Full-00000000-00012345-1744272483.zlib", file: packed(t, data, toZlib), want: File{Kind: Zlib, Tool: Gardener, Taken: unix, TakenFrom: ByName, Size: -1}},
		"Gardener LZW":       {name: "Full-00000000-00012345-1744272483.Z", file: packed(t, data, toLZW), want: File{Kind: LZW, Tool: Gardener, Taken: unix, TakenFrom: ByName, Size: -1}},
		"Gardener, renamed":  {name: "a", file: packed(t, raw, toLZW), want: File{Kind: LZW, Size: -1}, data: raw},
		"gzip of a person":   {name: "snapshot.db.gz", file: packed(t, data, dated), want: File{Kind: Gzip, Taken: unix, TakenFrom: ByGzip, Size: -1}},
		"the charm":          {name: "etcd-snapshot-2018-09-26-18.04.02.tar.gz", file: packed(t, charm, dated), want: File{Kind: TarGz, Taken: time.Unix(1537985042, 0).UTC(), TakenFrom: ByEntry, Size: int64(len(raw))}, data: raw},
		"tar":                {name: "etcd-snapshot-2018-09-26-18.04.02.tar.gz", file: charm, want: File{Kind: Tar, Taken: time.Unix(1537985042, 0).UTC(), TakenFrom: ByEntry, Size: int64(len(raw))}, data: raw},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, test.name, test.file)
			if test.meta != "" {
				if err := os.WriteFile(filepath.Join(filepath.Dir(path), managerMeta), []byte(test.meta), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, *f, cmpopts.IgnoreUnexported(File{})); diff != "" {
				t.Error(diff)
			}
			want := data
			if test.data != nil {
				want = test.data
			}
			got, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(f, 100)))
			if err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(f)
			if err != nil {
				t.Fatal(err)
			}
			check(t, append(got, rest...), want)
			if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("behind the end: %d bytes, %v", n, err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestArchiveOfOurs reads what the snapshot action makes.
func TestArchiveOfOurs(t *testing.T) {
	data := saved(t)
	var out bytes.Buffer
	if err := archivefile.Write(&out, bytes.NewReader(data), int64(len(data)), time.Unix(1537985042, 5)); err != nil {
		t.Fatal(err)
	}
	got, err := read(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, data)
}

// TestStockTools reads what the programs of the system make, which write other headers than Go does.
func TestStockTools(t *testing.T) {
	data := saved(t)
	path := write(t, "db", data)
	for name, command := range map[string][]string{
		"gzip":   {"gzip", "-c", "db"},
		"tar":    {"tar", "-c", "./db"},
		"tar.gz": {"tar", "-cz", "./db"},
		"pax":    {"tar", "-cz", "--format=posix", "db"},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = filepath.Dir(path)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := read(out)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		check(t, got, data)
	}
}

// TestRefused wants each kind that cannot be imported called by its name.
func TestRefused(t *testing.T) {
	data := saved(t)
	delta := append([]byte(`[{"etcdEvent":{"kv":{"key":"YQ==","create_revision":2}},"time":"2021-01-01T00:00:00Z"}]`), data[len(data)-32:]...)
	dataDir := []tarFile{{"./", nil}, {"./member/", nil}, {"./member/wal/", nil}, {"./member/wal/0000000000000000-0000000000000000.wal", []byte("wal")}}
	for name, test := range map[string]struct {
		file []byte
		want string
		is   error // ErrNotBackup unless given
	}{
		"empty":             {nil, "it is empty; no backup that can be imported: that is a backend file,", nil},
		"text":              {[]byte("Error: the snapshot could not be saved\n"), "it is text; no backup", nil},
		"long text":         {bytes.Repeat([]byte("größer\n"), 100), "it is text;", nil},
		"JSON":              {[]byte(` {"kind":"ETCDSnapshotFile"}`), "it is JSON;", nil},
		"XML":               {[]byte(`<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>`), "it is XML or HTML, perhaps what a server said", nil},
		"age":               {[]byte("age-encryption.org/v1\n-> X25519 abc\n"), "it is encrypted with age: decrypt it first", errAny},
		"armored age":       {[]byte("-----BEGIN AGE ENCRYPTED FILE-----\n"), "it is encrypted with age: decrypt it first", errAny},
		"OpenPGP":           {[]byte("-----BEGIN PGP MESSAGE-----\n"), "it is encrypted with OpenPGP: decrypt it first", errAny},
		"openssl":           {[]byte("Salted__\x01\x02"), "it is encrypted with openssl: decrypt it first", errAny},
		"SQLite":            {[]byte("SQLite format 3\x00\x10\x00"), "it is a SQLite database, as k3s has it without etcd;", nil},
		"zstd":              {[]byte("\x28\xb5\x2f\xfd\x04\x00"), "compressed with zstd, which must be undone first;", nil},
		"compress":          {[]byte("\x1f\x9d\x90\x00\x00"), "compressed with compress", nil},
		"xz":                {[]byte("\xfd7zXZ\x00\x00"), "compressed with xz", nil},
		"bzip2":             {[]byte("BZh91AY&SY\x00"), "compressed with bzip2", nil},
		"7z":                {[]byte("7z\xbc\xaf\x27\x1c\x00"), "a 7z archive", nil},
		"zeros":             {make([]byte, 10_000), "it is zeros", nil},
		"noise":             {changed(packed(t, data, toGzip)[100:2000], 0), "it is data of an unknown form;", nil},
		"half a page":       {data[:19], "it is data of an unknown form;", nil},
		"delta":             {delta, "it is a delta snapshot of Gardener, the changes since a full one: only full snapshots (Full-...) can be imported", errAny},
		"delta gzip":        {packed(t, delta, toGzip), "it is a gzip file with something else in it than a backend: a delta snapshot of Gardener", errAny},
		"delta zlib":        {packed(t, delta, toZlib), "it is a zlib file with something else in it than a backend: a delta snapshot of Gardener", errAny},
		"gzip of text":      {packed(t, []byte("hello"), toGzip), "a gzip file with something else in it than a backend: text;", nil},
		"gzip of nothing":   {packed(t, nil, toGzip), "a gzip file with something else in it than a backend: empty;", nil},
		"gzip in gzip":      {packed(t, packed(t, data, toGzip), toGzip), "than a backend: a gzip file;", nil},
		"zip in gzip":       {packed(t, zipped(t, zipFile{name: "db", data: data}), toGzip), "than a backend: a zip file;", nil},
		"v2 backup":         {packed(t, tarred(t, dataDir...), toGzip), "as backups of etcd v2 do: that cannot be imported", ErrDataDir},
		"v2 backup in tar":  {tarred(t, dataDir...), "as backups of etcd v2 do", ErrDataDir},
		"v2, other place":   {packed(t, tarred(t, tarFile{"etcd0.etcd/", nil}, tarFile{"etcd0.etcd/member/snap/db", data}), toGzip), "as backups of etcd v2 do", ErrDataDir},
		"v2, only WAL":      {tarred(t, tarFile{"data/wal/0000000000000000-0000000000000000.wal", []byte("wal")}), "as backups of etcd v2 do", ErrDataDir},
		"v2, late":          {tarred(t, tarFile{"./", nil}, tarFile{"./member", nil}, tarFile{"./member/snap/db", data}), "as backups of etcd v2 do", ErrDataDir},
		"tar of text":       {packed(t, tarred(t, tarFile{"./db", []byte("hello")}), toGzip), "a tar.gz file with something else in it than a backend: text;", nil},
		"tar of others":     {packed(t, tarred(t, tarFile{"backup/notes", data}), toGzip), `read archive: unexpected entry "backup/notes"`, errAny},
		"tar of nothing":    {packed(t, tarred(t, tarFile{"./", nil}), toGzip), "read archive: it holds neither ./db nor ./member", errAny},
		"path trick":        {tarred(t, tarFile{"../db", data}), `read archive: unsafe name "../db"`, errAny},
		"empty zip":         {zipped(t), "it is a zip file with nothing in it;", nil},
		"zip of a folder":   {zipped(t, zipFile{name: "db/"}), "it is a zip file with nothing in it;", nil},
		"zip of two":        {zipped(t, zipFile{name: "db", data: data}, zipFile{name: "e", data: data}), "it is a zip file with several files in it;", nil},
		"zip of text":       {zipped(t, zipFile{name: "db", data: []byte("hello")}), "a zip file with something else in it than a backend: text;", nil},
		"zip in zip":        {zipped(t, zipFile{name: "db", data: zipped(t, zipFile{name: "db", data: data})}), "than a backend: a zip file;", nil},
		"gzip in zip":       {zipped(t, zipFile{name: "db", data: packed(t, data, toGzip)}), "than a backend: a gzip file;", nil},
		"encrypted zip":     {encryptedZip(t, data), "the file in the zip is encrypted: unpack it first", errAny},
		"zip of a link":     {zipped(t, zipFile{"db", []byte("/etc/shadow"), func(h *zip.FileHeader) { h.SetMode(fs.ModeSymlink | 0o777) }}), "a link or another special file;", nil},
		"zip, other method": {changedMethod(zipped(t, zipFile{name: "db", data: data})), "compressed by method 12, which is not supported", errAny},
		"zip of many":       {manyZip(t), "larger than any with one entry;", nil},
		"zip claims many":   {claimedZip(t, data, 1<<40), "a zip file with very many files in it;", nil},
		"zip claims a lot":  {sizedZip(t, data, 1<<50), "announces 1125899906842624 bytes, above the limit", errAny},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(write(t, "backup", test.file))
			if err == nil || !strings.HasPrefix(err.Error(), `open "`) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			is := test.is
			if is == nil {
				is = ErrNotBackup
			}
			if is != errAny && !errors.Is(err, is) {
				t.Errorf("%v is not %v", err, is)
			}
		})
	}
}

var errAny = errors.New("any error")

func encryptedZip(t *testing.T, data []byte) []byte {
	return zipped(t, zipFile{"db", data, func(h *zip.FileHeader) { h.Flags |= zipEncrypted }})
}

// changedMethod sets the method in the directory of a zip file, where the zip package looks.
func changedMethod(file []byte) []byte {
	at := bytes.LastIndex(file, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint16(file[at+10:], 12)
	return file
}

// manyZip is a zip file with a directory of more than a MiB.
func manyZip(t *testing.T) []byte {
	files := make([]zipFile, 20)
	for i := range files {
		files[i] = zipFile{name: strings.Repeat("a", 60_000)}
	}
	return zipped(t, files...)
}

// claimedZip is a zip file whose 64-bit record claims to have many entries.
func claimedZip(t *testing.T, data []byte, entries uint64) []byte {
	file := zipped(t, zipFile{name: "db", data: data})
	end := bytes.Clone(file[len(file)-zipEndSize:])
	file = file[:len(file)-zipEndSize]
	record := make([]byte, zip64EndSize)
	copy(record, zip64End)
	binary.LittleEndian.PutUint64(record[4:], zip64EndSize-12)
	binary.LittleEndian.PutUint64(record[24:], entries)
	binary.LittleEndian.PutUint64(record[32:], entries)
	locator := make([]byte, zip64LocSize)
	copy(locator, zip64Locator)
	binary.LittleEndian.PutUint64(locator[8:], uint64(len(file)))
	binary.LittleEndian.PutUint32(locator[16:], 1)
	for i := 8; i < 20; i++ {
		end[i] = 0xff // what is too large for this record
	}
	return append(append(append(file, record...), locator...), end...)
}

// sizedZip is a zip file whose directory has another size for what is in it.
func sizedZip(t *testing.T, data []byte, size uint64) []byte {
	t.Helper()
	var compressed, out bytes.Buffer
	one, err := zip.OpenReader(write(t, "a", zipped(t, zipFile{name: "db", data: data})))
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	raw, err := one.File[0].OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(&compressed, raw); err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(&out)
	header := one.File[0].FileHeader
	header.UncompressedSize64 = size
	w, err := archive.CreateRaw(&header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(compressed.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestDamage wants that what was cut, changed or added is seen, at the end of the stream at the latest, and called so.
func TestDamage(t *testing.T) {
	data := saved(t)
	const cut, damaged, more = "the archive is cut off: it ends too early", "the archive is damaged: ", "read archive: there are bytes after its end"
	gz, zl, lz := packed(t, data, toGzip), packed(t, data, toZlib), packed(t, data, toLZW)
	archive := packed(t, tarred(t, tarFile{"./db", data}), toGzip)
	one := zipped(t, zipFile{name: "db", data: data})
	for name, test := range map[string]struct {
		file []byte
		want string
	}{
		"gzip cut":           {gz[:len(gz)/2], cut},
		"gzip cut at once":   {gz[:5], cut},
		"gzip without sum":   {gz[:len(gz)-8], cut},
		"gzip sum":           {changed(gz, -5), damaged + "gzip: invalid checksum"},
		"gzip and more":      {append(bytes.Clone(gz), "more"...), more},
		"zlib cut":           {zl[:len(zl)/2], cut},
		"zlib without sum":   {zl[:len(zl)-4], cut},
		"zlib sum":           {changed(zl, -1), damaged + "zlib: invalid checksum"},
		"zlib and more":      {append(bytes.Clone(zl), 0), more},
		"LZW cut":            {lz[:len(lz)/2], cut},
		"LZW without end":    {lz[:len(lz)-3], cut},
		"LZW and more":       {append(bytes.Clone(lz), 0), more},
		"tar.gz cut":         {archive[:len(archive)/2], cut},
		"tar.gz sum":         {changed(archive, -5), damaged + "gzip: invalid checksum"},
		"tar cut":            {tarred(t, tarFile{"./db", data})[:len(data)/2], cut},
		"tar with another":   {tarred(t, tarFile{"./db", data}, tarFile{"./.bashrc", data}), "unexpected entry"},
		"tar with two":       {tarred(t, tarFile{"./db", data}, tarFile{"db", data}), "twice"},
		"tar with data dir":  {packed(t, tarred(t, tarFile{"./db", data}, tarFile{"./member/snap/db", data}), toGzip), "both ./db and ./member"},
		"zip cut":            {one[:len(one)/2], cut},
		"zip start only":     {one[:4], cut},
		"zip without end":    {one[:len(one)-zipEndSize], cut},
		"zip sum":            {changedSum(one), damaged + "zip: checksum error"},
		"zip content":        {changed(one, len(one)/2), damaged},
		"zip too short":      {sizedZip(t, data, uint64(len(data))+1), cut},
		"zip too long":       {sizedZip(t, data, uint64(len(data))-1), damaged},
		"zip claims nothing": {sizedZip(t, data, 0), damaged},
		"zip directory":      {changed(one, bytes.LastIndex(one, []byte("PK\x01\x02"))), damaged},
	} {
		got, err := read(test.file)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d bytes, %v, want %q", name, len(got), err, test.want)
		}
	}
}

func changedSum(file []byte) []byte {
	return changed(file, bytes.LastIndex(file, []byte("PK\x01\x02"))+16)
}

// TestEveryCutIsSeen cuts what has an end of its own anywhere.
func TestEveryCutIsSeen(t *testing.T) {
	data := copied(t)[:20_000]
	for name, file := range map[string][]byte{
		"gzip": packed(t, data, toGzip), "zlib": packed(t, data, toZlib), "lzw": packed(t, data, toLZW),
		"zip": zipped(t, zipFile{name: "db", data: data}), "tar.gz": packed(t, tarred(t, tarFile{"./db", data}), toGzip),
	} {
		for n := 0; n < len(file); n += 1 + n/100 {
			if got, err := read(file[:n]); err == nil {
				t.Errorf("%s cut to %d of %d: %d bytes and no error", name, n, len(file), len(got))
			}
		}
	}
}

// TestDisk wants that what the disk says is not called damage.
func TestDisk(t *testing.T) {
	data := saved(t)
	broken := errors.New("input/output error")
	for name, file := range map[string][]byte{
		"plain": data, "gzip": packed(t, data, toGzip), "zlib": packed(t, data, toZlib), "lzw": packed(t, data, toLZW),
		"zip": zipped(t, zipFile{name: "db", data: data}), "tar.gz": packed(t, tarred(t, tarFile{"./db", data}), toGzip),
	} {
		for _, good := range []int{0, 3, len(file) / 2, len(file) - 1} {
			disk := &badDisk{Reader: bytes.NewReader(file), good: int64(good), err: broken}
			f, err := open("x", disk, int64(len(file)))
			if err == nil {
				_, err = io.Copy(io.Discard, f)
			}
			if !errors.Is(err, broken) || strings.Contains(err.Error(), "archive is") {
				t.Errorf("%s, bad from %d: %v", name, good, err)
			}
		}
	}
}

// badDisk has an error from an offset on.
type badDisk struct {
	*bytes.Reader
	good int64
	err  error
}

func (b *badDisk) Read(p []byte) (int, error) {
	at := b.Size() - int64(b.Len())
	if at >= b.good {
		return 0, b.err
	}
	return b.Reader.Read(p[:min(int64(len(p)), b.good-at)])
}

func (b *badDisk) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.good {
		return 0, b.err
	}
	return b.Reader.ReadAt(p, off)
}

// TestChangingFile wants that a plain file that becomes shorter or longer meanwhile is seen.
func TestChangingFile(t *testing.T) {
	data := saved(t)
	for size, want := range map[int]string{len(data) - 1: "longer than the", len(data) + 1: "cut off"} {
		f, err := open("x", bytes.NewReader(data), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes announced as %d: %v", len(data), size, err)
		}
	}
}

// TestBombs wants an error and bounded reading where a few bytes become many.
func TestBombs(t *testing.T) {
	backend := copied(t)
	zeros := make([]byte, 1<<20)
	grow := func(w io.Writer) {
		if _, err := w.Write(backend); err != nil {
			t.Fatal(err)
		}
		for range 16 {
			if _, err := w.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	grow(z)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := open("x", bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	f.content = archivefile.Limit(f.content, 8<<20) // as Open does with more
	if n, err := io.Copy(io.Discard, f); n != 8<<20 || err == nil || !strings.Contains(err.Error(), "larger than the limit") {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestOpenOthers(t *testing.T) {
	folder := t.TempDir()
	if _, err := Open(folder); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Open(filepath.Join(folder, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	pipe := filepath.Join(folder, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(pipe); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
	f, err := Open(write(t, "db", saved(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestMeta gives bad metadata of etcd-manager.
func TestMeta(t *testing.T) {
	path := write(t, "etcd.backup.gz", packed(t, saved(t), toGzip))
	meta := filepath.Join(filepath.Dir(path), managerMeta)
	for content, want := range map[string]string{
		"hello":                             "invalid character",
		`{"etcdVersion":"\u001b[31mred"}`:   "is no version of etcd",
		`{"etcdVersion":"2.2.1"}`:           "as backups of etcd v2 do",
		`{"timestamp":"-5"}`:                "is no time in seconds",
		`{"timestamp":"soon"}`:              "invalid number",
		`{"timestamp":1e300}`:               "is no time in seconds",
		strings.Repeat(" ", mostMeta+1):     "above the limit",
		`{"etcdVersion":"3.4.13/../../etc"`: "unexpected end",
	} {
		if err := os.WriteFile(meta, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), managerMeta) {
			t.Errorf("%.40s: %v, want %q", content, err, want)
		}
	}
	for _, content := range []string{"{}", `{"timestamp":"0"}`} {
		if err := os.WriteFile(meta, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatalf("%s: %v", content, err)
		}
		if !f.Taken.IsZero() || f.TakenFrom != "" || f.EtcdVersion != "" {
			t.Errorf("%s: %+v", content, f)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
