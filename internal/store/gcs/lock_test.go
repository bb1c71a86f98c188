package gcs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/gcstest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// info is what of an object or bucket locks are about, in the API's words.
type info struct {
	ObjectRetention *struct {
		Mode string `json:"mode"`
	} `json:"objectRetention,omitempty"`
	Retention *struct {
		Mode            string    `json:"mode"`
		RetainUntilTime time.Time `json:"retainUntilTime"`
	} `json:"retention,omitempty"`
	RetentionExpirationTime *time.Time `json:"retentionExpirationTime,omitempty"`
	TemporaryHold           bool       `json:"temporaryHold,omitempty"`
	EventBasedHold          bool       `json:"eventBasedHold,omitempty"`
}

const retained = `{"error": {"code": 403, "message": "Object is subject to object retention and cannot be deleted.", "errors": [{"reason": "retentionPolicyNotMet"}]}}`

// newLocks stands before sessions and does what the server of the tests does not: it says that buckets lock objects, and
// keeps those that are locked from being deleted. The server itself remembers the locks.
func newLocks(t *testing.T, target string) string {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(u)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case isBucket(r):
			_, _ = io.WriteString(w, `{"objectRetention": {"mode": "Enabled"}}`)
			return
		case r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/o/"):
			response, err := http.Get(target + r.URL.EscapedPath())
			var object info
			if err == nil {
				err = errors.Join(json.NewDecoder(response.Body).Decode(&object), response.Body.Close())
			}
			if err == nil && object.Retention != nil && object.Retention.Mode == "Locked" && object.Retention.RetainUntilTime.After(time.Now()) {
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, retained)
				return
			}
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL
}

func isBucket(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Count(r.URL.Path, "/") == 4 // of /storage/v1/b/NAME
}

func isDelete(r *http.Request) bool { return r.Method == http.MethodDelete && !isUpload(r) }

func TestContractWithLocks(t *testing.T) {
	server := gcstest.Start(t)
	locks := newLocks(t, gcstest.NewSessions(t, server).URL)
	storetest.RunLocks(t, func(t *testing.T) store.Store {
		o := server.Options(server.Bucket(t, false))
		o.Endpoint = locks
		return open(t, o)
	})
}

func newLockedWorld(t *testing.T, server *gcstest.Server) *world {
	w := newWorld(t, server)
	w.Proxy = faultstore.NewProxy(t, newLocks(t, w.sessions.URL))
	w.Store = w.through(t, func(*gcs.Options) {})
	return w
}

func (w *world) lock(t *testing.T, size int, until time.Time) error {
	_, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(size)), store.PutOptions{RetainUntil: until})
	w.WantDiscreet(t, err)
	return err
}

// TestLockIsAskedFor looks at what the server is asked for: a lock that nobody can take back, not shorter than was wished.
func TestLockIsAskedFor(t *testing.T) {
	server := gcstest.Start(t)
	for _, size := range []int{10, large} {
		w := newLockedWorld(t, server)
		until := time.Now().Add(time.Hour).Truncate(time.Second).Add(time.Millisecond)
		if err := w.lock(t, size, until); err != nil {
			t.Fatal(err)
		}
		response, err := http.Get(server.Endpoint + "/storage/v1/b/" + w.bucket + "/o/a%2Fb")
		if err != nil {
			t.Fatal(err)
		}
		var object info
		if err := errors.Join(json.NewDecoder(response.Body).Decode(&object), response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if want := until.Truncate(time.Second).Add(time.Second); object.Retention == nil || object.Retention.Mode != "Locked" || !object.Retention.RetainUntilTime.Equal(want) {
			t.Errorf("%d bytes are locked as %+v, want until %s", size, object.Retention, want)
		}
		w.WantObject(t, "a/b", storetest.BytesOf(size))
	}
}

// TestLockRefused wants an error and no object where there is no lock, however the server says so.
func TestLockRefused(t *testing.T) {
	server := gcstest.Start(t)
	const noRetention = `{"error": {"code": 400, "message": "Object retention cannot be set: the bucket is not enabled for it.", "errors": [{"reason": "invalid"}]}}`
	unlocked := func(text string) faultstore.HTTPFault {
		return faultstore.HTTPFault{Times: -1, Do: faultstore.Change, Match: func(r *http.Request) bool { return isPut(r) || isFinish(r) }, Change: func(r *http.Response) {
			var answer map[string]any
			if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
				t.Error(err)
			}
			delete(answer, "retention")
			if text != "" {
				answer["retention"] = json.RawMessage(text)
			}
			changed, err := json.Marshal(answer)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(changed))
			r.Header.Set("Content-Length", fmt.Sprint(len(changed)))
		}}
	}
	// The front would not let these be deleted, which are locked in truth.
	deletable := faultstore.HTTPFault{Match: isDelete, Times: -1, Status: 204}
	for name, tt := range map[string]struct {
		faults []faultstore.HTTPFault
		until  time.Duration
		want   error
		sent   bool // content was sent
	}{
		"bucket without":      {[]faultstore.HTTPFault{{Match: isBucket, Times: -1, Status: 200, Body: "{}"}}, time.Hour, store.ErrUnsupported, false},
		"bucket not shown":    {[]faultstore.HTTPFault{{Match: isBucket, Times: -1, Status: 403, Body: denied}}, time.Hour, store.ErrDenied, false},
		"bucket missing":      {[]faultstore.HTTPFault{{Match: isBucket, Times: -1, Status: 404}}, time.Hour, store.ErrNotFound, false},
		"past":                {nil, -time.Hour, store.ErrFinal, false},
		"insert refused":      {[]faultstore.HTTPFault{{Match: func(r *http.Request) bool { return isPut(r) || isBegin(r) }, Times: -1, Status: 400, Body: noRetention}}, time.Hour, store.ErrUnsupported, true},
		"not allowed to lock": {[]faultstore.HTTPFault{{Match: func(r *http.Request) bool { return isPut(r) || isBegin(r) }, Times: -1, Status: 403, Body: denied}}, time.Hour, store.ErrDenied, true},
		"not locked":          {[]faultstore.HTTPFault{unlocked(""), deletable}, time.Hour, store.ErrUnsupported, true},
		"softly locked":       {[]faultstore.HTTPFault{unlocked(`{"mode": "Unlocked", "retainUntilTime": "2999-01-01T00:00:00Z"}`), deletable}, time.Hour, store.ErrUnsupported, true},
		"locked too short":    {[]faultstore.HTTPFault{unlocked(`{"mode": "Locked", "retainUntilTime": "2001-01-01T00:00:00Z"}`), deletable}, time.Hour, store.ErrUnsupported, true},
		"and not deletable":   {[]faultstore.HTTPFault{unlocked("")}, time.Hour, store.ErrFinal, true},
	} {
		for _, size := range []int{10, large} {
			t.Run(fmt.Sprint(name, "/", size), func(t *testing.T) {
				t.Parallel()
				w := newLockedWorld(t, server)
				w.Proxy.Add(tt.faults...)
				err := w.lock(t, size, time.Now().Add(tt.until))
				if !errors.Is(err, tt.want) || errors.Is(err, store.ErrUnsupported) != (tt.want == store.ErrUnsupported) {
					t.Errorf("put: %v, want %v", err, tt.want)
				}
				requests := strings.Join(w.Proxy.Requests(), "\n")
				if strings.Contains(requests, "uploadType") != tt.sent {
					t.Errorf("requests:\n%s", requests)
				}
				if len(tt.faults) == 2 && !strings.Contains(requests, "?generation=") {
					t.Errorf("it was not deleted again:\n%s", requests)
				}
				if len(tt.faults) < 2 && name != "and not deletable" {
					w.WantObject(t, "a/b", nil)
				}
				w.WantNothingLeft(t)
			})
		}
	}
}

