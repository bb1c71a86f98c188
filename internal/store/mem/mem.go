// Package mem is a store in memory: the reference for the contract, and the store of tests. A Store is safe for concurrent
// use. It locks objects as object stores do, by the clock of the process. Nothing in it outlives the process, and what is
// put is held in memory whole.
package mem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Store keeps objects in memory.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	content  []byte // never changed
	modified time.Time
	locked   time.Time // until when
}

// New makes an empty store.
func New() *Store { return &Store{objects: map[string]object{}} }

// Put makes an object. See store.Store.
func (s *Store) Put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (store.Object, error) {
	made, err := s.put(ctx, name, content, opts)
	if err != nil {
		return store.Object{}, fmt.Errorf("put object %q: %w", name, err)
	}
	return describe(name, made), nil
}

func (s *Store) put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (object, error) {
	if err := store.CheckName(name); err != nil {
		return object{}, err
	}
	if !opts.RetainUntil.IsZero() && !opts.RetainUntil.After(time.Now()) {
		return object{}, store.Mark(errors.New("lock it: that moment is over"), store.ErrFinal)
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return object{}, fmt.Errorf("read its content: %w", err)
	}
	if ctx.Err() != nil {
		return object{}, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.objects[name]; taken {
		return object{}, store.ErrExists
	}
	made := object{data, time.Now().UTC(), opts.RetainUntil}
	s.objects[name] = made
	return made, nil
}

func describe(name string, o object) store.Object {
	return store.Object{Name: name, Size: int64(len(o.content)), Modified: o.modified}
}

func (s *Store) find(ctx context.Context, name string) (object, error) {
	if err := store.CheckName(name); err != nil {
		return object{}, err
	}
	if ctx.Err() != nil {
		return object{}, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, there := s.objects[name]
	if !there {
		return object{}, store.ErrNotFound
	}
	return found, nil
}

// Open reads a part of an object. See store.Store.
func (s *Store) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	found, err := s.find(ctx, name)
	if err == nil {
		err = store.CheckRange(from, length)
	}
	if err != nil {
		return nil, fmt.Errorf("open object %q: %w", name, err)
	}
	part := found.content[min(from, int64(len(found.content))):]
	if length >= 0 {
		part = part[:min(length, int64(len(part)))]
	}
	return &reader{ctx, bytes.NewReader(part)}, nil
}

// reader ends with its context, as one from a network does.
type reader struct {
	ctx  context.Context
	part *bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.part.Read(p)
}

func (r *reader) Close() error { return nil }

// Stat looks at an object. See store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Object, error) {
	found, err := s.find(ctx, name)
	if err != nil {
		return store.Object{}, fmt.Errorf("look at object %q: %w", name, err)
	}
	return describe(name, found), nil
}

// List gives objects in the order of their names, those that are there when it begins. See store.Store.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		for _, o := range s.listed(prefix, after) {
			if ctx.Err() != nil {
				break
			}
			if !yield(o, nil) {
				return
			}
		}
		if ctx.Err() != nil {
			yield(store.Object{}, fmt.Errorf("list objects %q: %w", prefix, context.Cause(ctx)))
		}
	}
}

func (s *Store) listed(prefix, after string) []store.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []store.Object
	for name, o := range s.objects {
		if strings.HasPrefix(name, prefix) && name > after {
			list = append(list, describe(name, o))
		}
	}
	slices.SortFunc(list, func(a, b store.Object) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Delete removes an object. See store.Deleter.
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
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if until := s.objects[name].locked; until.After(time.Now()) {
		return store.Locked{Until: until}
	}
	delete(s.objects, name)
	return nil
}
