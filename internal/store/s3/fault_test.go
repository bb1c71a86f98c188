package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/s3"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
)

// The calls of a Put, as the proxy sees them.
func isPut(r *http.Request) bool { return r.Method == http.MethodPut && r.URL.RawQuery == "" }
func isBegin(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploads")
}
func isPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}
func isFinish(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}
func isAbort(r *http.Request) bool {
	return r.Method == http.MethodDelete && r.URL.Query().Has("uploadId")
}
func isHead(r *http.Request) bool { return r.Method == http.MethodHead }
func isGet(r *http.Request) bool  { return r.Method == http.MethodGet }

const (
	slowDown = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`
	internal = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code><Message>We encountered an internal error. Please try again.</Message></Error>`
	conflict = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>ConditionalRequestConflict</Code><Message>Try again.</Message></Error>`
)

// world is a bucket of a real server, with a proxy before it that fails as it is told.
type world struct {
	*s3test.Server
	bucket string
	proxy  *faultstore.Proxy
	// store goes through the proxy, and direct past it.
	store, direct *s3.Store
}

func newWorld(t *testing.T, server *s3test.Server) *world {
	w := &world{Server: server, bucket: server.Bucket(t, false), proxy: faultstore.NewProxy(t, server.Endpoint)}
	w.store = w.through(t, func(*s3.Options) {})
	w.direct = open(t, server.Options(w.bucket))
	return w
}

func (w *world) through(t *testing.T, change func(*s3.Options)) *s3.Store {
	o := w.Options(w.bucket)
	o.Endpoint = w.proxy.URL
	change(&o)
	return open(t, o)
}

func content(size int) []byte {
	text := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(text)
	return text
}

// wantObject checks what is really there; nil means nothing at all.
func (w *world) wantObject(t *testing.T, name string, want []byte) {
	t.Helper()
	body, err := w.direct.Open(t.Context(), name, 0, -1)
	if want == nil {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("object %q is there: %v", name, err)
		}
		for object, err := range w.direct.List(t.Context(), "", "") {
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

// wantDiscreet checks that an error shows no keys, signatures and URLs.
func (w *world) wantDiscreet(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, secret := range []string{w.AccessKey, w.SecretKey, "Signature", "Credential", "AWS4", "http://", "https://", "?", "uploadId"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows %q: %v", secret, err)
		}
	}
}

const large = 6 << 20 // two parts of the least size

// TestPutSurvives lets one thing go wrong in a Put, which must work all the same.
func TestPutSurvives(t *testing.T) {
	server := s3test.Start(t)
	echo := fmt.Sprintf(`<Error><Code>InternalError</Code><Message>got %s and Signature=abc</Message></Error>`, server.AccessKey)
	for name, tt := range map[string]struct {
		size  int
		fault faultstore.HTTPFault
	}{
		"busy":                     {10, faultstore.HTTPFault{Match: isPut, Times: 3, Status: 503, Body: slowDown}},
		"error page":               {10, faultstore.HTTPFault{Match: isPut, Status: 502, Body: "<html>bad gateway</html>"}},
		"echo":                     {10, faultstore.HTTPFault{Match: isPut, Status: 500, Body: echo}},
		"answer lost":              {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.LoseAnswer}},
		"answer replaced":          {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.AnswerAfter, Status: 500, Body: internal}},
		"last answer lost":         {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.LoseAnswer, Times: 2}},
		"conflict":                 {10, faultstore.HTTPFault{Match: isPut, Status: 409, Body: conflict}},
		"conflict with itself":     {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.AnswerAfter, Status: 409, Body: conflict}},
		"cut":                      {1 << 20, faultstore.HTTPFault{Match: isPut, Do: faultstore.CutRequest, Bytes: 5000}},
		"damaged":                  {1 << 20, faultstore.HTTPFault{Match: isPut, Do: faultstore.Damage}},
		"look afterwards fails":    {10, faultstore.HTTPFault{Match: isHead, Status: 500}},
		"not seen at once":         {10, faultstore.HTTPFault{Match: isHead, Status: 404, Times: 2}},
		"begin busy":               {large, faultstore.HTTPFault{Match: isBegin, Status: 503, Body: slowDown}},
		"part busy":                {large, faultstore.HTTPFault{Match: isPart, Times: 3, Status: 503, Body: slowDown}},
		"part cut":                 {large, faultstore.HTTPFault{Match: isPart, Do: faultstore.CutRequest, Bytes: 3 << 20}},
		"part damaged":             {large, faultstore.HTTPFault{Match: isPart, Skip: 1, Do: faultstore.Damage}},
		"part's answer lost":       {large, faultstore.HTTPFault{Match: isPart, Do: faultstore.LoseAnswer}},
		"finish busy":              {large, faultstore.HTTPFault{Match: isFinish, Status: 503, Body: slowDown}},
		"finish fails inside 200":  {large, faultstore.HTTPFault{Match: isFinish, Status: 200, Body: internal}},
		"finish empty":             {large, faultstore.HTTPFault{Match: isFinish, Status: 200}},
		"finish's answer lost":     {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.LoseAnswer}},
		"finish's answer cut":      {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.CutAnswer, Bytes: 20}},
		"finish's answer replaced": {large, faultstore.HTTPFault{Match: isFinish, Do: faultstore.AnswerAfter, Status: 200, Body: internal}},
		"finish conflicts":         {large, faultstore.HTTPFault{Match: isFinish, Status: 409, Body: conflict}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server)
			struck := make(chan struct{}, 100)
			tt.fault.Struck = func() { struck <- struct{}{} }
			w.proxy.Add(tt.fault)
			want := content(tt.size)
			object, err := w.store.Put(t.Context(), "a/b", bytes.NewReader(want), store.PutOptions{})
			w.wantDiscreet(t, err)
			if err != nil || object.Name != "a/b" || object.Size != int64(tt.size) {
				t.Errorf("put: %+v, %v", object, err)
			}
			w.wantObject(t, "a/b", want)
			if len(struck) == 0 {
				t.Error("the fault met nothing")
			}
			if n := server.Uploads(t, w.bucket); n != 0 {
				t.Errorf("%d uploads are left behind", n)
			}
		})
	}
}

// TestPutFails lets something go wrong for good: the error tells what, and nothing is left.
func TestPutFails(t *testing.T) {
	server := s3test.Start(t)
	for name, tt := range map[string]struct {
		size    int
		fault   faultstore.HTTPFault
		want    error // if not nil
		visible bool  // the object is there all the same
	}{
		"down":                {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 500, Body: internal}, nil, false},
		"denied":              {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 403}, store.ErrDenied, false},
		"no such thing":       {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 501, Body: `<Error><Code>NotImplemented</Code></Error>`}, store.ErrUnsupported, false},
		"not understood":      {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 400, Body: `<Error><Code>InvalidRequest</Code></Error>`}, store.ErrFinal, false},
		"cut for good":        {1 << 20, faultstore.HTTPFault{Match: isPut, Times: -1, Do: faultstore.CutRequest, Bytes: 100}, nil, false},
		"damaged for good":    {1 << 20, faultstore.HTTPFault{Match: isPut, Times: -1, Do: faultstore.Damage}, nil, false},
		"conflicts":           {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 409, Body: conflict}, store.ErrFinal, false},
		"begin denied":        {large, faultstore.HTTPFault{Match: isBegin, Times: -1, Status: 403}, store.ErrDenied, false},
		"begin cut":           {large, faultstore.HTTPFault{Match: isBegin, Times: -1, Do: faultstore.CutRequest}, nil, false},
		"part down":           {large, faultstore.HTTPFault{Match: isPart, Skip: 1, Times: -1, Status: 503, Body: slowDown}, nil, false},
		"part denied":         {large, faultstore.HTTPFault{Match: isPart, Times: -1, Status: 403}, store.ErrDenied, false},
		"finish down":         {large, faultstore.HTTPFault{Match: isFinish, Times: -1, Status: 500, Body: internal}, nil, false},
		"finish fails in 200": {large, faultstore.HTTPFault{Match: isFinish, Times: -1, Status: 200, Body: internal}, nil, false},
		"wrong size": {10, faultstore.HTTPFault{Match: isHead, Times: -1, Do: faultstore.Change, Change: func(r *http.Response) {
			r.Header.Set("Content-Length", "11")
		}}, store.ErrFinal, true},
		"other object": {10, faultstore.HTTPFault{Match: isHead, Times: -1, Do: faultstore.Change, Change: func(r *http.Response) {
			r.Header.Set("X-Amz-Meta-Holdfast-Put", "other")
		}}, store.ErrFinal, true},
		"never seen": {10, faultstore.HTTPFault{Match: isHead, Times: -1, Status: 404}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server)
			w.proxy.Add(tt.fault)
			_, err := w.store.Put(t.Context(), "a/b", bytes.NewReader(content(tt.size)), store.PutOptions{})
			w.wantDiscreet(t, err)
			switch {
			case err == nil:
				t.Error("put works")
			case tt.want != nil && !errors.Is(err, tt.want), tt.want == nil && errors.Is(err, store.ErrFinal):
				t.Errorf("put: %v, want %v", err, tt.want)
			case !strings.HasPrefix(err.Error(), `put object "a/b": `):
				t.Errorf("put: %v", err)
			}
			if !tt.visible {
				w.wantObject(t, "a/b", nil)
			}
			if n := server.Uploads(t, w.bucket); n != 0 {
				t.Errorf("%d uploads are left behind", n)
			}
		})
	}
}

// TestAnothersObject lets the answer of a Put be lost while somebody else's object is there: it must not be taken for ours.
func TestAnothersObject(t *testing.T) {
	server := s3test.Start(t)
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
			w := newWorld(t, server)
			// The other one comes after we have looked, right before our call.
			first := true
			match := func(r *http.Request) bool {
				if !tt.call(r) {
					return false
				}
				if first {
					first = false
					if _, err := w.direct.Put(t.Context(), "a/b", strings.NewReader("theirs"), store.PutOptions{}); err != nil {
						t.Error(err)
					}
				}
				return true
			}
			w.proxy.Add(faultstore.HTTPFault{Match: match, Do: tt.kind, Status: 500, Body: internal})
			_, err := w.store.Put(t.Context(), "a/b", bytes.NewReader(content(tt.size)), store.PutOptions{})
			w.wantDiscreet(t, err)
			if !errors.Is(err, store.ErrExists) {
				t.Errorf("put: %v", err)
			}
			w.wantObject(t, "a/b", []byte("theirs"))
			if n := server.Uploads(t, w.bucket); n != 0 {
				t.Errorf("%d uploads are left behind", n)
			}
		})
	}
}
