package faultstore

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

func names(t *testing.T, s store.Store) (list []string, err error) {
	t.Helper()
	for object, err := range s.List(t.Context(), "", "") {
		if err != nil {
			return list, err
		}
		list = append(list, object.Name)
	}
	return list, nil
}

func put(t *testing.T, s store.Store, name string) error {
	t.Helper()
	_, err := s.Put(t.Context(), name, strings.NewReader("content"), store.PutOptions{})
	return err
}

func TestFaults(t *testing.T) {
	own := errors.New("own")
	s := New(mem.New(),
		Fault{On: Put, Name: "fail", Skip: 1, Times: 2, Err: own},
		Fault{On: Put, Name: "lost", Do: Lose},
		Fault{On: Put, Name: "cut", Do: Cut, At: 3},
		Fault{On: Delete, Name: "lost", Do: Lose},
		Fault{On: Stat, Name: "lost", Do: Lose},
	)
	for i, want := range []error{nil, own, own, nil} {
		if err := put(t, s, "fail"+string(rune('0'+i))); !errors.Is(err, want) {
			t.Errorf("call %d: %v, want %v", i, err, want)
		}
	}
	for _, name := range []string{"lost", "cut"} {
		if err := put(t, s, name); !errors.Is(err, ErrInjected) {
			t.Errorf("put %q: %v", name, err)
		}
	}
	if list, err := names(t, s); err != nil || !slices.Equal(list, []string{"fail0", "fail3", "lost"}) {
		t.Errorf("objects: %q, %v", list, err)
	}
	if _, err := s.Stat(t.Context(), "lost"); !errors.Is(err, ErrInjected) {
		t.Errorf("stat: %v", err)
	}
	if err := s.Delete(t.Context(), "lost"); !errors.Is(err, ErrInjected) {
		t.Errorf("delete: %v", err)
	}
	if _, err := s.Stat(t.Context(), "lost"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat of what was deleted: %v", err)
	}
}

func TestReadFaults(t *testing.T) {
	s := New(mem.New())
	for _, name := range []string{"a", "b", "c"} {
		if err := put(t, s, name); err != nil {
			t.Fatal(err)
		}
	}
	s.Add(
		Fault{On: Open, Do: Cut, At: 3}, Fault{On: Open, Do: Short, At: 4},
		Fault{On: List, Do: Cut, At: 1}, Fault{On: List, Do: Short, At: 2}, Fault{On: List},
	)
	for _, want := range []struct {
		text string
		err  error
	}{{"con", ErrInjected}, {"cont", nil}, {"content", nil}} {
		body, err := s.Open(t.Context(), "a", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if string(got) != want.text || !errors.Is(err, want.err) {
			t.Errorf("read %q, %v; want %q, %v", got, err, want.text, want.err)
		}
	}
	for _, want := range []struct {
		names string
		err   error
	}{{"a", ErrInjected}, {"ab", nil}, {"", ErrInjected}, {"abc", nil}} {
		if list, err := names(t, s); strings.Join(list, "") != want.names || !errors.Is(err, want.err) {
			t.Errorf("listed %q, %v; want %q, %v", list, err, want.names, want.err)
		}
	}
}

func TestDelayedListing(t *testing.T) {
	s := New(mem.New())
	s.DelayListing(2)
	if err := put(t, s, "a"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 0, 1, 1} {
		if list, err := names(t, s); err != nil || len(list) != want {
			t.Errorf("listing %d: %q, %v", i, list, err)
		}
	}
	if _, err := s.Stat(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(mem.New(), Fault{On: Put, Do: Slow, Delay: time.Minute, Times: 2})
		began := time.Now()
		if err := put(t, s, "a"); err != nil || time.Since(began) != time.Minute {
			t.Errorf("put: %v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Put(ctx, "b", strings.NewReader("x"), store.PutOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("put with little time: %v", err)
		}
	})
}
