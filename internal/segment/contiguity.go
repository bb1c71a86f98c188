package segment

import (
	"math/rand/v2"

	"github.com/holdfast-project/holdfast/internal/history"
)

// contiguityBlock is how many revisions share an allocation: 16 KiB, and 32 KiB more if their events come out of order.
const contiguityBlock = 4096

// contiguity proves that each revision has events, and that their subs are 0 to n-1. Events come in the order of their
// keys. It takes 4 bytes for each revision, and 8 more around those of several events.
//
// Whether the subs are a permutation of 0 to n-1 is told by sums of a random function f: the k-th event to come adds
// f(sub) - f(k), which is nothing for the many revisions with one event, and makes 0 in the end. Other subs make 0 with
// a probability of 2^-64.
type contiguity struct {
	first  history.Revision
	length int64
	seed   uint64
	blocks []contiguityPart
}

type contiguityPart struct {
	counts *[contiguityBlock]uint32
	sums   *[contiguityBlock]uint64
}

func newContiguity(r history.Range) contiguity {
	return contiguity{
		first:  r.First,
		length: r.Len(),
		seed:   rand.Uint64(),
		blocks: make([]contiguityPart, (r.Len()+contiguityBlock-1)/contiguityBlock),
	}
}

// add takes an event; its revision is First and offset. There are no more than maxEvents.
func (c *contiguity) add(offset, sub uint64) {
	block, i := &c.blocks[offset/contiguityBlock], offset%contiguityBlock
	if block.counts == nil {
		block.counts = new([contiguityBlock]uint32)
	}
	k := uint64(block.counts[i])
	block.counts[i]++
	if k == sub {
		return
	}
	if block.sums == nil {
		block.sums = new([contiguityBlock]uint64)
	}
	block.sums[i] += c.f(sub) - c.f(k)
}

// f mixes as splitmix64 does.
func (c *contiguity) f(sub uint64) uint64 {
	x := (sub + 1) * 0x9e3779b97f4a7c15
	x ^= c.seed
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hole gives the first revision that is not complete, and whether it has events at all.
func (c *contiguity) hole() (revision history.Revision, some, found bool) {
	for offset := range c.length {
		block, i := &c.blocks[offset/contiguityBlock], offset%contiguityBlock
		switch revision := c.first + history.Revision(offset); {
		case block.counts == nil || block.counts[i] == 0:
			return revision, false, true
		case block.sums != nil && block.sums[i] != 0:
			return revision, true, true
		}
	}
	return 0, false, false
}
