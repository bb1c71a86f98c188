// Package durable writes small files and folders so that they are whole after a crash at any moment, and locks files
// between processes.
//
// Whoever keeps state on disk goes through it: the inventory, certificates, journals, intents. What a function here has
// written is on the disk when it returns nil. When it returns an error, the old file or the new one is in place, never a
// mixture; which one is not promised. A crash can leave a temporary file named ".NAME.tmp-*" beside the target; it is
// never read and can be deleted.
//
// All functions are safe for concurrent use. Two writers of one path leave the file of one of them; who needs a read and
// a write to be one step takes a lock.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile puts data under path with exactly the mode perm, replacing what is there. Readers see the old file or the new
// one, whole. A symbolic link at path is replaced, not followed.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	temp, err := writeTemp(path, data, perm)
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write %q: %w", path, errors.Join(err, os.Remove(temp)))
	}
	return SyncDir(filepath.Dir(path))
}

// WriteNewFile puts data under path with exactly the mode perm unless something is there already: then it changes nothing
// and the error is fs.ErrExist. Of several writers at once, one wins.
func WriteNewFile(path string, data []byte, perm fs.FileMode) error {
	temp, err := writeTemp(path, data, perm)
	if err != nil {
		return fmt.Errorf("write new %q: %w", path, err)
	}
	// A link, unlike a rename, fails when the name is taken.
	if err := errors.Join(os.Link(temp, path), os.Remove(temp)); err != nil {
		return fmt.Errorf("write new %q: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// writeTemp writes and syncs a new file beside path and gives its name. On error no file is left.
func writeTemp(path string, data []byte, perm fs.FileMode) (temp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm) // Not by the mode of open, which the umask narrows.
	}
	if err == nil {
		err = f.Sync()
	}
	return f.Name(), errors.Join(err, f.Close())
}

// Rename moves oldpath to newpath and syncs the folders of both. Like rename(2) it replaces a file, or an empty folder,
// at newpath.
func Rename(oldpath, newpath string) error {
	if err := os.Rename(oldpath, newpath); err != nil {
		return err
	}
	newDir, oldDir := filepath.Dir(newpath), filepath.Dir(oldpath)
	if err := SyncDir(newDir); err != nil || newDir == oldDir {
		return err
	}
	return SyncDir(oldDir)
}

// SyncDir makes the names in the folder durable: files created, renamed or removed in it.
func SyncDir(path string) (err error) {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

// MkdirAll creates the folder path and the parents that are missing, with the mode perm as the umask narrows it, and makes
// their names durable. Folders that exist keep their mode.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	parent := filepath.Dir(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("create folder %q: a file is in its place", path)
	case err == nil:
		// An earlier call may have died between creating this one and syncing its name. A parent that we may not read
		// is not one that we created folders in.
		if err := SyncDir(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("create folder %q: %w", path, err)
	}
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create folder %q: %w", path, err)
	}
	return SyncDir(parent)
}
