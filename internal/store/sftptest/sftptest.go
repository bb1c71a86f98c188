// Package sftptest runs a real SSH server, OpenSSH's sshd with its SFTP, on loopback. It is for tests and benches only.
//
// A Server is a child process with keys, configuration and folders of its own, which lets the user of the test in with the
// key it has made; it needs no root, and nothing of the machine's own sshd. It ends with the test, also when the test process
// dies. It is safe for concurrent use, but for Kill and Restart. Linux only: addresses in 127.0.0.0/8, /proc and the end of
// children with their parent rest on it.
package sftptest

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/holdfast-project/holdfast/internal/store/servertest"
	"github.com/holdfast-project/holdfast/internal/store/sftp"
)

// greetTime is how long a server may take to say what it is, on a loaded machine.
const greetTime = 60 * time.Second

// NoSFTP is for Start: a server that has logins only.
const NoSFTP = "none"

// Server is a server that runs.
type Server struct {
	// Host is its address with the port, and User who may log in.
	Host, User string
	// Identity is the file of the private key that lets in, and KnownHosts that with the key of the server.
	Identity, KnownHosts string
	// Data is a folder for the folders of stores.
	Data string

	config  string
	process *servertest.Process
}

// Start runs a server until the test ends, and waits until it answers. When the test fails, the end of its log is part of
// the output. subsystem is the command that serves SFTP, as sshd_config has it; "" means internal-sftp.
func Start(t testing.TB, subsystem string) *Server {
	t.Helper()
	dir := t.TempDir()
	host, port := servertest.FreeAddress(t)
	s, err := prepare(dir, host, port, subsystem)
	if err != nil {
		t.Fatalf("prepare SSH server: %v", err)
	}
	s.process = servertest.New(t, "SSH server", filepath.Join(dir, "log"))
	t.Cleanup(func() { s.Kill(t) })
	s.Restart(t)
	return s
}

// Options are those of a store in a folder of the server that is made when it is missing, with pauses that take no time
// worth speaking of.
func (s *Server) Options(folder string) sftp.Options {
	o := sftp.Options{
		Host: s.Host, User: s.User, Path: filepath.Join(s.Data, folder), IdentityFile: s.Identity, KnownHosts: s.KnownHosts, Create: true,
	}
	o.Retry.Base, o.Retry.Max = time.Millisecond, 20*time.Millisecond
	return o
}

// Kill ends the server at once with all its connections. One that has ended is no error.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if !s.process.Running() {
		return
	}
	// A process that has stopped makes no more children; each of them has a session of its own, so that no group holds them.
	err := s.process.Signal(syscall.SIGSTOP)
	children, listErr := descendants(s.process.ID())
	s.process.Kill(t)
	err = errors.Join(err, listErr)
	for _, child := range children {
		if killErr := syscall.Kill(child, syscall.SIGKILL); !errors.Is(killErr, syscall.ESRCH) {
			err = errors.Join(err, killErr)
		}
	}
	if err != nil {
		t.Errorf("kill SSH server: %v", err)
	}
}

// Restart runs the server again at the same address, and waits until it answers.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	binary, err := find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-D", "-e", "-f", s.config)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	s.process.Start(t, cmd, s.greet)
}

// NewKey makes a key pair: the private key in a file, in the form of OpenSSH.
func NewKey(file string) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "test")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(public)
}

// prepare makes the files of a server.
func prepare(dir, host, port, subsystem string) (*Server, error) {
	who, err := user.Current()
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(host, port)
	at := func(name string) string { return filepath.Join(dir, name) }
	s := &Server{
		Host: address, User: who.Username, Identity: at("identity"), KnownHosts: at("known_hosts"), Data: at("data"),
		config: at("sshd_config"),
	}
	hostKey, err := NewKey(at("host_key"))
	if err != nil {
		return nil, err
	}
	userKey, err := NewKey(s.Identity)
	if err != nil {
		return nil, err
	}
	serve := "Subsystem sftp " + subsystem
	switch subsystem {
	case "":
		serve = "Subsystem sftp internal-sftp\nForceCommand internal-sftp"
	case NoSFTP:
		serve = "ForceCommand /bin/false"
	}
	// StrictModes would look at all folders above, of which those for temporary files are everybody's.
	config := fmt.Sprintf(`ListenAddress %s
Port %s
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
UseDNS no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding no
MaxStartups 100
LogLevel VERBOSE
%s
`, host, port, at("host_key"), at("authorized_keys"), serve)
	files := map[string]string{
		s.config:              config,
		at("authorized_keys"): string(ssh.MarshalAuthorizedKey(userKey)),
		s.KnownHosts:          knownhosts.Line([]string{address}, hostKey) + "\n",
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if os.Geteuid() == 0 { // where sshd, which then gives up its rights, puts the part of it that has none
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	return s, os.Mkdir(s.Data, 0o700)
}

// find gives the machine's sshd, by its whole path, which it wants.
func find() (string, error) {
	for _, path := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New(`the SSH server for tests is missing: run "make packages" as root, or: apt-get install -y --no-install-recommends openssh-server`)
}

// greet has the server say what it is.
func (s *Server) greet(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(greetTime)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// descendants are the processes below one.
func descendants(root int) (found []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil { // it has ended
			continue
		}
		// The name, in brackets, may hold anything; after it come the state and the parent.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, err
		}
		children[parent] = append(children[parent], pid)
	}
	for next := []int{root}; len(next) > 0; next = next[1:] {
		found = append(found, children[next[0]]...)
		next = append(next, children[next[0]]...)
	}
	return found, nil
}
