package replay

import (
	"bufio"
	"errors"
	"fmt"
	"os"
)

// spillBuffer is how much is given to the kernel at once, in bytes.
const spillBuffer = 256 << 10

// spill is a file that has no name, so that a crash leaves nothing of it.
type spill struct {
	file *os.File
	out  *bufio.Writer
	size int64
}

func newSpill(folder string) (*spill, error) {
	file, err := os.CreateTemp(folder, "spill-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &spill{file: file, out: bufio.NewWriterSize(file, spillBuffer)}, nil
}

// put appends bytes and tells where they are.
func (s *spill) put(b []byte) (int64, error) {
	at := s.size
	if _, err := s.out.Write(b); err != nil {
		return 0, fmt.Errorf("write spill file: %w", err)
	}
	s.size += int64(len(b))
	return at, nil
}

// flush makes everything readable.
func (s *spill) flush() error {
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write spill file: %w", err)
	}
	return nil
}

func (s *spill) close() error { return s.file.Close() }
