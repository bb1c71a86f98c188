package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
)

// TestFaultsAreToldInTime lets every call meet every way in which an agent can fail to answer. Each must end in bounded
// time with an error that names the unit.
func TestFaultsAreToldInTime(t *testing.T) {
	own := newIdentity(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, closed.Close())
	// answered lets the TLS of an agent through and then says what an agent's answer begins with.
	answered := func(begin string, after func(net.Conn)) string {
		return raw(t, func(conn net.Conn) {
			secure := tls.Server(conn, own.agent)
			if secure.Handshake() != nil {
				return
			}
			if _, err := secure.Read(make([]byte, 1)); err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, secure) }()
			if _, err := io.WriteString(secure, begin); err == nil {
				after(secure)
			}
		})
	}
	hang := func(net.Conn) {}
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
	faults := map[string]struct {
		address string
		want    string // "" means that it is not certain which part fails first
		class   bool   // it is an agent that does not answer
	}{
		"down":             {closed.Addr().String(), "connection refused", true},
		"hung at TCP":      {raw(t, hang), "TLS handshake timeout", true},
		"no TLS":           {raw(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n") }), "", true},
		"closes at once":   {raw(t, func(c net.Conn) { c.Close() }), "", true},
		"hung after TLS":   {answered("", hang), "", true},
		"hung in headers":  {answered("HTTP/1.1 200 OK\r\nContent-", hang), "", true},
		"gone in headers":  {answered("HTTP/1.1 200 OK\r\nContent-", func(c net.Conn) { c.Close() }), "", true},
		"hung in body":     {answered(head+`{"unit"`, hang), "", true},
		"gone in body":     {answered(head+`{"unit"`, func(c net.Conn) { c.Close() }), "", true},
		"refusal hangs":    {answered(strings.Replace(head, "200 OK", "500 Oh", 1)+`{"err`, hang), "", true},
		"not JSON":         {answered(strings.Replace(head, "100", "13", 1)+"<html></html>", hang), "", false},
		"two values":       {answered(strings.Replace(head, "100", "4", 1)+"{}{}", hang), "", false},
		"refusal not ours": {answered("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", hang), "502 Bad Gateway", false},
		"redirect":         {answered("HTTP/1.1 307 Temporary Redirect\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", hang), "307 Temporary Redirect", false},
	}
	for fault, tt := range faults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			var group sync.WaitGroup
			for name, call := range calls() {
				if (fault == "not JSON" || fault == "two values") && (name == "ReadFile" || name == "WriteFile") {
					continue // these do not read the answer as JSON
				}
				group.Go(func() {
					begun := time.Now()
					err := call(t.Context(), own.client(t, tt.address))
					if took := time.Since(begun); took > patience {
						t.Errorf("%s took %s", name, took)
					}
					if err == nil || !strings.Contains(err.Error(), `unit "etcd/0"`) || strings.Contains(err.Error(), "\n") {
						t.Errorf("%s: want one line that names the unit, got %v", name, err)
					}
					if errors.Is(err, ErrUnreachable) != tt.class || !strings.Contains(fmt.Sprint(err), tt.want) {
						t.Errorf("%s: want %q, unreachable %v, got %v", name, tt.want, tt.class, err)
					}
				})
			}
			group.Wait()
		})
	}
}

func TestTrickleIsCutOff(t *testing.T) {
	c := newIdentity(t).serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, " "); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	})
	begun := time.Now()
	_, err := c.Unit(t.Context())
	if took := time.Since(begun); took > patience || !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "no answer within 1s") {
		t.Errorf("after %s: %v", took, err)
	}
}

func TestHugeAnswerIsRefused(t *testing.T) {
	limit := int(shortLimits().answer)
	size := 0
	c := newIdentity(t).serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"unit":"etcd/0","holdfast":"%s"}`, strings.Repeat("x", size-len(`{"unit":"etcd/0","holdfast":""}`)))
	})
	size = limit
	if _, err := c.Unit(t.Context()); err != nil {
		t.Errorf("an answer of the limit: %v", err)
	}
	size = limit + 1
	_, err := c.Unit(t.Context())
	if err == nil || !strings.Contains(err.Error(), "longer than 65536 bytes") || !strings.Contains(err.Error(), `unit "etcd/0"`) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	own, other := newIdentity(t), newIdentity(t)
	served := own.serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"unit":"etcd/0"}`) })
	if _, err := served.Unit(t.Context()); err != nil {
		t.Errorf("our own: %v", err)
	}
	stranger := other.client(t, served.address)
	_, err := stranger.Unit(t.Context())
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("a server of another authority: %v", err)
	}
	mixed := newClient(testUnit, served.address, &tls.Config{RootCAs: own.operator.RootCAs, GetClientCertificate: other.operator.GetClientCertificate}, shortLimits())
	defer mixed.Close()
	if _, err := mixed.Unit(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "tls: ") {
		t.Errorf("a caller of another authority: %v", err)
	}
	if _, err := newClient(testUnit, served.address, &tls.Config{RootCAs: own.operator.RootCAs}, shortLimits()).Unit(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("a caller without certificate: %v", err)
	}
}

