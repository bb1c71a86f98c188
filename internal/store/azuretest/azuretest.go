// Package azuretest runs a real server of Azure Blob Storage, Azurite, on loopback. It is for tests and benches only.
//
// A Server is a child process with an account of its own, a random key and a folder, and ends with the test, also when the
// test process dies. It is safe for concurrent use. Linux only: addresses in 127.0.0.0/8 and the end of children with their
// parent rest on it.
//
// Not promised: what Azurite lacks. It has no versions and no immutability policies, and takes any listing from its
// beginning.
package azuretest

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-project/holdfast/internal/store/azure"
)

// startTime is how long a server may take to answer: a second or two, on a loaded machine many.
const startTime = 60 * time.Second

// Server is a server that runs.
type Server struct {
	// URL is that of the server, without the account.
	URL          string
	Account, Key string

	log string
}

// Start runs a server until the test ends, and waits until it answers. When the test fails, the end of its log is part of
// the output.
func Start(t testing.TB) *Server {
	t.Helper()
	node, script, err := find()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	host, port, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 64)
	_, _ = cryptorand.Read(key) // it cannot fail
	s := &Server{
		URL: "http://" + net.JoinHostPort(host, port), Account: "test" + strings.ToLower(cryptorand.Text())[:16],
		Key: base64.StdEncoding.EncodeToString(key), log: filepath.Join(dir, "log"),
	}
	cmd := exec.Command(node, script, "--blobHost", host, "--blobPort", port, "--location", filepath.Join(dir, "data"),
		"--skipApiVersionCheck", "--disableTelemetry", "--silent")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "AZURITE_ACCOUNTS=" + s.Account + ":" + s.Key}
	ended, err := run(t, cmd, s.log)
	if err != nil {
		t.Fatalf("start Azure server: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the Azure server ends with:\n%s", s.logTail())
		}
	})
	if err := s.wait(t.Context(), ended); err != nil {
		t.Fatalf("start Azure server: %v", err)
	}
	return s
}

// Endpoint is the URL of the account.
func (s *Server) Endpoint() string { return s.URL + "/" + s.Account }

// Container makes a container with a new name.
func (s *Server) Container(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("container-%016x", mathrand.Uint64())
	if _, err := s.Client(t, name).Create(t.Context(), nil); err != nil {
		t.Fatalf("make container: %v", err)
	}
	return name
}

// Client is one for a container that may do everything.
func (s *Server) Client(t testing.TB, name string) *container.Client {
	t.Helper()
	key, err := container.NewSharedKeyCredential(s.Account, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := container.NewClientWithSharedKeyCredential(s.Endpoint()+"/"+name, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Options are those of a store in a container of the server, with small blocks, and pauses that take no time worth speaking
// of.
func (s *Server) Options(name string) azure.Options {
	o := azure.Options{Account: s.Account, Endpoint: s.Endpoint(), Container: name, BlockSize: 4 << 20, Credentials: azure.Credentials{AccountKey: s.Key}}
	o.Retry.Base, o.Retry.Max = time.Millisecond, 20*time.Millisecond
	return o
}

// find gives the program that runs the server, and the server that the module's test/servers pins.
func find() (node, script string, err error) {
	root, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	for ; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return "", "", errors.New("no go.mod above the working directory")
		}
	}
	pin, err := os.ReadFile(filepath.Join(root, "test", "servers", "azurite", "package.json"))
	if err != nil {
		return "", "", err
	}
	var pinned struct {
		Dependencies struct{ Azurite string }
	}
	if err := json.Unmarshal(pin, &pinned); err != nil || pinned.Dependencies.Azurite == "" {
		return "", "", fmt.Errorf("test/servers/azurite/package.json requires no azurite (%v)", err)
	}
	home := filepath.Join(root, ".cache", "servers", "azurite-"+pinned.Dependencies.Azurite)
	script = filepath.Join(home, "node_modules", "azurite", "dist", "src", "blob", "main.js")
	if _, err := os.Stat(script); err != nil {
		return "", "", fmt.Errorf("the Azure server for tests is missing: run \"make tools\" (%w)", err)
	}
	if node, err = exec.LookPath("node"); err != nil {
		return "", "", fmt.Errorf("node, which runs the Azure server for tests, is missing: run \"make tools\" (%w)", err)
	}
	return node, script, nil
}

// freeAddress gives an address that nobody else takes: a port that is free on some address of 127.0.0.0/8, where other
// programs use 127.0.0.1.
func freeAddress() (host, port string, err error) {
	host = fmt.Sprintf("127.%d.%d.%d", 1+mathrand.IntN(254), mathrand.IntN(256), 1+mathrand.IntN(254))
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		return "", "", err
	}
	_, port, err = net.SplitHostPort(l.Addr().String())
	return host, port, errors.Join(err, l.Close())
}

// run starts the process and ends it with the test. The channel is closed when it has ended.
func run(t testing.TB, cmd *exec.Cmd, logPath string) (<-chan struct{}, error) {
	log, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The kernel ends the child with the thread that made it, not with the process: so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed, and says so
		}
	}()
	if err := errors.Join(<-started, log.Close()); err != nil { // the child has its own
		return nil, err
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("kill Azure server: %v", err)
		}
		<-ended
	})
	return ended, nil
}

// wait returns when the server answers anything.
func (s *Server) wait(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			return response.Body.Close()
		}
		select {
		case <-ended:
			return fmt.Errorf("it ended; its log:\n%s", s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %v; its log:\n%s", err, s.logTail())
		case <-tick.C:
		}
	}
}

func (s *Server) logTail() string {
	const most = 4096
	log, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-most):])
}
