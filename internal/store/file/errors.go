package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/holdfast-project/holdfast/internal/store"
)

// classified puts the store's words to an error of the file system. What is below a file is not there, either.
func classified(err error) error {
	for _, class := range []error{store.ErrNotFound, store.ErrExists, store.ErrDenied, store.ErrUnsupported, store.ErrFinal} {
		if errors.Is(err, class) {
			return err
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", store.ErrDenied, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	// Those of a mounted folder may pass.
	for _, passing := range []error{syscall.EINTR, syscall.EAGAIN, syscall.ESTALE, syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.EHOSTUNREACH} {
		if errors.Is(err, passing) {
			return err
		}
	}
	return store.Mark(err, store.ErrFinal)
}
