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
	return network.Reader{
		Key:     s.key,
		Look:    func(key string) error { _, err := s.head(ctx, key); return err },
		Get:     func(key string, part network.Range) (io.ReadCloser, error) { return s.get(ctx, key, part) },
		Explain: func(err error) error { return s.explain(ctx, err) },
	}.Open(name, from, length)
}

// get asks for a part of an object. See network.Reader.
func (s *Store) get(ctx context.Context, key string, part network.Range) (io.ReadCloser, error) {
	asked := blob.HTTPRange{Offset: part.From} // a count of 0 is all that follows
	if part.Last() < math.MaxInt64 {
		asked.Count = part.Length
	}
	response, err := s.blob(key).DownloadStream(ctx, &blob.DownloadStreamOptions{Range: asked})
	if err = s.explain(ctx, err); isAnswer(err, bloberror.InvalidRange) || hasStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return http.NoBody, nil
	}
	if err != nil {
		return nil, err
	}
	if err := part.CheckBegin(value(response.ContentRange)); err != nil {
		return nil, errors.Join(err, response.Body.Close())
	}
	return response.Body, nil
}

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
// skipped by network.List: a listing after a late name then costs as much as a whole one.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return network.List(s.prefix, prefix, after, func(give network.Give) error {
		most, begin := page, s.prefix+prefix
		o := &container.ListBlobsFlatOptions{MaxResults: &most, Prefix: &begin}
		if after > prefix && strings.HasPrefix(after, prefix) {
			from := s.prefix + after
			o.StartFrom = &from
		}
		for pager := s.container.NewListBlobsFlatPager(o); pager.More(); {
			got, err := pager.NextPage(ctx)
			if err := s.explain(ctx, err); err != nil {
				return err
			}
			if got.Segment == nil {
				continue
			}
			for _, item := range got.Segment.BlobItems {
				p := value(item.Properties)
				object := store.Object{Name: value(item.Name), Size: value(p.ContentLength), Modified: value(p.LastModified).UTC()}
				if more, err := give(object); !more {
					return err
				}
			}
		}
		return nil
	})
}
