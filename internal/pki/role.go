package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Role is what the holder of a certificate may do at the agents' API. In the certificate it is a URI among the subject's
// alternative names: holdfast:role:ROLE.
type Role string

const (
	// Operator may do everything.
	Operator Role = "operator"
	// Agent is another unit's agent.
	Agent Role = "agent"
	// Reader may look but change nothing.
	Reader Role = "reader"
)

// ErrNoRole means that a certificate carries no role: it was not made for the agents' API.
var ErrNoRole = errors.New("the certificate carries no role")

const (
	roleScheme = "holdfast"
	rolePrefix = "role:"
)

func (r Role) valid() bool { return r == Operator || r == Agent || r == Reader }

func (r Role) uri() *url.URL { return &url.URL{Scheme: roleScheme, Opaque: rolePrefix + string(r)} }

// RoleOf reads the role out of a certificate, which the caller has verified. A certificate with several roles or one that
// is not known is refused: what it means is not ours to guess.
func RoleOf(certificate *x509.Certificate) (Role, error) { return roleIn(certificate.URIs) }

func roleIn(uris []*url.URL) (Role, error) {
	var found []Role
	for _, u := range uris {
		if u.Scheme == roleScheme {
			found = append(found, Role(strings.TrimPrefix(u.Opaque, rolePrefix)))
		}
	}
	switch {
	case len(found) == 0:
		return "", ErrNoRole
	case len(found) > 1 || !found[0].valid():
		return "", fmt.Errorf("read role from certificate: want one of operator, agent, reader, got %q", found)
	}
	return found[0], nil
}
