package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Delete removes an object. See store.Deleter. Folders that become empty stay.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.delete(ctx, name); err != nil {
		return fmt.Errorf("delete object %q: %w", name, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.release()
	if _, err := c.stat(ctx, name); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if err := c.remove(ctx, name); err != nil {
		return err
	}
	return c.syncFolder(ctx, path.Dir(name))
}

// remove removes a file, if it is there.
func (c *conn) remove(ctx context.Context, name string) error {
	err := tell(ctx, c, func() error { return c.client.Remove(c.store.path(name)) })
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// Sweep removes temporary files that nobody has written to for so long. See store.Sweeper.
func (s *Store) Sweep(ctx context.Context, olderThan time.Duration) (removed int, err error) {
	removed, err = s.sweep(ctx, olderThan)
	if err != nil {
		return removed, fmt.Errorf("remove leftovers: %w", err)
	}
	return removed, nil
}

func (s *Store) sweep(ctx context.Context, olderThan time.Duration) (removed int, err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer c.release()
	if err := c.checkFolder(ctx, temporary); errors.Is(err, store.ErrNotFound) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	all, err := c.readFolder(ctx, temporary)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	now, err := c.clock(ctx)
	if err != nil {
		return 0, err
	}
	before := now.Add(-olderThan)
	for _, info := range all {
		if !info.Mode().IsRegular() || !info.ModTime().Before(before) {
			continue
		}
		if err := c.remove(ctx, path.Join(temporary, info.Name())); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// clock is the time of the server, which gives it to a new file.
func (c *conn) clock(ctx context.Context) (now time.Time, err error) {
	name := path.Join(temporary, "clock-"+rand.Text())
	now, err = ask(ctx, c, func() (now time.Time, err error) {
		file, err := c.client.Create(c.store.path(name))
		if err != nil {
			return now, err
		}
		info, err := file.Stat()
		if err == nil {
			now = info.ModTime()
		}
		return now, errors.Join(err, file.Close())
	})
	if err != nil {
		return now, fmt.Errorf("ask for the server's time: %w", err)
	}
	return now, c.remove(ctx, name)
}
