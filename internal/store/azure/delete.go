package azure

import (
	"context"
	"errors"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-project/holdfast/internal/store"
)

// mostVersions bounds a Delete. An object of ours has one version; more are of somebody who overwrote it.
const mostVersions = 100

// Delete removes an object, and in a container with versions all of them. See store.Deleter.
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
	i, err := s.head(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		// A Delete before this one may have ended between the object and its version.
		return s.deleteVersions(ctx, key)
	case err != nil:
		return err
	}
	if lock, is := i.lock(); is {
		return lock
	}
	all := blob.DeleteSnapshotsOptionTypeInclude
	if err := s.deleteBlob(ctx, s.blob(key), &blob.DeleteOptions{DeleteSnapshots: &all}); err != nil || i.version == "" {
		return err
	}
	return s.deleteVersions(ctx, key)
}

// lock tells whether an object is locked, and until when. A hold has no date.
func (i info) lock() (lock store.Locked, is bool) {
	if i.held {
		return store.Locked{}, true
	}
	return store.Locked{Until: i.until}, i.until.After(i.now)
}

// deleteBlob removes an object or one version, and says when it is locked. What is gone already is no error.
func (s *Store) deleteBlob(ctx context.Context, b *blockblob.Client, o *blob.DeleteOptions) error {
	_, err := b.Delete(ctx, o)
	switch err = s.explain(ctx, err); {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case isAnswer(err, bloberror.BlobImmutableDueToPolicy):
		if i, err := s.headOf(ctx, b); err == nil {
			if lock, is := i.lock(); is {
				return lock
			}
		}
		return store.Locked{}
	}
	return err
}

// deleteVersions removes the versions that are left of an object that is not there.
func (s *Store) deleteVersions(ctx context.Context, key string) error {
	o := &container.ListBlobsFlatOptions{Prefix: &key, Include: container.ListBlobsInclude{Versions: true}}
	removed := 0
	for pager := s.container.NewListBlobsFlatPager(o); pager.More(); {
		got, err := pager.NextPage(ctx)
		switch err = s.explain(ctx, err); {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrUnsupported): // no container, or no versions
			return nil
		case err != nil:
			return fmt.Errorf("list its versions: %w", err)
		case got.Segment == nil:
			continue
		}
		for _, item := range got.Segment.BlobItems {
			if value(item.Name) != key { // it is the first of those with this prefix
				return nil
			}
			if value(item.VersionID) == "" || value(item.IsCurrentVersion) {
				continue
			}
			if removed++; removed > mostVersions {
				return store.Mark(fmt.Errorf("it has more than %d versions", mostVersions), store.ErrFinal)
			}
			version, err := s.blob(key).WithVersionID(*item.VersionID)
			if err == nil {
				err = s.deleteBlob(ctx, version, nil)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// checkLocks refuses a container that does not lock objects, before anything is put there: some servers take the wish for a
// lock and forget it. It needs the right to read the properties of the container, which a SAS token for one container cannot
// give; one for the account can.
func (s *Store) checkLocks(ctx context.Context) error {
	s.mu.Lock()
	known := s.locks
	s.mu.Unlock()
	if known {
		return nil
	}
	can := false
	err := s.retry.Do(ctx, func() error {
		p, err := s.container.GetProperties(ctx, nil)
		can = value(p.IsImmutableStorageWithVersioningEnabled)
		return s.explain(ctx, err)
	})
	switch {
	case err != nil:
		return fmt.Errorf("look whether the container locks objects: %w", err)
	case !can:
		return fmt.Errorf("lock it: the container has no version-level immutability: %w", store.ErrUnsupported)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks = true
	return nil
}
