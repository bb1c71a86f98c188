package azure

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

// transport makes one request for the client: without following a redirection, and without the URL in its errors, whose
// query may be a SAS token.
type transport struct{ http *http.Transport }

// newTransport makes connections that end when nothing moves on them.
func newTransport(caFile string, stall time.Duration) (transport, error) {
	roots, err := trusted(caFile)
	if err != nil {
		return transport{}, err
	}
	dialer := &net.Dialer{Timeout: min(stall, 30*time.Second)}
	return transport{&http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil && ip.IsLinkLocalUnicast() { // the machine's own identity
				return nil, nil
			}
			return http.ProxyFromEnvironment(r)
		},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &moving{conn, stall}, nil
		},
		MaxIdleConnsPerHost: 16,
		// A connection that is taken up again must not be near the end of its time.
		IdleConnTimeout:     min(stall/2, time.Minute),
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		// An object that looks compressed is given as it is.
		DisableCompression: true,
	}}, nil
}

var errCut = errors.New("the connection was closed before an answer came")

// Do makes the request.
func (t transport) Do(request *http.Request) (*http.Response, error) {
	response, err := t.http.RoundTrip(request)
	if err != nil && strings.Contains(err.Error(), "EOF") {
		err = errCut
	}
	return response, err
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
// that waits meanwhile, as the answer to a large block does.
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
