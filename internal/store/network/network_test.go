package network

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func get(t *testing.T, over http.RoundTripper, url string) (string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := over.RoundTrip(request)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(response.Body)
	return string(text), errors.Join(err, response.Body.Close())
}

func transport(t *testing.T, caFile string, stall time.Duration) *http.Transport {
	t.Helper()
	over, err := NewTransport(caFile, stall)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(over.CloseIdleConnections)
	return over
}

// TestStall gives up a connection on which nothing moves, before an answer and in it; not one that is slow.
func TestStall(t *testing.T) {
	const stall = 200 * time.Millisecond
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			for range 6 { // together much longer than the stall
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(stall / 4):
				case <-ended:
				}
			}
			return
		case "/half":
			w.Header().Set("Content-Length", "2")
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
		}
		<-ended
	}))
	defer server.Close()
	defer close(ended)
	over := transport(t, "", stall)
	for _, path := range []string{"/none", "/half"} {
		_, err := get(t, over, server.URL+path)
		if failure, is := errors.AsType[net.Error](err); !is || !failure.Timeout() {
			t.Errorf("%s: %v", path, err)
		}
	}
	if text, err := get(t, over, server.URL+"/slow"); text != "xxxxxx" || err != nil {
		t.Errorf("slow: %q, %v", text, err)
	}
}

// TestCertificates trusts what a file holds, and tells that another try is no use with what is not trusted.
func TestCertificates(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := get(t, transport(t, file, time.Minute), server.URL); text != "hello" || err != nil {
		t.Errorf("with the certificate: %q, %v", text, err)
	}
	if _, err := get(t, transport(t, "", time.Minute), server.URL); !Hopeless(err) {
		t.Errorf("without: %v", err)
	}
	if err := os.WriteFile(file, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{file: "holds none", file + "x": "no such file"} {
		if _, err := NewTransport(name, time.Minute); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestHopeless(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	_, noTLS := get(t, transport(t, "", time.Minute), strings.Replace(plain.URL, "http:", "https:", 1))
	for err, want := range map[error]bool{
		noTLS:                  true,
		http.ErrSchemeMismatch: true,
		&url.Error{Op: "Get", URL: "x", Err: x509.UnknownAuthorityError{}}:                  true,
		&tls.CertificateVerificationError{}:                                                 true,
		&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}: true,
		&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no answer", IsTemporary: true}}:   false,
		&net.OpError{Op: "dial", Err: errors.New("connection refused")}:                     false,
		io.ErrUnexpectedEOF: false,
		ErrCut:              false,
	} {
		if err == nil || Hopeless(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
}

// TestNameCut lets a server close the connection instead of an answer.
func TestNameCut(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	}))
	defer server.Close()
	if _, err := get(t, NameCut(transport(t, "", time.Minute)), server.URL); err != ErrCut {
		t.Errorf("cut: %v", err)
	}
	server.Close()
	if _, err := get(t, NameCut(transport(t, "", time.Minute)), server.URL); err == nil || err == ErrCut {
		t.Errorf("no server: %v", err)
	}
}

func TestProxy(t *testing.T) {
	// What the environment says is read once in a process, and not by this test: only that these do not ask it.
	for _, address := range []string{"http://169.254.169.254/x", "http://[fe80::1]/x"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if by, err := proxy(request); by != nil || err != nil {
			t.Errorf("%s: by %v, %v", address, by, err)
		}
	}
}

func TestEndpoint(t *testing.T) {
	bare := Endpoint{Example: "https://example:1", Form: "https://HOST:PORT"}
	below := Endpoint{Example: "https://example:1", Form: "https://HOST:PORT/x", Path: func(path string) bool { return path == "/x" }}
	for text, want := range map[string]string{
		"https://h": "h", "https://h:9000/": "h:9000", "http://127.0.0.1:1": "127.0.0.1:1", "http://localhost:1": "localhost:1", "http://[::1]:1": "[::1]:1",
	} {
		if u, err := bare.Parse(text); err != nil || u.Host != want {
			t.Errorf("%q: %v, %v", text, u, err)
		}
	}
	for text, want := range map[string]string{
		"h":                         "an endpoint is https://HOST:PORT, and no more",
		"":                          "and no more",
		"ftp://h":                   "and no more",
		"https://":                  "and no more",
		"https://h/x":               "and no more",
		"https://h?":                "and no more",
		"https://h?key=hunter2":     "and no more",
		"https://h#hunter2":         "and no more",
		"https://key:hunter2@h":     "no URL such as https://example:1",
		"https://h:hunter2":         "no URL",
		"http://192.0.2.1:1":        "endpoint http://192.0.2.1:1: http is for addresses of this machine only",
		"http://localhost.example":  "this machine only",
		"http://127.0.0.1.example/": "this machine only",
	} {
		u, err := bare.Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, %v; want %q", text, u, err, want)
		}
	}
	if u, err := below.Parse("https://h/x"); err != nil || u.Path != "/x" {
		t.Errorf("a path: %v, %v", u, err)
	}
	if u, err := below.Parse("https://h/y"); err == nil {
		t.Errorf("another path: %v", u)
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "",
		" two\r\n\x1b[31mwords\x00 ":    "two [31mwords",
		strings.Repeat("ä", 1000):       strings.Repeat("ä", 150) + "…",
		"a" + strings.Repeat("ä", 1000): "a" + strings.Repeat("ä", 149) + "…",
		"\xff":                          "\ufffd",
	} {
		if got := Printable(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestBare(t *testing.T) {
	inner := errors.New("refused")
	err := fmt.Errorf("a: %w", &url.Error{Op: "Get", URL: "https://h?hunter2", Err: &url.Error{Op: "Get", URL: "https://h?hunter2", Err: inner}})
	if got := Bare(err); got != inner {
		t.Errorf("%v", got)
	}
	if got := Bare(inner); got != inner {
		t.Errorf("%v", got)
	}
}
