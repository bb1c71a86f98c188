// Package network is what drivers that speak HTTP share: which servers they talk to, over which connections, how a part of an
// object is asked for and read, what of a listing is given, and what of a server's words is shown.
//
// It is below the drivers of S3, Google Cloud Storage and Azure. Everything in it is safe for concurrent use, but for
// what is read of an object.
//
// Not promised: that errors hold no secrets. Each driver takes out its own before it shows what a server says.
package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// mostDial bounds the making of a connection.
	mostDial = 30 * time.Second
	// mostIdle is how long a connection is kept that nobody uses, at most: it must not be near the end of its time when it is
	// taken up again.
	mostIdle = time.Minute
)

// NewTransport makes connections that end when no byte moves on them for stall. caFile is a PEM file with certificates that
// are trusted beside those of the system; "" is none.
func NewTransport(caFile string, stall time.Duration) (*http.Transport, error) {
	roots, err := trusted(caFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: min(stall, mostDial)}
	return &http.Transport{
		Proxy: proxy,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &moving{conn, stall}, nil
		},
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     min(stall/2, mostIdle),
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		// An object that looks compressed is given as it is.
		DisableCompression: true,
	}, nil
}

// proxy is that of the environment, but for link-local addresses: there is the machine's own service, which tells who it is.
func proxy(r *http.Request) (*url.URL, error) {
	if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil && ip.IsLinkLocalUnicast() {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// trusted gives the certificates of the system and those of the file; nil means those of the system.
func trusted(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read certificates: %q holds none", caFile)
	}
	return pool, nil
}

// moving is a connection whose calls fail when no byte moves for so long. What is written shows that it is alive to a read
// that waits meanwhile, as the answer to a large part does.
type moving struct {
	net.Conn
	stall time.Duration
}

func (m *moving) Read(p []byte) (int, error) {
	if err := m.SetReadDeadline(time.Now().Add(m.stall)); err != nil {
		return 0, err
	}
	return m.Conn.Read(p)
}

func (m *moving) Write(p []byte) (int, error) {
	if err := m.SetDeadline(time.Now().Add(m.stall)); err != nil {
		return 0, err
	}
	return m.Conn.Write(p)
}

// ErrCut is what NameCut gives.
var ErrCut = errors.New("the connection was closed before an answer came")

// NameCut makes requests whose error is ErrCut when the connection ends before an answer: of io.EOF some clients make an error
// that repeats the URL.
func NameCut(over http.RoundTripper) http.RoundTripper { return nameCut{over} }

type nameCut struct{ http.RoundTripper }

func (n nameCut) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := n.RoundTripper.RoundTrip(request)
	if err != nil && strings.Contains(err.Error(), "EOF") {
		err = ErrCut
	}
	return response, err
}
