package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	noLeaks(t)
	owners := map[Kind][]owner{}
	for _, kind := range []Kind{X25519, Hybrid} {
		for range 3 {
			owners[kind] = append(owners[kind], newOwner(t, kind))
		}
	}
	const frame = 10_000
	for _, size := range []int{0, 1, 255, 256, frame - 1, frame, frame + 1, 10*frame + 7} {
		plain := text(size)
		try := func(name string, owners []owner) {
			t.Run(fmt.Sprintf("%d bytes %s", size, name), func(t *testing.T) {
				opts := Options{FrameSize: frame, Concurrency: 2}
				for _, o := range owners {
					opts.Recipients = append(opts.Recipients, o.recipient)
				}
				object := sealed(t, plain, opts)
				if len(owners) == 0 {
					frames, _ := parts(t, object)
					if want := (size + frame - 1) / frame; len(frames) != want {
						t.Errorf("want %d frames, got %d", want, len(frames))
					}
					read(t, object, plain)
				}
				for _, o := range owners {
					read(t, object, plain, o.identity)
				}
			})
		}
		try("readable", nil)
		for kind, all := range owners {
			try(string(kind), all[:1])
			try("3 "+string(kind), all)
		}
	}
}

// read reads an object in both ways and wants plain.
func read(t *testing.T, object, plain []byte, identities ...Identity) {
	t.Helper()
	for _, size := range []int64{-1, int64(len(plain))} {
		got, err := unsealed(bytes.NewReader(object), ReaderOptions{Identities: identities, PlainSize: size})
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("Reader gives %d bytes and %v, want %d", len(got), err, len(plain))
		}
	}
	if got, err := unsealedAt(object, identities...); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("ReaderAt gives %d bytes and %v, want %d", len(got), err, len(plain))
	}
}

func TestDefaults(t *testing.T) {
	noLeaks(t)
	plain := append(text(2*DefaultFrame), noise(DefaultFrame+3)...)
	object := sealed(t, plain, Options{})
	frames, _ := parts(t, object)
	if len(frames) != 4 {
		t.Errorf("want 4 frames, got %d", len(frames))
	}
	if len(frames[0]) > DefaultFrame/2 || len(frames[2]) > maxPacked(DefaultFrame) {
		t.Errorf("the frames have %d to %d bytes", len(frames[0]), len(frames[2]))
	}
	read(t, object, plain)
}

