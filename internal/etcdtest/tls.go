package etcdtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLS is a certificate authority with one identity for servers and one for clients. The identities have no common
// name, which etcd would take for a user's.
type TLS struct {
	// CA, Cert and Key are PEM files: what a client needs.
	CA, Cert, Key string
	// Config is the same for a client in this process. Whoever changes it clones it first.
	Config *tls.Config

	serverCert, serverKey string

	authority    *x509.Certificate
	authorityKey crypto.Signer
}

// NewTLS makes an authority that lives as long as the test. Servers are at 127.0.0.1 and localhost, and at the addresses.
func NewTLS(t testing.TB, addresses ...netip.Addr) *TLS {
	t.Helper()
	made, err := MakeTLS(t.TempDir(), addresses...)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// MakeTLS is NewTLS for programs that are no tests. It writes into dir, which must exist.
func MakeTLS(dir string, addresses ...netip.Addr) (*TLS, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	t := &TLS{CA: at("ca.crt"), Cert: at("client.crt"), Key: at("client.key"), serverCert: at("server.crt"), serverKey: at("server.key")}
	ca := certificate("holdfast test authority")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caKey, err := issue(ca, ca, nil, t.CA, at("ca.key"))
	if err != nil {
		return nil, err
	}
	server := certificate("holdfast test server")
	server.IPAddresses, server.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	for _, a := range addresses {
		server.IPAddresses = append(server.IPAddresses, a.AsSlice())
	}
	// A server is a client too: of its peers, and of itself for its HTTP gateway.
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if _, err := issue(server, ca, caKey, t.serverCert, t.serverKey); err != nil {
		return nil, err
	}
	client := certificate("holdfast test client")
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := issue(client, ca, caKey, t.Cert, t.Key); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("load client certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	t.Config = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}
	t.authority, t.authorityKey = ca, caKey
	return t, nil
}

// User gives the config of a client that is an etcd user, by its certificate's common name, where auth is on.
func (t *TLS) User(tb testing.TB, name string) *tls.Config {
	tb.Helper()
	dir := tb.TempDir()
	certPath, keyPath := filepath.Join(dir, "user.crt"), filepath.Join(dir, "user.key")
	user := certificate("holdfast test user")
	user.Subject.CommonName = name
	user.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	_, err := issue(user, t.authority, t.authorityKey, certPath, keyPath)
	if err != nil {
		tb.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		tb.Fatal(err)
	}
	config := t.Config.Clone()
	config.Certificates = []tls.Certificate{pair}
	return config
}

func certificate(organization string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{Organization: []string{organization}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

// issue makes a key, has the parent sign the certificate for it, and writes both. An authority, which has no signer
// yet, signs itself; template is then replaced by what was made of it.
func issue(template, parent *x509.Certificate, signer crypto.Signer, certPath, keyPath string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	self := signer == nil
	if self {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	if self {
		made, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		*template = *made
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	if err := os.WriteFile(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	return key, os.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)
}

// flags are the server's flags for clients and peers: both must show a certificate of this authority.
func (t *TLS) flags() []string {
	return []string{
		"--client-cert-auth", "--trusted-ca-file=" + t.CA, "--cert-file=" + t.serverCert, "--key-file=" + t.serverKey,
		"--peer-client-cert-auth", "--peer-trusted-ca-file=" + t.CA, "--peer-cert-file=" + t.serverCert, "--peer-key-file=" + t.serverKey,
	}
}
