package archivefile_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/archivefile"
)

const (
	walSize  = 1_000_000
	walName  = "member/wal/0000000000000000-0000000000000000.wal"
	snapName = "member/snap/0000000000000002-0000000000000194.snap"
)

// v2Tree makes a data dir such as the backup tools make, its WAL file mostly preallocated space.
func v2Tree(t *testing.T) (folder string, files map[string][]byte) {
	t.Helper()
	folder = t.TempDir()
	files = map[string][]byte{
		walName: append(backend(3000), make([]byte, walSize-3000)...), snapName: backend(1000), "member/snap/db": backend(16384),
	}
	for name, data := range files {
		put(t, folder, name, data)
	}
	return folder, files
}

func put(t *testing.T, folder, name string, data []byte) {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWriteV2(t *testing.T) {
	folder, files := v2Tree(t)
	put(t, folder, "member/wal/0.tmp", make([]byte, 5000)) // etcd's spare file
	var out bytes.Buffer
	if err := archivefile.WriteV2(&out, folder, time.Unix(1537985042, 5)); err != nil {
		t.Fatal(err)
	}
	// Preallocated space comes to a thousandth, as with gzip itself; the other content hardly compresses.
	if out.Len() > walSize/1000+20_000 {
		t.Errorf("the archive has %d bytes", out.Len())
	}
	kind, got, err := read(out.Bytes(), 1<<30)
	if err != nil || kind != archivefile.V2 || len(got) != len(files) {
		t.Fatalf("kind %q, %d entries, %v", kind, len(got), err)
	}
	for name, data := range files {
		if !bytes.Equal(got[name], data) {
			t.Errorf("%s differs", name)
		}
	}
	name := filepath.Join(t.TempDir(), "a.tar.gz")
	if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	listing, err := exec.Command("tar", "tvzf", name).CombinedOutput()
	if err != nil {
		t.Fatalf("tar tvzf: %v\n%s", err, listing)
	}
	var lines []string
	for line := range strings.Lines(string(listing)) {
		fields := strings.Fields(line)
		lines = append(lines, fields[0]+" "+fields[len(fields)-1])
	}
	want := []string{
		"drwx------ ./", "drwx------ ./member/", "drwx------ ./member/wal/", "-rw------- ./" + walName,
		"drwx------ ./member/snap/", "-rw------- ./" + snapName, "-rw------- ./member/snap/db",
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestWriteV2Refuses(t *testing.T) {
	for what, name := range map[string]string{
		"a damaged raft snapshot set aside": "member/snap/0000000000000002-0000000000000194.snap.broken",
		"a stranger":                        "member/secrets",
		"a stranger at the top":             "notes.txt",
	} {
		folder, _ := v2Tree(t)
		put(t, folder, name, []byte("x"))
		if err := archivefile.WriteV2(&bytes.Buffer{}, folder, time.Now()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", what, err)
		}
	}
	folder, _ := v2Tree(t)
	if err := os.Remove(filepath.Join(folder, snapName)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(folder, snapName)); err != nil {
		t.Fatal(err)
	}
	if err := archivefile.WriteV2(&bytes.Buffer{}, folder, time.Now()); err == nil || !strings.Contains(err.Error(), "unexpected entry") {
		t.Errorf("a link: %v", err)
	}
	if err := archivefile.WriteV2(&bytes.Buffer{}, t.TempDir(), time.Now()); err == nil {
		t.Error("an empty folder: no error")
	}
}
