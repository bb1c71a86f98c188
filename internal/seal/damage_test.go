package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// smallObject is what the tests damage: 6 frames, of which the first two have the same size.
func smallObject(t *testing.T, to ...Recipient) (object, plain []byte) {
	t.Helper()
	plain = slices.Concat(noise(200), text(250))
	return sealed(t, plain, Options{FrameSize: 80, Concurrency: 2, Recipients: to}), plain
}

// wantRefused reads a damaged object in both ways. Neither may say that it is whole.
func wantRefused(t *testing.T, what string, object []byte, identities ...Identity) (got []byte, err error) {
	t.Helper()
	got, err = unsealed(bytes.NewReader(object), ReaderOptions{Identities: identities, PlainSize: -1})
	if err == nil {
		t.Errorf("%s: nothing is said", what)
	}
	known(t, what, err)
	_, errAt := unsealedAt(object, identities...)
	if errAt == nil {
		t.Errorf("%s: nothing is said by ReaderAt", what)
	}
	known(t, what, errAt)
	return got, err
}

// wantStart wants that what a damaged object gave until the error is what was sealed.
func wantStart(t *testing.T, what string, object, plain []byte, identities ...Identity) error {
	t.Helper()
	got, err := wantRefused(t, what, object, identities...)
	if !bytes.HasPrefix(plain, got) {
		t.Errorf("%s: gives other content", what)
	}
	return err
}

// known wants an error of a class that this package documents for bad objects.
func known(t *testing.T, what string, err error) {
	t.Helper()
	if c, ok := errors.AsType[*Corrupt](err); ok {
		if !errors.Is(err, ErrCorrupt) || c.Offset < 0 || len(c.Error()) > 400 {
			t.Errorf("%s: odd error %+v: %v", what, c, err)
		}
		return
	}
	if err != nil && !errors.Is(err, ErrNoIdentity) && !errors.Is(err, ErrEncrypted) && !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("%s: an error of no known class: %v", what, err)
	}
}

func TestCutAtEveryByte(t *testing.T) {
	noLeaks(t)
	o := newOwner(t, X25519)
	object, plain := smallObject(t)
	for n := range object {
		err := wantStart(t, fmt.Sprintf("cut to %d bytes", n), object[:n], plain)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	object, plain = smallObject(t, o.recipient)
	for n := range object {
		err := wantStart(t, fmt.Sprintf("encrypted, cut to %d bytes", n), object[:n], plain, o.identity)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("encrypted, cut to %d bytes: %v", n, err)
		}
	}
}

// TestEncryptedPieces cuts between the pieces of 64 KiB that age encrypts.
func TestEncryptedPieces(t *testing.T) {
	noLeaks(t)
	o := newOwner(t, Hybrid)
	plain := noise(200_000)
	object := sealed(t, plain, Options{FrameSize: 50_000, Recipients: []Recipient{o.recipient}})
	const piece = 64<<10 + 16
	header := len(object) % piece
	// The header and the rest of the last piece.
	for cut := header; cut < len(object); cut += piece / 4 {
		wantStart(t, fmt.Sprintf("cut to %d", cut), object[:cut], plain, o.identity)
	}
	for _, n := range []int{1, 16, 17, piece} {
		wantStart(t, fmt.Sprintf("%d more", n), append(bytes.Clone(object), noise(n)...), plain, o.identity)
	}
	for at := 0; at < len(object); at += 1999 {
		object[at] ^= 4
		wantStart(t, fmt.Sprintf("flip %d", at), object, plain, o.identity)
		object[at] ^= 4
	}
}

