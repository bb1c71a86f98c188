// Package pki makes the certificates that Holdfast's connections are protected by, and the TLS settings that use them.
//
// Three authorities (CAs) sign for three kinds of connection: clients to etcd, etcd member to member, and callers to the
// agents' API. None trusts another. Their keys are on the deploying machine only, in one folder; a unit on another
// machine makes its own key and sends a request (NewRequest, SignRequest), so that no key travels.
//
// A certificate for the agents' API carries the role of its holder. The agent decides by the role what a caller may do;
// this package only says what it is.
//
// A Store does not change after Open and is safe for concurrent use, also by several processes on one folder.
// Not promised: revocation. A leaked key is answered by new authorities.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// Authority is one of the three CAs. Its text is the name of its file.
type Authority string

const (
	// EtcdClient signs for the client listeners of etcd members and for those who connect to them.
	EtcdClient Authority = "etcd-client"
	// EtcdPeer signs for the connections between the members of a cluster.
	EtcdPeer Authority = "etcd-peer"
	// AgentAPI signs for the agents' API and for its callers.
	AgentAPI Authority = "agent-api"
)

const (
	// authorityLifetime is how long a CA lasts; it is longer than one machine usually does.
	authorityLifetime = 10 * 365 * 24 * time.Hour
	// leafLifetime is how long a certificate lasts. Long, because nothing renews certificates by itself yet.
	leafLifetime = 5 * 365 * 24 * time.Hour
	// backdate is how long before its making a certificate is valid, for hosts whose clock is behind: a clock that was
	// set in another time zone is off by up to 14 hours.
	backdate = 24 * time.Hour
)

// Store is the folder with the authorities' keys.
type Store struct {
	authorities map[Authority]authority
}

// authority is one CA, ready to sign.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Open reads the authorities in the folder dir and makes those that are missing. Each is one file, NAME.pem, mode 0600,
// that holds key and certificate, so that there is never a half one.
func Open(dir string) (_ *Store, err error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	release, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	s := &Store{authorities: map[Authority]authority{}}
	for _, name := range []Authority{EtcdClient, EtcdPeer, AgentAPI} {
		path := filepath.Join(dir, string(name)+".pem")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := createAuthority(path, name); err != nil {
				return nil, fmt.Errorf("create the %s authority: %w", name, err)
			}
		}
		a, err := readAuthority(path)
		if err != nil {
			return nil, fmt.Errorf("read the %s authority: %w", name, err)
		}
		s.authorities[name] = a
	}
	return s, nil
}

// CA gives the certificate of an authority as PEM: what those who are to trust it need.
func (s *Store) CA(name Authority) []byte {
	return certificatePEM(s.authorities[name].certificate.Raw)
}

func createAuthority(path string, name Authority) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Holdfast"}, CommonName: "Holdfast " + string(name) + " CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // It signs certificates, not further authorities.
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyText, err := keyPEM(key)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(keyText, certificatePEM(der)...), 0o600)
}

func readAuthority(path string) (authority, error) {
	data, err := readPrivate(path)
	if err != nil {
		return authority{}, err
	}
	key, err := parseKey(data)
	if err != nil {
		return authority{}, fmt.Errorf("%q: %w", path, err)
	}
	certificate, err := parseCertificate(data)
	if err != nil {
		return authority{}, fmt.Errorf("%q: %w", path, err)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return authority{}, fmt.Errorf("%q: the key is not the certificate's", path)
	}
	return authority{certificate: certificate, key: key}, nil
}

// newKey makes a key of the one kind that Holdfast uses: P-256, which every etcd and every client can do.
func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
