package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// NewRequest asks for a certificate of the agents' API from the machine that will use it. The key is made in keyFile,
// mode 0600, unless one is there: then that one is used, so that asking again is harmless. The request, as PEM, holds no
// secret.
func NewRequest(keyFile string, r Request) ([]byte, error) {
	if err := r.validate(AgentAPI); err != nil {
		return nil, fmt.Errorf("request certificate for %q: %w", r.CommonName, err)
	}
	key, err := keyIn(keyFile)
	if err != nil {
		return nil, fmt.Errorf("request certificate for %q: %w", r.CommonName, err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: r.CommonName},
		DNSNames:    r.DNSNames,
		IPAddresses: r.IPs,
		URIs:        []*url.URL{r.Role.uri()},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("request certificate for %q: %w", r.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: der}), nil
}

// keyIn gives the key in a file and makes it when the file is missing.
func keyIn(path string) (*ecdsa.PrivateKey, error) {
	data, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = createKey(path); errors.Is(err, fs.ErrExist) {
			data, err = readPrivate(path) // Someone made it just now; there must be one key only.
		}
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("read private key %q: %w", path, err)
	}
	return key, nil
}

func createKey(path string) ([]byte, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	data, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return data, durable.WriteNewFile(path, data, 0o600)
}

// ReadRequest tells what a request asks for, after checking that whoever made it holds the key. What it says about its
// sender is only a claim: a person decides.
func ReadRequest(request []byte) (Request, error) {
	r, _, err := parseRequest(request)
	return r, err
}

// SignRequest answers a request with a certificate of the agents' API, if the role that it asks for is one of roles.
// Nothing but the name, the addresses, the role and the public key is taken over from the request.
func (s *Store) SignRequest(request []byte, roles ...Role) (Bundle, error) {
	r, public, err := parseRequest(request)
	if err != nil {
		return Bundle{}, err
	}
	if !slices.Contains(roles, r.Role) {
		return Bundle{}, fmt.Errorf("sign certificate request of %q: role %q is not one of %q", r.CommonName, r.Role, roles)
	}
	bundle, err := s.sign(AgentAPI, r, public)
	if err != nil {
		return Bundle{}, fmt.Errorf("sign certificate request of %q: %w", r.CommonName, err)
	}
	return bundle, nil
}

func parseRequest(request []byte) (Request, any, error) {
	der, err := findBlock(request, requestBlock)
	if err != nil {
		return Request{}, nil, fmt.Errorf("read certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, nil, fmt.Errorf("read certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, nil, fmt.Errorf("read certificate request: %w", err)
	}
	switch csr.PublicKey.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return Request{}, nil, fmt.Errorf("read certificate request: want an ECDSA or Ed25519 key, got %s", csr.PublicKeyAlgorithm)
	}
	role, err := roleIn(csr.URIs)
	if err != nil {
		return Request{}, nil, fmt.Errorf("read certificate request: %w", err)
	}
	r := Request{CommonName: csr.Subject.CommonName, DNSNames: csr.DNSNames, IPs: csr.IPAddresses, Role: role}
	return r, csr.PublicKey, nil
}
