package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	// retainHeader tells until when an object is locked.
	retainHeader = "X-Amz-Object-Lock-Retain-Until-Date"
	// mostVersions bounds a Delete. An object of ours has one version; more are of somebody who overwrote it.
	mostVersions = 100
)

// Delete removes an object, and in a bucket with versions all of them down to the first delete marker. See store.Deleter.
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
	for range mostVersions {
		info, err := s.head(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.explain(ctx, s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{VersionID: info.VersionID}))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return s.whyNotDeleted(ctx, key, info, err)
		}
		if info.VersionID == "" {
			return nil
		}
	}
	return store.Mark(fmt.Errorf("it has more than %d versions", mostVersions), store.ErrFinal)
}

// whyNotDeleted tells a lock from other refusals. Servers refuse with different codes, so the object is asked.
func (s *Store) whyNotDeleted(ctx context.Context, key string, info minio.ObjectInfo, refusal error) error {
	if ctx.Err() != nil || !store.Refused(refusal) {
		return refusal
	}
	until, err := time.Parse(time.RFC3339, info.Metadata.Get(retainHeader))
	if err != nil {
		if _, date, err := s.core.GetObjectRetention(ctx, s.bucket, key, info.VersionID); err == nil && date != nil {
			until = *date
		}
	}
	if until.After(time.Now()) {
		return store.Locked{Until: until.UTC()}
	}
	hold, err := s.core.GetObjectLegalHold(ctx, s.bucket, key, minio.GetObjectLegalHoldOptions{VersionID: info.VersionID})
	if err == nil && hold != nil && *hold == minio.LegalHoldEnabled {
		return store.Locked{}
	}
	return refusal
}

// checkLocks refuses a bucket that does not lock objects, before anything is put there: some servers take the wish for a
// lock and forget it, and some refuse it when the object is there already. It needs s3:GetBucketObjectLockConfiguration.
func (s *Store) checkLocks(ctx context.Context) error {
	s.mu.Lock()
	known := s.locks
	s.mu.Unlock()
	if known {
		return nil
	}
	state := ""
	err := s.retry.Do(ctx, func() (err error) {
		state, _, _, _, err = s.core.GetObjectLockConfig(ctx, s.bucket)
		return s.explain(ctx, err)
	})
	switch {
	case err == nil && state == "Enabled":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.locks = true
		return nil
	case errors.Is(err, store.ErrDenied):
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrUnsupported), errors.Is(err, store.ErrFinal):
		return fmt.Errorf("lock it: the bucket does not lock objects: %w", store.ErrUnsupported)
	}
	return fmt.Errorf("look whether the bucket locks objects: %w", err)
}

// Sweep gives up uploads below the prefix that were begun so long ago. See store.Sweeper. It needs the right to list them
// (s3:ListBucketMultipartUploads), and sees those of other programs in the bucket too, if their names could be ours.
func (s *Store) Sweep(ctx context.Context, olderThan time.Duration) (removed int, err error) {
	removed, err = s.sweep(ctx, time.Now().Add(-olderThan))
	if err != nil {
		return removed, fmt.Errorf("remove leftovers: %w", err)
	}
	return removed, nil
}

func (s *Store) sweep(ctx context.Context, before time.Time) (removed int, err error) {
	var keyMarker, uploadMarker string
	for {
		page, err := s.core.ListMultipartUploads(ctx, s.bucket, s.prefix, keyMarker, uploadMarker, "", 1000)
		if err != nil {
			return removed, s.explain(ctx, err)
		}
		for _, upload := range page.Uploads {
			name, ours := strings.CutPrefix(upload.Key, s.prefix)
			if !ours || store.CheckName(name) != nil || !upload.Initiated.Before(before) {
				continue
			}
			if err := s.abandon(ctx, upload.Key, upload.UploadID); err != nil {
				return removed, err
			}
			removed++
		}
		if !page.IsTruncated || page.NextKeyMarker == keyMarker && page.NextUploadIDMarker == uploadMarker {
			return removed, nil
		}
		keyMarker, uploadMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
}
