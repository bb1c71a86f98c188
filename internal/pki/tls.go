package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// ServerTLS gives the settings of a listener of ours: TLS 1.3, HTTP/2 or 1.1, and only for callers with a certificate of
// the authority in files.CA. The files are read anew for each connection, so that new ones count without a restart; they
// are read once here too, so that a mistake shows at the start.
func ServerTLS(files unit.TLSFiles) (*tls.Config, error) {
	if _, err := serverTLS(files); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		// Asked for each connection; what is returned replaces these settings.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return serverTLS(files) },
	}, nil
}

func serverTLS(files unit.TLSFiles) (*tls.Config, error) {
	pool, err := readPool(files.CA)
	if err != nil {
		return nil, err
	}
	pair, err := readPair(files)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{*pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		// A resumed session would skip the check of the caller's certificate against today's authority.
		SessionTicketsDisabled: true,
	}, nil
}

// ClientTLS gives the settings to call a server whose certificate is of the authority in files.CA, with our own
// certificate, or with none when files name none. Certificate and key are read anew for each connection, the authority once.
// TLS 1.2 is the least, for old etcd servers; our own ask for 1.3.
func ClientTLS(files unit.TLSFiles) (*tls.Config, error) {
	pool, err := readPool(files.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	if files.Cert == "" && files.Key == "" {
		return config, nil
	}
	if _, err := readPair(files); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return readPair(files) }
	return config, nil
}

func readPool(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("read CA certificate %q: no certificate in it", path)
	}
	return pool, nil
}

func readPair(files unit.TLSFiles) (*tls.Certificate, error) {
	key, err := readPrivate(files.Key)
	if err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(files.Cert)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("read certificate %q with key %q: %w", files.Cert, files.Key, err)
	}
	return &pair, nil
}
