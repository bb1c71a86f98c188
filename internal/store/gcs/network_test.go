package gcs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/gcstest"
)

// TestReads lets reads break off: store.Retry takes them up again.
func TestReads(t *testing.T) {
	w := newWorld(t, gcstest.Start(t))
	want := content(3 << 20)
	for _, name := range []string{"a/1", "a/2", "a/3"} {
		if _, err := w.direct.Put(t.Context(), name, bytes.NewReader(want), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s := store.Retry(w.store, store.RetryOptions{Base: time.Millisecond, Max: time.Millisecond})
	w.proxy.Add(
		faultstore.HTTPFault{Match: isRead, Status: 503, Body: internal},
		faultstore.HTTPFault{Match: isRead, Status: 429, Body: busy},
		faultstore.HTTPFault{Match: isRead, Do: faultstore.CutAnswer, Bytes: 1 << 20},
		faultstore.HTTPFault{Match: isRead, Do: faultstore.CutAnswer, Bytes: 0},
		faultstore.HTTPFault{Match: isLook, Do: faultstore.LoseAnswer},
		faultstore.HTTPFault{Match: isLook, Do: faultstore.CutAnswer, Bytes: 30},
		faultstore.HTTPFault{Match: isList, Do: faultstore.CutAnswer, Bytes: 100},
		faultstore.HTTPFault{Match: isDelete, Status: 500},
		faultstore.HTTPFault{Match: isDelete, Do: faultstore.LoseAnswer},
	)
	for _, part := range [][2]int64{{0, -1}, {1000, 2 << 20}, {1 << 20, -1}, {3<<20 - 5, 100}, {0, 1}} {
		body, err := s.Open(t.Context(), "a/2", part[0], part[1])
		if err != nil {
			t.Fatal(err)
		}
		end := int64(len(want))
		if part[1] >= 0 {
			end = min(end, part[0]+part[1])
		}
		got, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, want[part[0]:end]) {
			t.Errorf("%v: %d bytes, %v", part, len(got), err)
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
	if err := s.(store.Deleter).Delete(t.Context(), "a/3"); err != nil {
		t.Error(err)
	}
	// Without it the error shows, and where it was; and a range that is not the one asked for is not taken.
	w.proxy.Add(faultstore.HTTPFault{Match: isRead, Do: faultstore.CutAnswer, Bytes: 1 << 20})
	body, err := w.store.Open(t.Context(), "a/2", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	wantDiscreet(t, err)
	if err := errors.Join(err, body.Close()); err == nil || !strings.Contains(err.Error(), `read object "a/2"`) || !bytes.Equal(got, want[:len(got)]) {
		t.Errorf("cut: %d bytes, %v", len(got), err)
	}
	for _, given := range []string{"", "bytes 10-18/3145728", "bytes 11-20/3145728", "bytes 10-19/*", "10-19/3145728"} {
		w.proxy.Add(faultstore.HTTPFault{Match: isRead, Do: faultstore.Change, Change: func(r *http.Response) { r.Header.Set("Content-Range", given) }})
		if _, err := w.store.Open(t.Context(), "a/2", 10, 10); !errors.Is(err, store.ErrFinal) {
			t.Errorf("range %q: %v", given, err)
		}
	}
}

// TestReadErrors tells classes of what goes wrong with reads.
func TestReadErrors(t *testing.T) {
	w := newWorld(t, gcstest.Start(t))
	calls := map[string]func(*gcs.Store) error{
		"stat": func(s *gcs.Store) error { _, err := s.Stat(t.Context(), "a"); return err },
		"open": func(s *gcs.Store) error { _, err := s.Open(t.Context(), "a", 0, -1); return err },
		"part": func(s *gcs.Store) error { _, err := s.Open(t.Context(), "a", 5, 0); return err },
		"list": func(s *gcs.Store) error {
			for _, err := range s.List(t.Context(), "", "") {
				return err
			}
			return nil
		},
		"delete": func(s *gcs.Store) error { return s.Delete(t.Context(), "a") },
	}
	for status, want := range map[int]error{401: store.ErrDenied, 403: store.ErrDenied, 400: store.ErrFinal, 429: nil, 500: nil, 503: nil, 504: nil} {
		for name, call := range calls {
			w.proxy.Add(faultstore.HTTPFault{Status: status, Body: "<html>"})
			err := call(w.store)
			wantDiscreet(t, err, "html")
			if err == nil || want != nil && !errors.Is(err, want) || want == nil && (errors.Is(err, store.ErrFinal) || errors.Is(err, store.ErrDenied)) {
				t.Errorf("%s, %d: %v, want %v", name, status, err, want)
			}
		}
	}
	o := w.Options("no-such-bucket")
	for name, call := range calls {
		if err := call(open(t, o)); name == "delete" && err != nil || name != "delete" && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s without a bucket: %v", name, err)
		}
	}
	// A listing that does not end, or goes back, is not followed.
	for body, want := range map[string]string{
		`{"nextPageToken": "again"}`:                       "the same page",
		`{"items": [{"name": "b"}, {"name": "a"}]}`:        "in their order",
		`{"items": [{"name": "b"}], "nextPageToken": "x"}`: "in their order",
	} {
		w := newWorld(t, w.Server)
		w.proxy.Add(faultstore.HTTPFault{Match: isList, Times: -1, Status: 200, Body: body})
		var last error
		for _, err := range w.store.List(t.Context(), "", "") {
			last = err
		}
		if !errors.Is(last, store.ErrFinal) || !strings.Contains(last.Error(), want) {
			t.Errorf("%s: %v", body, last)
		}
	}
}

// TestStall gives up connections on which nothing moves, and a Put whose time is up.
func TestStall(t *testing.T) {
	server := gcstest.Start(t)
	for name, match := range map[string]func(*http.Request) bool{"put": isPut, "chunk": isChunk, "finish": isFinish} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server)
			size := 10
			if name != "put" {
				size = large
			}
			w.proxy.Add(faultstore.HTTPFault{Match: match, Do: faultstore.Hang})
			s := w.through(t, func(o *gcs.Options) { o.Stall = 2 * time.Second })
			if _, err := s.Put(t.Context(), "stalled", bytes.NewReader(content(size)), store.PutOptions{}); err != nil {
				t.Errorf("put: %v", err)
			}
			w.wantObject(t, "stalled", content(size))

			enough := errors.New("that is enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			w.proxy.Add(faultstore.HTTPFault{Match: match, Do: faultstore.Hang, Struck: func() { cancel(enough) }})
			_, err := w.store.Put(ctx, "cancelled", bytes.NewReader(content(size)), store.PutOptions{})
			if !errors.Is(err, enough) {
				t.Errorf("cancelled put: %v", err)
			}
			if _, err := w.direct.Stat(t.Context(), "cancelled"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("stat: %v", err)
			}
			w.wantNothingLeft(t)
		})
	}
}

