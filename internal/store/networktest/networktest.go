// Package networktest has what tests of drivers that speak HTTP share: faults on the way to a real server, and what a store
// must make of them. It is for tests only, beside storetest, whose suite every driver passes where nothing fails.
//
// Each driver brings its server, and says which requests meet which fault. A World is for one test at a time.
package networktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// World is an empty place of a real server, with a proxy before it that fails as it is told.
type World[S store.Store] struct {
	Proxy *faultstore.Proxy
	// Store goes through the proxy, and Direct past it.
	Store, Direct S
	// Secrets are what no error may show, beside URLs.
	Secrets []string
	// Left counts uploads that are left behind; nil when the service keeps none that could be counted.
	Left func() int
}

// WantObject checks what is really there; nil means nothing at all.
func (w *World[S]) WantObject(t *testing.T, name string, want []byte) {
	t.Helper()
	body, err := w.Direct.Open(t.Context(), name, 0, -1)
	if want == nil {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("object %q is there: %v", name, err)
		}
		for object, err := range w.Direct.List(t.Context(), "", "") {
			t.Errorf("listed: %v, %v", object, err)
		}
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	got, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("object %q has %d bytes, want other %d: %v", name, len(got), len(want), err)
	}
}

// WantDiscreet checks that an error shows no secrets and URLs.
func (w *World[S]) WantDiscreet(t *testing.T, err error) {
	t.Helper()
	WantDiscreet(t, err, w.Secrets...)
}

// WantDiscreet checks that an error shows none of the secrets, and no URLs.
func WantDiscreet(t *testing.T, err error, secrets ...string) {
	t.Helper()
	if err == nil {
		return
	}
	for _, secret := range append([]string{"http://", "https://", "?"}, secrets...) {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows %q: %v", secret, err)
		}
	}
}

// WantNothingLeft checks that no upload is left behind.
func (w *World[S]) WantNothingLeft(t *testing.T) {
	t.Helper()
	if w.Left == nil {
		return
	}
	if n := w.Left(); n != 0 {
		t.Errorf("%d uploads are left behind", n)
	}
}

// PutSurvives lets one thing go wrong in a Put of so many bytes, which must work all the same.
func (w *World[S]) PutSurvives(t *testing.T, size int, fault faultstore.HTTPFault) {
	t.Helper()
	var struck atomic.Int32
	fault.Struck = func() { struck.Add(1) }
	w.Proxy.Add(fault)
	want := storetest.BytesOf(size)
	object, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(want), store.PutOptions{})
	w.WantDiscreet(t, err)
	if err != nil || object.Name != "a/b" || object.Size != int64(size) || object.Modified.IsZero() {
		t.Errorf("put: %+v, %v", object, err)
	}
	w.WantObject(t, "a/b", want)
	if struck.Load() == 0 {
		t.Error("the fault met nothing")
	}
	w.WantNothingLeft(t)
}

// PutFails lets something go wrong for good in a Put of so many bytes, and gives its error. That is want or, when want is nil,
// one which another try may not meet.
func (w *World[S]) PutFails(t *testing.T, size int, fault faultstore.HTTPFault, want error) error {
	t.Helper()
	w.Proxy.Add(fault)
	_, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(size)), store.PutOptions{})
	w.WantDiscreet(t, err)
	switch {
	case err == nil:
		t.Fatal("put works")
	case want != nil && !errors.Is(err, want), want == nil && errors.Is(err, store.ErrFinal):
		t.Errorf("put: %v, want %v", err, want)
	case !strings.HasPrefix(err.Error(), `put object "a/b": `):
		t.Errorf("put: %v", err)
	}
	return err
}

// AnothersObject lets somebody else's object come after a Put has looked, right before its call that meets the fault: whatever
// answer it gets, the object must not be taken for its own.
func (w *World[S]) AnothersObject(t *testing.T, size int, theirs []byte, fault faultstore.HTTPFault) {
	t.Helper()
	var came atomic.Bool
	isCall := fault.Match
	fault.Match = func(r *http.Request) bool {
		if !isCall(r) {
			return false
		}
		if came.CompareAndSwap(false, true) {
			if _, err := w.Direct.Put(t.Context(), "a/b", bytes.NewReader(theirs), store.PutOptions{}); err != nil {
				t.Error(err)
			}
		}
		return true
	}
	w.Proxy.Add(fault)
	_, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(size)), store.PutOptions{})
	w.WantDiscreet(t, err)
	if !errors.Is(err, store.ErrExists) {
		t.Errorf("put: %v", err)
	}
	w.WantObject(t, "a/b", theirs)
	w.WantNothingLeft(t)
}

