package gcs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/gcstest"
	"github.com/holdfast-project/holdfast/internal/store/networktest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// The calls of a Put, as the proxy sees them.
func isPut(r *http.Request) bool    { return r.URL.Query().Get("uploadType") == "multipart" }
func isBegin(r *http.Request) bool  { return isUpload(r) && r.Method == http.MethodPost }
func isChunk(r *http.Request) bool  { return isSession(r) && r.ContentLength > 0 }
func isFinish(r *http.Request) bool { return isChunk(r) && r.Header.Get("X-Goog-Hash") != "" }
func isCancel(r *http.Request) bool { return isUpload(r) && r.Method == http.MethodDelete }
func isLook(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/o/") && !r.URL.Query().Has("alt")
}
func isRead(r *http.Request) bool    { return r.URL.Query().Get("alt") == "media" }
func isList(r *http.Request) bool    { return r.URL.Query().Has("maxResults") }
func isUpload(r *http.Request) bool  { return r.URL.Query().Get("uploadType") == "resumable" }
func isSession(r *http.Request) bool { return isUpload(r) && r.Method == http.MethodPut }

// What the server says, in its form.
const (
	busy     = `{"error": {"code": 429, "message": "Too many requests.", "errors": [{"reason": "rateLimitExceeded", "message": "Too many requests."}]}}`
	internal = `{"error": {"code": 500, "message": "Backend Error", "errors": [{"reason": "backendError", "message": "Backend Error"}]}}`
	unmet    = `{"error": {"code": 412, "message": "Precondition Failed", "errors": [{"reason": "conditionNotMet", "message": "Precondition Failed"}]}}`
	denied   = `{"error": {"code": 403, "message": "somebody does not have storage.objects.create access.", "errors": [{"reason": "forbidden"}]}}`
)

// world is a bucket of a real server, with sessions as they are documented before it, and before those a proxy that fails as
// it is told.
type world struct {
	*gcstest.Server
	networktest.World[*gcs.Store]
	bucket   string
	sessions *gcstest.Sessions
}

func newWorld(t *testing.T, server *gcstest.Server) *world {
	w := &world{Server: server, bucket: server.Bucket(t, false), sessions: gcstest.NewSessions(t, server)}
	w.Proxy = faultstore.NewProxy(t, w.sessions.URL)
	w.Store, w.Direct = w.through(t, func(*gcs.Options) {}), open(t, server.Options(w.bucket))
	w.Secrets, w.Left = secrets(), w.sessions.Left
	return w
}

func (w *world) through(t *testing.T, change func(*gcs.Options)) *gcs.Store {
	o := w.Options(w.bucket)
	o.Endpoint, o.ChunkSize = w.Proxy.URL, chunk
	change(&o)
	return open(t, o)
}

// secrets are what no error may show.
func secrets(more ...string) []string { return append(more, "upload_id", "uploadType", "Bearer") }

// large is what three chunks are needed for, in bytes.
const (
	chunk = 1 << 20
	large = 2*chunk + 600_005
)

