package azure

import (
	"errors"

	"github.com/holdfast-project/holdfast/internal/store"
)

const (
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

var errTooLarge = store.Mark(errors.New("it is larger than 50,000 blocks, the most that Azure takes"), store.ErrFinal)

// sizeOf is the size of a block of an object here, by its number from 1 on.
func (s *Store) sizeOf(number int) (int, error) {
	if number > mostBlocks {
		return 0, errTooLarge
	}
	return blockSize(s.block, number), nil
}