// TestSameBytes holds that the zstd stream depends on nothing but the content and the size of the frames.
func TestSameBytes(t *testing.T) {
	plain := text(300_000)
	want := sealed(t, plain, Options{FrameSize: 10_000, Concurrency: 1})
	for _, concurrency := range []int{2, 5, 40} {
		rnd := rand.New(rand.NewPCG(uint64(concurrency), 0))
		var object bytes.Buffer
		w, err := NewWriter(&object, Options{FrameSize: 10_000, Concurrency: concurrency})
		if err != nil {
			t.Fatal(err)
		}
		for rest := plain; len(rest) > 0; {
			n := min(len(rest), rnd.IntN(25_000))
			piece := bytes.Clone(rest[:n])
			if _, err := w.Write(piece); err != nil {
				t.Fatal(err)
			}
			clear(piece) // the writer must not look at it again
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(object.Bytes(), want) {
			t.Errorf("concurrency %d makes other bytes", concurrency)
		}
	}
}

// TestOddReaders reads from sources that give bytes in unusual pieces.
func TestOddReaders(t *testing.T) {
	o := newOwner(t, X25519)
	plain := text(90_000)
	for name, object := range map[string][]byte{
		"readable":  sealed(t, plain, Options{FrameSize: 7_000}),
		"encrypted": sealed(t, plain, Options{FrameSize: 7_000, Recipients: []Recipient{o.recipient}}),
	} {
		opts := ReaderOptions{PlainSize: int64(len(plain)), Concurrency: 3}
		if name == "encrypted" {
			opts.Identities = []Identity{newOwner(t, X25519).identity, newOwner(t, Hybrid).identity, o.identity}
		}
		for odd, wrap := range map[string]func(io.Reader) io.Reader{
			"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
		} {
			got, err := unsealed(wrap(bytes.NewReader(object)), opts)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %s: %d bytes and %v", name, odd, len(got), err)
			}
		}
		r, err := NewReader(bytes.NewReader(object), opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r, plain); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: want io.EOF after Close, too; got %v", name, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	noLeaks(t)
	o := newOwner(t, X25519)
	for _, tt := range []struct {
		opts Options
		want string
	}{
		{Options{FrameSize: -1}, "seal object: frame size is -1 bytes, want 1 to 16777216"},
		{Options{FrameSize: MaxFrame + 1}, "seal object: frame size is 16777217 bytes, want 1 to 16777216"},
		{Options{Concurrency: -1}, "seal object: concurrency is -1, want 0 or more"},
		{Options{Recipients: []Recipient{o.recipient, o.recipient}}, "seal object: check recipients: \"" + o.recipient.String() + "\" is there twice"},
	} {
		_, err := NewWriter(io.Discard, tt.opts)
		if diff := cmp.Diff(tt.want, fmt.Sprint(err)); diff != "" {
			t.Error(diff)
		}
	}
	for _, opts := range []ReaderOptions{{Concurrency: -1}, {PlainSize: -2}, {Identities: []Identity{{}}}} {
		object := sealed(t, nil, Options{Recipients: []Recipient{o.recipient}})
		if _, err := NewReader(bytes.NewReader(object), opts); err == nil || errors.Is(err, ErrCorrupt) {
			t.Errorf("%+v: got %v", opts, err)
		}
	}
}

// TestWrongKey tells the reasons apart for which an object cannot be opened with what was given.
func TestWrongKey(t *testing.T) {
	noLeaks(t)
	o, other, hybrid := newOwner(t, X25519), newOwner(t, X25519), newOwner(t, Hybrid)
	plain := text(1000)
	readable := sealed(t, plain, Options{})
	forO := sealed(t, plain, Options{Recipients: []Recipient{o.recipient, other.recipient}})
	for name, tt := range map[string]struct {
		object     []byte
		identities []Identity
		class      error
		want       string
	}{
		"other kind": {forO, []Identity{hybrid.identity}, ErrNoIdentity,
			`unseal object: no identity matches: it is encrypted to other keys, of kind "X25519"`},
		"other key": {sealed(t, plain, Options{Recipients: []Recipient{o.recipient}}), []Identity{hybrid.identity, other.identity}, ErrNoIdentity,
			`unseal object: no identity matches: it is encrypted to other keys, of kind "X25519"`},
		"hybrid": {sealed(t, plain, Options{Recipients: []Recipient{hybrid.recipient}}), []Identity{o.identity}, ErrNoIdentity,
			`unseal object: no identity matches: it is encrypted to other keys, of kind "mlkem768x25519"`},
		"no key":       {forO, nil, ErrEncrypted, "unseal object: the object is encrypted, and no identity was given"},
		"readable":     {readable, []Identity{o.identity}, ErrNotEncrypted, "unseal object: the object is not encrypted, although identities were given"},
		"empty inside": {sealed(t, nil, Options{}), []Identity{o.identity}, ErrNotEncrypted, "unseal object: the object is not encrypted, although identities were given"},
		"garbage":      {[]byte("hello, world"), []Identity{o.identity}, ErrCorrupt, "unseal object: byte 0: the object does not begin as age begins one"},
		"nothing":      {nil, []Identity{o.identity}, ErrCorrupt, "unseal object: byte 0: the object is empty"},
	} {
		_, err := unsealed(bytes.NewReader(tt.object), ReaderOptions{Identities: tt.identities, PlainSize: -1})
		_, errAt := unsealedAt(tt.object, tt.identities...)
		for _, err := range []error{err, errAt} {
			for _, class := range []error{ErrNoIdentity, ErrEncrypted, ErrNotEncrypted, ErrCorrupt} {
				if errors.Is(err, class) != (class == tt.class) {
					t.Errorf("%s: is %q: %v", name, class, errors.Is(err, class))
				}
			}
			if diff := cmp.Diff(tt.want, fmt.Sprint(err)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	}
}

// TestWriteTo reads a part and has the rest written.
func TestWriteTo(t *testing.T) {
	plain := text(90_000)
	object := sealed(t, plain, Options{FrameSize: 7_000})
	begin := func(object []byte) *Reader {
		r, err := NewReader(bytes.NewReader(object), ReaderOptions{PlainSize: int64(len(plain))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() }) // It is always nil.
		return r
	}
	for _, first := range []int64{0, 1, 7_000, 50_001, 90_000} {
		r := begin(object)
		var got bytes.Buffer
		if _, err := io.CopyN(&got, struct{ io.Reader }{r}, first); err != nil {
			t.Fatal(err)
		}
		n, err := r.WriteTo(&got)
		if err != nil || n != int64(len(plain))-first || !bytes.Equal(got.Bytes(), plain) {
			t.Errorf("after %d bytes: wrote %d, %v", first, n, err)
		}
		if n, err := r.WriteTo(&got); n != 0 || err != nil {
			t.Errorf("at the end: wrote %d, %v", n, err)
		}
	}
	var got bytes.Buffer
	if n, err := begin(object[:len(object)-1]).WriteTo(&got); !errors.Is(err, ErrCorrupt) || n != int64(got.Len()) {
		t.Errorf("cut off: %v", err)
	}
	full := &limited{left: 10_000}
	if n, err := begin(object).WriteTo(full); err == nil || n > 10_000 {
		t.Errorf("a writer that fails: wrote %d, %v", n, err)
	}
}
