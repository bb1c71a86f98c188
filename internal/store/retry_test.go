package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

var errFlaky = errors.New("503 slow down")

// flaky fails every call but each third one, and breaks reads and listings off in the middle.
type flaky struct {
	*mem.Store
	calls int
	// lost lets puts that fail take effect.
	lost bool
}

func (f *flaky) fails() bool {
	f.calls++
	return f.calls%3 != 0
}

func (f *flaky) Put(ctx context.Context, name string, content io.Reader, o store.PutOptions) (store.Object, error) {
	if !f.fails() {
		return f.Store.Put(ctx, name, content, o)
	}
	if f.lost {
		if _, err := f.Store.Put(ctx, name, content, o); err != nil {
			return store.Object{}, err
		}
	}
	return store.Object{}, errFlaky
}

func (f *flaky) Stat(ctx context.Context, name string) (store.Object, error) {
	if f.fails() {
		return store.Object{}, errFlaky
	}
	return f.Store.Stat(ctx, name)
}

func (f *flaky) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	if f.fails() {
		return nil, errFlaky
	}
	body, err := f.Store.Open(ctx, name, from, length)
	object, statErr := f.Store.Stat(ctx, name)
	if err != nil || statErr != nil || object.Size-from <= 1000 {
		return body, errors.Join(err, statErr)
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(body, 1000), iotest.ErrReader(errFlaky))), nil
}

func (f *flaky) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		n := 0
		for o, err := range f.Store.List(ctx, prefix, after) {
			if n++; n == 3 {
				yield(store.Object{}, errFlaky)
				return
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{Store: mem.New()}
		s := store.Retry(f, store.RetryOptions{})
		content := bytes.Repeat([]byte("0123456789"), 1234)
		names := []string{"a", "b", "c", "d", "e", "f", "g"}
		for _, name := range names {
			if _, err := store.PutBytes(t.Context(), f, name, content, store.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if object, err := s.Stat(t.Context(), "a"); err != nil || object.Size != int64(len(content)) {
			t.Errorf("stat: %+v, %v", object, err)
		}
		var listed []string
		for o, err := range s.List(t.Context(), "", "a") {
			if err != nil {
				t.Fatal(err)
			}
			listed = append(listed, o.Name)
		}
		if len(listed) != 6 || listed[5] != "g" {
			t.Errorf("list: %q", listed)
		}
		for _, part := range [][3]int64{{0, -1, int64(len(content))}, {5000, 3000, 8000}} {
			body, err := s.Open(t.Context(), "b", part[0], part[1])
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(io.LimitReader(body, part[2]-part[0]))
			if err != nil || !bytes.Equal(got, content[part[0]:part[2]]) {
				t.Errorf("from %d: %d bytes, %v", part[0], len(got), err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
		}
		began := time.Now()
		if _, err := s.Stat(t.Context(), "none"); !errors.Is(err, store.ErrNotFound) || time.Since(began) > 2*time.Second {
			t.Errorf("what is not there: %v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		f.calls = 0
		if _, err := s.Stat(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("time is up: %v", err)
		}
	})
}

// TestPutBytesFindsALostAnswer tells an own object, whose answer was lost, from that of somebody else.
func TestPutBytesFindsALostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{Store: mem.New(), lost: true}
		if object, err := store.PutBytes(t.Context(), store.Retry(f, store.RetryOptions{}), "a", []byte("mine"), store.PutOptions{}); err != nil || object.Size != 4 {
			t.Errorf("own: %+v, %v", object, err)
		}
		f.calls = 0
		if _, err := f.Store.Put(t.Context(), "b", bytes.NewReader([]byte("yours")), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := store.PutBytes(t.Context(), f, "b", []byte("mine"), store.PutOptions{}); !errors.Is(err, store.ErrExists) {
			t.Errorf("another's: %v", err)
		}
	})
}
