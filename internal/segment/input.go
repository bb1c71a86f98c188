package segment

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
)

// inputBuffer is how much is read at once. It grows for a longer key or value.
const inputBuffer = 64 << 10

// input is what comes from a source, with its place and its sum. After the first error it gives zeros and keeps the
// error, so that it need not be asked for after each number.
type input struct {
	src    io.Reader
	size   int64 // promised
	buf    []byte
	at     int // buf[at:end] is still to be given
	end    int
	hashed int   // buf[hashed:at] is not in the digest yet
	base   int64 // place of buf[0]
	digest hash.Hash
	eof    bool
	err    error
}

func newInput(src io.Reader, size int64) *input {
	// One byte more than was promised, so that the end is seen without another buffer.
	return &input{src: src, size: size, buf: make([]byte, min(inputBuffer, size+1)), digest: sha256.New()}
}

// offset is the place of the next byte.
func (in *input) offset() int64 { return in.base + int64(in.at) }

// left is how many bytes of what was promised are still to come before the footer.
func (in *input) left() int64 { return max(in.size-footerSize-in.offset(), 0) }

// fail keeps the first error.
func (in *input) fail(err error) {
	if in.err == nil {
		in.err = err
	}
}

func (in *input) corrupt(what string) { in.fail(&Corrupt{What: what, Offset: in.offset()}) }

// fill tries to have n bytes in the buffer, and tells whether they are there. The buffer grows no faster than bytes come.
func (in *input) fill(n int) bool {
	for in.end-in.at < n {
		if in.eof || in.err != nil {
			return false
		}
		if in.end == len(in.buf) {
			in.makeRoom()
		}
		in.read()
	}
	return true
}

// makeRoom moves what is left to the start of the buffer, or of one with twice the size.
func (in *input) makeRoom() {
	in.hash()
	to := in.buf
	if in.at == 0 {
		to = make([]byte, 2*len(in.buf))
	}
	copy(to, in.buf[in.at:in.end])
	in.base += int64(in.at)
	in.buf, in.end, in.at, in.hashed = to, in.end-in.at, 0, 0
}

// read asks the source once, or a few times if it gives nothing.
func (in *input) read() {
	for range 100 {
		n, err := in.src.Read(in.buf[in.end:])
		if n < 0 || n > len(in.buf)-in.end {
			in.fail(errors.New("read segment: the source gave an impossible number of bytes"))
			return
		}
		in.end += n
		switch {
		case errors.Is(err, io.EOF):
			in.eof = true
			return
		case err != nil:
			in.fail(fmt.Errorf("read segment: %w", err))
			return
		case n > 0:
			return
		}
	}
	in.fail(fmt.Errorf("read segment: %w", io.ErrNoProgress))
}

// hash takes what was given into the digest.
func (in *input) hash() {
	in.digest.Write(in.buf[in.hashed:in.at]) // it never fails
	in.hashed = in.at
}

// bytes gives the next n bytes, which are valid until more are asked for.
func (in *input) bytes(n int) []byte {
	if in.err != nil || !in.fill(n) {
		in.cut()
		return nil
	}
	b := in.buf[in.at : in.at+n : in.at+n]
	in.at += n
	return b
}

// cut is the error of a segment that ends inside something, unless the source said why.
func (in *input) cut() { in.fail(&Corrupt{What: "it ends early", Offset: in.base + int64(in.end)}) }

// byte gives the next one.
func (in *input) byte() byte {
	if in.err != nil || !in.fill(1) {
		in.cut()
		return 0
	}
	b := in.buf[in.at]
	in.at++
	return b
}

// uvarint gives a number up to max. What says what a greater one is.
func (in *input) uvarint(max uint64, what string) uint64 {
	if in.at < in.end && in.err == nil && in.buf[in.at] < 0x80 {
		v := uint64(in.buf[in.at])
		if v > max {
			in.corrupt(what)
			return 0
		}
		in.at++
		return v
	}
	return in.longUvarint(max, what)
}

func (in *input) longUvarint(max uint64, what string) uint64 {
	if in.err != nil {
		return 0
	}
	in.fill(10) // there may be fewer
	var v uint64
	for i := 0; ; i++ {
		if in.err != nil || i == in.end-in.at {
			in.cut()
			return 0
		}
		b := in.buf[in.at+i]
		if i == 9 && b > 1 {
			in.corrupt("a number has more than 64 bits")
			return 0
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b >= 0x80 {
			continue
		}
		if b == 0 && i > 0 {
			in.corrupt("a number is longer than it must be")
			return 0
		}
		if v > max {
			in.corrupt(what)
			return 0
		}
		in.at += i + 1
		return v
	}
}

// int64 gives a number from 0 to MaxInt64.
func (in *input) int64(what string) int64 { return int64(in.uvarint(math.MaxInt64, what)) }

// zigzag gives a signed number.
func (in *input) zigzag() int64 {
	v := in.uvarint(math.MaxUint64, "")
	return int64(v>>1) ^ -int64(v&1)
}
