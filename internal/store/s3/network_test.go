package s3_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/networktest"
	"github.com/holdfast-project/holdfast/internal/store/s3"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// TestReads lets reads break off: store.Retry takes them up again.
func TestReads(t *testing.T) {
	w := newWorld(t, s3test.Start(t))
	isObject := func(r *http.Request) bool { return isGet(r) && strings.HasSuffix(r.URL.Path, "/a/2") }
	isList := func(r *http.Request) bool { return r.URL.Query().Has("list-type") }
	w.Reads(t, isObject,
		faultstore.HTTPFault{Match: isObject, Status: 503, Body: slowDown},
		faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 1 << 20},
		faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 0},
		faultstore.HTTPFault{Match: isHead, Do: faultstore.LoseAnswer},
		faultstore.HTTPFault{Match: isList, Do: faultstore.CutAnswer, Bytes: 100},
	)
	w.WrongRanges(t, isObject, "", "bytes 11-20/3145728")
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
			w.Stall(t, w.through(t, func(o *s3.Options) { o.Stall = 2 * time.Second }), size, match)
		})
	}
}

// TestMemory reads no more of an endless content than two parts and a byte while the server takes nothing.
func TestMemory(t *testing.T) {
	newWorld(t, s3test.Start(t)).ReadAhead(t, isPart, 2, 2*(5<<20)+1)
}

// TestSweep removes uploads that were left behind, below the prefix only.
func TestSweep(t *testing.T) {
	w := newWorld(t, s3test.Start(t))
	s := w.through(t, func(o *s3.Options) { o.Prefix = "ours" })
	w.Proxy.Add(
		faultstore.HTTPFault{Match: isBegin, Do: faultstore.LoseAnswer},              // this one nobody knows of
		faultstore.HTTPFault{Match: isPart, Times: -1, Status: 403},                  // so that the second fails
		faultstore.HTTPFault{Match: isAbort, Times: -1, Status: 500, Body: internal}, // and cannot be given up
	)
	_, err := s.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(large)), store.PutOptions{})
	w.WantDiscreet(t, err)
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
	o := server.Options(server.Bucket(t, false))
	o.PartSize = 0
	// Two parts of the usual size.
	networktest.TLS(t, server.Endpoint, 17<<20, func(url, caFile string) store.Store {
		o.Endpoint, o.CAFile = url, caFile
		return open(t, o)
	})
}
