package s3_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/networktest"
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
	networktest.World[*s3.Store]
	bucket string
}

func newWorld(t *testing.T, server *s3test.Server) *world {
	w := &world{Server: server, bucket: server.Bucket(t, false)}
	w.Proxy = faultstore.NewProxy(t, server.Endpoint)
	w.Store, w.Direct = w.through(t, func(*s3.Options) {}), open(t, server.Options(w.bucket))
	w.Secrets = []string{server.AccessKey, server.SecretKey, "Signature", "Credential", "AWS4", "uploadId"}
	w.Left = func() int { return server.Uploads(t, w.bucket) }
	return w
}

func (w *world) through(t *testing.T, change func(*s3.Options)) *s3.Store {
	o := w.Options(w.bucket)
	o.Endpoint = w.Proxy.URL
	change(&o)
	return open(t, o)
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
			newWorld(t, server).PutSurvives(t, tt.size, tt.fault)
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
			w.PutFails(t, tt.size, tt.fault, tt.want)
			if !tt.visible {
				w.WantObject(t, "a/b", nil)
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
			newWorld(t, server).AnothersObject(t, tt.size, []byte("theirs"), faultstore.HTTPFault{Match: tt.call, Do: tt.kind, Status: 500, Body: internal})
		})
	}
}
