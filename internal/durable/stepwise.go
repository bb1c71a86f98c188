package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// stepBytes is how many bytes of a Stepwise may wait in memory. 2 MiB take a few milliseconds on a disk that is fit for
// an etcd.
const stepBytes = 2 << 20

// Stepwise writes to a file and makes the disk take the bytes in small steps, so that an etcd that syncs to the same disk
// does not wait behind hundreds of megabytes at once. It promises nothing about a crash: that is for the file's Sync. It
// is for one goroutine, and the only one that writes to the file.
type Stepwise struct {
	file           *os.File
	written, taken int64
}

// NewStepwise writes to a file that is empty and open for writing. The caller syncs and closes it.
func NewStepwise(file *os.File) *Stepwise { return &Stepwise{file: file} }

// Write adds bytes to the file, and waits for the disk once a step is full.
func (w *Stepwise) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.written += int64(n)
	if err != nil || w.written-w.taken < stepBytes {
		return n, err
	}
	const flags = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err = unix.SyncFileRange(int(w.file.Fd()), w.taken, w.written-w.taken, flags)
	w.taken = w.written
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ESPIPE) || errors.Is(err, unix.EINVAL) {
		err = nil // this file system has no such call
	}
	return n, err
}
