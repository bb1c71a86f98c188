package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// healthTime is how long a server may take to answer a linearizable read: seconds, on a loaded machine many.
const healthTime = 90 * time.Second

// Options say how a server runs. The zero value is a new one-member cluster without TLS.
type Options struct {
	// Name is the member's name; empty means "m1".
	Name string
	// DataDir is served again when it exists; empty means a new one.
	DataDir string
	// ClientURL and PeerURL are what the server listens on and advertises; empty means reserved ports of 127.0.0.1. A
	// ClientURL can be a Unix socket, from etcd 3.6 on; with TLS it is "unixs:///folder/localhost", as the name of the file is
	// that of the server. A socket cannot be advertised: Args tell what is.
	ClientURL, PeerURL string
	// InitialCluster is "NAME=URL,..." for a new data dir; empty means this member alone.
	InitialCluster string
	// Join says that InitialCluster is up already and has been told of this member.
	Join bool
	// TLS, when set, secures clients and peers; URLs that are made up are https then.
	TLS *TLS
	// Args are added to the server's arguments; of one given twice, the later counts.
	Args []string
	// Command changes the command of the server before each start; the process that it starts must become the server by exec.
	// netns.Host.Place is one, with TLS that has the host's address, and a ClientURL that reaches out of there.
	Command func(*exec.Cmd)
	// NoWait returns as soon as the process runs, for servers that cannot get healthy by themselves.
	NoWait bool
}

// Server is one etcd server process.
type Server struct {
	Version Version
	Name    string
	DataDir string
	// Endpoint is the client URL.
	Endpoint string
	PeerURL  string
	// TLS is what its clients use; nil without TLS.
	TLS *TLS
	// Client is a client of this server alone. It reconnects by itself when the server restarts.
	Client *clientv3.Client

	args     []string
	command  func(*exec.Cmd)
	logPath  string
	process  *process
	releases []func()
}

// Start runs a server until the test ends and waits until it is healthy. When the test fails, the end of the
// server's log is part of its output.
func Start(t testing.TB, v Version, o Options) *Server {
	t.Helper()
	s, err := Launch(t.Context(), v, t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	s.endWith(t)
	return s
}

func (s *Server) endWith(t testing.TB) {
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of etcd %s %s ends with:\n%s", s.Version.Full, s.Name, s.LogTail())
		}
	})
}

// Launch is Start for programs that are no tests: the caller closes the server. dir, which must exist, gets its log
// and, unless Options name another, its data dir.
func Launch(ctx context.Context, v Version, dir string, o Options) (_ *Server, err error) {
	s := &Server{Version: v, Name: o.Name, DataDir: o.DataDir, Endpoint: o.ClientURL, PeerURL: o.PeerURL, TLS: o.TLS, command: o.Command}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start etcd %s: %w", v.Full, err), s.Close())
		}
	}()
	if s.Name == "" {
		s.Name = "m1"
	}
	if s.DataDir == "" {
		s.DataDir = filepath.Join(dir, s.Name+".etcd")
	}
	s.logPath = filepath.Join(dir, s.Name+".log")
	for _, url := range []*string{&s.Endpoint, &s.PeerURL} {
		if *url == "" {
			if *url, err = s.reserveURL(); err != nil {
				return nil, err
			}
		}
	}
	s.args = s.flags(o)
	config := clientv3.Config{Endpoints: []string{s.Endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()}
	if s.TLS != nil {
		config.TLS = s.TLS.Config
	}
	if s.Client, err = clientv3.New(config); err != nil {
		return nil, err
	}
	if err := s.run(); err != nil {
		return nil, err
	}
	if o.NoWait {
		return s, nil
	}
	return s, s.WaitHealthy(ctx)
}

func (s *Server) reserveURL() (string, error) {
	port, release, err := reservePort()
	if err != nil {
		return "", err
	}
	s.releases = append(s.releases, release)
	scheme := "http"
	if s.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port), nil
}

func (s *Server) flags(o Options) []string {
	cluster, state := o.InitialCluster, "new"
	if cluster == "" {
		cluster = s.Name + "=" + s.PeerURL
	}
	if o.Join {
		state = "existing"
	}
	flags := []string{
		"--name=" + s.Name, "--data-dir=" + s.DataDir, "--logger=zap",
		"--listen-client-urls=" + s.Endpoint, "--advertise-client-urls=" + s.Endpoint,
		"--listen-peer-urls=" + s.PeerURL, "--initial-advertise-peer-urls=" + s.PeerURL,
		"--initial-cluster=" + cluster, "--initial-cluster-state=" + state,
	}
	if s.TLS != nil {
		flags = append(flags, s.TLS.flags()...)
	}
	return append(flags, o.Args...)
}

