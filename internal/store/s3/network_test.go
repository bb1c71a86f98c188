package s3_test

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

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/s3"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
)

// TestReads lets reads break off: store.Retry takes them up again.
func TestReads(t *testing.T) {
	server := s3test.Start(t)
	w := newWorld(t, server)
	want := content(3 << 20)
	for _, name := range []string{"a/1", "a/2", "a/3"} {
		if _, err := w.direct.Put(t.Context(), name, bytes.NewReader(want), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s := store.Retry(w.store, store.RetryOptions{Base: time.Millisecond, Max: time.Millisecond})
	isObject := func(r *http.Request) bool { return isGet(r) && strings.HasSuffix(r.URL.Path, "/a/2") }
	w.proxy.Add(
		faultstore.HTTPFault{Match: isObject, Status: 503, Body: slowDown},
		faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 1 << 20},
		faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 0},
		faultstore.HTTPFault{Match: isHead, Do: faultstore.LoseAnswer},
		faultstore.HTTPFault{Match: func(r *http.Request) bool { return r.URL.Query().Has("list-type") }, Do: faultstore.CutAnswer, Bytes: 100},
	)
	for _, part := range [][2]int64{{0, -1}, {1000, 2 << 20}} {
		body, err := s.Open(t.Context(), "a/2", part[0], part[1])
		if err != nil {
			t.Fatal(err)
		}
		end := int64(len(want))
		if part[1] >= 0 {
			end = part[0] + part[1]
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
	// Without it the error shows, and where it was; and a range that is not the one asked for is not taken.
	w.proxy.Add(faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 1 << 20})
	body, err := w.store.Open(t.Context(), "a/2", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	w.wantDiscreet(t, err)
	if err := errors.Join(err, body.Close()); err == nil || !strings.Contains(err.Error(), `read object "a/2"`) || !bytes.Equal(got, want[:len(got)]) {
		t.Errorf("cut: %d bytes, %v", len(got), err)
	}
	w.proxy.Add(faultstore.HTTPFault{Match: isObject, Do: faultstore.Change, Change: func(r *http.Response) { r.Header.Del("Content-Range") }})
	if _, err := w.store.Open(t.Context(), "a/2", 10, 10); !errors.Is(err, store.ErrFinal) {
		t.Errorf("no range: %v", err)
	}
}

// TestStall gives up connections on which nothing moves, and a Put whose time is up.
func TestStall(t *testing.T) {
	server := s3test.Start(t)
	for name, match := range map[string]func(*http.Request) bool{"put": isPut, "part": isPart, "finish": isFinish} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server)
			size := 10
			if name != "put" {
				size = large
			}
			w.proxy.Add(faultstore.HTTPFault{Match: match, Do: faultstore.Hang})
			s := w.through(t, func(o *s3.Options) { o.Stall = 2 * time.Second })
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
			if n := server.Uploads(t, w.bucket); n != 0 {
				t.Errorf("%d uploads are left behind", n)
			}
		})
	}
}

// TestMemory reads no more of an endless content than two parts and a byte while the server takes nothing.
func TestMemory(t *testing.T) {
	w := newWorld(t, s3test.Start(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var read atomic.Int64
	underWay := make(chan struct{}, 10)
	w.proxy.Add(faultstore.HTTPFault{Match: isPart, Times: -1, Do: faultstore.Hang, Struck: func() { underWay <- struct{}{} }})
	done := make(chan error)
	go func() {
		_, err := w.store.Put(ctx, "endless", readerFunc(func(p []byte) (int, error) {
			read.Add(int64(len(p)))
			return len(p), nil
		}), store.PutOptions{})
		done <- err
	}()
	<-underWay
	<-underWay
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if most := int64(2*(5<<20) + 1); read.Load() > most {
		t.Errorf("%d bytes were read, want %d at most", read.Load(), most)
	}
	w.wantObject(t, "endless", nil)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestSweep removes uploads that were left behind, below the prefix only.
func TestSweep(t *testing.T) {
	w := newWorld(t, s3test.Start(t))
	s := w.through(t, func(o *s3.Options) { o.Prefix = "ours" })
	w.proxy.Add(
		faultstore.HTTPFault{Match: isBegin, Do: faultstore.LoseAnswer},              // this one nobody knows of
		faultstore.HTTPFault{Match: isPart, Times: -1, Status: 403},                  // so that the second fails
		faultstore.HTTPFault{Match: isAbort, Times: -1, Status: 500, Body: internal}, // and cannot be given up
	)
	_, err := s.Put(t.Context(), "a/b", bytes.NewReader(content(large)), store.PutOptions{})
	w.wantDiscreet(t, err)
	if !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "whose parts are left") {
		t.Errorf("put: %v", err)
	}
	if _, err := w.Client.NewMultipartUpload(t.Context(), w.bucket, "theirs/a", minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	clean := w.Options(w.bucket)
	clean.Prefix = "ours"
	var sweeper store.Sweeper = open(t, clean)
	for _, tt := range []struct {
		age           time.Duration
		removed, left int
	}{{time.Hour, 0, 3}, {-time.Minute, 2, 1}, {-time.Minute, 0, 1}} {
		removed, err := sweeper.Sweep(t.Context(), tt.age)
		if left := w.Uploads(t, w.bucket); err != nil || removed != tt.removed || left != tt.left {
			t.Errorf("sweep of what is older than %s: %d removed, %d left, %v", tt.age, removed, left, err)
		}
	}
}

// TestTLS trusts the certificate of a file, and none without.
func TestTLS(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket(t, false)
	proxy := faultstore.NewTLSProxy(t, server.Endpoint)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, proxy.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	o := server.Options(bucket)
	o.Endpoint, o.CAFile, o.PartSize = proxy.URL, ca, 0
	want := content(17 << 20) // two parts of the usual size
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