func TestFlipEveryByte(t *testing.T) {
	noLeaks(t)
	object, plain := smallObject(t)
	for at := range object {
		for bit := range 8 {
			object[at] ^= 1 << bit
			err := wantStart(t, fmt.Sprintf("byte %d bit %d", at, bit), object, plain)
			if at >= 4 && !errors.Is(err, ErrCorrupt) {
				t.Errorf("byte %d bit %d: %v", at, bit, err)
			}
			object[at] ^= 1 << bit
		}
	}
	o := newOwner(t, X25519)
	object, plain = smallObject(t, o.recipient)
	for at := range object {
		object[at] ^= 1 << (at % 8)
		wantStart(t, fmt.Sprintf("encrypted, byte %d", at), object, plain, o.identity)
		object[at] ^= 1 << (at % 8)
	}
}

// TestRearranged puts parts of objects together in other ways.
func TestRearranged(t *testing.T) {
	noLeaks(t)
	object, plain := smallObject(t)
	frames, index := parts(t, object)
	if len(frames[0]) != len(frames[1]) {
		t.Fatalf("the first frames have %d and %d bytes, want two alike", len(frames[0]), len(frames[1]))
	}
	join := func(index []byte, frames ...[]byte) []byte { return append(slices.Concat(frames...), index...) }
	if !bytes.Equal(join(index, frames...), object) || !bytes.Equal(stream(frames...), object) {
		t.Fatal("the parts do not make the object")
	}
	otherIndex := sealed(t, plain[:400], Options{FrameSize: 80})
	_, otherIndex = parts(t, otherIndex)
	swapped := slices.Clone(frames)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	unlike := slices.Clone(frames)
	unlike[0], unlike[4] = unlike[4], unlike[0]
	_, moreIndex := parts(t, stream(append(slices.Clone(frames), frames[0])...))
	_, sameSizes := parts(t, stream(swapped...))
	skip := append([]byte{0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0}, "abc"...)
	zeros := make([]byte, 100)
	edit := func(at int, b ...byte) []byte { // of the index, from its end when at is negative
		edited := bytes.Clone(index)
		if at < 0 {
			at += len(edited)
		}
		copy(edited[at:], b)
		return edited
	}
	const disagrees, size, footer = "the index does not agree", "the size of the index", "the footer of the index"
	for name, tt := range map[string]struct {
		object []byte
		want   string
	}{
		"two like frames swapped":       {join(index, swapped...), disagrees},
		"two unlike frames swapped":     {join(index, unlike...), disagrees},
		"first frame gone":              {join(index, frames[1:]...), size},
		"last frame gone":               {join(index, frames[:5]...), size},
		"a frame twice":                 {join(index, append([][]byte{frames[0]}, frames...)...), size},
		"only the index":                {index, size},
		"no index":                      {join(nil, frames...), "cut off"},
		"index of more frames":          {join(moreIndex, frames...), size},
		"index of a shorter object":     {join(otherIndex, frames...), size},
		"index with other sums":         {join(sameSizes, frames...), disagrees},
		"index first":                   {append(bytes.Clone(index), join(nil, frames...)...), size},
		"index twice":                   {join(append(bytes.Clone(index), index...), frames...), "something follows"},
		"object twice":                  {append(bytes.Clone(object), object...), "something follows"},
		"zeros behind":                  {append(bytes.Clone(object), zeros...), "something follows"},
		"one byte behind":               {append(bytes.Clone(object), 0), "something follows"},
		"skippable frame behind":        {append(bytes.Clone(object), skip...), "something follows"},
		"skippable frame first":         {append(bytes.Clone(skip), object...), "neither a frame nor the index"},
		"skippable frame before index":  {join(append(bytes.Clone(skip), index...), frames...), "neither a frame nor the index"},
		"other magic at the index":      {join(edit(0, 0x5D), frames...), "neither a frame nor the index"},
		"index without sums":            {join(edit(-5, 0), frames...), footer},
		"index with reserved bits":      {join(edit(-5, 0x84), frames...), footer},
		"index with unused bits":        {join(edit(-5, 0x81), frames...), footer},
		"index with one frame less":     {join(edit(-9, 5), frames...), footer},
		"index with 2^32 frames":        {join(edit(-9, 255, 255, 255, 255), frames...), footer},
		"index with 2^27 frames":        {join(edit(-9, 0, 0, 0, 8), frames...), footer},
		"index that is 4 GiB by itself": {join(edit(4, 255, 255, 255, 255), frames...), size},
		"index that is empty by itself": {join(edit(4, 9, 0, 0, 0), frames...), size},
		"age around it once more":       {encrypted(t, object, newOwner(t, X25519).recipient), "and no identity was given"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := wantRefused(t, name, tt.object)
			if !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("want an error with %q, got %v", tt.want, err)
			}
		})
	}
}

