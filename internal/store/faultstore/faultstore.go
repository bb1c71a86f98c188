// Package faultstore makes stores fail on purpose: Store wraps any of them, and Proxy stands before a real server. It is
// for tests only.
//
// A Store is safe for concurrent use. Which of several calls at the same time a fault strikes is not promised.
package faultstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Op is a method of a store.
type Op string

// The methods that can fail.
const (
	Put    Op = "put"
	Open   Op = "open"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
)

// Kind is how a call fails.
type Kind int

// The kinds of faults.
const (
	// Fail fails the call before anything has happened.
	Fail Kind = iota
	// Lose fails the call after it took effect, as when the answer is lost. For Open and List it is Fail.
	Lose
	// Cut fails it in the middle: after At bytes of what is put or read, or At objects of a listing.
	Cut
	// Short ends what is read after At bytes, as though that were all, or a listing after At objects.
	Short
	// Slow lets the call take so long as Delay first; then it works.
	Slow
)

// ErrInjected is the error of faults that bring none of their own.
var ErrInjected = errors.New("injected fault")

// Fault is one thing that goes wrong.
type Fault struct {
	On Op
	// Name begins the names of the objects that it is about, or the prefix of a List; "" is about all.
	Name string
	// Skip is how many calls pass before, and Times how many fail then: 0 means one, -1 all.
	Skip, Times int
	Do          Kind
	At          int64
	Delay       time.Duration
	// Err is what the call gives; nil means ErrInjected.
	Err error
}

// Store is a store with faults.
type Store struct {
	inner store.Store

	mu     sync.Mutex
	faults []*Fault
	calls  map[Op]int
	delay  int            // of how many listings a fresh object is left out
	fresh  map[string]int // how many listings are still without it
}

// New puts faults before a store.
func New(inner store.Store, faults ...Fault) *Store {
	s := &Store{inner: inner, calls: map[Op]int{}, fresh: map[string]int{}}
	s.Add(faults...)
	return s
}

// Add adds faults. Of several that fit a call, the first strikes.
func (s *Store) Add(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		s.faults = append(s.faults, &f)
	}
}

// Clear ends all faults.
func (s *Store) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// DelayListing leaves objects that are put from now on out of the next listings, so many of them.
func (s *Store) DelayListing(listings int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = listings
}

// Calls tells how often a method was called.
func (s *Store) Calls(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

// strike counts a call, and gives the fault that it meets or one that does nothing.
func (s *Store) strike(ctx context.Context, op Op, name string) (Fault, error) {
	s.mu.Lock()
	s.calls[op]++
	met := Fault{Do: -1}
	for _, f := range s.faults {
		if f.On != op || !strings.HasPrefix(name, f.Name) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times == spent {
			continue
		}
		if met = *f; f.Times >= 0 {
			if f.Times--; f.Times <= 0 {
				f.Times = spent
			}
		}
		break
	}
	s.mu.Unlock()
	if met.Err == nil {
		met.Err = ErrInjected
	}
	switch met.Do {
	case Slow:
		timer := time.NewTimer(met.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return met, context.Cause(ctx)
		}
	case Fail:
		return met, fmt.Errorf("%s %q: %w", op, name, met.Err)
	}
	return met, nil
}

// spent marks a fault that has struck often enough.
const spent = -2

// Put makes an object, or fails. See store.Store.
func (s *Store) Put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (store.Object, error) {
	f, err := s.strike(ctx, Put, name)
	if err != nil {
		return store.Object{}, err
	}
	if f.Do == Cut {
		content = io.MultiReader(io.LimitReader(content, f.At), failing{f.Err})
	}
	object, err := s.inner.Put(ctx, name, content, opts)
	if err == nil {
		s.mu.Lock()
		s.fresh[name] = s.delay
		s.mu.Unlock()
		if f.Do == Lose {
			return store.Object{}, fmt.Errorf("put %q: %w", name, f.Err)
		}
	}
	return object, err
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Open reads a part of an object, or fails. See store.Store.
func (s *Store) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	f, err := s.strike(ctx, Open, name)
	if err == nil && f.Do == Lose {
		err = f.Err
	}
	if err != nil {
		return nil, err
	}
	body, err := s.inner.Open(ctx, name, from, length)
	if err != nil || f.Do != Cut && f.Do != Short {
		return body, err
	}
	part := io.LimitReader(body, f.At)
	if f.Do == Cut {
		part = io.MultiReader(part, failing{f.Err})
	}
	return struct {
		io.Reader
		io.Closer
	}{part, body}, nil
}

// Stat looks at an object, or fails. See store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Object, error) {
	f, err := s.strike(ctx, Stat, name)
	if err != nil {
		return store.Object{}, err
	}
	object, err := s.inner.Stat(ctx, name)
	if err == nil && f.Do == Lose {
		return store.Object{}, f.Err
	}
	return object, err
}

// List gives objects, or fails. See store.Store.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		f, err := s.strike(ctx, List, prefix)
		if err == nil && f.Do == Lose {
			err = f.Err
		}
		if err != nil {
			yield(store.Object{}, err)
			return
		}
		hidden := s.hidden()
		given := int64(0)
		for object, err := range s.inner.List(ctx, prefix, after) {
			if given == f.At && (f.Do == Cut || f.Do == Short) {
				if f.Do == Cut {
					yield(store.Object{}, f.Err)
				}
				return
			}
			if err == nil && hidden[object.Name] {
				continue
			}
			given++
			if !yield(object, err) {
				return
			}
		}
	}
}

// hidden gives the objects that this listing does not show, and counts it.
func (s *Store) hidden() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[string]bool{}
	for name, left := range s.fresh {
		if left == 0 {
			delete(s.fresh, name)
			continue
		}
		names[name] = true
		s.fresh[name]--
	}
	return names
}

// Delete removes an object, or fails; a store that cannot is store.ErrUnsupported. See store.Deleter.
func (s *Store) Delete(ctx context.Context, name string) error {
	deleter, can := s.inner.(store.Deleter)
	if !can {
		return store.ErrUnsupported
	}
	f, err := s.strike(ctx, Delete, name)
	if err != nil {
		return err
	}
	if err := deleter.Delete(ctx, name); err != nil {
		return err
	}
	if f.Do == Lose {
		return fmt.Errorf("delete %q: %w", name, f.Err)
	}
	return nil
}