func TestRefusalIsTheAgentsOwnWords(t *testing.T) {
	c := newIdentity(t).serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"error":"too many pending tasks: 1000"}`)
	})
	for name, call := range calls() {
		err := call(t.Context(), c)
		status, is := errors.AsType[*StatusError](err)
		if !is || status.Code != http.StatusTooManyRequests || err.Error() != "too many pending tasks: 1000" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCallerGivesUp(t *testing.T) {
	arrived := make(chan struct{}, 16)
	c := newIdentity(t).serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a server sees only then that the caller is gone
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	c = NewClient(testUnit, c.address, c.http.Transport.(*http.Transport).TLSClientConfig)
	t.Cleanup(c.Close)
	for name, call := range calls() {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			select {
			case <-arrived:
				cancel()
			case <-ctx.Done():
			}
		}()
		begun := time.Now()
		err := call(ctx, c)
		if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnreachable) || time.Since(begun) > patience {
			t.Errorf("%s: %v after %s", name, err, time.Since(begun))
		}
		cancel()
	}
}

// TestRequestsOnTheWire holds what a server of another make would have to understand.
func TestRequestsOnTheWire(t *testing.T) {
	var got string
	c := newIdentity(t).serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), body)
		_, _ = io.WriteString(w, `{"id":"42","unit":"etcd/0","action":"compact","status":"pending","enqueued":"2018-09-26T18:04:03Z",`+
			`"params":{"revision":9223372036854775807},"actions":[{"Name":"snapshot"}],"tasks":[{"id":"7","unit":"etcd/0","status":"failed"}]}`)
	})
	task, err := c.Enqueue(t.Context(), TaskRequest{
		Key: "k", Action: "compact", Params: action.Params{"revision": int64(math.MaxInt64), "physical": true}, Program: "juju", Number: 3, Operation: 2,
	})
	must(t, err)
	const want = `POST /v1/tasks {"key":"k","action":"compact","params":{"physical":true,"revision":9223372036854775807},"program":"juju","number":3,"operation":2}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if task.ID != "42" || task.Params.Int("revision") != math.MaxInt64 || task.Status != action.Pending || task.Enqueued.Unix() != 1537985043 {
		t.Errorf("task %+v", task)
	}
	var request TaskRequest
	must(t, json.Unmarshal([]byte(strings.TrimPrefix(got, "POST /v1/tasks ")), &request))
	if request.Params["revision"] != int64(math.MaxInt64) {
		t.Errorf("the largest revision arrives as %T %v", request.Params["revision"], request.Params["revision"])
	}
	for want, call := range map[string]func() error{
		"GET /v1/unit ":                        func() error { _, err := c.Unit(t.Context()); return err },
		"GET /v1/actions ":                     func() error { _, err := c.Actions(t.Context()); return err },
		"GET /v1/tasks ":                       func() error { _, err := c.Tasks(t.Context()); return err },
		"GET /v1/tasks/a%2Fb%3F?wait=1s ":      func() error { _, err := c.Task(t.Context(), "a/b?", time.Second); return err },
		"GET /v1/tasks/x?wait=20s ":            func() error { _, err := c.Task(t.Context(), "x", time.Hour); return err },
		"POST /v1/tasks/..%2F..%2Fx/cancel {}": func() error { _, err := c.Cancel(t.Context(), "../../x"); return err },
		"PUT /v1/resources/snap%20shot abc": func() error {
			_, err := c.PutResource(t.Context(), "snap shot", strings.NewReader("abc"), 3)
			return err
		},
		"PUT /v1/files?path=%2Fa+b ":            func() error { return c.WriteFile(t.Context(), "/a b", strings.NewReader(""), 0, false) },
		"PUT /v1/files?overwrite=true&path=f x": func() error { return c.WriteFile(t.Context(), "f", strings.NewReader("x"), 1, true) },
	} {
		if must(t, call()); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
