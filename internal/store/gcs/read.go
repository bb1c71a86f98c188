package gcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
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
	r := request{method: http.MethodGet, path: s.objectPath(key), query: url.Values{"alt": {"media"}}, header: http.Header{}}
	to := int64(math.MaxInt64) // the last byte that is asked for
	if length > 0 && length <= math.MaxInt64-from {
		to = from + length - 1
	}
	ranged := from > 0 || length > 0
	switch {
	case to < math.MaxInt64:
		r.header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to))
	case ranged:
		r.header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	response, err := s.do(ctx, r, http.StatusOK, http.StatusPartialContent)
	if hasStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return http.NoBody, nil // all of the object comes before from
	}
	if err != nil {
		return nil, err
	}
	if given := response.Header.Get("Content-Range"); ranged && !covers(given, from, to) {
		err := fmt.Errorf("the store gives the range %q of it, not what was asked for from byte %d on", discreet(given, nil), from)
		return nil, errors.Join(store.Mark(err, store.ErrFinal), response.Body.Close())
	}
	return &body{ctx: ctx, store: s, raw: response.Body, name: name, left: length}, nil
}

// covers tells whether a Content-Range, such as "bytes 5-9/100", is what was asked for as far as the object goes.
func covers(given string, from, to int64) bool {
	span, is := strings.CutPrefix(given, "bytes ")
	span, all, _ := strings.Cut(span, "/")
	first, last, _ := strings.Cut(span, "-")
	size, err := strconv.ParseInt(all, 10, 64)
	return is && err == nil && first == strconv.FormatInt(from, 10) && last == strconv.FormatInt(min(to, size-1), 10)
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
		err = fmt.Errorf("read object %q: %w", b.name, b.store.explain(b.ctx, err, nil))
	}
	return n, err
}

func (b *body) Close() error { return b.raw.Close() }

// Stat looks at an object. See store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Object, error) {
	key, err := s.key(name)
	var info resource
	if err == nil {
		info, err = s.head(ctx, key)
	}
	if err != nil {
		return store.Object{}, fmt.Errorf("look at object %q: %w", name, err)
	}
	return info.object(name), nil
}

// page is a part of a listing.
type page struct {
	Items         []resource
	NextPageToken string
}

// List gives objects in the order of their names, a thousand with each request. See store.Store.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		if err := s.list(ctx, prefix, after, func(object store.Object) bool { return yield(object, nil) }); err != nil {
			yield(store.Object{}, fmt.Errorf("list objects %q: %w", prefix, err))
		}
	}
}

// list gives objects until one is not wanted any more.
func (s *Store) list(ctx context.Context, prefix, after string, give func(store.Object) bool) error {
	r := request{method: http.MethodGet, path: s.bucketPath("/o"), query: url.Values{
		"prefix": {s.prefix + prefix}, "maxResults": {"1000"}, "fields": {"items(name,size,timeCreated),nextPageToken"},
	}}
	if after != "" {
		r.query.Set("startOffset", s.prefix+after) // it is given too, and left out below
	}
	before := ""
	for {
		var got page
		if err := s.ask(ctx, r, &got); err != nil {
			return err
		}
		for _, info := range got.Items {
			if info.Name <= before {
				return store.Mark(errors.New("the store does not list names in their order"), store.ErrFinal)
			}
			before = info.Name
			name, ours := strings.CutPrefix(info.Name, s.prefix)
			if !ours || !strings.HasPrefix(name, prefix) || name <= after || store.CheckName(name) != nil {
				continue
			}
			if !give(info.object(name)) {
				return nil
			}
		}
		switch got.NextPageToken {
		case "":
			return nil
		case r.query.Get("pageToken"):
			return store.Mark(errors.New("the store lists the same page for ever"), store.ErrFinal)
		}
		r.query.Set("pageToken", got.NextPageToken)
	}
}
