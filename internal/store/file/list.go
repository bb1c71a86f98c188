package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// List gives objects in the order of their names. See store.Store. It holds one folder of each level in memory. Files
// whose names no object has are not shown.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		l := &listing{store: s, ctx: ctx, prefix: prefix, after: after, yield: yield}
		// The part of the prefix before its last slash is a folder.
		folder := strings.TrimSuffix(prefix[:strings.LastIndexByte(prefix, '/')+1], "/")
		if folder != "" && store.CheckName(folder) != nil {
			return // no object has such a name
		}
		if _, err := l.walk(folder); err != nil {
			yield(store.Object{}, fmt.Errorf("list objects %q: %w", prefix, classified(err)))
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
	entries, err := l.store.entries(folder)
	if err != nil {
		return false, err
	}
	if len(entries) == 0 {
		return true, nil
	}
	// Each name in it is looked up from here, and not folder by folder from the top.
	dir, err := l.store.root.OpenRoot(path.Join(".", folder))
	if errors.Is(classified(err), store.ErrNotFound) {
		return true, nil // deleted meanwhile
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }() // Only looked into.
	for _, entry := range entries {
		if l.ctx.Err() != nil {
			return false, context.Cause(l.ctx)
		}
		name := path.Join(folder, strings.TrimSuffix(entry, "/"))
		if strings.HasSuffix(entry, "/") {
			if !l.wants(name + "/") {
				continue
			}
			if more, err := l.walk(name); !more || err != nil {
				return more, err
			}
			continue
		}
		if !strings.HasPrefix(name, l.prefix) || name <= l.after {
			continue
		}
		if store.CheckName(name) != nil {
			continue // too long, all of it
		}
		object, err := lookAt(dir, entry, name)
		if errors.Is(classified(err), store.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return false, err
		}
		if !l.yield(object, nil) {
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

// entries names what is in a folder, folders with a slash behind, in the order that the names of objects have: "a.b" comes
// before what is in "a/", and that before "a0".
func (s *Store) entries(folder string) (names []string, err error) {
	all, err := s.read(folder)
	if err != nil {
		return nil, err
	}
	for _, entry := range all {
		switch {
		case store.CheckName(entry.Name()) != nil:
		case entry.IsDir():
			names = append(names, entry.Name()+"/")
		case entry.Type().IsRegular():
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// read gives all that is in a folder; nothing when it is not there.
func (s *Store) read(folder string) (entries []fs.DirEntry, err error) {
	dir, err := s.root.Open(path.Join(".", folder))
	if errors.Is(classified(err), store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.ReadDir(-1)
}

// Sweep removes temporary files that nobody has written to for so long. See store.Sweeper. It goes through all folders.
func (s *Store) Sweep(ctx context.Context, olderThan time.Duration) (removed int, err error) {
	removed, err = s.sweep(ctx, "", time.Now().Add(-olderThan))
	if err != nil {
		return removed, fmt.Errorf("remove leftovers: %w", classified(err))
	}
	return removed, nil
}

func (s *Store) sweep(ctx context.Context, folder string, before time.Time) (removed int, err error) {
	entries, err := s.read(folder)
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		name := path.Join(folder, entry.Name())
		switch {
		case entry.IsDir() && store.CheckName(entry.Name()) == nil:
			below, err := s.sweep(ctx, name, before)
			removed += below
			if err != nil {
				return removed, err
			}
		case entry.Type().IsRegular() && isTemporary(entry.Name()):
			info, err := s.root.Lstat(name)
			if err == nil && info.ModTime().Before(before) {
				if err = s.root.Remove(name); err == nil {
					removed++
				}
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return removed, err
			}
		}
	}
	return removed, nil
}
