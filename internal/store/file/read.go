package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Open reads a part of an object. See store.Store.
func (s *Store) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	file, err := s.open(ctx, name, from, length)
	if err != nil {
		return nil, fmt.Errorf("open object %q: %w", name, classified(err))
	}
	var part io.Reader = file
	if length >= 0 {
		part = io.LimitReader(file, length)
	}
	return struct {
		io.Reader
		io.Closer
	}{bounded{ctx, part}, file}, nil
}

// bounded ends with its context.
type bounded struct {
	ctx context.Context
	r   io.Reader
}

func (b bounded) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	return b.r.Read(p)
}

func (s *Store) open(ctx context.Context, name string, from, length int64) (*os.File, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := store.CheckRange(from, length); err != nil {
		return nil, err
	}
	if err := store.CheckName(name); err != nil {
		return nil, err
	}
	folder, base := path.Split(name)
	dir, err := s.root.OpenRoot(folder + ".") // once, as each name is looked up folder by folder; the dot wants a folder
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // Only looked into.
	// Not a pipe, which would wait for a writer.
	if _, err := lookAt(dir, base, name); err != nil {
		return nil, err
	}
	file, err := dir.Open(base)
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(from, io.SeekStart); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Stat looks at an object. See store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Object, error) {
	object, err := s.stat(name)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return store.Object{}, fmt.Errorf("look at object %q: %w", name, classified(err))
	}
	return object, nil
}

func (s *Store) stat(name string) (store.Object, error) {
	if err := store.CheckName(name); err != nil {
		return store.Object{}, err
	}
	return lookAt(s.root, name, name)
}

// lookAt looks at the object of a name, which is a file at a path in a folder.
func lookAt(folder *os.Root, at, name string) (store.Object, error) {
	info, err := folder.Lstat(at)
	if err != nil {
		return store.Object{}, err
	}
	if !info.Mode().IsRegular() {
		return store.Object{}, store.ErrNotFound
	}
	return store.Object{Name: name, Size: info.Size(), Modified: info.ModTime().UTC()}, nil
}

// Delete removes an object. See store.Deleter. Folders that become empty stay.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := s.delete(ctx, name)
	if err != nil && !errors.Is(classified(err), store.ErrNotFound) {
		return fmt.Errorf("delete object %q: %w", name, classified(err))
	}
	return nil
}

func (s *Store) delete(ctx context.Context, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, err := s.stat(name); err != nil {
		return err
	}
	if err := s.root.Remove(name); err != nil {
		return err
	}
	return s.syncFolder(path.Dir(name))
}