// TestPutSurvives lets one thing go wrong in a Put, which must work all the same.
func TestPutSurvives(t *testing.T) {
	server := gcstest.Start(t)
	for name, tt := range map[string]struct {
		size  int
		fault faultstore.HTTPFault
	}{
		"busy":                     {10, faultstore.HTTPFault{Match: isPut, Times: 3, Status: 429, Body: busy}},
		"error page":               {10, faultstore.HTTPFault{Match: isPut, Status: 502, Body: "<html>bad gateway</html>"}},
		"unavailable":              {10, faultstore.HTTPFault{Match: isPut, Status: 503, Body: internal}},
		"old limit":                {10, faultstore.HTTPFault{Match: isPut, Status: 403, Body: strings.Replace(busy, "429", "403", 1)}},
		"answer lost":              {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.LoseAnswer}},
		"answer cut":               {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.CutAnswer, Bytes: 20}},
		"answer replaced":          {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.AnswerAfter, Status: 500, Body: internal}},
		"answer is none":           {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.AnswerAfter, Status: 200, Body: "ok"}},
		"last answer lost":         {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.LoseAnswer, Times: 2}},
		"cut":                      {1 << 20, faultstore.HTTPFault{Match: isPut, Do: faultstore.CutRequest, Bytes: 5000}},
		"damaged":                  {1 << 20, faultstore.HTTPFault{Match: isPut, Do: faultstore.Damage}},
		"look before fails":        {large, faultstore.HTTPFault{Match: isLook, Times: -1, Status: 403, Body: denied}},
		"begin busy":               {large, faultstore.HTTPFault{Match: isBegin, Times: 3, Status: 429, Body: busy}},
		"begin fails":              {large, faultstore.HTTPFault{Match: isBegin, Times: 3, Status: 500}},
		"chunk busy":               {large, faultstore.HTTPFault{Match: isChunk, Times: 2, Status: 429, Body: busy}},
		"chunk unavailable":        {large, faultstore.HTTPFault{Match: isChunk, Skip: 1, Times: 2, Status: 503, Body: internal}},
		"chunk cut":                {large, faultstore.HTTPFault{Match: isChunk, Do: faultstore.CutRequest, Bytes: chunk / 2}},
		"chunk's answer lost":      {large, faultstore.HTTPFault{Match: isChunk, Do: faultstore.LoseAnswer}},
		"chunk and question lost":  {large, faultstore.HTTPFault{Match: isSession, Skip: 1, Times: 3, Do: faultstore.LoseAnswer}},
		"finish busy":              {large, faultstore.HTTPFault{Match: isFinish, Times: 2, Status: 429, Body: busy}},
		"finish cut":               {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.CutRequest, Bytes: 300_000}},
		"finish's answer lost":     {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.LoseAnswer}},
		"finish's answer cut":      {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.CutAnswer, Bytes: 20}},
		"finish's answer replaced": {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.AnswerAfter, Status: 500, Body: internal}},
		"finish's answer is none":  {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.AnswerAfter, Status: 200}},
		"finish refused after all": {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.AnswerAfter, Status: 412, Body: unmet}},
		"finish forgotten":         {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.AnswerAfter, Status: 410}},
		"finish never answered":    {large, faultstore.HTTPFault{Match: func(r *http.Request) bool { return isSession(r) && r.Header.Get("X-Goog-Hash") != "" }, Times: -1, Do: faultstore.LoseAnswer}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newWorld(t, server).PutSurvives(t, tt.size, tt.fault)
		})
	}
}

// TestPartlyTaken lets the server take a part of each chunk, with an answer and with a connection that ends in the middle of
// it. What it has is not sent again.
func TestPartlyTaken(t *testing.T) {
	server := gcstest.Start(t)
	for name, tt := range map[string]struct {
		take func(n int, sent int) (int, bool)
		most int64 // of bytes that are sent
	}{
		"a part of each": {func(_, sent int) (int, bool) { return max(sent/2, 256<<10), false }, 2 * large},
		"cut in the middle": {func(n, sent int) (int, bool) {
			if n == 1 || n == 3 {
				return sent / 2, true
			}
			return sent, false
		}, large + 2*chunk},
		"all of it, and cut": {func(n, sent int) (int, bool) { return sent, n == 1 }, large},
		"nothing twice":      {func(n, sent int) (int, bool) { return sent * min(n/3, 1), false }, large + 4*chunk},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server)
			calls := 0
			var sent atomic.Int64
			w.sessions.Take = func(n int) (int, bool) {
				calls++
				sent.Add(int64(n))
				return tt.take(calls, n)
			}
			want := storetest.BytesOf(large)
			if _, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(want), store.PutOptions{}); err != nil {
				t.Error(err)
			}
			w.WantObject(t, "a/b", want)
			w.WantNothingLeft(t)
			if sent.Load() > tt.most {
				t.Errorf("%d bytes were sent for %d", sent.Load(), large)
			}
		})
	}
}

