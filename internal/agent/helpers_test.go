package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/service"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// The test binary is also the spawn step between an agent and its etcd.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "spawn" {
		fmt.Fprintln(os.Stderr, service.SpawnMain(os.Args[2:], os.Environ()))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// fixture is a unit on this machine with everything but a running agent.
type fixture struct {
	config      config.Agent
	authorities *pki.Store
	dir         string // of pki and callers
	log         *journalOfLog
}

// journalOfLog keeps what the agent logs.
type journalOfLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journalOfLog) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journalOfLog) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{dir: dir, log: &journalOfLog{}}
	var err error
	f.authorities, err = pki.Open(filepath.Join(dir, "pki"))
	must(t, err)
	name := unit.Name{Application: "etcd", Number: 0}
	local := []net.IP{net.IPv4(127, 0, 0, 1)}
	at := func() string { return fmt.Sprintf("127.0.0.1:%d", etcdtest.ReservePort(t)) }
	folder := filepath.Join(dir, "unit")
	f.config = config.Agent{
		Unit: name, StateDir: filepath.Join(folder, "state"),
		TLS: f.issue(t, "agent", pki.AgentAPI, pki.Request{CommonName: "etcd-0", IPs: local, Role: pki.Agent}),
		Record: unit.Record{
			Agent: at(), ClientURLs: []string{"https://" + at()}, PeerURL: "https://" + at(), Member: "etcd-0",
			DataDir: filepath.Join(folder, "root", "var", "lib", "etcd"), Root: filepath.Join(folder, "root"), Service: unit.Service{Kind: unit.Child},
			TLS:        f.issue(t, "etcd-client", pki.EtcdClient, pki.Request{CommonName: "root"}),
			ServerTLS:  f.issue(t, "etcd-server", pki.EtcdClient, pki.Request{CommonName: "etcd-0", IPs: local}),
			PeerTLS:    f.issue(t, "etcd-peer", pki.EtcdPeer, pki.Request{CommonName: "etcd-0", IPs: local}),
			EtcdBinary: etcdtest.Get(t, "3.7").Server,
		},
	}
	f.config.Cluster = config.Cluster{Members: map[string]string{"etcd-0": f.config.Record.PeerURL}, State: config.New, Token: "t"}
	must(t, os.MkdirAll(f.config.Record.DataDir, 0o700))
	must(t, f.config.Validate())
	t.Cleanup(func() {
		if err := f.child(t).Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) issue(t *testing.T, file string, authority pki.Authority, request pki.Request) unit.TLSFiles {
	t.Helper()
	bundle, err := f.authorities.Issue(authority, request)
	must(t, err)
	files, err := bundle.Write(filepath.Join(f.dir, "tls"), file)
	must(t, err)
	return files
}

// child is the unit's etcd, for a look at it from beside the agent.
func (f *fixture) child(t *testing.T) *service.Child {
	t.Helper()
	child, err := service.New(service.Options{Dir: f.config.StateDir, Spawn: []string{program(t), "spawn"}})
	must(t, err)
	return child
}

func program(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	must(t, err)
	return path
}

func (f *fixture) open(t *testing.T) *Agent {
	t.Helper()
	a, err := Open(f.config, Options{Program: program(t), Version: "test", Logger: textLogger(f.log)})
	must(t, err)
	return a
}

func textLogger(j *journalOfLog) *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// run runs an agent, whole, until the returned function is called or the test ends.
func (f *fixture) run(t *testing.T) (stop func()) {
	t.Helper()
	a := f.open(t)
	return f.runIt(t, a, a.Run)
}

// serve runs only the API of an agent, without an etcd and without carrying out tasks.
func (f *fixture) serve(t *testing.T, a *Agent) (stop func()) {
	t.Helper()
	listener, err := a.listen()
	must(t, err)
	return f.runIt(t, a, func(ctx context.Context) error { return a.serve(ctx, listener) })
}

func (f *fixture) runIt(t *testing.T, a *Agent, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, a.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// as gives the TLS settings of a caller.
func (f *fixture) as(t *testing.T, role pki.Role) *tls.Config {
	t.Helper()
	config, err := pki.ClientTLS(f.issue(t, "caller-"+string(role), pki.AgentAPI, pki.Request{CommonName: string(role), Role: role}))
	must(t, err)
	return config
}

// operator gives a client of the agent.
func (f *fixture) operator(t *testing.T) *api.Client {
	t.Helper()
	c := api.NewClient(f.config.Unit, f.config.Record.Agent, f.as(t, pki.Operator))
	t.Cleanup(c.Close)
	return c
}

// http gives a client that does what no client of ours does.
func (f *fixture) http(t *testing.T, config *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (f *fixture) url(path string) string { return "https://" + f.config.Record.Agent + path }

// healthy waits until the unit's etcd serves.
func (f *fixture) healthy(t *testing.T) api.Unit {
	t.Helper()
	var state api.Unit
	client := f.operator(t)
	eventually(t, func() (err error) {
		if state, err = client.Unit(t.Context()); err == nil && (state.Etcd.Error != "" || state.Etcd.Healthy != 1) {
			err = fmt.Errorf("etcd is %+v", state.Etcd)
		}
		return err
	})
	return state
}

// etcd gives a client of the unit's etcd.
func (f *fixture) etcd(t *testing.T) *clientv3.Client {
	t.Helper()
	config, err := pki.ClientTLS(f.config.Record.TLS)
	must(t, err)
	c, err := clientv3.New(clientv3.Config{Endpoints: f.config.Record.ClientURLs, TLS: config, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// inRoot is the path on this machine of a path of the unit.
func (f *fixture) inRoot(path string) string { return filepath.Join(f.config.Record.Root, path) }

// files lists the regular files below a folder of the unit, as paths of the unit.
func (f *fixture) files(t *testing.T, folder string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(folder, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			list = append(list, strings.TrimPrefix(path, f.config.Record.Root))
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return list
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
