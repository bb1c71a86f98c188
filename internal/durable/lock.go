package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ErrLocked means that someone else holds the lock.
var ErrLocked = errors.New("locked by another process")

// Lock takes the exclusive lock on the file path and waits for it as long as it takes. The file is created when missing,
// mode 0600, and stays; who must remove it does so while he holds it, as the last thing that the lock is for: others may hold
// the next file of that name at once, and those who wait take that one. The lock is between processes and within one; it ends
// with release or with the process, however that ends. Programs that the process starts do not inherit it. release is called
// once.
func Lock(path string) (release func() error, err error) { return lock(path, syscall.LOCK_EX) }

// TryLock is Lock without the wait: when the lock is held its error is ErrLocked.
func TryLock(path string) (release func() error, err error) {
	return lock(path, syscall.LOCK_EX|syscall.LOCK_NB)
}

func lock(path string, how int) (func() error, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		for {
			err = syscall.Flock(int(f.Fd()), how)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		same := false
		if err == nil {
			same, err = still(f, path)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("lock %q: %w", path, errors.Join(err, f.Close()))
		case same:
			return f.Close, nil
		}
		// Its last holder has removed it: whoever comes now locks another file.
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
	}
}

// still tells whether an open file is what its name names.
func still(f *os.File, path string) (bool, error) {
	opened, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(opened, named), err
}