func (s *Server) run() (err error) {
	s.process, err = startProcess(s.Version.Server, s.args, cleanEnv(), s.logPath, s.command)
	return err
}

// PID is the process id of the latest run.
func (s *Server) PID() int { return s.process.pid }

// Running tells whether the process is there.
func (s *Server) Running() bool { return s.process.running() }

// Stop asks the server to end, waits until it is gone and leaves its data. Stopping a stopped one does nothing.
func (s *Server) Stop() error { return s.process.stop() }

// Kill ends the server as a crash does, waits until it is gone and leaves its data.
func (s *Server) Kill() error { return s.process.kill() }

// Restart ends the server if it runs, starts it again on the same data and URLs, and waits until it is healthy.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	if err := s.run(); err != nil {
		return err
	}
	return s.WaitHealthy(ctx)
}

// Close ends the server and gives back what it held; its files stay. Nothing else may be called after it.
func (s *Server) Close() error {
	var errs []error
	if s.process != nil {
		errs = append(errs, s.process.kill())
	}
	if s.Client != nil {
		errs = append(errs, s.Client.Close())
	}
	for _, release := range s.releases {
		release()
	}
	return errors.Join(errs...)
}

// WaitHealthy returns when the server answers a read that a quorum of its cluster has agreed to, and fails when it
// has ended or has not answered after 90 seconds.
func (s *Server) WaitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healthTime, fmt.Errorf("not healthy after %s", healthTime))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.healthy(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.process.done:
			return fmt.Errorf("etcd %s ended: %v; its log:\n%s", s.Name, s.process.err, s.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("wait for etcd %s: %w: %v; its log:\n%s", s.Name, context.Cause(ctx), err, s.LogTail())
		case <-tick.C:
		}
	}
}

// healthy asks once. A cluster that answers "who are you?" is healthy too.
func (s *Server) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	// The client waits a second and more after a try that failed: so it tries only when somebody listens.
	scheme, address, _ := strings.Cut(s.Endpoint, "://")
	network := "tcp"
	if strings.HasPrefix(scheme, "unix") {
		network = "unix"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	s.Client.ActiveConnection().ResetConnectBackoff()
	_, err = s.Client.Get(ctx, "health")
	if errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil
	}
	return err
}

// LogTail gives the last 4 kB of the server's log.
func (s *Server) LogTail() string {
	const most = 4096
	log, err := os.ReadFile(s.logPath)
	if err != nil {
		return err.Error()
	}
	if len(log) > most {
		log = log[len(log)-most:]
	}
	return string(log)
}

// CtlEnv gives the variables by which etcdctl finds this server and may talk to it.
func (s *Server) CtlEnv() []string {
	env := []string{"ETCDCTL_ENDPOINTS=" + s.Endpoint}
	if s.TLS != nil {
		env = append(env, "ETCDCTL_CACERT="+s.TLS.CA, "ETCDCTL_CERT="+s.TLS.Cert, "ETCDCTL_KEY="+s.TLS.Key)
	}
	return env
}

// Etcdctl runs the server's own etcdctl on it, fails the test when it fails, and gives what it printed.
func (s *Server) Etcdctl(t testing.TB, args ...string) string {
	t.Helper()
	var problems strings.Builder
	cmd := s.Version.CtlCommand(t.Context(), s.CtlEnv(), args...)
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("etcdctl %s %q: %v\n%s%s", s.Version.Full, args, err, out, problems.String())
	}
	return string(out)
}

// Login gives a client of the server that is the user, for a cluster with auth. It lives as long as the test.
func (s *Server) Login(t testing.TB, user, password string) *clientv3.Client {
	t.Helper()
	config := clientv3.Config{Endpoints: []string{s.Endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(), Username: user, Password: password}
	if s.TLS != nil {
		config.TLS = s.TLS.Config
	}
	c, err := clientv3.New(config)
	if err != nil {
		t.Fatalf("log in as %q: %v", user, err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close client of %q: %v", user, err)
		}
	})
	return c
}
