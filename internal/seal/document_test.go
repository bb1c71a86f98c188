package seal

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocument runs the commands of the format's document, in the order in which they are there.
func TestDocument(t *testing.T) {
	plain := text(DefaultFrame + DefaultFrame/3)
	document, err := os.ReadFile("../../docs/formats/sealed-object.md")
	if err != nil {
		t.Fatal(err)
	}
	// The first command is in a session that other tests run whole; those for a part are in a block of their own.
	_, rest, found := strings.Cut(string(document), "\n$ age -d -i key.txt object")
	whole, rest, _ := strings.Cut(rest, "\n")
	_, rest, partFound := strings.Cut(rest, "## Reading a part")
	_, rest, _ = strings.Cut(rest, "```text\n")
	part, _, _ := strings.Cut(rest, "```")
	if !found || !partFound || strings.Count(part, "\n") != 6 {
		t.Fatalf("the document has other commands: %q, %q", whole, part)
	}
	commands := "age -d -i key.txt object" + whole + "\n" + part
	tool(t, nil, "age", "--version")
	tool(t, nil, "zstd", "--version")

	o := newOwner(t, X25519)
	dir := filepath.Dir(o.file)
	object := sealed(t, plain, Options{Recipients: []Recipient{o.recipient}})
	if err := os.WriteFile(filepath.Join(dir, "object"), object, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-eu", "-c", commands)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("the commands say %v\n%s", err, out)
	}
	for name, want := range map[string][]byte{"snapshot.db": plain, "second": plain[DefaultFrame:]} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}

	// Where the document says that the pieces of age are.
	stream, err := os.ReadFile(filepath.Join(dir, "stream"))
	if err != nil {
		t.Fatal(err)
	}
	header, _, cut := bytes.Cut(object, []byte("\n--- "))
	pieces := (len(stream) + 64<<10 - 1) / (64 << 10)
	const lastLine = len("\n--- \n") + 43 // a sum of 32 bytes in base64
	if want := len(header) + lastLine + 16 + len(stream) + 16*pieces; !cut || len(object) != want {
		t.Errorf("the object has %d bytes, want %d", len(object), want)
	}
}
