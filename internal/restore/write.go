package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// writeBackend makes the backend file of a data dir, with the folders for it. fill writes all of it, size bytes with the
// trailer if there is one, and gives the same bytes to the scanner. The trailer is cut off. The disk takes the bytes while
// they come, in the way that pace says, but the file is durable only after a sync.
func writeBackend(path string, size int64, scanner *snapshot.Scanner, pace func(*os.File) *durable.Stepwise, fill func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	out := &bounded{dst: pace(file), left: size}
	if err := fill(out); err != nil {
		return err
	}
	info, err := scanner.Finish()
	if err != nil {
		return fmt.Errorf("write backend: %w", err)
	}
	if written := size - out.left; written != info.Size {
		return fmt.Errorf("write backend: %d bytes were written, %d checked", written, info.Size)
	}
	if info.Trailer {
		return file.Truncate(info.Size - sha256.Size)
	}
	return nil
}

// bounded takes so many bytes and no more, whoever promised that there are no more.
type bounded struct {
	dst  io.Writer
	left int64
}

// Write refuses all of what goes too far.
func (b *bounded) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, errors.New("write backend: there are more bytes than were announced")
	}
	n, err := b.dst.Write(p)
	b.left -= int64(n)
	return n, err
}

// scanBuilt judges a backend file that somebody else has made, and cuts off its trailer. It refuses what is no regular file.
func scanBuilt(ctx context.Context, path string) (scanner *snapshot.Scanner, err error) {
	stat, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !stat.Mode().IsRegular() {
		return nil, errors.New("check backend: what was built is no regular file")
	}
	scanner = snapshot.NewScanner(snapshot.Options{Size: stat.Size()})
	if err := copyScanned(ctx, path, io.Discard, scanner); err != nil {
		return nil, err
	}
	info, err := scanner.Finish()
	if err != nil {
		return nil, err
	}
	if info.Trailer {
		return scanner, os.Truncate(path, info.Size-sha256.Size)
	}
	return scanner, nil
}

// copyBytes is how much of a backend is copied at a time, in bytes.
const copyBytes = 256 << 10

// copyScanned copies a backend file to out and to the scanner.
func copyScanned(ctx context.Context, path string, out io.Writer, scanner *snapshot.Scanner) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	tee := snapshot.NewTee(scanner, out)
	defer func() { err = errors.Join(err, tee.Close()) }()
	buffer := make([]byte, copyBytes)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := file.Read(buffer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := tee.Write(buffer[:n]); err != nil {
			return err
		}
	}
}
