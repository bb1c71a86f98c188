package azure

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
	// mostBlocks is the service's limit for an object.
	mostBlocks = 50_000
	// leastBlock keeps requests in proportion; mostBlock keeps memory so, as the service takes blocks of 4,000 MiB.
	leastBlock = 1 << 20
	mostBlock  = 1 << 30
)

// blockSize is the size of a block in bytes, by its number from 1 on and the size of the first. Sizes double every 10,000
// blocks, so that 50,000 blocks that begin with 8 MiB hold 2.4 TiB:
//
//	blocks      1 to 10,000:   8 MiB     78 GiB in all
//	       10,001 to 20,000:  16 MiB    234 GiB
//	       20,001 to 30,000:  32 MiB    546 GiB
//	       30,001 to 40,000:  64 MiB  1,171 GiB
//	       40,001 to 50,000: 128 MiB  2,421 GiB
func blockSize(first, number int) int { return min(first<<((number-1)/10_000), mostBlock) }

// cutter cuts a stream into blocks.
type cutter struct {
	content io.Reader
	block   int // the size of the first
	number  int // of the last that was given
	// carried is the byte that was read beyond the last block, to know that it is not the last; empty at first.
	carried []byte
}

var errTooLarge = store.Mark(errors.New("it is larger than 50,000 blocks, the most that Azure takes"), store.ErrFinal)

// next reads a block into buffer, which it makes larger when need be. The block is the caller's until buffer is given again.
func (c *cutter) next(ctx context.Context, buffer []byte) (block []byte, last bool, err error) {
	if c.number++; c.number > mostBlocks {
		return nil, false, errTooLarge
	}
	size := blockSize(c.block, c.number)
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
