package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/pki"
)

// TestSlowAndLongHeaders wants both to be cut off, by time and by size.
func TestSlowAndLongHeaders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	a.bounds.header = 300 * time.Millisecond
	f.serve(t, a)
	// No TLS, half of a TLS handshake, and half of the headers.
	for name, begin := range map[string]func() net.Conn{
		"silent": func() net.Conn {
			conn, err := net.Dial("tcp", f.config.Record.Agent)
			must(t, err)
			return conn
		},
		"half a handshake": func() net.Conn {
			conn, err := net.Dial("tcp", f.config.Record.Agent)
			must(t, err)
			_, err = conn.Write([]byte{22, 3, 1, 2, 0})
			must(t, err)
			return conn
		},
		"headers that trickle": func() net.Conn {
			conn, err := tls.Dial("tcp", f.config.Record.Agent, f.plain(t))
			must(t, err)
			_, err = io.WriteString(conn, "GET /v1/unit HTTP/1.1\r\nHost: x\r\n")
			must(t, err)
			go func() {
				for err == nil { // a sign of life does not help
					time.Sleep(20 * time.Millisecond)
					_, err = io.WriteString(conn, "X-Slow: 1\r\n")
				}
			}()
			return conn
		},
	} {
		begun, conn := time.Now(), begin()
		answer, _ := io.ReadAll(conn)
		if took := time.Since(begun); took > 20*time.Second || strings.Contains(string(answer), "200 OK") {
			t.Errorf("%s: after %s: %q", name, took, answer)
		}
		conn.Close()
	}
	for size, want := range map[int]int{10 << 10: http.StatusOK, 1 << 20: http.StatusRequestHeaderFieldsTooLarge} {
		client := f.http(t, f.plain(t))
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url(api.PathUnit), nil)
		must(t, err)
		request.Header.Set("X-Long", strings.Repeat("x", size))
		answer, err := client.Do(request)
		if err != nil && want != http.StatusOK {
			continue // the agent closed before it had read all, which cut its answer off
		}
		must(t, err)
		if answer.Body.Close(); answer.StatusCode != want {
			t.Errorf("headers of %d bytes: %d", size, answer.StatusCode)
		}
	}
	must(t, tlsOnly(f, t))
}

// tlsOnly wants old versions of TLS to be refused.
func tlsOnly(f *fixture, t *testing.T) error {
	config := f.plain(t)
	config.MaxVersion = tls.VersionTLS12
	conn, err := tls.Dial("tcp", f.config.Record.Agent, config)
	if err == nil {
		conn.Close()
		return errors.New("TLS 1.2 is spoken")
	}
	return nil
}

// TestHTTP2 speaks the other version that the listener offers.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.serve(t, f.open(t))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: f.as(t, pki.Operator), ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, f.url("/v1/files?path=f"), strings.NewReader("content"))
	must(t, err)
	answer, err := client.Do(request)
	must(t, err)
	if answer.Body.Close(); answer.ProtoMajor != 2 || answer.StatusCode != http.StatusOK {
		t.Errorf("%s %d", answer.Proto, answer.StatusCode)
	}
	if answer, err = client.Get(f.url("/v1/files?path=f")); err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(answer.Body); err != nil || string(content) != "content" || answer.ProtoMajor != 2 {
		t.Errorf("%s %q: %v", answer.Proto, content, err)
	}
	answer.Body.Close()
}

// TestServeEnds wants serve to return when its listener breaks, and after the transfers when the agent stops, with every
// handler gone.
func TestServeEnds(t *testing.T) {
	f := newFixture(t)
	a := f.open(t)
	defer a.Close()
	listener, err := a.listen()
	must(t, err)
	must(t, listener.Close())
	if err := a.serve(t.Context(), listener); err == nil || !strings.HasPrefix(err.Error(), "serve the agent API: ") {
		t.Errorf("a listener that is closed: %v", err)
	}
	if _, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", f.config.Record.Agent); err != nil {
		t.Errorf("the port is not free: %v", err)
	}

	a.bounds.stop = 300 * time.Millisecond
	if _, err = a.listen(); err == nil {
		t.Fatal("a port that somebody has is listened on")
	}
	f.config.Record.Agent = "127.0.0.1:0"
	a.config.Record.Agent = f.config.Record.Agent
	listener, err = a.listen()
	must(t, err)
	f.config.Record.Agent = listener.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.serve(ctx, listener) }()
	reader, writer := io.Pipe()
	defer writer.Close()
	uploaded := make(chan error, 1)
	go func() { uploaded <- f.operator(t).WriteFile(t.Context(), "f", reader, 100, false) }()
	_, err = writer.Write([]byte("half"))
	must(t, err)
	eventually(t, func() error { return running("agent.(*Agent).putFile") })
	begun := time.Now()
	cancel()
	must(t, <-ended)
	if took := time.Since(begun); took < a.bounds.stop || took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if running("agent.(*Agent).putFile") == nil {
		t.Error("a handler runs after serve has returned")
	}
	writer.CloseWithError(errors.New("enough"))
	if err := <-uploaded; err == nil {
		t.Error("a cut upload has succeeded")
	}
	if got := f.files(t, f.inRoot("/")); len(got) != 0 {
		t.Errorf("files %q", got)
	}
}

// TestSilentCallerDoesNotHoldTheAgent stops an agent while somebody is connected who has asked for half of something.
func TestSilentCallerDoesNotHoldTheAgent(t *testing.T) {
	f := newFixture(t)
	a := f.open(t)
	a.bounds.stop, a.bounds.header = time.Minute, time.Minute
	stop := f.serve(t, a)
	conn, err := tls.Dial("tcp", f.config.Record.Agent, f.plain(t))
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /v1/unit HTTP")
	must(t, err)
	eventually(t, func() error { return running("http.(*conn).readRequest") })
	begun := time.Now()
	stop()
	if took := time.Since(begun); took > 4*time.Second { // net/http itself waits for five
		t.Errorf("it took %s", took)
	}
}

func TestOneAgentForAUnit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	if _, err := Open(f.config, Options{Program: program(t), Logger: a.log}); !errors.Is(err, action.ErrLocked) {
		t.Errorf("a second agent: %v", err)
	}
	must(t, a.Close())
	must(t, f.open(t).Close())
	// One that cannot open leaves nothing held.
	broken := f.config
	broken.Record.TLS.Key = "/none"
	if _, err := Open(broken, Options{Program: program(t), Logger: a.log}); err == nil {
		t.Error("an agent without its key opens")
	}
	must(t, f.open(t).Close())
}
