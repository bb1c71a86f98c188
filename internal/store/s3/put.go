package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/parts"
)

// putID is the user metadata that tells whose Put has made an object, as headers and as the client write it.
const putID = "Holdfast-Put"

// put is one Put.
type put struct {
	*Store
	key, id     string
	retainUntil time.Time
}

// Put makes an object. See store.Store.
func (s *Store) Put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (store.Object, error) {
	info, err := s.put(ctx, name, content, opts)
	if err != nil {
		return store.Object{}, fmt.Errorf("put object %q: %w", name, err)
	}
	return store.Object{Name: name, Size: info.Size, Modified: info.LastModified.UTC()}, nil
}

func (s *Store) put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (info minio.ObjectInfo, err error) {
	key, err := s.key(name)
	if err != nil {
		return info, err
	}
	if !opts.RetainUntil.IsZero() {
		if err := s.checkLocks(ctx); err != nil {
			return info, err
		}
	}
	p := &put{Store: s, key: key, id: rand.Text(), retainUntil: opts.RetainUntil}
	cut := parts.New(content, s.sizeOf)
	first, last, err := cut.Next(ctx, nil)
	if err != nil {
		return info, err
	}
	size := int64(len(first))
	if last {
		err = p.whole(ctx, first)
	} else {
		size, err = p.inParts(ctx, first, cut)
	}
	if err != nil {
		return info, err
	}
	return p.confirm(ctx, size)
}

// options are what an object is made with.
func (p *put) options() minio.PutObjectOptions {
	o := minio.PutObjectOptions{UserMetadata: map[string]string{putID: p.id}, DisableContentSha256: true} // as each call is given the sum
	if !p.retainUntil.IsZero() {
		o.Mode, o.RetainUntilDate = minio.Compliance, p.retainUntil
	}
	return o
}

// sums are what the server checks content by.
func sums(content []byte) (md5Base64, sha256Hex string) {
	weak, strong := md5.Sum(content), sha256.Sum256(content)
	return base64.StdEncoding.EncodeToString(weak[:]), hex.EncodeToString(strong[:])
}

// whole puts a small object by one call.
func (p *put) whole(ctx context.Context, content []byte) error {
	weak, strong := sums(content)
	o := p.options()
	o.SetMatchETagExcept("*")
	return p.publish(ctx, func() error {
		_, err := p.core.PutObject(ctx, p.bucket, p.key, bytes.NewReader(content), int64(len(content)), weak, strong, o)
		return err
	})
}

// publish makes the call that lets the object appear until it works, and finds out what became of it when the server does
// not say.
func (p *put) publish(ctx context.Context, call func() error) error {
	conflicts, doubts := 0, 0 // a call is in doubt when it failed and may have taken effect
	err := p.retry.Do(ctx, func() error {
		err := p.explain(ctx, call())
		if hasStatus(err, http.StatusConflict) { // somebody else is at this name at this moment
			if conflicts++; conflicts > 1 {
				return store.Mark(err, store.ErrFinal)
			}
		}
		if err != nil && !store.Refused(err) {
			doubts++
		}
		return err
	})
	exists := errors.Is(err, store.ErrExists)
	if err == nil || ctx.Err() != nil || doubts == 0 && !exists {
		return err
	}
	info, lookErr := p.look(ctx)
	switch {
	case lookErr == nil && info.UserMetadata[putID] == p.id:
		return nil
	case lookErr == nil, exists && (doubts == 0 || errors.Is(lookErr, store.ErrNotFound)):
		return store.ErrExists
	case errors.Is(lookErr, store.ErrNotFound):
		return err
	}
	return fmt.Errorf("look whether it is there after all: %w", lookErr)
}

// look asks for the object until the server answers.
func (p *put) look(ctx context.Context) (info minio.ObjectInfo, err error) {
	err = p.retry.Do(ctx, func() error {
		info, err = p.head(ctx, p.key)
		return err
	})
	return info, err
}

var errGone = errors.New("the store took the object, and does not have it")

// confirm looks at what the server has now. A server that needs a moment to see its own object is given that.
func (p *put) confirm(ctx context.Context, size int64) (info minio.ObjectInfo, err error) {
	err = p.retry.Do(ctx, func() error {
		if info, err = p.head(ctx, p.key); errors.Is(err, store.ErrNotFound) {
			return errGone
		}
		return err
	})
	if err != nil {
		return info, fmt.Errorf("look at it afterwards: %w", err)
	}
	final := func(format string, args ...any) error { return store.Mark(fmt.Errorf(format, args...), store.ErrFinal) }
	if id := info.UserMetadata[putID]; id != "" && id != p.id {
		return info, final("another object is in its place: the store does not keep writers apart")
	}
	if info.Size != size {
		return info, final("%d bytes were put, and the store has %d", size, info.Size)
	}
	// Only who may see the lock is shown it.
	if until, err := time.Parse(time.RFC3339, info.Metadata.Get(retainHeader)); err == nil && until.Before(p.retainUntil.Truncate(time.Second)) {
		return info, final("it is locked until %s only", until.Format(time.RFC3339))
	}
	return info, nil
}
