package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"filippo.io/age"
)

// text gives n bytes that compress about as well as what etcd holds.
func text(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+100)
	for len(b) < n {
		b = fmt.Appendf(b, "/registry/pods/ns-%d/pod-%x\x00uid:%x labels:{app:web,tier:%d} ", rnd.IntN(30), rnd.Uint32(), rnd.Uint64(), rnd.IntN(4))
	}
	return b[:n]
}

// noise gives n bytes that do not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(b) // it cannot fail
	return b
}

// owner is somebody who can read objects.
type owner struct {
	recipient Recipient
	identity  Identity
	file      string
}

// newOwner makes a key and reads it back from a file, as a person does.
func newOwner(t testing.TB, kind Kind) owner {
	t.Helper()
	secret, recipient, err := GenerateIdentity(kind)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	identities, err := ReadIdentities(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(identities) != 1 || identities[0].Recipient().String() != recipient.String() {
		t.Fatalf("the file has %v, want the identity of %s", identities, recipient.KeyID())
	}
	return owner{recipient, identities[0], file}
}

// sealed seals plain.
func sealed(t testing.TB, plain []byte, opts Options) []byte {
	t.Helper()
	var object bytes.Buffer
	w, err := NewWriter(&object, opts)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(plain); n != len(plain) || err != nil {
		t.Fatalf("Write gives %d, %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return object.Bytes()
}

// unsealed gives what can be read of an object, and the error, or nil when it is whole.
func unsealed(object io.Reader, opts ReaderOptions) ([]byte, error) {
	r, err := NewReader(object, opts)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(r)
	return plain, errors.Join(err, r.Close())
}

// unsealedAt reads an object by its index, all of it from its end to its start.
func unsealedAt(object []byte, identities ...Identity) ([]byte, error) {
	r, err := NewReaderAt(bytes.NewReader(object), int64(len(object)), identities)
	if err != nil {
		return nil, err
	}
	if r.Size() > 1<<28 {
		return nil, fmt.Errorf("the object has %d bytes of content, too many for a test", r.Size())
	}
	plain := make([]byte, r.Size())
	const piece = 37 << 10
	for end := len(plain); end > 0; end -= piece {
		start := max(0, end-piece)
		if n, err := r.ReadAt(plain[start:end], int64(start)); n != end-start {
			return nil, err
		}
	}
	return plain, nil
}

// parts takes a zstd stream of a Writer apart: its frames, and the index.
func parts(t testing.TB, stream []byte) (frames [][]byte, index []byte) {
	t.Helper()
	r, err := NewReaderAt(bytes.NewReader(stream), int64(len(stream)), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.sums {
		frames = append(frames, stream[r.starts[i]:r.starts[i+1]])
	}
	return frames, stream[r.starts[len(r.sums)]:]
}

// stream puts frames together and behind them an index that agrees with them, whatever they are.
func stream(frames ...[]byte) []byte {
	var b, entries []byte
	for _, f := range frames {
		e := entry{packed: len(f)}
		_, plain, err := readFrame(&input{r: bytes.NewReader(f[4:]), offset: 4}, nil, MaxFrame)
		if err == nil {
			e = plain
		}
		b, entries = append(b, f...), e.append(entries)
	}
	return bytes.Join([][]byte{b, indexStart(len(frames)), entries, indexEnd(len(frames))}, nil)
}

// encrypted puts age around any bytes.
func encrypted(t testing.TB, stream []byte, to ...Recipient) []byte {
	t.Helper()
	var object bytes.Buffer
	w, err := age.Encrypt(&object, ageRecipients(to)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(stream); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return object.Bytes()
}

// noLeaks fails the test when it ends with more goroutines than it has now.
func noLeaks(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}
