package store

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// putAttempts is how often PutBytes puts. Drivers try again by themselves, so that a store which fails three times fails.
const putAttempts = 3

// PutBytes puts a small object. The content is at hand, so that it is tried again when the store fails, and an answer that
// was lost is found out: an object with just these bytes, after a try that may have worked, is ours. Its errors are those
// of Put.
func PutBytes(ctx context.Context, s Store, name string, content []byte, opts PutOptions) (object Object, err error) {
	failed := false
	err = RetryOptions{Attempts: putAttempts}.Do(ctx, func() error {
		object, err = s.Put(ctx, name, bytes.NewReader(content), opts)
		if errors.Is(err, ErrExists) && failed && sameContent(ctx, s, name, content) {
			object, err = s.Stat(ctx, name)
		}
		failed = failed || err != nil
		return err
	})
	if err != nil && worthAnother(ctx, err) && sameContent(ctx, s, name, content) { // the last answer was lost too
		return s.Stat(ctx, name)
	}
	return object, err
}

func sameContent(ctx context.Context, s Store, name string, content []byte) bool {
	body, err := s.Open(ctx, name, 0, int64(len(content))+1)
	if err != nil {
		return false
	}
	got, err := io.ReadAll(body)
	return errors.Join(err, body.Close()) == nil && bytes.Equal(got, content)
}
