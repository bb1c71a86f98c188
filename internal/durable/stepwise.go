package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// stepBytes is how many bytes of a Stepwise may wait in memory. 2 MiB take a few milliseconds on a disk that is fit for
	// an etcd.
	stepBytes = 2 << 20
	// pieceBytes is how much is given to the kernel at once, in bytes. For larger pieces it looks for larger blocks of memory
	// to keep them in: with 4 MiB a gigabyte has taken from 0.2 to 1.5 s of processor time, with 256 KiB always 0.2 s.
	pieceBytes = 256 << 10
)

// Stepwise writes to a file and makes the disk take the bytes in small steps, so that an etcd that syncs to the same disk
// does not wait behind hundreds of megabytes at once. It promises nothing about a crash: that is for the file's Sync. It
// is for one goroutine, and the only one that writes to the file.
type Stepwise struct {
	file                     *os.File
	written, started, waited int64
	behind                   int64 // how many bytes the disk may still be busy with when Write returns
}

// NewStepwise writes to a file that is empty and open for writing. The caller syncs and closes it.
func NewStepwise(file *os.File) *Stepwise { return &Stepwise{file: file} }

// NewOverlapped is NewStepwise where nobody else needs the disk: it goes on while the disk takes the last two steps.
func NewOverlapped(file *os.File) *Stepwise { return &Stepwise{file: file, behind: 2 * stepBytes} }

// Write adds bytes to the file, and waits for the disk once a step is full.
func (w *Stepwise) Write(p []byte) (written int, err error) {
	for err == nil && written < len(p) {
		var n int
		n, err = w.file.Write(p[written:min(written+pieceBytes, len(p))])
		written += n
		w.written += int64(n)
		if err == nil && w.written-w.started >= stepBytes {
			err = w.step()
		}
	}
	return written, err
}

// step starts the disk on what was written since the last step.
func (w *Stepwise) step() error {
	const start, wait = unix.SYNC_FILE_RANGE_WRITE, unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	if w.behind > 0 {
		if err := w.sync(w.started, w.written, start); err != nil {
			return err
		}
	}
	w.started = w.written
	if until := w.written - w.behind; until > w.waited {
		if err := w.sync(w.waited, until, wait); err != nil {
			return err
		}
		w.waited = until
	}
	return nil
}

func (w *Stepwise) sync(from, to int64, flags int) error {
	err := unix.SyncFileRange(int(w.file.Fd()), from, to-from, flags)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ESPIPE) || errors.Is(err, unix.EINVAL) {
		return nil // this file system has no such call
	}
	return err
}
