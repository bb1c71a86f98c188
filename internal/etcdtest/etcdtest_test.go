package etcdtest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
)

func read(t *testing.T, c *clientv3.Client) keyspace.State {
	t.Helper()
	s, err := keyspace.Read(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestEveryVersion fills a server of each version, restores a snapshot of it with the version's own tool and compares
// the two in full; then it changes one thing after another and wants to see each.
func TestEveryVersion(t *testing.T) {
	for _, v := range Versions(t) {
		t.Run(v.Minor, func(t *testing.T) {
			t.Setenv("ETCD_NAME", "leaked")
			t.Setenv("ETCDCTL_ENDPOINTS", "http://127.0.0.1:1")
			source := Start(t, v, Options{})
			stats, err := kubeload.Fill(t.Context(), source.Client, kubeload.New(1, 300))
			if err != nil {
				t.Fatal(err)
			}
			makeUsers(t, source.Client)
			want := read(t, source.Client)
			if stats.Objects != 300 || len(want.Keys) < 250 || len(want.Leases) != stats.Leases || stats.Leases != 2 {
				t.Fatalf("wrote %+v, read %d keys and %d leases", stats, len(want.Keys), len(want.Leases))
			}

			db := filepath.Join(t.TempDir(), "snapshot.db")
			source.Etcdctl(t, "snapshot", "save", db)
			dataDir, peer := filepath.Join(t.TempDir(), "data"), "http://127.0.0.1:"+strconv.Itoa(ReservePort(t))
			v.Restore(t, db, dataDir, "--name=r1", "--initial-cluster=r1="+peer, "--initial-advertise-peer-urls="+peer)
			restored := Start(t, v, Options{Name: "r1", DataDir: dataDir, PeerURL: peer})
			if d := keyspace.Diff(want, read(t, restored.Client)); d != "" {
				t.Fatalf("restored keyspace differs:\n%s", d)
			}
			checkChangesSeen(t, restored.Client)
		})
	}
}

func makeUsers(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	_, err1 := c.RoleAdd(ctx, "view")
	_, err2 := c.RoleGrantPermission(ctx, "view", "/registry/", "/registry0", clientv3.PermissionType(clientv3.PermRead))
	_, err3 := c.UserAdd(ctx, "reader", "secret")
	_, err4 := c.UserGrantRole(ctx, "reader", "view")
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// checkChangesSeen changes what c serves, step by step, and wants a difference that names the change each time.
func checkChangesSeen(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	before := read(t, c)
	key := string(before.Keys[len(before.Keys)/2].Key)
	for _, step := range []struct {
		change func() error
		want   string
	}{
		{func() error { _, err := c.Put(ctx, key, "other"); return err }, "key " + strconv.Quote(key) + ": value:"},
		{func() error { _, err := c.Delete(ctx, key); return err }, "key " + strconv.Quote(key) + ": missing"},
		{func() error { _, err := c.Put(ctx, key, "again"); return err }, "key " + strconv.Quote(key) + ": unexpected"},
		{func() error { _, err := c.Grant(ctx, 900); return err }, ": unexpected"},
		{func() error { _, err := c.Revoke(ctx, clientv3.LeaseID(before.Leases[0].ID)); return err }, ": missing"},
		{func() error { _, err := c.UserRevokeRole(ctx, "reader", "view"); return err }, `user "reader": roles: want ["view"], got []`},
		{func() error { _, err := c.RoleDelete(ctx, "view"); return err }, `role "view": missing`},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		after := read(t, c)
		if d := keyspace.Diff(before, after); !strings.Contains(d, step.want) {
			t.Errorf("want %q in the difference, got:\n%s", step.want, d)
		}
		before = after
	}
}

func TestTLSNeedsACertificate(t *testing.T) {
	s := Start(t, Get(t, "3.7"), Options{TLS: NewTLS(t)})
	if !strings.HasPrefix(s.Endpoint, "https://") {
		t.Fatalf("endpoint is %q", s.Endpoint)
	}
	if out := s.Etcdctl(t, "put", "a", "1"); out != "OK\n" {
		t.Errorf("etcdctl put printed %q", out)
	}
	stranger := *s
	stranger.TLS = &TLS{CA: s.TLS.CA}
	cmd := s.Version.CtlCommand(t.Context(), stranger.CtlEnv(), "get", "a", "--command-timeout=2s", "--dial-timeout=2s")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a client without certificate was served: %s", out)
	}
}

// TestSocket runs a server by another program, and reaches it by a socket.
func TestSocket(t *testing.T) {
	for name, secrets := range map[string]*TLS{"unix": nil, "unixs": NewTLS(t)} {
		s := Start(t, Get(t, "3.6"), Options{
			TLS: secrets, ClientURL: name + "://" + filepath.Join(t.TempDir(), "localhost"),
			Args: []string{"--advertise-client-urls=http://127.0.0.1:1"},
			Command: func(cmd *exec.Cmd) {
				cmd.Args = append([]string{"env", "PLACED=here", cmd.Path}, cmd.Args[1:]...)
				cmd.Path = "/usr/bin/env"
			},
		})
		if out := s.Etcdctl(t, "put", "a", "1"); out != "OK\n" {
			t.Errorf("%s: etcdctl put printed %q", name, out)
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, found := read(t, s.Client).Get("a"); !found {
			t.Errorf("%s: the key is gone", name)
		}
		if env, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID()) + "/environ"); err != nil || !strings.Contains(string(env), "PLACED=here") {
			t.Errorf("%s: the command was not changed: %v", name, err)
		}
	}
}

func TestAuth(t *testing.T) {
	s := Start(t, Get(t, "3.4"), Options{})
	ctx := t.Context()
	if read(t, s.Client).AuthEnabled {
		t.Error("auth is on in a new cluster")
	}
	_, err1 := s.Client.UserAdd(ctx, "root", "pw")
	_, err2 := s.Client.UserGrantRole(ctx, "root", "root")
	_, err3 := s.Client.AuthEnable(ctx)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	if !read(t, s.Login(t, "root", "pw")).AuthEnabled {
		t.Error("auth is off after it was enabled")
	}
	if _, err := keyspace.Read(ctx, s.Client); err == nil {
		t.Error("read without a user succeeded")
	}
	if err := s.Restart(ctx); err != nil {
		t.Errorf("restart with auth: %v", err)
	}
}

func TestClusterSurvivesItsLeader(t *testing.T) {
	c := StartCluster(t, Get(t, "3.6"), 3, Options{TLS: NewTLS(t)})
	ctx := t.Context()
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leader.Client.Put(ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	pid := leader.PID()
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	if leader.Running() || syscall.Kill(pid, 0) == nil {
		t.Error("the killed leader is still there")
	}
	for _, member := range c.Members {
		if member == leader {
			continue
		}
		if err := member.WaitHealthy(ctx); err != nil {
			t.Fatal(err)
		}
		if _, found := read(t, member.Client).Get("a"); !found {
			t.Errorf("%s lost the key", member.Name)
		}
	}
	if err := leader.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if leader.PID() == pid {
		t.Error("same process after a restart")
	}
	if _, found := read(t, leader.Client).Get("a"); !found {
		t.Error("the old leader lost the key")
	}
}

func TestFillTo(t *testing.T) {
	s := Start(t, Get(t, "3.7"), Options{Args: []string{"--unsafe-no-fsync"}})
	const want = 12_000_000
	stats, err := kubeload.FillTo(t.Context(), s.Client, 1, want)
	if err != nil {
		t.Fatal(err)
	}
	status, err := s.Client.Status(t.Context(), s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if status.DbSize < want || status.DbSize > 2*want {
		t.Errorf("wrote %+v, the backend has %d bytes", stats, status.DbSize)
	}
	if _, found := read(t, s.Client).Get("compact_rev_key"); !found {
		t.Error("the load is not finished")
	}
}

func TestFillStopsAtTheQuota(t *testing.T) {
	s := Start(t, Get(t, "3.5"), Options{Args: []string{"--quota-backend-bytes=4000000"}})
	_, err := kubeload.FillTo(t.Context(), s.Client, 1, 50_000_000)
	if !strings.Contains(errText(err), rpctypes.ErrNoSpace.Error()) {
		t.Errorf("fill over the quota: %v", err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Errorf("restart with an alarm: %v", err)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestServerThatCannotStart(t *testing.T) {
	began := time.Now()
	_, err := Launch(t.Context(), Get(t, "3.7"), t.TempDir(), Options{Args: []string{"--no-such-flag"}})
	if !strings.Contains(errText(err), "no-such-flag") {
		t.Errorf("want the server's own words, got: %v", err)
	}
	if time.Since(began) > healthTime/2 {
		t.Error("waited for a server that had ended")
	}
}

// serverOnly, when set, makes this test binary a process that starts a server, prints its pid and waits to be killed.
const serverOnly = "HOLDFAST_ETCDTEST_SERVER_IN"

func TestMain(m *testing.M) {
	dir := os.Getenv(serverOnly)
	if dir == "" {
		os.Exit(m.Run())
	}
	versions, err := FindVersions(".")
	if err == nil {
		var s *Server
		if s, err = Launch(context.Background(), versions[len(versions)-1], dir, Options{}); err == nil {
			os.Stdout.WriteString(strconv.Itoa(s.PID()) + "\n")
			select {}
		}
	}
	os.Stderr.WriteString(err.Error() + "\n")
	os.Exit(1)
}

// TestServersDieWithTheirParent kills a process with a server and wants the server gone too.
func TestServersDieWithTheirParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), serverOnly+"="+t.TempDir())
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 32)
	n, _ := out.Read(line)
	_ = parent.Process.Kill()
	_ = parent.Wait()
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); alive(pid); {
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("server %d outlived its parent", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// alive tells whether the process runs; one that ended and that nobody has waited for does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestReservedPortsDiffer(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		port := ReservePort(t)
		if seen[port] {
			t.Fatalf("port %d given twice", port)
		}
		seen[port] = true
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Fatalf("reserved port is not free: %v", err)
		}
		_ = l.Close()
	}
}

func TestMissingServersNameTheCommand(t *testing.T) {
	root := t.TempDir()
	for _, minor := range minors() {
		folder := filepath.Join(root, "test", "etcd", "v"+minor)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "VERSION"), []byte(minor+".9\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "go.mod"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FindVersions(filepath.Join(root, "test")); !strings.Contains(errText(err), "run: make etcd") {
		t.Errorf("got %v", err)
	}
}
