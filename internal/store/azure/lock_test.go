package azure_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/azure"
	"github.com/holdfast-project/holdfast/internal/store/azuretest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// locker answers as the service does in a container with version-level immutability, or without: Azurite has none. It keeps
// one blob with its versions, and what it was asked for.
type locker struct {
	support bool // of the container
	forgets bool // it takes the wish for a lock and does nothing
	refuses bool // it does not delete what is locked, though it does not show the lock

	mu       sync.Mutex
	requests []*http.Request
	header   http.Header // of the blob that was put; nil when there is none
	size     int
	staged   int
	hidden   bool // by a delete: only its version is left
}

func (l *locker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	l.requests = append(l.requests, r)
	query := r.URL.Query()
	refuse := func(status int, code string) {
		w.Header().Set("X-Ms-Error-Code", code)
		w.WriteHeader(status)
	}
	const version = "2026-11-02T00:00:00.0000000Z"
	switch {
	case query.Get("restype") == "container" && query.Get("comp") == "list":
		blobs := ""
		if l.header != nil && query.Get("include") != "" {
			blobs = fmt.Sprintf("<Blob><Name>a/b</Name><VersionId>%s</VersionId>%s</Blob>", version, map[bool]string{false: "<IsCurrentVersion>true</IsCurrentVersion>"}[l.hidden])
		}
		fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>%s</Blobs><NextMarker/></EnumerationResults>`, blobs)
	case query.Get("restype") == "container":
		w.Header().Set("X-Ms-Immutable-Storage-With-Versioning-Enabled", fmt.Sprint(l.support))
	case query.Get("comp") == "block":
		l.staged += len(body)
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut:
		l.header, l.size = r.Header, len(body)
		if query.Get("comp") == "blocklist" {
			l.size = l.staged
		}
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodDelete && l.header == nil, r.Method == http.MethodHead && (l.header == nil || l.hidden):
		refuse(http.StatusNotFound, "BlobNotFound")
	case r.Method == http.MethodDelete && query.Get("versionid") == "":
		l.hidden = true // also when it is locked, and that is the trap
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodDelete && l.refuses:
		refuse(http.StatusConflict, "BlobImmutableDueToPolicy")
	case r.Method == http.MethodDelete:
		l.header = nil
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodHead:
		h := w.Header()
		h.Set("X-Ms-Meta-Holdfast_put", l.header.Get("X-Ms-Meta-Holdfast_put"))
		h.Set("Content-Length", fmt.Sprint(l.size))
		h.Set("X-Ms-Version-Id", version)
		if until := l.header.Get("X-Ms-Immutability-Policy-Until-Date"); until != "" && !l.forgets {
			h.Set("X-Ms-Immutability-Policy-Until-Date", until)
			h.Set("X-Ms-Immutability-Policy-Mode", strings.ToLower(l.header.Get("X-Ms-Immutability-Policy-Mode")))
		}
		if hold := l.header.Get("X-Ms-Legal-Hold"); hold != "" {
			h.Set("X-Ms-Legal-Hold", hold)
		}
	}
}

// open makes a store of it.
func (l *locker) open(t *testing.T) *azure.Store {
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	o := azure.Options{Account: "account", Endpoint: server.URL, Container: "container", BlockSize: 4 << 20, Credentials: azure.Credentials{AccountKey: "a2V5"}}
	o.Retry.Base, o.Retry.Max = time.Millisecond, time.Millisecond
	return open(t, o)
}

// TestLock asks for a lock in the call that makes an object appear, and tells of it at a delete.
func TestLock(t *testing.T) {
	for what, tt := range map[string]struct {
		size  int
		comp  string // of the call that decides
		until time.Time
	}{
		"small":   {10, "", time.Now().Add(time.Hour).Truncate(time.Second)},
		"large":   {large, "blocklist", time.Now().Add(time.Hour).Truncate(time.Second)},
		"half":    {10, "", time.Now().Add(time.Hour).Truncate(time.Second).Add(time.Second / 2)},
		"by zone": {10, "", time.Now().Add(time.Hour).Truncate(time.Second).In(time.FixedZone("there", 5*3600))},
	} {
		l := &locker{support: true}
		s := l.open(t)
		if _, err := s.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(tt.size)), store.PutOptions{RetainUntil: tt.until}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		want := tt.until.Add(time.Second - 1).Truncate(time.Second).UTC() // not before
		seen := false
		for _, r := range l.requests {
			if r.Method != http.MethodPut || r.URL.Query().Get("comp") != tt.comp {
				continue
			}
			seen = true
			for name, want := range map[string]string{
				"X-Ms-Immutability-Policy-Mode": "Locked", "X-Ms-Immutability-Policy-Until-Date": want.Format(http.TimeFormat), "If-None-Match": "*",
			} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s: %s is %q, want %q", what, name, got, want)
				}
			}
		}
		if !seen {
			t.Errorf("%s: no call decides", what)
		}
		err := s.Delete(t.Context(), "a/b")
		if locked, is := errors.AsType[store.Locked](err); !is || !locked.Until.Equal(want) {
			t.Errorf("%s: delete: %v, want it locked until %s", what, err, want)
		}
		if l.hidden {
			t.Errorf("%s: the refused delete has hidden the object", what)
		}
		l.mu.Lock()
		l.header.Set("X-Ms-Immutability-Policy-Until-Date", time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat))
		l.header.Set("X-Ms-Legal-Hold", "true")
		l.mu.Unlock()
		if locked, is := errors.AsType[store.Locked](s.Delete(t.Context(), "a/b")); !is || !locked.Until.IsZero() || l.hidden {
			t.Errorf("%s: delete with a legal hold: %v", what, locked)
		}
		l.header.Del("X-Ms-Legal-Hold")
		l.refuses = true
		if locked, is := errors.AsType[store.Locked](s.Delete(t.Context(), "a/b")); !is || !locked.Until.IsZero() {
			t.Errorf("%s: delete of a version that is locked: %v", what, locked)
		}
		l.refuses = false
		// The first delete has got half way: the second removes the version too.
		if err := s.Delete(t.Context(), "a/b"); err != nil || l.header != nil {
			t.Errorf("%s: delete when the lock is over: %v, left: %v", what, err, l.header)
		}
		if err := s.Delete(t.Context(), "a/b"); err != nil {
			t.Errorf("%s: second delete: %v", what, err)
		}
	}
}

// TestNoLocks refuses a lock where it would not hold, before anything is there.
func TestNoLocks(t *testing.T) {
	lock := store.PutOptions{RetainUntil: time.Now().Add(time.Hour)}
	for _, size := range []int{10, large} {
		l := &locker{}
		if _, err := l.open(t).Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(size)), lock); !errors.Is(err, store.ErrUnsupported) || l.header != nil {
			t.Errorf("put of %d bytes in a container without locks: %v", size, err)
		}
		l = &locker{support: true}
		past := store.PutOptions{RetainUntil: time.Now().Add(-time.Second)}
		if _, err := l.open(t).Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(size)), past); !errors.Is(err, store.ErrFinal) || len(l.requests) > 0 {
			t.Errorf("put of %d bytes with a lock that is over: %v", size, err)
		}
		l = &locker{support: true, forgets: true}
		if _, err := l.open(t).Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(size)), lock); !errors.Is(err, store.ErrFinal) || !strings.Contains(err.Error(), "has not locked it") {
			t.Errorf("put of %d bytes whose lock is forgotten: %v", size, err)
		}
	}
	// Azurite would take the wish and forget it.
	w := newWorld(t, azuretest.Start(t))
	for _, size := range []int{10, large} {
		if _, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(size)), lock); !errors.Is(err, store.ErrUnsupported) {
			t.Errorf("put of %d bytes: %v", size, err)
		}
	}
	w.WantObject(t, "a/b", nil)
}
