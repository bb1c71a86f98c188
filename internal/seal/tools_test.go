package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// tool runs a program of another project, which is a judge here.
func tool(t *testing.T, input []byte, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing; this gets it: make packages", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	return out
}

// TestStockToolsRead reads objects of every size without this package.
func TestStockToolsRead(t *testing.T) {
	o, other := newOwner(t, X25519), newOwner(t, X25519)
	const frame = 100_000
	for _, size := range []int{0, 1, frame - 1, frame, frame + 1, 10*frame + 7} {
		for name, plain := range map[string][]byte{"text": text(size), "noise": noise(size)} {
			object := sealed(t, plain, Options{FrameSize: frame})
			if !bytes.Equal(tool(t, object, "zstd", "-d", "-c"), plain) {
				t.Errorf("%d bytes of %s: zstd gives other bytes", size, name)
			}
			object = sealed(t, plain, Options{FrameSize: frame, Recipients: []Recipient{other.recipient, o.recipient}})
			if !bytes.Equal(tool(t, tool(t, object, "age", "-d", "-i", o.file), "zstd", "-d", "-c"), plain) {
				t.Errorf("%d bytes of %s: age and zstd give other bytes", size, name)
			}
		}
	}
	// What zstd says of a whole object of default frames: it sees each of them, and checksums.
	file := filepath.Join(t.TempDir(), "object.zst")
	plain := text(DefaultFrame + 5)
	if err := os.WriteFile(file, sealed(t, plain, Options{}), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, nil, "zstd", "-t", "-q", file)
	if list := tool(t, nil, "zstd", "-l", "-v", file); !bytes.Contains(list, []byte("XXH64")) || !bytes.Contains(list, fmt.Appendf(nil, "(%d B)", len(plain))) {
		t.Errorf("zstd -l says\n%s", list)
	}
}

// TestStockHybrid opens an object for a post-quantum key with age's own code: Debian's age is too old for them.
func TestStockHybrid(t *testing.T) {
	o := newOwner(t, Hybrid)
	plain := text(50_000)
	secret, err := os.Open(o.file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = secret.Close() }()
	identities, err := age.ParseIdentities(secret)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed(t, plain, Options{Recipients: []Recipient{o.recipient}})), identities...)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(tool(t, stream, "zstd", "-d", "-c"), plain) {
		t.Error("other bytes")
	}
}

// TestStockKeys exchanges files of keys with age-keygen.
func TestStockKeys(t *testing.T) {
	o := newOwner(t, X25519)
	if got := tool(t, nil, "age-keygen", "-y", o.file); strings.TrimSpace(string(got)) != o.recipient.String() {
		t.Errorf("age-keygen finds %s", got)
	}
	file := filepath.Join(t.TempDir(), "key.txt")
	tool(t, nil, "age-keygen", "-o", file)
	identities, err := ReadIdentities(file)
	if err != nil || len(identities) != 1 {
		t.Fatalf("got %v, %v", identities, err)
	}
	want := tool(t, nil, "age-keygen", "-y", file)
	if got := identities[0].Recipient().String(); got != strings.TrimSpace(string(want)) {
		t.Errorf("want %s, got %s", want, got)
	}
	read(t, sealed(t, text(10), Options{Recipients: []Recipient{identities[0].Recipient()}}), text(10), identities[0])
}

// TestStockToolsDoNotWrite refuses what they make: it has no index, so that nobody could say that it is whole.
func TestStockToolsDoNotWrite(t *testing.T) {
	o := newOwner(t, X25519)
	stream := tool(t, text(10_000), "zstd", "-1", "-c")
	for name, object := range map[string][]byte{"zstd": stream, "age": tool(t, stream, "age", "-r", o.recipient.String())} {
		var identities []Identity
		if name == "age" {
			identities = []Identity{o.identity}
		}
		_, err := unsealed(bytes.NewReader(object), ReaderOptions{Identities: identities, PlainSize: -1})
		_, errAt := unsealedAt(object, identities...)
		if !errors.Is(err, ErrCorrupt) || !errors.Is(errAt, ErrCorrupt) {
			t.Errorf("%s: %v and %v", name, err, errAt)
		}
	}
}