// TestDeleteOfLocked tells what keeps an object from being deleted, as far as the server shows it.
func TestDeleteOfLocked(t *testing.T) {
	server := gcstest.Start(t)
	until := time.Date(2999, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		shown  string
		locked bool
		until  time.Time
	}{
		"lock":             {`"retention": {"mode": "Locked", "retainUntilTime": "2999-01-02T03:04:05Z"}`, true, until},
		"policy":           {`"retentionExpirationTime": "2999-01-02T03:04:05Z"`, true, until},
		"both":             {`"retention": {"mode": "Locked", "retainUntilTime": "2998-01-01T00:00:00Z"}, "retentionExpirationTime": "2999-01-02T03:04:05Z"`, true, until},
		"temporary hold":   {`"temporaryHold": true`, true, time.Time{}},
		"event-based hold": {`"eventBasedHold": true, "retentionExpirationTime": "2999-01-02T03:04:05Z"`, true, time.Time{}},
		"lock that ended":  {`"retention": {"mode": "Locked", "retainUntilTime": "2001-01-02T03:04:05Z"}`, false, time.Time{}},
		"no right":         {`"name": "a/b"`, false, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server)
			w.Proxy.Add(
				faultstore.HTTPFault{Match: isLook, Times: -1, Status: 200, Body: `{"size": "1", "generation": "7", ` + tt.shown + `}`},
				faultstore.HTTPFault{Match: isDelete, Times: -1, Status: 403, Body: retained},
			)
			err := w.Store.Delete(t.Context(), "a/b")
			w.WantDiscreet(t, err)
			locked, is := errors.AsType[store.Locked](err)
			if is != tt.locked || !locked.Until.Equal(tt.until) || !is && !errors.Is(err, store.ErrDenied) {
				t.Errorf("delete: %v, want %+v", err, tt)
			}
		})
	}
	// A server that is down is not taken for a lock.
	w := newWorld(t, server)
	w.Proxy.Add(
		faultstore.HTTPFault{Match: isLook, Times: -1, Status: 200, Body: `{"size": "1", "generation": "7", "temporaryHold": true}`},
		faultstore.HTTPFault{Match: isDelete, Times: -1, Status: 503},
	)
	err := w.Store.Delete(t.Context(), "a/b")
	if _, is := errors.AsType[store.Locked](err); err == nil || is || errors.Is(err, store.ErrDenied) {
		t.Errorf("delete: %v", err)
	}
	if requests := strings.Join(w.Proxy.Requests(), "\n"); !strings.Contains(requests, "?generation=7") {
		t.Errorf("the generation is not named:\n%s", requests)
	}
}

// TestDeleteOfVersions leaves no old generation of a deleted object behind.
func TestDeleteOfVersions(t *testing.T) {
	server := gcstest.Start(t)
	bucket := server.Bucket(t, true)
	s := open(t, server.Options(bucket))
	left := func() string {
		response, err := http.Get(server.Endpoint + "/storage/v1/b/" + bucket + "/o?versions=true")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if _, err := s.Put(t.Context(), "a/b", strings.NewReader("x"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if text := left(); !strings.Contains(text, "a/b") {
		t.Errorf("before: %s", text)
	}
	if err := s.Delete(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	if text := left(); strings.Contains(text, "a/b") {
		t.Errorf("left behind: %s", text)
	}
}
