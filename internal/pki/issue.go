package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// Request is what a certificate is to say.
type Request struct {
	// CommonName names the holder, 1 to 64 bytes. An etcd with authentication on takes it for the user's name.
	CommonName string
	// DNSNames and IPs are where the holder listens. With any, the certificate is good for a server and for a client
	// (etcd dials itself with its server certificate); with none, for a client only.
	DNSNames []string
	IPs      []net.IP
	// Role is required for AgentAPI and refused for the others.
	Role Role
}

// Bundle is a certificate with what goes with it, PEM each.
type Bundle struct {
	// CA is the authority that signed it, and the one that its holder is to trust.
	CA   []byte
	Cert []byte
	// Key is empty when the certificate answers a request: then the key is where the request was made.
	Key []byte
}

// maxCommonName is the limit of X.520 for a common name, in bytes.
const maxCommonName = 64

// validate names every bad field.
func (r Request) validate(ca Authority) error {
	var errs []error
	if r.CommonName == "" || len(r.CommonName) > maxCommonName {
		errs = append(errs, fmt.Errorf("common name %q: want 1 to %d bytes", r.CommonName, maxCommonName))
	}
	for _, name := range r.DNSNames {
		if name == "" || strings.ContainsAny(name, "*/: ") {
			errs = append(errs, fmt.Errorf("DNS name %q: want a host name without wildcards", name))
		}
	}
	for _, ip := range r.IPs {
		if ip.To16() == nil || ip.IsUnspecified() {
			errs = append(errs, fmt.Errorf("address %q: want the address of a host", ip))
		}
	}
	switch {
	case ca != AgentAPI && r.Role != "":
		errs = append(errs, fmt.Errorf("role %q: the %s authority gives no roles", r.Role, ca))
	case ca == AgentAPI && !r.Role.valid():
		errs = append(errs, fmt.Errorf("role %q: want operator, agent or reader", r.Role))
	}
	return errors.Join(errs...)
}

// Issue makes a key and a certificate for it.
func (s *Store) Issue(ca Authority, r Request) (Bundle, error) {
	key, err := newKey()
	if err != nil {
		return Bundle{}, fmt.Errorf("issue certificate for %q: %w", r.CommonName, err)
	}
	bundle, err := s.sign(ca, r, key.Public())
	if err != nil {
		return Bundle{}, fmt.Errorf("issue certificate for %q: %w", r.CommonName, err)
	}
	if bundle.Key, err = keyPEM(key); err != nil {
		return Bundle{}, fmt.Errorf("issue certificate for %q: %w", r.CommonName, err)
	}
	return bundle, nil
}

// sign makes the certificate for a public key.
func (s *Store) sign(ca Authority, r Request, public crypto.PublicKey) (Bundle, error) {
	a, ok := s.authorities[ca]
	if !ok {
		return Bundle{}, fmt.Errorf("no authority %q", ca)
	}
	if err := r.validate(ca); err != nil {
		return Bundle{}, err
	}
	now := time.Now()
	end := a.certificate.NotAfter
	if !now.Before(end) {
		return Bundle{}, fmt.Errorf("the %s authority ended on %s", ca, end.UTC().Format(time.DateOnly))
	}
	if leafEnd := now.Add(leafLifetime); leafEnd.Before(end) {
		end = leafEnd
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Holdfast"}, CommonName: r.CommonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		DNSNames:              r.DNSNames,
		IPAddresses:           r.IPs,
	}
	if len(r.DNSNames)+len(r.IPs) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Role != "" {
		template.URIs = []*url.URL{r.Role.uri()}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		return Bundle{}, err
	}
	return Bundle{CA: s.CA(ca), Cert: certificatePEM(der)}, nil
}

// Write puts the bundle into the folder dir, which it makes if need be (mode 0700), as NAME-ca.crt, NAME.crt and
// NAME.key (mode 0600), replacing files of these names. A bundle without a key goes to the key that is there already.
//
// Each file is whole at any time, but they change one after the other: a handshake in between can fail, and after a crash
// in between Write is to be called again.
func (b Bundle) Write(dir, name string) (unit.TLSFiles, error) {
	files := Files(dir, name)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return unit.TLSFiles{}, err
	}
	if len(b.Key) > 0 {
		if err := durable.WriteFile(files.Key, b.Key, 0o600); err != nil {
			return unit.TLSFiles{}, err
		}
	} else if err := b.matches(files.Key); err != nil {
		return unit.TLSFiles{}, err
	}
	if err := durable.WriteFile(files.CA, b.CA, 0o644); err != nil {
		return unit.TLSFiles{}, err
	}
	if err := durable.WriteFile(files.Cert, b.Cert, 0o644); err != nil {
		return unit.TLSFiles{}, err
	}
	return files, nil
}

// matches checks that the certificate is for the key in the file, before anything is replaced.
func (b Bundle) matches(keyFile string) error {
	data, err := readPrivate(keyFile)
	if err != nil {
		return err
	}
	key, err := parseKey(data)
	if err != nil {
		return fmt.Errorf("read private key %q: %w", keyFile, err)
	}
	certificate, err := parseCertificate(b.Cert)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return fmt.Errorf("write certificate: it is for another key than %q", keyFile)
	}
	return nil
}

// Files are the paths that Write uses.
func Files(dir, name string) unit.TLSFiles {
	base := filepath.Join(dir, name)
	return unit.TLSFiles{CA: base + "-ca.crt", Cert: base + ".crt", Key: base + ".key"}
}

// ReadCertificate reads a certificate file, for those who want to show who it is for and how long it lasts.
func ReadCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	certificate, err := parseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("read certificate %q: %w", path, err)
	}
	return certificate, nil
}
