package etcdproc

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// As "TEST etcd ARGUMENT..." the test binary is the etcd server, as holdfast is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "etcd" {
		Main(os.Args[2:])
	}
	os.Exit(m.Run())
}

// freePorts gives ports that are free now.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// records makes n units with certificates of their own.
func records(t *testing.T, dir string, n int) ([]unit.Record, ClusterSpec) {
	t.Helper()
	store, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(ca pki.Authority, r pki.Request, folder, name string) unit.TLSFiles {
		bundle, err := store.Issue(ca, r)
		if err != nil {
			t.Fatal(err)
		}
		files, err := bundle.Write(folder, name)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	loopback := []net.IP{net.IPv4(127, 0, 0, 1)}
	ports := freePorts(t, 2*n)
	spec := ClusterSpec{InitialCluster: map[string]string{}, State: New, Token: "test"}
	var list []unit.Record
	for i := range n {
		name := fmt.Sprint("etcd-", i)
		folder := filepath.Join(dir, name)
		r := unit.Record{
			Agent:      "127.0.0.1:1",
			ClientURLs: []string{fmt.Sprintf("https://127.0.0.1:%d", ports[2*i])},
			PeerURL:    fmt.Sprintf("https://127.0.0.1:%d", ports[2*i+1]),
			Member:     name, DataDir: filepath.Join(folder, "data"), Root: folder, Service: unit.Service{Kind: unit.Child},
			TLS:       write(pki.EtcdClient, pki.Request{CommonName: "holdfast"}, folder, "client"),
			ServerTLS: write(pki.EtcdClient, pki.Request{CommonName: name, IPs: loopback}, folder, "server"),
			PeerTLS:   write(pki.EtcdPeer, pki.Request{CommonName: name, IPs: loopback}, folder, "peer"),
		}
		if err := r.Validate(); err != nil {
			t.Fatal(err)
		}
		spec.InitialCluster[name] = r.PeerURL
		list = append(list, r)
	}
	return list, spec
}

// startServer starts the embedded server and stops it at the end of the test.
func startServer(t *testing.T, r unit.Record, spec ClusterSpec) *exec.Cmd {
	t.Helper()
	log, err := os.Create(filepath.Join(r.Root, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], append([]string{"etcd"}, ServerArgs(r, spec)...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("log of %s:\n%s", r.Member, text)
		}
	})
	return cmd
}