// TestReadAhead reads no more of an endless content than two chunks and a byte while the server takes nothing.
func TestReadAhead(t *testing.T) {
	w := newWorld(t, gcstest.Start(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var read atomic.Int64
	const most = 2*chunk + 1
	full := make(chan struct{})
	w.proxy.Add(faultstore.HTTPFault{Match: isChunk, Times: -1, Do: faultstore.Hang})
	done := make(chan error)
	go func() {
		_, err := w.store.Put(ctx, "endless", readerFunc(func(p []byte) (int, error) {
			if read.Add(int64(len(p))) == most {
				close(full)
			}
			return len(p), nil
		}), store.PutOptions{})
		done <- err
	}()
	<-full
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if read.Load() > most {
		t.Errorf("%d bytes were read, want %d at most", read.Load(), most)
	}
	w.wantObject(t, "endless", nil)
	w.wantNothingLeft(t)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestMemory puts 300 MB and takes no more memory for it, all in all, than two chunks and some change: they are used again.
// The server is one that forgets what it gets, so that it takes none of this process.
func TestMemory(t *testing.T) {
	const size, usual = 300_000_000, 16 << 20
	taken := int64(0)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		switch {
		case r.Method == http.MethodPost:
			w.Header().Set("Location", "/upload/x?uploadType=resumable&upload_id=y")
		case !isSession(r):
			w.WriteHeader(http.StatusNotFound)
		case r.Header.Get("X-Goog-Hash") != "":
			taken += n
			w.WriteHeader(http.StatusForbidden)
		default:
			taken += n
			w.Header().Set("Range", "bytes=0-"+strings.TrimSuffix(strings.Split(r.Header.Get("Content-Range"), "-")[1], "/*"))
			w.WriteHeader(http.StatusPermanentRedirect)
		}
	}))
	defer server.Close()
	s := open(t, gcs.Options{Bucket: "bucket", Endpoint: server.URL})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := s.Put(t.Context(), "big", io.LimitReader(readerFunc(func(p []byte) (int, error) { return len(p), nil }), size), store.PutOptions{})
	runtime.ReadMemStats(&after)
	if !errors.Is(err, store.ErrDenied) || taken != size {
		t.Errorf("put: %v, after %d bytes", err, taken)
	}
	if all := after.TotalAlloc - before.TotalAlloc; all > 2*usual+(8<<20) {
		t.Errorf("a put of %d bytes took %d bytes of memory", int64(size), all)
	}
}

// TestTLS trusts the certificate of a file, and none without.
func TestTLS(t *testing.T) {
	server := gcstest.Start(t)
	bucket := server.Bucket(t, false)
	proxy := faultstore.NewTLSProxy(t, server.Endpoint)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, proxy.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	o := server.Options(bucket)
	o.Endpoint, o.CAFile, o.ChunkSize = proxy.URL, ca, 0
	want := content(17 << 20) // two chunks of the usual size
	if _, err := open(t, o).Put(t.Context(), "a", bytes.NewReader(want), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	o.CAFile = ""
	if _, err := open(t, o).Stat(t.Context(), "a"); !errors.Is(err, store.ErrFinal) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown certificate: %v", err)
	}
	o.Endpoint = strings.Replace(server.Endpoint, "http:", "https:", 1)
	if _, err := open(t, o).Stat(t.Context(), "a"); !errors.Is(err, store.ErrFinal) {
		t.Errorf("no TLS: %v", err)
	}
}
