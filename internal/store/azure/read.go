package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

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
	part := blob.HTTPRange{Offset: from} // a count of 0 is all that follows
	if length > 0 && length <= math.MaxInt64-from {
		part.Count = length
	}
	response, err := s.blob(key).DownloadStream(ctx, &blob.DownloadStreamOptions{Range: part})
	if err = s.explain(ctx, err); isAnswer(err, bloberror.InvalidRange) || hasStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return http.NoBody, nil // all of the object comes before from
	}
	if err != nil {
		return nil, err
	}
	if given := value(response.ContentRange); part != (blob.HTTPRange{}) && !strings.HasPrefix(given, fmt.Sprintf("bytes %d-", from)) {
		err := fmt.Errorf("the store gives the range %q of it, not that from byte %d", network.Printable(given), from)
		return nil, errors.Join(store.Mark(err, store.ErrFinal), response.Body.Close())
	}
	return &body{ctx: ctx, store: s, raw: response.Body, name: name, left: length}, nil
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
	var i info
	if err == nil {
		i, err = s.head(ctx, key)
	}
	if err != nil {
		return store.Object{}, fmt.Errorf("look at object %q: %w", name, err)
	}
	return store.Object{Name: name, Size: i.size, Modified: i.modified}, nil
}

// page is how many objects a request lists at most. The service would give 5,000, of which nobody may want more than one.
const page = int32(1000)

// List gives objects in the order of their names, a thousand with each request. See store.Store.
//
// The service is told where to begin. Those that do not know that yet begin with the prefix, and what comes before is
// skipped here: a listing after a late name then costs as much as a whole one.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		fail := func(err error) { yield(store.Object{}, fmt.Errorf("list objects %q: %w", prefix, err)) }
		most, begin := page, s.prefix+prefix
		o := &container.ListBlobsFlatOptions{MaxResults: &most, Prefix: &begin}
		if after > prefix && strings.HasPrefix(after, prefix) {
			from := s.prefix + after
			o.StartFrom = &from
		}
		before := ""
		for pager := s.container.NewListBlobsFlatPager(o); pager.More(); {
			got, err := pager.NextPage(ctx)
			if err := s.explain(ctx, err); err != nil {
				fail(err)
				return
			}
			if got.Segment == nil {
				continue
			}
			for _, item := range got.Segment.BlobItems {
				key := value(item.Name)
				if key <= before {
					fail(store.Mark(errors.New("the store does not list names in their order"), store.ErrFinal))
					return
				}
				before = key
				name, ours := strings.CutPrefix(key, s.prefix)
				if !ours || !strings.HasPrefix(name, prefix) || name <= after || store.CheckName(name) != nil {
					continue
				}
				properties := value(item.Properties)
				if !yield(store.Object{Name: name, Size: value(properties.ContentLength), Modified: value(properties.LastModified).UTC()}, nil) {
					return
				}
			}
		}
	}
}
