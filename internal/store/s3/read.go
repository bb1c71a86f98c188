package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// Open reads a part of an object. See store.Store.
func (s *Store) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	return network.Reader{
		Key:     s.key,
		Look:    func(key string) error { _, err := s.head(ctx, key); return err },
		Get:     func(key string, part network.Range) (io.ReadCloser, error) { return s.get(ctx, key, part) },
		Explain: func(err error) error { return s.explain(ctx, err) },
	}.Open(name, from, length)
}

// get asks for a part of an object. See network.Reader.
func (s *Store) get(ctx context.Context, key string, part network.Range) (io.ReadCloser, error) {
	var o minio.GetObjectOptions
	if header := part.Header(); header != "" {
		o.Set("Range", header)
	}
	raw, _, header, err := s.core.GetObject(ctx, s.bucket, key, o)
	if err = s.explain(ctx, err); isAnswer(err, "InvalidRange") || hasStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return http.NoBody, nil
	}
	if err != nil {
		return nil, err
	}
	if err := part.CheckBegin(header.Get("Content-Range")); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return raw, nil
}

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
	return network.List(s.prefix, prefix, after, func(give network.Give) error {
		// The client would end a listing without a word when ctx ends.
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		noOwner := false
		o := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, FetchOwner: &noOwner}
		if after != "" {
			o.StartAfter = s.prefix + after
		}
		for info := range s.core.ListObjectsIter(ctx, s.bucket, o) {
			if info.Err != nil {
				return s.explain(ctx, info.Err)
			}
			if more, err := give(store.Object{Name: info.Key, Size: info.Size, Modified: info.LastModified.UTC()}); !more {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	})
}
