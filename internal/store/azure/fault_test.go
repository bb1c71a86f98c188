package azure_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/azure"
	"github.com/holdfast-project/holdfast/internal/store/azuretest"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/networktest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// The calls of a Put, as the proxy sees them.
func isPut(r *http.Request) bool    { return r.Method == http.MethodPut && !r.URL.Query().Has("comp") }
func isBlock(r *http.Request) bool  { return isComp(r, "block") }
func isCommit(r *http.Request) bool { return isComp(r, "blocklist") }
func isHead(r *http.Request) bool   { return r.Method == http.MethodHead }
func isGet(r *http.Request) bool    { return r.Method == http.MethodGet }
func isComp(r *http.Request, what string) bool {
	return r.Method == http.MethodPut && r.URL.Query().Get("comp") == what
}

// said is an answer of the service in its own form.
func said(code, message string) string {
	return "\ufeff" + `<?xml version="1.0" encoding="utf-8"?><Error><Code>` + code + `</Code><Message>` + message + "\nRequestId:1f2e\nTime:2026-11-02T00:00:00Z</Message></Error>"
}

var (
	busy     = said("ServerBusy", "The server is busy.")
	internal = said("InternalError", "The server encountered an internal error. Please retry the request.")
)

// world is a container of a real server, with a proxy before it that fails as it is told.
type world struct {
	*azuretest.Server
	networktest.World[*azure.Store]
	name string
}

func newWorld(t *testing.T, server *azuretest.Server) *world {
	w := &world{Server: server, name: server.Container(t)}
	w.Proxy = faultstore.NewProxy(t, server.URL)
	w.Store, w.Direct = w.through(t, func(*azure.Options) {}), open(t, server.Options(w.name))
	w.Secrets = []string{server.Key, "SharedKey", "sig=", "Signature", "comp="}
	return w
}

func (w *world) through(t *testing.T, change func(*azure.Options)) *azure.Store {
	o := w.Options(w.name)
	o.Endpoint = w.Proxy.URL + "/" + w.Account
	change(&o)
	return open(t, o)
}

const large = 9 << 20 // three blocks of the size that the server's options say

// TestPutSurvives lets one thing go wrong in a Put, which must work all the same.
func TestPutSurvives(t *testing.T) {
	server := azuretest.Start(t)
	echo := said("InternalError", fmt.Sprintf("got Authorization: SharedKey %s:%s", server.Account, server.Key))
	for name, tt := range map[string]struct {
		size  int
		fault faultstore.HTTPFault
	}{
		"busy":                     {10, faultstore.HTTPFault{Match: isPut, Times: 3, Status: 503, Body: busy}},
		"too many requests":        {10, faultstore.HTTPFault{Match: isPut, Status: 429}},
		"error page":               {10, faultstore.HTTPFault{Match: isPut, Status: 502, Body: "<html>bad gateway</html>"}},
		"echo":                     {10, faultstore.HTTPFault{Match: isPut, Status: 500, Body: echo}},
		"answer lost":              {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.LoseAnswer}},
		"answer replaced":          {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.AnswerAfter, Status: 500, Body: internal}},
		"last answer lost":         {10, faultstore.HTTPFault{Match: isPut, Do: faultstore.LoseAnswer, Times: 2}},
		"conflict":                 {10, faultstore.HTTPFault{Match: isPut, Status: 409, Body: said("ContainerBeingDeleted", "Try again.")}},
		"cut":                      {1 << 20, faultstore.HTTPFault{Match: isPut, Do: faultstore.CutRequest, Bytes: 5000}},
		"damaged":                  {1 << 20, faultstore.HTTPFault{Match: isPut, Do: faultstore.Damage}},
		"look afterwards fails":    {10, faultstore.HTTPFault{Match: isHead, Status: 500}},
		"not seen at once":         {10, faultstore.HTTPFault{Match: isHead, Status: 404, Times: 2}},
		"first look fails":         {large, faultstore.HTTPFault{Match: isHead, Status: 500}},
		"block busy":               {large, faultstore.HTTPFault{Match: isBlock, Times: 3, Status: 503, Body: busy}},
		"block cut":                {large, faultstore.HTTPFault{Match: isBlock, Do: faultstore.CutRequest, Bytes: 3 << 20}},
		"block damaged":            {large, faultstore.HTTPFault{Match: isBlock, Skip: 1, Do: faultstore.Damage}},
		"block's answer lost":      {large, faultstore.HTTPFault{Match: isBlock, Do: faultstore.LoseAnswer}},
		"commit busy":              {large, faultstore.HTTPFault{Match: isCommit, Status: 503, Body: busy}},
		"commit's answer lost":     {large, faultstore.HTTPFault{Match: isCommit, Do: faultstore.LoseAnswer}},
		"commit's answer replaced": {large, faultstore.HTTPFault{Match: isCommit, Do: faultstore.AnswerAfter, Status: 500, Body: internal}},
		// The first commit has used the blocks up, so that some servers do not find them at the second.
		"commit repeated": {large, faultstore.HTTPFault{Match: isCommit, Do: faultstore.AnswerAfter, Status: 400, Body: said("InvalidBlockList", "The specified block list is invalid.")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newWorld(t, server).PutSurvives(t, tt.size, tt.fault)
		})
	}
}

