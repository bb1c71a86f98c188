package gcs

import (
	"context"
	"fmt"
	"io"
)

// firstRead is how much memory is taken before it is known whether an object is small: most are manifests.
const firstRead = 64 << 10

// cutter cuts a stream into chunks.
type cutter struct {
	content io.Reader
	size    int // of all chunks but the last
	// carried is the byte that was read beyond the last chunk, to know that it is not the last; empty at first.
	carried []byte
}

// next reads a chunk into buffer, which it makes larger when need be. The chunk is the caller's until buffer is given again.
// Only an empty stream has an empty one.
func (c *cutter) next(ctx context.Context, buffer []byte) (chunk []byte, last bool, err error) {
	buffer = append(buffer[:0], c.carried...)
	for most := firstRead; !last; most = c.size + 1 {
		if buffer, last, err = c.fill(ctx, buffer, most); err != nil {
			return nil, false, err
		}
		if len(buffer) > c.size {
			break
		}
	}
	end := min(len(buffer), c.size)
	c.carried = append(c.carried[:0], buffer[end:]...)
	return buffer[:end], last && len(c.carried) == 0, nil
}

// fill reads until buffer holds so many bytes, or to the end of content.
func (c *cutter) fill(ctx context.Context, buffer []byte, most int) (filled []byte, ended bool, err error) {
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
