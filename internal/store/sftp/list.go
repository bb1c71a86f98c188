package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
)

// List gives objects in the order of their names. See store.Store. It fetches folder by folder, and holds one of each level
// in memory. Links and files whose names no object has are not shown.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		l := &listing{store: s, ctx: ctx, prefix: prefix, after: after, yield: yield}
		// The part of the prefix before its last slash is a folder.
		folder := strings.TrimSuffix(prefix[:strings.LastIndexByte(prefix, '/')+1], "/")
		if folder != "" && store.CheckName(folder) != nil {
			return // no object has such a name
		}
		if _, err := l.walk(path.Join(".", folder)); err != nil {
			yield(store.Object{}, fmt.Errorf("list objects %q: %w", prefix, err))
		}
	}
}

type listing struct {
	store         *Store
	ctx           context.Context
	prefix, after string
	yield         func(store.Object, error) bool
}

// walk lists a folder and goes on with those in it. It gives false when the caller wants no more.
func (l *listing) walk(folder string) (more bool, err error) {
	entries, err := l.store.entries(l.ctx, folder)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if l.ctx.Err() != nil {
			return false, context.Cause(l.ctx)
		}
		name := path.Join(folder, entry.info.Name())
		if entry.info.IsDir() {
			if !l.wants(name + "/") {
				continue
			}
			if more, err := l.walk(name); !more || err != nil {
				return more, err
			}
			continue
		}
		if strings.HasPrefix(name, l.prefix) && name > l.after && store.CheckName(name) == nil && !l.yield(objectOf(name, entry.info), nil) {
			return false, nil
		}
	}
	return true, nil
}

// wants tells whether something in the folder, whose name ends with a slash, can be asked for.
func (l *listing) wants(folder string) bool {
	if !strings.HasPrefix(folder, l.prefix) && !strings.HasPrefix(l.prefix, folder) {
		return false
	}
	return folder > l.after || strings.HasPrefix(l.after, folder)
}

// entry is a file or folder. key is its name, with a slash behind for a folder.
type entry struct {
	key  string
	info fs.FileInfo
}

// entries are what is in a folder, in the order that the names of objects have: "a.b" comes before what is in "a/", and that
// before "a0". A folder that is not there is empty.
func (s *Store) entries(ctx context.Context, folder string) (entries []entry, err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.release()
	if err := c.checkFolder(ctx, folder); errors.Is(err, store.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	all, err := c.readFolder(ctx, folder)
	if err != nil {
		return nil, err
	}
	for _, info := range all {
		switch name := info.Name(); {
		case store.CheckName(name) != nil:
		case info.IsDir():
			entries = append(entries, entry{name + "/", info})
		case info.Mode().IsRegular():
			entries = append(entries, entry{name, info})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return entries, nil
}

// readFolder gives all that is in a folder; nothing when it was removed, unless it is that of the store.
func (c *conn) readFolder(ctx context.Context, folder string) ([]fs.FileInfo, error) {
	all, err := ask(ctx, c, func() ([]fs.FileInfo, error) { return c.client.ReadDir(c.store.path(folder)) })
	if folder != "." && errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return all, err
}
