package pki

import (
	"bytes"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func issue(t *testing.T, s *Store, ca Authority, r Request) (Bundle, *x509.Certificate) {
	t.Helper()
	b, err := s.Issue(ca, r)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := parseCertificate(b.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return b, certificate
}

var loopback = []net.IP{net.IPv4(127, 0, 0, 1)}

func TestOpenKeepsTheAuthorities(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home", "pki")
	first := openStore(t, dir)
	second := openStore(t, dir)
	seen := map[string]bool{}
	for _, name := range []Authority{EtcdClient, EtcdPeer, AgentAPI} {
		if !bytes.Equal(first.CA(name), second.CA(name)) {
			t.Errorf("%s: opening again made another authority", name)
		}
		seen[string(first.CA(name))] = true
		info, err := os.Stat(filepath.Join(dir, string(name)+".pem"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 600", name, info, err)
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d authorities differ, want 3", len(seen))
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v; want mode 700", info, err)
	}
}

func TestOpenAtOnceMakesOneAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	stores := make([]*Store, 6)
	var group sync.WaitGroup
	for i := range stores {
		group.Go(func() {
			var err error
			if stores[i], err = Open(dir); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, s := range stores[1:] {
		if s == nil || stores[0] == nil || !bytes.Equal(s.CA(AgentAPI), stores[0].CA(AgentAPI)) {
			t.Fatal("two openers got different authorities")
		}
	}
}

func TestOpenAfterACrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	before := openStore(t, dir)
	// The state of a first use that died after one authority, in the middle of writing the next.
	for _, name := range []Authority{EtcdPeer, AgentAPI} {
		if err := os.Remove(filepath.Join(dir, string(name)+".pem")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".etcd-peer.pem.tmp-1"), []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	after := openStore(t, dir)
	if !bytes.Equal(before.CA(EtcdClient), after.CA(EtcdClient)) {
		t.Error("the authority that was whole has been replaced")
	}
	if _, err := after.Issue(EtcdPeer, Request{CommonName: "etcd-0", IPs: loopback}); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesADamagedAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	openStore(t, dir)
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	client, peer := read("etcd-client"), read("etcd-peer")
	half := bytes.Index(client, []byte("-----BEGIN CERT"))
	for what, data := range map[string][]byte{
		"empty":       nil,
		"key only":    client[:half],
		"cert only":   client[half:],
		"another key": append(bytes.Clone(peer[:bytes.Index(peer, []byte("-----BEGIN CERT"))]), client[half:]...),
	} {
		path := filepath.Join(dir, "etcd-client.pem")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want an error that names %s", what, err, path)
		}
		if got := read("etcd-client"); !bytes.Equal(got, data) {
			t.Errorf("%s: the damaged file was changed", what)
		}
	}
}

func TestIssueIsVerifiedByItsAuthorityOnly(t *testing.T) {
	s := openStore(t, t.TempDir()+"/pki")
	_, server := issue(t, s, EtcdClient, Request{CommonName: "etcd-0", DNSNames: []string{"localhost"}, IPs: loopback})
	_, client := issue(t, s, EtcdClient, Request{CommonName: "holdfast"})
	pool := func(ca Authority) *x509.CertPool {
		p := x509.NewCertPool()
		p.AppendCertsFromPEM(s.CA(ca))
		return p
	}
	tests := []struct {
		name  string
		cert  *x509.Certificate
		ca    Authority
		usage x509.ExtKeyUsage
		host  string
		at    time.Duration
		ok    bool
	}{
		{"server by address", server, EtcdClient, x509.ExtKeyUsageServerAuth, "127.0.0.1", 0, true},
		{"server by name", server, EtcdClient, x509.ExtKeyUsageServerAuth, "localhost", 0, true},
		{"server as client, as etcd dials itself", server, EtcdClient, x509.ExtKeyUsageClientAuth, "", 0, true},
		{"server elsewhere", server, EtcdClient, x509.ExtKeyUsageServerAuth, "10.0.0.1", 0, false},
		{"client as client", client, EtcdClient, x509.ExtKeyUsageClientAuth, "", 0, true},
		{"client as server", client, EtcdClient, x509.ExtKeyUsageServerAuth, "", 0, false},
		{"another authority", client, EtcdPeer, x509.ExtKeyUsageClientAuth, "", 0, false},
		{"a clock that is behind", client, EtcdClient, x509.ExtKeyUsageClientAuth, "", -14 * time.Hour, true},
		{"after four years", client, EtcdClient, x509.ExtKeyUsageClientAuth, "", 4 * 365 * 24 * time.Hour, true},
		{"after its end", client, EtcdClient, x509.ExtKeyUsageClientAuth, "", leafLifetime + time.Hour, false},
	}
	for _, test := range tests {
		_, err := test.cert.Verify(x509.VerifyOptions{
			Roots: pool(test.ca), DNSName: test.host, KeyUsages: []x509.ExtKeyUsage{test.usage}, CurrentTime: time.Now().Add(test.at),
		})
		if (err == nil) != test.ok {
			t.Errorf("%s: %v, want ok %v", test.name, err, test.ok)
		}
	}
}

func TestIssueNamesEveryBadField(t *testing.T) {
	s := openStore(t, t.TempDir()+"/pki")
	_, err := s.Issue(EtcdClient, Request{
		CommonName: strings.Repeat("x", 65), DNSNames: []string{"*.example"}, IPs: []net.IP{net.IPv4zero}, Role: Operator,
	})
	for _, want := range []string{"common name", "*.example", "0.0.0.0", `role "operator"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %q", err, want)
		}
	}
	for _, role := range []Role{"", "root"} {
		if _, err := s.Issue(AgentAPI, Request{CommonName: "x", Role: role}); err == nil {
			t.Errorf("role %q was issued", role)
		}
	}
	if _, err := s.Issue("other", Request{CommonName: "x"}); err == nil {
		t.Error("an authority that is none signed")
	}
}

func TestRoles(t *testing.T) {
	s := openStore(t, t.TempDir()+"/pki")
	for _, role := range []Role{Operator, Agent, Reader} {
		_, certificate := issue(t, s, AgentAPI, Request{CommonName: "someone", Role: role})
		if got, err := RoleOf(certificate); got != role || err != nil {
			t.Errorf("role is %q, %v; want %q", got, err, role)
		}
		if got, want := certificate.URIs[0].String(), "holdfast:role:"+string(role); got != want {
			t.Errorf("role is written as %q, want %q", got, want)
		}
	}
	_, none := issue(t, s, EtcdClient, Request{CommonName: "someone"})
	if _, err := RoleOf(none); err != ErrNoRole {
		t.Errorf("certificate without a role: %v, want ErrNoRole", err)
	}
	for _, bad := range []*x509.Certificate{
		{URIs: append(none.URIs, Operator.uri(), Reader.uri())},
		{URIs: append(none.URIs, Role("god").uri())},
	} {
		if role, err := RoleOf(bad); err == nil {
			t.Errorf("%v was read as role %q", bad.URIs, role)
		}
	}
}
