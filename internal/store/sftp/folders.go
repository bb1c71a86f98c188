package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// lstat looks at something on the server, and follows no link.
func (c *conn) lstat(ctx context.Context, path string) (fs.FileInfo, error) {
	return ask(ctx, c, func() (fs.FileInfo, error) { return c.client.Lstat(path) })
}

// checkFolder looks whether a folder of the store is one, and not a link, also those above it; else it is store.ErrNotFound.
func (c *conn) checkFolder(ctx context.Context, folder string) error {
	if folder == "." || c.knows(folder) {
		return nil
	}
	if err := c.checkFolder(ctx, path.Dir(folder)); err != nil {
		return err
	}
	info, err := c.lstat(ctx, c.store.path(folder))
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return store.ErrNotFound
	}
	c.note(folder, false)
	return nil
}

// makeFolder makes a folder of the store and those above it, durably.
func (c *conn) makeFolder(ctx context.Context, folder string) error {
	if folder == "." || c.isDurable(folder) {
		return nil
	}
	parent := path.Dir(folder)
	if err := c.makeFolder(ctx, parent); err != nil {
		return err
	}
	if err := c.mkdir(ctx, c.store.path(folder)); err != nil {
		return err
	}
	// One that is there may be so new that its maker has not synced its name yet.
	if err := c.syncFolder(ctx, parent); err != nil {
		return err
	}
	c.note(folder, true)
	return nil
}

// mkdir makes a folder whose parent is there, unless it is there too.
func (c *conn) mkdir(ctx context.Context, path string) error {
	err := tell(ctx, c, func() error { return c.client.Mkdir(path) })
	if err == nil { // made with the mode that the server likes
		return tell(ctx, c, func() error { return c.client.Chmod(path, dirMode) })
	}
	if !isAnswer(err) {
		return err
	}
	// There is no word for "exists" among the answers.
	info, lookErr := c.lstat(ctx, path)
	switch {
	case errors.Is(lookErr, store.ErrNotFound):
		return err
	case lookErr != nil:
		return lookErr
	case !info.IsDir():
		return store.Mark(fmt.Errorf("%q is in the way, and no folder", path), store.ErrFinal)
	}
	return nil
}

// syncFolder makes the names in a folder of the store durable, where the server can.
func (c *conn) syncFolder(ctx context.Context, folder string) error {
	if !c.syncsFolders {
		return nil
	}
	if err := c.syncPath(ctx, c.store.path(folder)); err != nil {
		return fmt.Errorf("sync folder %q: %w", folder, err)
	}
	return nil
}

// syncPath syncs a folder by its path. SFTP has no call for that; but OpenSSH opens a folder like a file.
func (c *conn) syncPath(ctx context.Context, path string) error {
	return tell(ctx, c, func() error {
		folder, err := c.client.OpenFile(path, os.O_RDONLY)
		if err != nil {
			return err
		}
		return errors.Join(folder.Sync(), folder.Close())
	})
}

func (c *conn) knows(folder string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.folders[folder]
	return known
}

func (c *conn) isDurable(folder string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.folders[folder]
}

func (c *conn) note(folder string, durable bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.folders[folder] = c.folders[folder] || durable
}

// forget has all folders looked at again: somebody has removed one.
func (c *conn) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.folders)
}
