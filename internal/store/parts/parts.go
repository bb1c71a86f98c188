// Package parts cuts a stream, whose length nobody knows before, into parts of a large object as object stores take them.
//
// It is between a Put of a driver and the content. A Cutter is for one goroutine at a time.
//
// A part is given when it is known whether it is the last: one byte more is read, and carried over. Little memory is taken
// before it is known that an object is not small, as most are manifests.
package parts

import (
	"context"
	"fmt"
	"io"
)

// firstRead is how much memory is taken before it is known whether an object is small, in bytes.
const firstRead = 64 << 10

// Cutter cuts a stream into parts.
type Cutter struct {
	content io.Reader
	size    func(number int) (int, error)
	number  int // of the last that was given
	// carried is the byte that was read beyond the last part, to know that it is not the last; empty at first.
	carried []byte
}

// New makes a cutter. size gives the size of a part in bytes, at least 1, by its number from 1 on, or the error that Next is to
// give as the store takes no more.
func New(content io.Reader, size func(number int) (int, error)) *Cutter {
	return &Cutter{content: content, size: size}
}

// Next reads a part into buffer, which it makes larger when need be. The part is the caller's until buffer is given again.
// Only the first part can be empty, of an empty stream. It is not called again after the last, or an error.
func (c *Cutter) Next(ctx context.Context, buffer []byte) (part []byte, last bool, err error) {
	c.number++
	size, err := c.size(c.number)
	if err != nil {
		return nil, false, err
	}
	buffer = append(buffer[:0], c.carried...)
	for most := firstRead; !last; most = size + 1 {
		if buffer, last, err = c.fill(ctx, buffer, most); err != nil {
			return nil, false, err
		}
		if len(buffer) > size {
			break
		}
	}
	end := min(len(buffer), size)
	c.carried = append(c.carried[:0], buffer[end:]...)
	return buffer[:end], last && len(c.carried) == 0, nil
}

// fill reads until buffer holds so many bytes, or to the end of content.
func (c *Cutter) fill(ctx context.Context, buffer []byte, most int) (filled []byte, ended bool, err error) {
	if cap(buffer) < most {
		buffer = append(make([]byte, 0, most), buffer...)
	}
	for len(buffer) < most {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		n, err := c.content.Read(buffer[len(buffer):most])
		buffer = buffer[:len(buffer)+n]
		if err == io.EOF {
			return buffer, true, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read its content: %w", err)
		}
	}
	return buffer, false, nil
}