func connect(t *testing.T, config *tls.Config, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: config, DialTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestEmbeddedClusterOverTLS(t *testing.T) {
	dir := t.TempDir()
	units, spec := records(t, dir, 2)
	for _, r := range units {
		startServer(t, r, spec)
	}
	config, err := pki.ClientTLS(units[0].TLS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	client := connect(t, config, units[0].ClientURLs[0], units[1].ClientURLs[0])
	for { // Until both have met.
		if _, err = client.Put(ctx, "k", "v"); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	response, err := client.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range response.Members {
		i := slices.IndexFunc(units, func(r unit.Record) bool { return r.Member == m.Name })
		if i < 0 || !slices.Equal(m.PeerURLs, []string{units[i].PeerURL}) || !slices.Equal(m.ClientURLs, units[i].ClientURLs) {
			t.Errorf("member is %v, want one of %+v", m, units)
		}
	}
	if len(response.Members) != 2 {
		t.Errorf("%d members, want 2", len(response.Members))
	}
	if s, err := client.Status(ctx, units[0].ClientURLs[0]); err != nil || s.Version != Version() {
		t.Errorf("status is %v, %v; want version %s", s, err, Version())
	}

	// Without a certificate of the right authority nobody gets in, on either listener.
	bare := config.Clone()
	bare.GetClientCertificate = nil
	peerOwn, err := pki.ClientTLS(units[0].PeerTLS)
	if err != nil {
		t.Fatal(err)
	}
	peerAsClient := peerOwn.Clone()
	peerAsClient.RootCAs = config.RootCAs
	clientAsPeer := config.Clone()
	clientAsPeer.RootCAs = peerOwn.RootCAs
	for _, test := range []struct {
		what   string
		url    string
		config *tls.Config
		ok     bool
	}{
		{"client", units[0].ClientURLs[0], config, true},
		{"nobody as client", units[0].ClientURLs[0], bare, false},
		{"peer as client", units[0].ClientURLs[0], peerAsClient, false},
		{"peer", units[0].PeerURL, peerOwn, true},
		{"client as peer", units[0].PeerURL, clientAsPeer, false},
	} {
		if err := knock(ctx, test.url, test.config); (err == nil) != test.ok {
			t.Errorf("%s: %v, want ok %v", test.what, err, test.ok)
		}
	}
	short, cancelShort := context.WithTimeout(ctx, time.Second)
	defer cancelShort()
	if _, err := connect(t, bare, units[0].ClientURLs[0]).Get(short, "k"); err == nil || status.Code(err) == codes.OK {
		t.Errorf("get without a certificate: %v", err)
	}
}

// knock does a TLS handshake and waits for a byte: with TLS 1.3 a refused certificate shows only then.
func knock(ctx context.Context, url string, config *tls.Config) error {
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	_, err = conn.Write([]byte("GET /version HTTP/1.1\r\nHost: etcd\r\n\r\n"))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return errors.Join(err, conn.Close())
}

func TestServerEndsWithSIGTERM(t *testing.T) {
	units, spec := records(t, t.TempDir(), 1)
	cmd := startServer(t, units[0], spec)
	config, err := pki.ClientTLS(units[0].TLS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	client := connect(t, config, units[0].ClientURLs[0])
	for {
		if _, err = client.Put(ctx, "k", "v"); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // It may end by the signal; that it ends is the point.
	log, err := os.ReadFile(filepath.Join(units[0].Root, "log"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(log), "\n")
	if !json.Valid([]byte(first)) || !strings.Contains(string(log), "closed etcd server") {
		t.Errorf("log is not JSON lines up to a proper end:\n%s", log)
	}
	if _, err := os.Stat(filepath.Join(units[0].DataDir, "member", "snap", "db")); err != nil {
		t.Error(err)
	}
}

func TestServerArgs(t *testing.T) {
	files := func(n string) unit.TLSFiles {
		return unit.TLSFiles{CA: "/" + n + "-ca", Cert: "/" + n + "-cert", Key: "/" + n + "-key"}
	}
	r := unit.Record{
		ClientURLs: []string{"https://10.0.0.1:2379", "https://127.0.0.1:2379"}, PeerURL: "https://10.0.0.1:2380",
		Member: "etcd-1", DataDir: "/data", WALDir: "/wal", ServerTLS: files("server"), PeerTLS: files("peer"),
		EtcdArgs: []string{"--enable-v2=true", "--quota-backend-bytes=1"},
	}
	spec := ClusterSpec{
		InitialCluster: map[string]string{"etcd-1": r.PeerURL, "etcd-0": "https://10.0.0.0:2380"}, State: Existing, Token: "t",
	}
	got := strings.Join(ServerArgs(r, spec), "\n")
	want := `--name=etcd-1
--data-dir=/data
--listen-client-urls=https://10.0.0.1:2379,https://127.0.0.1:2379
--advertise-client-urls=https://10.0.0.1:2379,https://127.0.0.1:2379
--listen-peer-urls=https://10.0.0.1:2380
--initial-advertise-peer-urls=https://10.0.0.1:2380
--initial-cluster=etcd-0=https://10.0.0.0:2380,etcd-1=https://10.0.0.1:2380
--initial-cluster-state=existing
--initial-cluster-token=t
--logger=zap
--log-outputs=stderr
--auto-compaction-retention=0
--quota-backend-bytes=8589934592
--wal-dir=/wal
--cert-file=/server-cert
--key-file=/server-key
--trusted-ca-file=/server-ca
--client-cert-auth=true
--peer-cert-file=/peer-cert
--peer-key-file=/peer-key
--peer-trusted-ca-file=/peer-ca
--peer-client-cert-auth=true
--enable-v2=true
--quota-backend-bytes=1`
	if got != want {
		t.Errorf("arguments are\n%s\nwant\n%s", got, want)
	}
	r.WALDir, r.ServerTLS, r.PeerTLS, r.EtcdArgs = "", unit.TLSFiles{}, unit.TLSFiles{}, nil
	for _, arg := range ServerArgs(r, spec) {
		for _, word := range []string{"cert", "key", "wal", "ca-file"} {
			if strings.Contains(arg, word) {
				t.Errorf("argument %s without files for it", arg)
			}
		}
	}
}

// program writes a shell script in the place of an etcd.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBinaryVersion(t *testing.T) {
	t.Setenv("ETCD_VERSION", "true") // An option by environment must not reach the program.
	embedded := program(t, `exec `+os.Args[0]+` etcd "$@"`)
	if got, err := BinaryVersion(t.Context(), embedded); got != Version() || err != nil {
		t.Errorf("embedded: %q, %v; want %s", got, err, Version())
	}
	for _, test := range []struct{ name, script, version, want string }{
		{"Debian's", `printf 'etcd Version: 3.4.23\nGit SHA: Not provided (use ./build instead of go build)\nGo Version: go1.19.8\n'`, "3.4.23", ""},
		{"pre-release", `printf 'etcd Version: 3.8.0-alpha.0\nGo Version: go1.26\n'`, "3.8.0-alpha.0", ""},
		{"variables", `test -z "$ETCD_VERSION" && echo etcd Version: 3.5.35`, "3.5.35", ""},
		{"etcdctl", `echo etcdctl version: 3.5.35`, "", `no etcd server: it says "etcdctl version: 3.5.35"`},
		{"silent", `true`, "", "no etcd server"},
		{"failing", `echo etcd Version: 3.5.35; exit 7`, "", "exit status 7"},
	} {
		path := program(t, test.script)
		got, err := BinaryVersion(t.Context(), path)
		if got != test.version || (test.want == "") != (err == nil) {
			t.Errorf("%s: %q, %v; want %q", test.name, got, err, test.version)
		}
		if err != nil && (!strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: %v; want %q and the path", test.name, err, test.want)
		}
	}
	if _, err := BinaryVersion(t.Context(), "/missing/etcd"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing program: %v", err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("no time left"))
	defer cancel()
	if _, err := BinaryVersion(ctx, program(t, "exec sleep 1000")); err == nil || !strings.Contains(err.Error(), "no time left") {
		t.Errorf("program that hangs: %v, want the cause of the context", err)
	}
}

func TestCheckSupported(t *testing.T) {
	for version, ok := range map[string]bool{
		"3.4.23": true, "3.5.35": true, "3.6.16": true, "3.7.3": true, Version(): true,
		"3.3.27": false, "3.8.0": false, "3.40.0": false, "2.3.8": false, "4.4.0": false, "3": false, "": false,
	} {
		if err := CheckSupported(version); (err == nil) != ok {
			t.Errorf("%q: %v, want ok %v", version, err, ok)
		}
	}
}
