package seal

import (
	"bufio"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Memory is what Writers that follow each other work in, so that many small objects leave little behind for the collector of
// garbage: without it each makes some MB anew. The zero value is ready to use. It is for one Writer at a time, and holds
// content of the last one until the next has written as much.
type Memory struct {
	kind memoryKind
	has  bool
	writerMemory
}

// memoryKind are the options that the memory depends on.
type memoryKind struct {
	workers, window int
	fast            bool
}

// writerMemory is what a Writer can leave to the next.
type writerMemory struct {
	encoder     *zstd.Encoder
	out         *bufio.Writer
	raws, packs buffers
}

// take gives the memory for a Writer to dst: what was left, if it is of that kind, or new one. A nil Memory has none.
func (m *Memory) take(dst io.Writer, kind memoryKind) (writerMemory, error) {
	if m != nil && m.has && m.kind == kind {
		m.has = false // whatever happens to this Writer
		m.out.Reset(dst)
		return m.writerMemory, nil
	}
	n := kind.workers
	fresh := writerMemory{
		out: bufio.NewWriterSize(dst, outBuffer),
		// One frame of each worker, one that waits for a worker, and one that is filled or written.
		raws: newBuffers(n + 2), packs: newBuffers(n + 2),
	}
	var err error
	// The window comes before the level, which would halve the blocks to 64 KiB: as fast, and 1 % larger.
	fresh.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(n), zstd.WithWindowSize(kind.window),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithNoEntropyCompression(kind.fast), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true))
	if err != nil {
		return writerMemory{}, fmt.Errorf("seal object: %w", err)
	}
	return fresh, nil
}

// give leaves the memory of a Writer that has ended well: then every buffer is back in its place.
func (m *Memory) give(kind memoryKind, left writerMemory) {
	if m == nil {
		return
	}
	left.out.Reset(nil)
	*m = Memory{kind: kind, has: true, writerMemory: left}
}
