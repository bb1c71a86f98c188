package pki

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRequestIsSigned(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir+"/pki")
	files := Files(filepath.Join(dir, "unit"), "agent")
	want := Request{CommonName: "etcd/0", DNSNames: []string{"node-1"}, IPs: loopback, Role: Agent}
	request, err := NewRequest(files.Key, want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadRequest(request); err != nil || got.CommonName != want.CommonName || got.Role != want.Role ||
		!cmp.Equal(got.DNSNames, want.DNSNames) || len(got.IPs) != 1 || !got.IPs[0].Equal(want.IPs[0]) {
		t.Errorf("request reads as %+v, %v; want %+v", got, err, want)
	}
	bundle, err := s.SignRequest(request, Agent, Reader)
	if err != nil {
		t.Fatal(err)
	}
	if len(bundle.Key) != 0 {
		t.Error("the answer holds a key")
	}
	if got, err := bundle.Write(filepath.Join(dir, "unit"), "agent"); err != nil || got != files {
		t.Fatalf("write: %v, %v", got, err)
	}
	certificate, err := ReadCertificate(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if role, err := RoleOf(certificate); role != Agent || err != nil {
		t.Errorf("role %q, %v; want agent", role, err)
	}

	operator, _ := issue(t, s, AgentAPI, Request{CommonName: "me", Role: Operator})
	config, err := ClientTLS(write(t, operator, dir, "me"))
	if err != nil {
		t.Fatal(err)
	}
	if answer, _, err := call(serve(t, files), config); answer != "operator" || err != nil {
		t.Errorf("call to the enrolled unit: %q, %v", answer, err)
	}
}

func TestAskingAgainKeepsTheKey(t *testing.T) {
	key := filepath.Join(t.TempDir(), "agent.key")
	r := Request{CommonName: "etcd/0", IPs: loopback, Role: Agent}
	if _, err := NewRequest(key, r); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewRequest(key, r); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(key)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key has changed (%v)", err)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v; want mode 600", info, err)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir+"/pki")
	ask := func(name string, role Role) []byte {
		request, err := NewRequest(filepath.Join(dir, name), Request{CommonName: "x", IPs: loopback, Role: role})
		if err != nil {
			t.Fatal(err)
		}
		return request
	}
	if _, err := s.SignRequest(ask("a", Operator), Agent, Reader); err == nil {
		t.Error("a unit made itself an operator")
	}
	good := ask("b", Agent)
	der, err := findBlock(good, requestBlock)
	if err != nil {
		t.Fatal(err)
	}
	// Whoever changes the role on the way does not hold the key to sign again.
	changed := bytes.Replace(der, []byte("role:agent"), []byte("role:admin"), 1)
	if bytes.Equal(changed, der) {
		t.Fatal("the role is not in the request")
	}
	for what, request := range map[string][]byte{
		"changed":     pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: changed}),
		"cut":         pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: der[:len(der)-1]}),
		"no PEM":      []byte("hello"),
		"certificate": s.CA(AgentAPI),
	} {
		if _, err := s.SignRequest(request, Agent); err == nil {
			t.Errorf("%s: was signed", what)
		}
	}
	// An answer that is for another key changes nothing.
	bundle, err := s.SignRequest(good, Agent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "unit.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Write(dir, "unit"); err == nil {
		t.Error("a certificate was put beside another key")
	}
	if _, err := os.Stat(filepath.Join(dir, "unit.crt")); err == nil {
		t.Error("the refused certificate was written")
	}
}
