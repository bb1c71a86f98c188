package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/mem"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "a/b", "aZ09._-=", "a..b", "a.", "-", "=", "_", strings.Repeat("x", 200), strings.Repeat("x/", 449) + "xx"} {
		if err := store.CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", ".a", "a/.b", "a b", "a\x00", "a\n", "ä", "a\\b", "a:b", "a%2fb", "a*", strings.Repeat("x", 201), strings.Repeat("x/", 450) + "x"} {
		if err := store.CheckName(name); !errors.Is(err, store.ErrFinal) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestDecorated runs the suite over the decorator: it changes nothing of the contract.
func TestDecorated(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store {
		return store.Retry(faultstore.New(mem.New()), store.RetryOptions{})
	})
}

// abilities has those that are not nil.
func abilities(s store.Store) (deletes, sweeps bool) {
	_, deletes = s.(store.Deleter)
	_, sweeps = s.(store.Sweeper)
	return deletes, sweeps
}

type sweeper struct{}

func (sweeper) Sweep(context.Context, time.Duration) (int, error) { return 7, nil }

// TestAbilities checks that a decorated store can do what the store can, and no more.
func TestAbilities(t *testing.T) {
	bare := struct{ store.Store }{mem.New()}
	for _, tt := range []struct {
		d store.Deleter
		w store.Sweeper
	}{{}, {d: mem.New()}, {w: sweeper{}}, {mem.New(), sweeper{}}} {
		s := store.Combine(bare, tt.d, tt.w)
		for name, decorated := range map[string]store.Store{"combined": s, "retried": store.Retry(s, store.RetryOptions{})} {
			deletes, sweeps := abilities(decorated)
			if deletes != (tt.d != nil) || sweeps != (tt.w != nil) {
				t.Errorf("%s of %+v: deletes %v, sweeps %v", name, tt, deletes, sweeps)
			}
		}
	}
}

// TestAttempts counts calls and pauses, and makes none too many.
func TestAttempts(t *testing.T) {
	var pauses []time.Duration
	options := store.RetryOptions{Attempts: 4, Base: time.Second, Max: 3 * time.Second, Sleep: func(_ context.Context, d time.Duration) error {
		pauses = append(pauses, d)
		return nil
	}}
	for _, tt := range []struct {
		name  string
		err   error
		calls int
	}{
		{"passing", faultstore.ErrInjected, 4},
		{"marked", store.Mark(faultstore.ErrInjected, store.ErrFinal), 1},
		{"denied", store.ErrDenied, 1},
		{"locked", store.Locked{}, 1},
		{"unsupported", store.ErrUnsupported, 1},
	} {
		pauses = nil
		inner := faultstore.New(mem.New())
		for _, op := range []faultstore.Op{faultstore.Stat, faultstore.Open, faultstore.List, faultstore.Delete} {
			inner.Add(faultstore.Fault{On: op, Times: -1, Err: tt.err})
		}
		s := store.Retry(inner, options)
		_, statErr := s.Stat(t.Context(), "a")
		_, openErr := s.Open(t.Context(), "a", 0, -1)
		var listErr error
		for _, listErr = range s.List(t.Context(), "", "") {
		}
		for _, err := range []error{statErr, openErr, listErr, s.(store.Deleter).Delete(t.Context(), "a")} {
			if !errors.Is(err, tt.err) {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		for _, op := range []faultstore.Op{faultstore.Stat, faultstore.Open, faultstore.List, faultstore.Delete} {
			if calls := inner.Calls(op); calls != tt.calls {
				t.Errorf("%s: %d calls of %s, want %d", tt.name, calls, op, tt.calls)
			}
		}
		if len(pauses) != 4*(tt.calls-1) {
			t.Errorf("%s: %d pauses", tt.name, len(pauses))
		}
		for i, d := range pauses {
			if most := []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}[i%3]; d < most/2 || d > most {
				t.Errorf("%s: pause %d is %s, want %s at most and half of it at least", tt.name, i, d, most)
			}
		}
	}
}

// TestReadsGoOn breaks reads and listings off many times, with progress between: they get to their end.
func TestReadsGoOn(t *testing.T) {
	inner := faultstore.New(mem.New())
	content := bytes.Repeat([]byte("0123456789"), 1000)
	var want []string
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if _, err := inner.Put(t.Context(), name, bytes.NewReader(content), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	s := store.Retry(inner, store.RetryOptions{Attempts: 2, Sleep: func(context.Context, time.Duration) error { return nil }})
	inner.Add(faultstore.Fault{On: faultstore.Open, Times: 30, Do: faultstore.Cut, At: 100}, faultstore.Fault{On: faultstore.List, Times: 6, Do: faultstore.Cut, At: 1})
	for _, length := range []int64{-1, 5000} {
		body, err := s.Open(t.Context(), "a", 10, length)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		end := int64(len(content))
		if length > 0 {
			end = 10 + length
		}
		if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, content[10:end]) {
			t.Errorf("length %d: %d bytes, %v", length, len(got), err)
		}
		if _, err := body.Read(make([]byte, 1)); err == nil {
			t.Error("a closed object is read")
		}
	}
	var names []string
	for object, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, object.Name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("names: %q", names)
	}
	// Without progress it ends.
	inner.Clear()
	inner.Add(faultstore.Fault{On: faultstore.Open, Times: -1, Do: faultstore.Cut})
	body, err := s.Open(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); !errors.Is(err, faultstore.ErrInjected) || len(got) != 0 {
		t.Errorf("no progress: %d bytes, %v", len(got), err)
	}
}

// TestPutBytesGivesUp does not take a store's failure for success, nor repeat what cannot work.
func TestPutBytesGivesUp(t *testing.T) {
	inner := faultstore.New(mem.New(), faultstore.Fault{On: faultstore.Put, Times: -1, Err: store.ErrDenied})
	if _, err := store.PutBytes(t.Context(), inner, "a", []byte("x"), store.PutOptions{}); !errors.Is(err, store.ErrDenied) || inner.Calls(faultstore.Put) != 1 {
		t.Errorf("denied: %v after %d calls", err, inner.Calls(faultstore.Put))
	}
	if _, err := store.PutBytes(t.Context(), inner, "a//b", []byte("x"), store.PutOptions{}); err == nil {
		t.Error("a strange name works")
	}
}