// TestPutFails lets something go wrong for good: the error tells what, and nothing is left.
func TestPutFails(t *testing.T) {
	server := gcstest.Start(t)
	change := func(from, to string) faultstore.HTTPFault {
		return faultstore.HTTPFault{Times: -1, Do: faultstore.Change, Match: func(r *http.Request) bool { return isPut(r) || isFinish(r) }, Change: func(r *http.Response) {
			text, err := io.ReadAll(r.Body)
			if err != nil || !strings.Contains(string(text), from) {
				t.Errorf("the answer has no %s: %s, %v", from, text, err)
			}
			text = bytes.Replace(text, []byte(from), []byte(to), 1)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
			r.Header.Set("Content-Length", fmt.Sprint(len(text)))
		}}
	}
	header := func(match func(*http.Request) bool, skip int, name, value string) faultstore.HTTPFault {
		return faultstore.HTTPFault{Match: match, Skip: skip, Times: -1, Do: faultstore.Change, Change: func(r *http.Response) { r.Header.Set(name, value) }}
	}
	for name, tt := range map[string]struct {
		size  int
		fault faultstore.HTTPFault
		want  error // if not nil
		text  string
	}{
		"down":               {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 500, Body: internal}, nil, "backendError (500)"},
		"busy":               {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 429, Body: busy}, nil, "rateLimitExceeded (429)"},
		"denied":             {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 403, Body: denied}, store.ErrDenied, "storage.objects.create"},
		"no such bucket":     {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 404}, store.ErrNotFound, ""},
		"no such thing":      {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 501}, store.ErrUnsupported, ""},
		"not understood":     {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 400}, store.ErrFinal, ""},
		"redirect":           {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 307}, store.ErrFinal, ""},
		"a policy":           {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 412, Body: unmet}, nil, "no such object is there, but the store says conditionNotMet (412)"},
		"cut for good":       {1 << 20, faultstore.HTTPFault{Match: isPut, Times: -1, Do: faultstore.CutRequest, Bytes: 100}, nil, "reach 127.0.0.1"},
		"damaged for good":   {1 << 20, faultstore.HTTPFault{Match: isPut, Times: -1, Do: faultstore.Damage}, nil, "match calculated"},
		"begin denied":       {large, faultstore.HTTPFault{Match: isBegin, Times: -1, Status: 403, Body: denied}, store.ErrDenied, "begin an upload"},
		"begin cut":          {large, faultstore.HTTPFault{Match: isBegin, Times: -1, Do: faultstore.CutRequest}, nil, "begin an upload"},
		"begin says nothing": {large, header(isBegin, 0, "Location", ""), store.ErrFinal, "where to send it"},
		"chunk down":         {large, faultstore.HTTPFault{Match: isSession, Skip: 1, Times: -1, Status: 503, Body: internal}, nil, "send bytes 1048576 to 2097152"},
		"chunk denied":       {large, faultstore.HTTPFault{Match: isChunk, Times: -1, Status: 403, Body: denied}, store.ErrDenied, "send bytes 0 to 1048576"},
		"chunk damaged":      {large, faultstore.HTTPFault{Match: isChunk, Skip: 1, Do: faultstore.Damage}, nil, ""},
		"chunk lost":         {large, header(isChunk, 1, "Range", "bytes=0-99"), store.ErrFinal, "100 bytes of the upload"},
		"more than sent":     {large, header(isChunk, 0, "Range", "bytes=0-99999999"), store.ErrFinal, "100000000 bytes of the upload"},
		"strange range":      {large, header(isChunk, 0, "Range", "bytes=5-9"), store.ErrFinal, "means nothing"},
		"forgotten":          {large, faultstore.HTTPFault{Match: isChunk, Skip: 1, Times: -1, Status: 404}, nil, "does not know the upload any more"},
		"ends too early":     {large, faultstore.HTTPFault{Match: isChunk, Times: 1, Status: 200, Body: "{}"}, store.ErrFinal, "ends the upload before"},
		"finish down":        {large, faultstore.HTTPFault{Match: func(r *http.Request) bool { return isSession(r) && r.Header.Get("X-Goog-Hash") != "" }, Times: -1, Status: 500, Body: internal}, nil, "backendError (500)"},
		"finish refused":     {large, faultstore.HTTPFault{Match: isFinish, Times: -1, Status: 412, Body: unmet}, nil, "no such object is there"},
		"wrong size":         {10, change(`"size":"10"`, `"size":"11"`), store.ErrFinal, "the store has 11"},
		"wrong sum":          {10, change(`"crc32c":"`, `"crc32c":"A`), store.ErrFinal, "other bytes"},
		"wrong large sum":    {large, change(`"crc32c":"`, `"crc32c":"A`), store.ErrFinal, "other bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server)
			err := w.PutFails(t, tt.size, tt.fault, tt.want)
			if tt.want == nil && (errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound)) {
				t.Errorf("put: %v has a class", err)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("put: %v, want %q", err, tt.text)
			}
			w.WantObject(t, "a/b", nil)
			if name != "begin says nothing" { // of which we cannot tell the server anything
				w.WantNothingLeft(t)
			}
		})
	}
}

