package faultstore

import (
	"bytes"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// HTTPKind is how a request fails.
type HTTPKind int

// The kinds of faults of a Proxy.
const (
	// Answer answers with Status and Body; the server sees nothing of the request.
	Answer HTTPKind = iota
	// AnswerAfter lets the server do its work, and then answers with Status and Body instead.
	AnswerAfter
	// CutRequest closes the connection after Bytes of the request's body; the server sees nothing of it.
	CutRequest
	// LoseAnswer lets the server do its work and closes the connection without an answer.
	LoseAnswer
	// CutAnswer closes the connection after Bytes of the answer's body.
	CutAnswer
	// Damage changes a byte of the request's body on its way.
	Damage
	// Hang does nothing with the request, until the client goes away.
	Hang
	// Change lets the function Change alter the server's answer.
	Change
)

// HTTPFault is one thing that goes wrong.
type HTTPFault struct {
	// Match tells whether it is about a request; nil is about all.
	Match func(*http.Request) bool
	// Skip is how many requests pass before, and Times how many fail then: 0 means one, -1 all.
	Skip, Times int
	Do          HTTPKind
	Status      int
	Body        string
	Bytes       int64
	Change      func(*http.Response)
	// Struck is called, if set, when the request has met its fault and what the server had to do is done.
	Struck func()
}

// Proxy stands before a server of HTTP and fails as it is told. It is safe for concurrent use.
type Proxy struct {
	URL string
	// CA is its certificate as PEM, when it speaks TLS.
	CA []byte

	target    string
	transport *http.Transport
	done      chan struct{}

	mu       sync.Mutex
	faults   []*HTTPFault
	requests []string
}

// NewProxy starts a proxy before the server at the URL target, which ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	return start(t, target, (*httptest.Server).Start)
}

// NewTLSProxy is NewProxy that speaks TLS to its clients.
func NewTLSProxy(t testing.TB, target string) *Proxy {
	return start(t, target, (*httptest.Server).StartTLS)
}

func start(t testing.TB, target string, begin func(*httptest.Server)) *Proxy {
	p := &Proxy{target: strings.TrimPrefix(target, "http://"), transport: &http.Transport{DisableCompression: true}, done: make(chan struct{})}
	server := httptest.NewUnstartedServer(p)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	begin(server)
	p.URL = server.URL
	if certificate := server.Certificate(); certificate != nil {
		p.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	}
	t.Cleanup(func() {
		close(p.done)
		server.Close()
		p.transport.CloseIdleConnections()
	})
	return p
}

// Add adds faults. Of several that fit a request, the first strikes.
func (p *Proxy) Add(faults ...HTTPFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range faults {
		p.faults = append(p.faults, &f)
	}
}

// Requests gives the requests so far, each as "METHOD /path?query".
func (p *Proxy) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.requests...)
}

func (p *Proxy) strike(r *http.Request) *HTTPFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, r.Method+" "+r.URL.RequestURI())
	for _, f := range p.faults {
		if f.Match != nil && !f.Match(r) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times == spent {
			continue
		}
		met := *f
		if f.Times >= 0 {
			if f.Times--; f.Times <= 0 {
				f.Times = spent
			}
		}
		return &met
	}
	return nil
}

// ServeHTTP passes a request on, or makes it fail.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := p.strike(r)
	if f == nil {
		p.pass(w, r, func(response *http.Response) (int64, bool) { return -1, true })
		return
	}
	struck := func() {
		if f.Struck != nil {
			f.Struck()
		}
	}
	switch f.Do {
	case Answer:
		_, _ = io.Copy(io.Discard, r.Body) // a client that goes away is none of our business
		struck()
		f.answer(w)
	case CutRequest:
		_, _ = io.CopyN(io.Discard, r.Body, f.Bytes)
		struck()
		panic(http.ErrAbortHandler)
	case Hang:
		_, _ = io.Copy(io.Discard, r.Body)
		struck()
		select {
		case <-r.Context().Done():
		case <-p.done:
		}
		panic(http.ErrAbortHandler)
	case Damage:
		body, err := io.ReadAll(r.Body)
		if err == nil && len(body) > 0 {
			body[len(body)/2] ^= 1
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.pass(w, r, func(*http.Response) (int64, bool) { struck(); return -1, true })
	case AnswerAfter:
		p.pass(w, r, func(*http.Response) (int64, bool) { struck(); f.answer(w); return 0, false })
	case LoseAnswer:
		p.pass(w, r, func(*http.Response) (int64, bool) { struck(); panic(http.ErrAbortHandler) })
	case CutAnswer:
		p.pass(w, r, func(*http.Response) (int64, bool) { struck(); return f.Bytes, true })
	case Change:
		p.pass(w, r, func(response *http.Response) (int64, bool) { f.Change(response); struck(); return -1, true })
	}
}

func (f *HTTPFault) answer(w http.ResponseWriter) {
	w.WriteHeader(f.Status)
	_, _ = io.WriteString(w, f.Body)
}

// pass hands a request to the server. When its answer begins, then says how much of the body to give, -1 for all, and
// whether to answer at all.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, then func(*http.Response) (int64, bool)) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", p.target, ""
	out.Host = r.Host // it is signed
	response, err := p.transport.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer response.Body.Close()
	most, answers := then(response)
	if !answers {
		return
	}
	maps.Copy(w.Header(), response.Header)
	w.WriteHeader(response.StatusCode)
	if most < 0 {
		_, _ = io.Copy(w, response.Body)
		return
	}
	_, _ = io.CopyN(w, response.Body, most)
	if flusher, can := w.(http.Flusher); can {
		flusher.Flush()
	}
	panic(http.ErrAbortHandler)
}
