package gcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// Open reads a part of an object. See store.Store.
func (s *Store) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	return network.Reader{
		Key:     s.key,
		Look:    func(key string) error { _, err := s.head(ctx, key); return err },
		Get:     func(key string, part network.Range) (io.ReadCloser, error) { return s.get(ctx, key, part) },
		Explain: func(err error) error { return s.explain(ctx, err, nil) },
	}.Open(name, from, length)
}

// get asks for a part of an object. See network.Reader.
func (s *Store) get(ctx context.Context, key string, part network.Range) (io.ReadCloser, error) {
	r := request{method: http.MethodGet, path: s.objectPath(key), query: url.Values{"alt": {"media"}}, header: http.Header{}}
	if header := part.Header(); header != "" {
		r.header.Set("Range", header)
	}
	response, err := s.do(ctx, r, http.StatusOK, http.StatusPartialContent)
	if hasStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return http.NoBody, nil
	}
	if err != nil {
		return nil, err
	}
	if given := response.Header.Get("Content-Range"); !part.All() && !covers(given, part) {
		err := fmt.Errorf("the store gives the range %q of it, not what was asked for from byte %d on", discreet(given, nil), part.From)
		return nil, errors.Join(store.Mark(err, store.ErrFinal), response.Body.Close())
	}
	return response.Body, nil
}

// covers tells whether a Content-Range, such as "bytes 5-9/100", is what was asked for as far as the object goes.
func covers(given string, part network.Range) bool {
	span, is := strings.CutPrefix(given, "bytes ")
	span, all, _ := strings.Cut(span, "/")
	first, last, _ := strings.Cut(span, "-")
	size, err := strconv.ParseInt(all, 10, 64)
	return is && err == nil && first == strconv.FormatInt(part.From, 10) && last == strconv.FormatInt(min(part.Last(), size-1), 10)
}

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
	return network.List(s.prefix, prefix, after, func(give network.Give) error { return s.list(ctx, prefix, after, give) })
}

// list gives objects until one is not wanted any more.
func (s *Store) list(ctx context.Context, prefix, after string, give network.Give) error {
	r := request{method: http.MethodGet, path: s.bucketPath("/o"), query: url.Values{
		"prefix": {s.prefix + prefix}, "maxResults": {"1000"}, "fields": {"items(name,size,timeCreated),nextPageToken"},
	}}
	if after != "" {
		r.query.Set("startOffset", s.prefix+after) // it is given too, and left out by network.List
	}
	for {
		var got page
		if err := s.ask(ctx, r, &got); err != nil {
			return err
		}
		for _, info := range got.Items {
			if more, err := give(info.object(info.Name)); !more {
				return err
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
