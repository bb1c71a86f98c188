package gcs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Delete removes an object. It names the generation: in a bucket with versions, the object would be kept as an old one
// otherwise. See store.Deleter.
func (s *Store) Delete(ctx context.Context, name string) error {
	key, err := s.key(name)
	if err == nil {
		err = s.delete(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("delete object %q: %w", name, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, key string) error {
	info, err := s.head(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err = s.remove(ctx, key, info.Generation); err == nil || ctx.Err() != nil || !store.Refused(err) {
		return err
	}
	if until, locked := info.lock(time.Now()); locked {
		return store.Locked{Until: until}
	}
	return err
}

// remove deletes one generation of an object, which may be gone already.
func (s *Store) remove(ctx context.Context, key string, generation int64) error {
	if generation <= 0 {
		return store.Mark(errors.New("the store does not say which generation of it is there"), store.ErrFinal)
	}
	r := request{method: http.MethodDelete, path: s.objectPath(key), query: url.Values{"generation": {strconv.FormatInt(generation, 10)}}}
	response, err := s.do(ctx, r, http.StatusNoContent, http.StatusOK, http.StatusNotFound)
	if err == nil {
		drain(response)
	}
	return err
}

// lock tells whether something forbids to delete the object, and until when; zero when that is not known.
func (r resource) lock(now time.Time) (until time.Time, locked bool) {
	if r.Retention != nil {
		until = r.Retention.RetainUntilTime
	}
	if r.RetentionExpirationTime != nil && r.RetentionExpirationTime.After(until) {
		until = *r.RetentionExpirationTime
	}
	switch {
	case r.TemporaryHold || r.EventBasedHold: // whose end somebody decides
		return time.Time{}, true
	case until.After(now):
		return until.UTC(), true
	}
	return time.Time{}, false
}
