package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// Open reads a part of an object. See store.Store.
func (s *Store) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	body, err := s.open(ctx, name, from, length)
	if err != nil {
		return nil, fmt.Errorf("open object %q: %w", name, err)
	}
	return body, nil
}

func (s *Store) open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	key, err := s.key(name)
	if err == nil {
		err = store.CheckRange(from, length)
	}
	if err != nil {
		return nil, err
	}
	if length == 0 { // no range says that
		_, err := s.head(ctx, key)
		return http.NoBody, err
	}
	var o minio.GetObjectOptions
	ranged := from > 0 || length > 0
	switch {
	case length > 0 && length <= math.MaxInt64-from:
		o.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+length-1))
	case ranged:
		o.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	raw, _, header, err := s.core.GetObject(ctx, s.bucket, key, o)
	if err = s.explain(ctx, err); isAnswer(err, "InvalidRange") || hasStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return http.NoBody, nil // all of the object comes before from
	}
	if err != nil {
		return nil, err
	}
	if given := header.Get("Content-Range"); ranged && !strings.HasPrefix(given, fmt.Sprintf("bytes %d-", from)) {
		err := fmt.Errorf("the store gives the range %q of it, not that from byte %d", network.Printable(given), from)
		return nil, errors.Join(store.Mark(err, store.ErrFinal), raw.Close())
	}
	return &body{ctx: ctx, store: s, raw: raw, name: name, left: length}, nil
}

// body is what is read of an object.
type body struct {
	ctx   context.Context // that of Open
	store *Store
	raw   io.ReadCloser
	name  string
	left  int64 // at most; -1 when there is no limit
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.raw.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read object %q: %w", b.name, b.store.explain(b.ctx, err))
	}
	return n, err
}

func (b *body) Close() error { return b.raw.Close() }

// Stat looks at an object. See store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Object, error) {
	key, err := s.key(name)
	var info minio.ObjectInfo
	if err == nil {
		info, err = s.head(ctx, key)
	}
	if err != nil {
		return store.Object{}, fmt.Errorf("look at object %q: %w", name, err)
	}
	return store.Object{Name: name, Size: info.Size, Modified: info.LastModified.UTC()}, nil
}

// List gives objects in the order of their names, a thousand with each request. See store.Store.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		fail := func(err error) { yield(store.Object{}, fmt.Errorf("list objects %q: %w", prefix, err)) }
		// The client would end a listing without a word when ctx ends.
		if ctx.Err() != nil {
			fail(context.Cause(ctx))
			return
		}
		noOwner := false
		o := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, FetchOwner: &noOwner}
		if after != "" {
			o.StartAfter = s.prefix + after
		}
		before := ""
		for info := range s.core.ListObjectsIter(ctx, s.bucket, o) {
			if info.Err != nil {
				fail(s.explain(ctx, info.Err))
				return
			}
			if info.Key <= before {
				fail(store.Mark(errors.New("the store does not list names in their order"), store.ErrFinal))
				return
			}
			before = info.Key
			name, ours := strings.CutPrefix(info.Key, s.prefix)
			if !ours || !strings.HasPrefix(name, prefix) || name <= after || store.CheckName(name) != nil {
				continue
			}
			if !yield(store.Object{Name: name, Size: info.Size, Modified: info.LastModified.UTC()}, nil) {
				return
			}
		}
		if ctx.Err() != nil {
			fail(context.Cause(ctx))
		}
	}
}
