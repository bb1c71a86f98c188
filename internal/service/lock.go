package service

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// The server's lock is an open file description lock. Like flock's it passes through execve and ends with the last file
// that shares it; unlike flock's it can be asked about without being taken, so that asking never gets in the way of a
// start.

// lockRange is the lock on a whole file.
func lockRange() *unix.Flock_t {
	return &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
}

// lockHeld tells whether anyone holds the lock.
func lockHeld(path string) (_ bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for lock: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lock := lockRange()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, lock); err != nil {
		return false, fmt.Errorf("ask for lock %q: %w", path, err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// takeLock takes the lock with a file descriptor that the program executed next inherits. The error is ErrRunning when
// someone holds it.
func takeLock(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT, 0o600) // Without O_CLOEXEC, on purpose.
	if err != nil {
		return fmt.Errorf("open lock %q: %w", path, err)
	}
	err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, lockRange())
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrRunning
	}
	if err != nil {
		return fmt.Errorf("take lock %q: %w", path, err)
	}
	return nil
}
