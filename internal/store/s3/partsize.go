package s3

import (
	"errors"

	"github.com/holdfast-project/holdfast/internal/store"
)

const (
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

var errTooLarge = store.Mark(errors.New("it is larger than 10,000 parts, the most that S3 takes"), store.ErrFinal)

// sizeOf is the size of a part of an object here, by its number from 1 on.
func (s *Store) sizeOf(number int) (int, error) {
	if number > mostParts {
		return 0, errTooLarge
	}
	return partSize(s.part, number), nil
}