// frame makes a frame by hand, with the checksum of plain.
func frame(descriptor byte, size []byte, plain []byte, blocks ...[]byte) []byte {
	f := binary.LittleEndian.AppendUint32(nil, frameMagic)
	f = append(append(f, descriptor), size...)
	f = append(f, slices.Concat(blocks...)...)
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	whole := encoder.EncodeAll(plain, nil)
	return append(f, whole[len(whole)-4:]...)
}

func block(last bool, kind, size int, b ...byte) []byte {
	h := kind<<1 | size<<3
	if last {
		h |= 1
	}
	return append([]byte{byte(h), byte(h >> 8), byte(h >> 16)}, b...)
}

// TestHostileFrames gives frames that no Writer makes, with an index that agrees with them where it can.
func TestHostileFrames(t *testing.T) {
	noLeaks(t)
	const good = singleSegment | withChecksum
	aaa := []byte("aaa")
	le := func(width int, n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n)[:width] }
	other := func(opts ...zstd.EOption) []byte {
		encoder, err := zstd.NewWriter(nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return encoder.EncodeAll(text(5000), nil)
	}
	repeat := func(n int, b []byte) []byte { return bytes.Repeat(b, n) }
	for name, tt := range map[string]struct {
		frame []byte
		want  string // "" when it is read
	}{
		"by hand":               {frame(good, []byte{3}, aaa, block(true, 0, 3, aaa...)), ""},
		"repeated byte":         {frame(good, []byte{3}, aaa, block(true, 1, 3, 'a')), ""},
		"size in 4 bytes":       {frame(good|2<<6, le(4, 3), aaa, block(true, 0, 3, aaa...)), ""},
		"size in 8 bytes":       {frame(good|3<<6, le(8, 3), aaa, block(true, 0, 3, aaa...)), ""},
		"an empty block":        {frame(good, []byte{3}, aaa, block(false, 0, 0), block(true, 0, 3, aaa...)), ""},
		"no content":            {frame(good, []byte{0}, nil, block(true, 0, 0)), "a frame has no content"},
		"unused bit":            {frame(good|1<<4, []byte{3}, aaa, block(true, 0, 3, aaa...)), "reserved bits"},
		"reserved bit":          {frame(good|1<<3, []byte{3}, aaa, block(true, 0, 3, aaa...)), "reserved bits"},
		"dictionary":            {frame(good|1, []byte{7, 3}, aaa, block(true, 0, 3, aaa...)), "wants a dictionary"},
		"no checksum":           {other(zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true)), "has no checksum"},
		"window":                {other(zstd.WithSingleSegment(false)), "not in a single segment"},
		"size 16 MiB and 1":     {frame(good|2<<6, le(4, MaxFrame+1), aaa, block(true, 0, 3, aaa...)), "too large: want at most 16777216, got 16777217"},
		"size 4 GiB":            {frame(good|2<<6, le(4, 1<<32-1), aaa, block(true, 0, 3, aaa...)), "too large"},
		"size 2^64":             {frame(good|3<<6, le(8, 1<<64-1), aaa, block(true, 0, 3, aaa...)), "too large: want at most 16777216, got 18446744073709551615"},
		"size 2^63":             {frame(good|3<<6, le(8, 1<<63), aaa, block(true, 0, 3, aaa...)), "too large"},
		"less than it says":     {frame(good, []byte{4}, aaa, block(true, 0, 3, aaa...)), "does not decompress"},
		"more than it says":     {frame(good, []byte{5}, []byte("aaaaaa"), block(false, 0, 3, aaa...), block(true, 0, 3, aaa...)), "does not decompress"},
		"other content":         {frame(good, []byte{3}, aaa, block(true, 0, 3, 'a', 'b', 'a')), "does not have its checksum"},
		"block beyond frame":    {frame(good, []byte{3}, aaa, block(true, 0, 4, 'a', 'a', 'a', 'a')), "a block is larger"},
		"repeat beyond frame":   {frame(good, []byte{3}, aaa, block(true, 1, 1<<20, 'a')), "a block is larger"},
		"block beyond 128 KiB":  {frame(good|2<<6, le(4, 1<<20), aaa, block(true, 0, maxBlock+1, noise(maxBlock+1)...)), "a block is larger"},
		"reserved block":        {frame(good, []byte{3}, aaa, block(true, 3, 3, aaa...)), "of the reserved kind"},
		"empty compressed":      {frame(good, []byte{3}, aaa, block(true, 2, 0)), "does not decompress"},
		"garbage compressed":    {frame(good, []byte{200}, aaa, block(true, 2, 100, noise(100)...)), "does not decompress"},
		"endless empty blocks":  {frame(good, []byte{3}, aaa, repeat(1000, block(false, 0, 0)), block(true, 0, 3, aaa...)), "longer than its content can need"},
		"endless empty repeats": {frame(good, []byte{3}, aaa, repeat(1000, block(false, 1, 0, 'a')), block(true, 0, 3, aaa...)), "longer than its content can need"},
		"16 MiB of one byte":    {frame(good|2<<6, le(4, MaxFrame), repeat(MaxFrame, []byte("a")), repeat(127, block(false, 1, maxBlock, 'a')), block(true, 1, maxBlock, 'a')), ""},
	} {
		t.Run(name, func(t *testing.T) {
			object := stream(tt.frame)
			got, err := unsealed(bytes.NewReader(object), ReaderOptions{PlainSize: -1})
			gotAt, errAt := unsealedAt(object)
			if tt.want == "" {
				if err != nil || errAt != nil || len(got) == 0 || !bytes.Equal(got, gotAt) {
					t.Errorf("%v and %v, %d and %d bytes", err, errAt, len(got), len(gotAt))
				}
				return
			}
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("want an error with %q, got %v", tt.want, err)
			}
			if !errors.Is(errAt, ErrCorrupt) {
				t.Errorf("ReaderAt says %v", errAt)
			}
			if len(got) > 0 {
				t.Errorf("gives %d bytes of it", len(got))
			}
		})
	}
}

func TestPlainSize(t *testing.T) {
	noLeaks(t)
	object, plain := smallObject(t)
	for size, want := range map[int64]string{
		0:                      "unseal object: byte 0: there is more content than expected: want at most 0 more, got 80",
		int64(len(plain)) - 1:  "unseal object: byte 465: there is more content than expected: want at most 49 more, got 50",
		int64(len(plain)) + 1:  fmt.Sprintf("unseal object: byte %d: there is less content than expected: want 451, got 450", len(object)),
		int64(len(plain)) * 10: fmt.Sprintf("unseal object: byte %d: there is less content than expected: want 4500, got 450", len(object)),
	} {
		_, err := unsealed(bytes.NewReader(object), ReaderOptions{PlainSize: size})
		if !errors.Is(err, ErrCorrupt) || err.Error() != want {
			t.Errorf("size %d: want %s\ngot %v", size, want, err)
		}
	}
	empty := sealed(t, nil, Options{})
	if _, err := unsealed(bytes.NewReader(empty), ReaderOptions{}); err != nil {
		t.Error(err)
	}
}
