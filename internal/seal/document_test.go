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
	var commands []string
	for line := range strings.Lines(string(document)) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			commands = append(commands, command)
		}
	}
	if len(commands) != 7 {
		t.Fatalf("found %d commands in the document, want 7", len(commands))
	}
	tool(t, nil, "age", "--version")
	tool(t, nil, "zstd", "--version")

	o := newOwner(t, X25519)
	dir := filepath.Dir(o.file)
	object := sealed(t, plain, Options{Recipients: []Recipient{o.recipient}})
	if err := os.WriteFile(filepath.Join(dir, "object"), object, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-eu", "-c", strings.Join(commands, ""))
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
	header, _, found := bytes.Cut(object, []byte("\n--- "))
	pieces := (len(stream) + 64<<10 - 1) / (64 << 10)
	const lastLine = len("\n--- \n") + 43 // a sum of 32 bytes in base64
	if want := len(header) + lastLine + 16 + len(stream) + 16*pieces; !found || len(object) != want {
		t.Errorf("the object has %d bytes, want %d", len(object), want)
	}
}