// TestPutFails lets something go wrong for good: the error tells what, and nothing is left.
func TestPutFails(t *testing.T) {
	server := azuretest.Start(t)
	echo := said("AuthenticationFailed", fmt.Sprintf("not with %s of SharedKey %s:abc=", server.Key, server.Account))
	for name, tt := range map[string]struct {
		size    int
		fault   faultstore.HTTPFault
		want    error // if not nil
		visible bool  // the object is there all the same
	}{
		"down":             {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 500, Body: internal}, nil, false},
		"denied":           {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 403}, store.ErrDenied, false},
		"denied, echo":     {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 403, Body: echo}, store.ErrDenied, false},
		"no such thing":    {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 501}, store.ErrUnsupported, false},
		"not understood":   {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 400, Body: said("InvalidHeaderValue", "no")}, store.ErrFinal, false},
		"redirected":       {10, faultstore.HTTPFault{Match: isPut, Times: -1, Status: 307}, store.ErrFinal, false},
		"exists, they say": {10, faultstore.HTTPFault{Match: func(r *http.Request) bool { return isPut(r) || isCommit(r) }, Times: -1, Status: 412, Body: said("ConditionNotMet", "no")}, store.ErrExists, false},
		"cut for good":     {1 << 20, faultstore.HTTPFault{Match: isPut, Times: -1, Do: faultstore.CutRequest, Bytes: 100}, nil, false},
		"damaged for good": {1 << 20, faultstore.HTTPFault{Match: isPut, Times: -1, Do: faultstore.Damage}, nil, false},
		"block down":       {large, faultstore.HTTPFault{Match: isBlock, Skip: 1, Times: -1, Status: 503, Body: busy}, nil, false},
		"block denied":     {large, faultstore.HTTPFault{Match: isBlock, Times: -1, Status: 403, Body: echo}, store.ErrDenied, false},
		"commit down":      {large, faultstore.HTTPFault{Match: isCommit, Times: -1, Status: 500, Body: internal}, nil, false},
		"commit denied":    {large, faultstore.HTTPFault{Match: isCommit, Times: -1, Status: 403}, store.ErrDenied, false},
		// Somebody else's object came, took our blocks and went again: a new Put may do better.
		"blocks gone": {large, faultstore.HTTPFault{Match: isCommit, Times: -1, Status: 400, Body: said("InvalidBlockList", "no")}, nil, false},
		"wrong size": {10, faultstore.HTTPFault{Match: isHead, Times: -1, Do: faultstore.Change, Change: func(r *http.Response) {
			r.Header.Set("Content-Length", "11")
		}}, store.ErrFinal, true},
		"other object": {10, faultstore.HTTPFault{Match: isHead, Times: -1, Do: faultstore.Change, Change: func(r *http.Response) {
			r.Header.Set("X-Ms-Meta-Holdfast_put", "other")
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
			if name != "down" {
				return
			}
			// The client does not repeat beside us.
			puts := 0
			for _, request := range w.Proxy.Requests() {
				if strings.HasPrefix(request, "PUT") {
					puts++
				}
			}
			if puts != 6 {
				t.Errorf("%d calls, want 6", puts)
			}
		})
	}
}

// TestAnothersObject lets somebody else's object come right before our last call: it must not be taken for ours, whatever
// answer we get.
func TestAnothersObject(t *testing.T) {
	server := azuretest.Start(t)
	for name, tt := range map[string]struct {
		size, theirs int
		call         func(*http.Request) bool
		kind         faultstore.HTTPKind
	}{
		"small, error":            {10, 20, isPut, faultstore.Answer},
		"small, answer lost":      {10, 20, isPut, faultstore.LoseAnswer},
		"large, error":            {large, 20, isCommit, faultstore.Answer},
		"large, answer lost":      {large, 20, isCommit, faultstore.LoseAnswer},
		"both large, error":       {large, large + 1, isCommit, faultstore.Answer},
		"both large, answer lost": {large, large + 1, isCommit, faultstore.LoseAnswer},
		"while blocks are sent":   {large, large + 1, isBlock, faultstore.Answer},
		"locked, small":           {10, 20, isPut, faultstore.Answer},
		"locked, while sent":      {large, 20, isBlock, faultstore.Answer},
		"locked, large":           {large, 20, isCommit, faultstore.Answer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fault := faultstore.HTTPFault{Match: tt.call, Do: tt.kind, Status: 500, Body: internal}
			if strings.HasPrefix(name, "locked") { // the service refuses that before it looks at our condition
				fault.Status, fault.Body, fault.Times = 409, said("BlobImmutableDueToPolicy", "This operation is not permitted as the blob is immutable due to a policy."), -1
			}
			newWorld(t, server).AnothersObject(t, tt.size, storetest.BytesOf(tt.theirs), fault)
		})
	}
}

// TestBlocksOfAnother lets a writer die with blocks that it has not committed: the next one is not in its way, and has none
// of them in its object.
func TestBlocksOfAnother(t *testing.T) {
	w := newWorld(t, azuretest.Start(t))
	w.Proxy.Add(faultstore.HTTPFault{Match: isCommit, Times: 1, Status: 403})
	if _, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(large)), store.PutOptions{}); !errors.Is(err, store.ErrDenied) {
		t.Fatalf("put: %v", err)
	}
	w.WantObject(t, "a/b", nil)
	want := storetest.BytesOf(large + 5)
	if _, err := w.Store.Put(t.Context(), "a/b", bytes.NewReader(want), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	w.WantObject(t, "a/b", want)
	// Nor is it in the way of a small one.
	w.Proxy.Add(faultstore.HTTPFault{Match: isCommit, Times: 1, Status: 403})
	if _, err := w.Store.Put(t.Context(), "c", bytes.NewReader(storetest.BytesOf(large)), store.PutOptions{}); !errors.Is(err, store.ErrDenied) {
		t.Fatalf("put: %v", err)
	}
	if _, err := w.Store.Put(t.Context(), "c", strings.NewReader("small"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	w.WantObject(t, "c", []byte("small"))
}
