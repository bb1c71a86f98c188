package pki

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/unit"
)

func write(t *testing.T, b Bundle, dir, name string) unit.TLSFiles {
	t.Helper()
	files, err := b.Write(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// serve answers each connection with the caller's role and gives the address.
func serve(t *testing.T, files unit.TLSFiles) string {
	t.Helper()
	config, err := ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tc := conn.(*tls.Conn)
			if tc.Handshake() == nil {
				role, _ := RoleOf(tc.ConnectionState().PeerCertificates[0])
				_, _ = io.WriteString(tc, string(role))
			}
			_ = tc.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

// call gives what the server said and its certificate's serial number.
func call(address string, config *tls.Config) (answer, serial string, err error) {
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// With TLS 1.3 a refused client certificate shows at the first read.
	data, err := io.ReadAll(conn)
	return string(data), conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), err
}

func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	s, stranger := openStore(t, dir+"/pki"), openStore(t, dir+"/other")
	server := Request{CommonName: "etcd/0", IPs: loopback, Role: Agent}
	serverBundle, _ := issue(t, s, AgentAPI, server)
	address := serve(t, write(t, serverBundle, dir+"/unit", "agent"))

	operator, _ := issue(t, s, AgentAPI, Request{CommonName: "me", Role: Operator})
	config, err := ClientTLS(write(t, operator, dir+"/client", "operator"))
	if err != nil {
		t.Fatal(err)
	}
	if answer, _, err := call(address, config); answer != "operator" || err != nil {
		t.Errorf("operator: %q, %v", answer, err)
	}

	// Without a certificate, with one of another authority, and with one that was made for etcd: refused.
	bare := config.Clone()
	bare.GetClientCertificate = nil
	foreign, _ := issue(t, stranger, AgentAPI, Request{CommonName: "me", Role: Operator})
	foreign.CA = s.CA(AgentAPI)
	forEtcd, _ := issue(t, s, EtcdClient, Request{CommonName: "me"})
	forEtcd.CA = s.CA(AgentAPI)
	refused := map[string]*tls.Config{"bare": bare}
	for name, b := range map[string]Bundle{"foreign": foreign, "etcd": forEtcd} {
		if refused[name], err = ClientTLS(write(t, b, dir+"/client", name)); err != nil {
			t.Fatal(err)
		}
	}
	old := config.Clone()
	old.MaxVersion = tls.VersionTLS12
	refused["TLS 1.2"] = old
	for name, config := range refused {
		if answer, _, err := call(address, config); err == nil {
			t.Errorf("%s: was answered %q", name, answer)
		}
	}

	// A server of another authority is not believed.
	foreignServer, _ := issue(t, stranger, AgentAPI, server)
	if _, _, err := call(serve(t, write(t, foreignServer, dir+"/unit", "foreign")), config); err == nil {
		t.Error("a server of another authority was believed")
	}
}

func TestNewFilesCountWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir+"/pki")
	request := Request{CommonName: "etcd/0", IPs: loopback, Role: Agent}
	bundle, _ := issue(t, s, AgentAPI, request)
	address := serve(t, write(t, bundle, dir, "agent"))
	caller, _ := issue(t, s, AgentAPI, Request{CommonName: "me", Role: Reader})
	config, err := ClientTLS(write(t, caller, dir, "me"))
	if err != nil {
		t.Fatal(err)
	}
	if answer, _, err := call(address, config); answer != "reader" || err != nil {
		t.Fatalf("before: %q, %v", answer, err)
	}

	renewed, certificate := issue(t, s, AgentAPI, request)
	write(t, renewed, dir, "agent")
	promoted, _ := issue(t, s, AgentAPI, Request{CommonName: "me", Role: Operator})
	write(t, promoted, dir, "me")
	answer, serial, err := call(address, config)
	if err != nil || serial != certificate.SerialNumber.String() {
		t.Errorf("server shows serial %s, %v; want the new one, %s", serial, err, certificate.SerialNumber)
	}
	if answer != "operator" {
		t.Errorf("caller is seen as %q, want operator", answer)
	}
}

func TestKeysThatOthersCanReadAreRefused(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir+"/pki")
	bundle, _ := issue(t, s, AgentAPI, Request{CommonName: "x", IPs: loopback, Role: Agent})
	files := write(t, bundle, dir, "x")
	if info, err := os.Stat(files.Key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v; want mode 600", info, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		if err := os.Chmod(files.Key, mode); err != nil {
			t.Fatal(err)
		}
		_, serverErr := ServerTLS(files)
		_, clientErr := ClientTLS(files)
		for _, err := range []error{serverErr, clientErr} {
			if err == nil || !strings.Contains(err.Error(), `chmod 600 "`+files.Key+`"`) {
				t.Errorf("mode %o: %v; want an error with the command to type", mode, err)
			}
		}
	}
	authority := filepath.Join(dir, "pki", "agent-api.pem")
	if err := os.Chmod(authority, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir + "/pki"); err == nil || !strings.Contains(err.Error(), authority) {
		t.Errorf("authority that others can read: %v; want an error that names it", err)
	}
}

func TestFilesThatDoNotFit(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir+"/pki")
	a, _ := issue(t, s, AgentAPI, Request{CommonName: "a", IPs: []net.IP{net.IPv6loopback}, Role: Agent})
	b, _ := issue(t, s, AgentAPI, Request{CommonName: "b", Role: Agent})
	files, other := write(t, a, dir, "a"), write(t, b, dir, "b")
	for what, bad := range map[string]unit.TLSFiles{
		"another key":   {CA: files.CA, Cert: files.Cert, Key: other.Key},
		"no CA":         {CA: files.Key, Cert: files.Cert, Key: files.Key},
		"missing CA":    {CA: dir + "/missing", Cert: files.Cert, Key: files.Key},
		"missing files": {CA: files.CA, Cert: dir + "/missing", Key: files.Key},
	} {
		if _, err := ServerTLS(bad); err == nil {
			t.Errorf("server with %s: no error", what)
		}
		if _, err := ClientTLS(bad); err == nil {
			t.Errorf("client with %s: no error", what)
		}
	}
}

// TestClientTLSWithoutCertificate: an etcd may ask its clients for none.
func TestClientTLSWithoutCertificate(t *testing.T) {
	store, err := Open(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := store.Issue(EtcdClient, Request{CommonName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := bundle.Write(t.TempDir(), "client")
	if err != nil {
		t.Fatal(err)
	}
	files.Cert, files.Key = "", ""
	config, err := ClientTLS(files)
	if err != nil || config.RootCAs == nil || config.GetClientCertificate != nil {
		t.Errorf("without a certificate: %+v, %v", config, err)
	}
	files.Key = "/nonexistent"
	if _, err := ClientTLS(files); err == nil {
		t.Error("a key without a certificate passes")
	}
}