// Reads puts the objects a/1, a/2 and a/3 of 3 MiB, and lets reads of them break off, each fault once or as often as it says:
// store.Retry takes them up again. isRead matches the reading of a/2.
func (w *World[S]) Reads(t *testing.T, isRead func(*http.Request) bool, faults ...faultstore.HTTPFault) {
	t.Helper()
	want := storetest.BytesOf(3 << 20)
	for _, name := range []string{"a/1", "a/2", "a/3"} {
		if _, err := w.Direct.Put(t.Context(), name, bytes.NewReader(want), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	struck := make([]atomic.Int32, len(faults))
	for i, fault := range faults {
		fault.Struck = func() { struck[i].Add(1) }
		w.Proxy.Add(fault)
	}
	s := store.Retry(w.Store, store.RetryOptions{Base: time.Millisecond, Max: time.Millisecond})
	for _, part := range [][2]int64{{0, -1}, {1000, 2 << 20}, {1 << 20, -1}, {3<<20 - 5, 100}, {0, 1}} {
		end := int64(len(want))
		if part[1] >= 0 {
			end = min(end, part[0]+part[1])
		}
		if got, err := read(t, s, part[0], part[1]); err != nil || !bytes.Equal(got, want[part[0]:end]) {
			t.Errorf("%v: %d bytes, %v", part, len(got), err)
		}
	}
	for _, from := range []int64{3 << 20, 4 << 20} {
		if got, err := read(t, s, from, 10); err != nil || len(got) > 0 {
			t.Errorf("beyond the end: %d bytes, %v", len(got), err)
		}
	}
	if object, err := s.Stat(t.Context(), "a/2"); err != nil || object.Size != int64(len(want)) {
		t.Errorf("stat: %v, %v", object, err)
	}
	names := 0
	for _, err := range s.List(t.Context(), "a/", "") {
		if err != nil {
			t.Fatal(err)
		}
		names++
	}
	if names != 3 {
		t.Errorf("%d names", names)
	}
	for i := range struck {
		if struck[i].Load() == 0 {
			t.Errorf("fault %d met nothing", i+1)
		}
	}
	// Without store.Retry the error shows, and where it was.
	w.Proxy.Add(faultstore.HTTPFault{Match: isRead, Do: faultstore.CutAnswer, Bytes: 1 << 20})
	got, err := read(t, w.Store, 0, -1)
	w.WantDiscreet(t, err)
	if err == nil || !strings.Contains(err.Error(), `read object "a/2"`) || !bytes.Equal(got, want[:len(got)]) {
		t.Errorf("cut: %d bytes, %v", len(got), err)
	}
}

// read gives a part of a/2, which must open.
func read(t *testing.T, s store.Store, from, length int64) ([]byte, error) {
	t.Helper()
	body, err := s.Open(t.Context(), "a/2", from, length)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	return got, errors.Join(err, body.Close())
}

// WrongRanges answers each with a Content-Range to whom asks for bytes 10 to 19 of a/2, which Reads has put: they are not those.
// "" is an answer without.
func (w *World[S]) WrongRanges(t *testing.T, isRead func(*http.Request) bool, given ...string) {
	t.Helper()
	for _, given := range given {
		w.Proxy.Add(faultstore.HTTPFault{Match: isRead, Do: faultstore.Change, Change: func(r *http.Response) {
			if r.Header.Del("Content-Range"); given != "" {
				r.Header.Set("Content-Range", given)
			}
		}})
		if _, err := w.Store.Open(t.Context(), "a/2", 10, 10); !errors.Is(err, store.ErrFinal) {
			t.Errorf("range %q: %v", given, err)
		}
	}
}

// Stall gives up connections on which nothing moves, and a Put whose time is up. short is a store through the proxy that waits
// for a few seconds only, and match the calls of a Put of so many bytes that hang.
func (w *World[S]) Stall(t *testing.T, short S, size int, match func(*http.Request) bool) {
	t.Helper()
	content := storetest.BytesOf(size)
	w.Proxy.Add(faultstore.HTTPFault{Match: match, Do: faultstore.Hang})
	if _, err := short.Put(t.Context(), "stalled", bytes.NewReader(content), store.PutOptions{}); err != nil {
		t.Errorf("put: %v", err)
	}
	w.WantObject(t, "stalled", content)

	enough := errors.New("that is enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	w.Proxy.Add(faultstore.HTTPFault{Match: match, Do: faultstore.Hang, Struck: func() { cancel(enough) }})
	_, err := w.Store.Put(ctx, "cancelled", bytes.NewReader(content), store.PutOptions{})
	if !errors.Is(err, enough) {
		t.Errorf("cancelled put: %v", err)
	}
	if _, err := w.Direct.Stat(t.Context(), "cancelled"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat: %v", err)
	}
	w.WantNothingLeft(t)
}

// ReadAhead puts an endless content while the calls that match hang, of which so many are under way at once. It reads most bytes
// of it then, and no more.
func (w *World[S]) ReadAhead(t *testing.T, match func(*http.Request) bool, calls int, most int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var read atomic.Int64
	full, underWay := make(chan struct{}), make(chan struct{}, 10)
	w.Proxy.Add(faultstore.HTTPFault{Match: match, Times: -1, Do: faultstore.Hang, Struck: func() { underWay <- struct{}{} }})
	done := make(chan error)
	go func() {
		_, err := w.Store.Put(ctx, "endless", storetest.ReaderFunc(func(p []byte) (int, error) {
			if read.Add(int64(len(p))) == most {
				close(full)
			}
			return len(p), nil
		}), store.PutOptions{})
		done <- err
	}()
	for range calls {
		<-underWay
	}
	<-full
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if read.Load() > most {
		t.Errorf("%d bytes were read, want %d at most", read.Load(), most)
	}
	w.WantObject(t, "endless", nil)
	w.WantNothingLeft(t)
}

// TLS trusts the certificate of a file, and none without. server is a URL with http, and open opens a store at another one in its
// place, in which so many bytes are put.
func TLS(t *testing.T, server string, size int, open func(url, caFile string) store.Store) {
	t.Helper()
	proxy := faultstore.NewTLSProxy(t, server)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, proxy.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(proxy.URL, ca).Put(t.Context(), "a", bytes.NewReader(storetest.BytesOf(size)), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(proxy.URL, "").Stat(t.Context(), "a"); !errors.Is(err, store.ErrFinal) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown certificate: %v", err)
	}
	if _, err := open(strings.Replace(server, "http:", "https:", 1), "").Stat(t.Context(), "a"); !errors.Is(err, store.ErrFinal) {
		t.Errorf("no TLS: %v", err)
	}
}
