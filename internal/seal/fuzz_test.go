package seal

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzReader reads any bytes as an object, and as the content of an encrypted one. Whatever comes: no panic, an error of
// a known class, the same answer with one worker and with more. What is found whole can be read by its index, too, and
// sealing what was read gives it again.
func FuzzReader(f *testing.F) {
	o := newOwner(f, X25519)
	for _, plain := range [][]byte{nil, []byte("a"), text(300), noise(300), bytes.Repeat([]byte("b"), 500)} {
		f.Add(false, sealed(f, plain, Options{FrameSize: 100}))
		f.Add(true, sealed(f, plain, Options{FrameSize: 100}))
	}
	f.Add(false, sealed(f, text(10), Options{Recipients: []Recipient{o.recipient}}))
	f.Add(false, stream(frame(singleSegment|withChecksum|2<<6, []byte{0, 0, 1, 0}, nil, block(true, 1, 1<<16, 'c'))))
	f.Fuzz(func(t *testing.T, wrapped bool, data []byte) {
		var identities []Identity
		if wrapped {
			data, identities = encrypted(t, data, o.recipient), []Identity{o.identity}
		} else if bytes.HasPrefix(data, []byte("age")) {
			identities = []Identity{o.identity}
		}
		opts := ReaderOptions{Identities: identities, PlainSize: -1, Concurrency: 1}
		got, err := limitedRead(data, opts)
		opts.Concurrency = 3
		again, errAgain := limitedRead(data, opts)
		if !bytes.Equal(got, again) || (err == nil) != (errAgain == nil) || err != nil && err.Error() != errAgain.Error() {
			t.Fatalf("one worker gives %d bytes and %v, three %d and %v", len(got), err, len(again), errAgain)
		}
		gotAt, errAt := unsealedAt(data, identities...)
		if err != nil {
			known(t, "Reader", err)
			if errAt != nil && errors.Is(errAt, ErrCorrupt) {
				known(t, "ReaderAt", errAt)
			}
			return
		}
		if errAt != nil || !bytes.Equal(got, gotAt) {
			t.Fatalf("Reader gives %d bytes, ReaderAt %d and %v", len(got), len(gotAt), errAt)
		}
		if again, err := limitedRead(sealed(t, got, Options{FrameSize: 1000}), ReaderOptions{PlainSize: int64(len(got))}); err != nil || !bytes.Equal(got, again) {
			t.Fatalf("sealed again it gives %d bytes and %v", len(again), err)
		}
	})
}

// limitedRead reads at most 64 MiB: a few bytes can say that there are many.
func limitedRead(object []byte, opts ReaderOptions) (got []byte, err error) {
	r, err := NewReader(bytes.NewReader(object), opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	got, err = io.ReadAll(io.LimitReader(r, 64<<20))
	if len(got) == 64<<20 {
		return got, &Corrupt{What: "too long for this test"}
	}
	return got, err
}