// TestEndsTooEarly has a server that takes a question about an upload for its end, as the real one of the tests does, and
// makes an object of what it has. That is not taken for ours, and does not stay.
func TestEndsTooEarly(t *testing.T) {
	w := newWorld(t, gcstest.Start(t))
	proxy := faultstore.NewProxy(t, w.Server.Endpoint)
	proxy.Add(faultstore.HTTPFault{Match: isChunk, Skip: 1, Do: faultstore.LoseAnswer})
	o := w.Options(w.bucket)
	o.Endpoint, o.ChunkSize = proxy.URL, chunk
	_, err := open(t, o).Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(large)), store.PutOptions{})
	if !errors.Is(err, store.ErrFinal) || !strings.Contains(err.Error(), "ends the upload before") {
		t.Errorf("put: %v", err)
	}
	if requests := strings.Join(proxy.Requests(), "\n"); !strings.Contains(requests, "generation=") {
		t.Errorf("nothing was deleted:\n%s", requests)
	}
	w.WantObject(t, "a/b", nil)
}

// TestCancelFails tells of an upload that could not be given up, beside what went wrong before.
func TestCancelFails(t *testing.T) {
	w := newWorld(t, gcstest.Start(t))
	w.Proxy.Add(
		faultstore.HTTPFault{Match: isChunk, Times: -1, Status: 403, Body: denied},
		faultstore.HTTPFault{Match: isCancel, Times: -1, Status: 500, Body: internal},
	)
	_, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(large)), store.PutOptions{})
	w.WantDiscreet(t, err)
	if !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "give up the upload") {
		t.Errorf("put: %v", err)
	}
	w.WantObject(t, "a/b", nil)
	if n := w.sessions.Left(); n != 1 {
		t.Errorf("%d uploads are left behind", n)
	}
}

// TestDamagedIsTold finds that the object which the server has made is not what was sent, and may not delete it.
func TestDamagedIsTold(t *testing.T) {
	w := newWorld(t, gcstest.Start(t))
	w.Proxy.Add(
		faultstore.HTTPFault{Match: isPut, Do: faultstore.Change, Change: func(r *http.Response) {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(bytes.Replace(text, []byte(`"size":"10"`), []byte(`"size":"12"`), 1)))
		}},
		faultstore.HTTPFault{Match: func(r *http.Request) bool { return r.Method == http.MethodDelete }, Times: -1, Status: 403, Body: denied},
	)
	_, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(10)), store.PutOptions{})
	w.WantDiscreet(t, err)
	if !errors.Is(err, store.ErrFinal) || errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "and it is there") {
		t.Errorf("put: %v", err)
	}
}

// TestAnothersObject lets the answer of a Put be lost while somebody else's object is there: it must not be taken for ours.
func TestAnothersObject(t *testing.T) {
	server := gcstest.Start(t)
	for name, tt := range map[string]struct {
		size int
		call func(*http.Request) bool
		kind faultstore.HTTPKind
	}{
		"small, error":       {10, isPut, faultstore.Answer},
		"small, answer lost": {10, isPut, faultstore.LoseAnswer},
		"large, error":       {large, isFinish, faultstore.Answer},
		"large, answer lost": {large, isFinish, faultstore.LoseAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newWorld(t, server).AnothersObject(t, tt.size, []byte("theirs"), faultstore.HTTPFault{Match: tt.call, Do: tt.kind, Status: 500, Body: internal})
		})
	}
}

// TestWriterThatMayNotLook is told of an object that is there all the same.
func TestWriterThatMayNotLook(t *testing.T) {
	w := newWorld(t, gcstest.Start(t))
	w.Proxy.Add(faultstore.HTTPFault{Match: isLook, Times: -1, Status: 403, Body: denied})
	for _, size := range []int{10, large} {
		want := []error{nil, store.ErrExists}
		for i := range want {
			if _, err := w.Store.Put(t.Context(), fmt.Sprint("a/", size), bytes.NewReader(storetest.BytesOf(size)), store.PutOptions{}); !errors.Is(err, want[i]) {
				t.Errorf("put %d of %d bytes: %v", i+1, size, err)
			}
		}
	}
}
