package gcs_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/gcstest"
	"github.com/holdfast-project/holdfast/internal/store/networktest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// TestReads lets reads break off: store.Retry takes them up again.
func TestReads(t *testing.T) {
	w := newWorld(t, gcstest.Start(t))
	w.Reads(t, isRead,
		faultstore.HTTPFault{Match: isRead, Status: 503, Body: internal},
		faultstore.HTTPFault{Match: isRead, Status: 429, Body: busy},
		faultstore.HTTPFault{Match: isRead, Do: faultstore.CutAnswer, Bytes: 1 << 20},
		faultstore.HTTPFault{Match: isRead, Do: faultstore.CutAnswer, Bytes: 0},
		faultstore.HTTPFault{Match: isLook, Do: faultstore.LoseAnswer},
		faultstore.HTTPFault{Match: isLook, Do: faultstore.CutAnswer, Bytes: 30},
		faultstore.HTTPFault{Match: isList, Do: faultstore.CutAnswer, Bytes: 100},
	)
	w.WrongRanges(t, isRead, "", "bytes 10-18/3145728", "bytes 11-20/3145728", "bytes 10-19/*", "10-19/3145728")
	w.Proxy.Add(
		faultstore.HTTPFault{Match: isDelete, Status: 500},
		faultstore.HTTPFault{Match: isDelete, Do: faultstore.LoseAnswer},
	)
	s := store.Retry(w.Store, store.RetryOptions{Base: time.Millisecond, Max: time.Millisecond})
	if err := s.(store.Deleter).Delete(t.Context(), "a/3"); err != nil {
		t.Error(err)
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
			w.Proxy.Add(faultstore.HTTPFault{Status: status, Body: "<html>"})
			err := call(w.Store)
			networktest.WantDiscreet(t, err, secrets("html")...)
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
		w.Proxy.Add(faultstore.HTTPFault{Match: isList, Times: -1, Status: 200, Body: body})
		var last error
		for _, err := range w.Store.List(t.Context(), "", "") {
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
			w.Stall(t, w.through(t, func(o *gcs.Options) { o.Stall = 2 * time.Second }), size, match)
		})
	}
}

// TestReadAhead reads no more of an endless content than two chunks and a byte while the server takes nothing.
func TestReadAhead(t *testing.T) {
	newWorld(t, gcstest.Start(t)).ReadAhead(t, isChunk, 1, 2*chunk+1)
}

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
	_, err := s.Put(t.Context(), "big", io.LimitReader(storetest.ReaderFunc(func(p []byte) (int, error) { return len(p), nil }), size), store.PutOptions{})
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
	o := server.Options(server.Bucket(t, false))
	o.ChunkSize = 0
	// Two chunks of the usual size.
	networktest.TLS(t, server.Endpoint, 17<<20, func(url, caFile string) store.Store {
		o.Endpoint, o.CAFile = url, caFile
		return open(t, o)
	})
}
