package s3

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	// firstRead is how much memory is taken before it is known whether an object is small: most are manifests.
	firstRead = 64 << 10
	// S3's limits: parts of an object, and bytes of a part. Its own most is 5 GiB.
	mostParts = 10_000
	leastPart = 5 << 20
	mostPart  = 1 << 30
)

// partSize is the size of a part in bytes, by its number from 1 on and the size of the first. That is a compromise between
// memory and requests. Sizes double every 900 parts, up to 1 GiB, so that 10,000 parts that begin with 16 MiB hold the 5 TiB
// that an object of S3 can have:
//
//	parts     1 to  900:  16 MiB     14 GiB in all
//	        901 to 1800:  32 MiB     42 GiB
//	       1801 to 2700:  64 MiB     98 GiB
//	       2701 to 3600: 128 MiB    211 GiB
//	       3601 to 4500: 256 MiB    436 GiB
//	       4501 to 5400: 512 MiB    886 GiB
//	       5401 and on:    1 GiB  5,486 GiB
func partSize(first, number int) int { return min(first<<min((number-1)/900, 8), mostPart) }

// cutter cuts a stream into parts.
type cutter struct {
	content io.Reader
	part    int // the size of the first
	number  int // of the last that was given
	// carried is the byte that was read beyond the last part, to know that it is not the last; empty at first.
	carried []byte
}

var errTooLarge = store.Mark(errors.New("it is larger than 10,000 parts, the most that S3 takes"), store.ErrFinal)

// next reads a part into buffer, which it makes larger when need be. The part is the caller's until buffer is given again.
func (c *cutter) next(ctx context.Context, buffer []byte) (part []byte, last bool, err error) {
	if c.number++; c.number > mostParts {
		return nil, false, errTooLarge
	}
	size := partSize(c.part, c.number)
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
