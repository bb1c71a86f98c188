// Package gcstest runs a server of Google Cloud Storage's API, fake-gcs-server with its objects in memory, on loopback. It is
// for tests and benches only.
//
// A Server is a child process, and ends with the test, also when the test process dies. It is safe for concurrent use. Linux
// only: addresses in 127.0.0.0/8 and the end of children with their parent rest on it.
//
// The server asks for no credentials, locks nothing, and knows of resumable sessions only what goes well: see Sessions.
package gcstest

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store/gcs"
)

// startTime is how long a server may take to answer: a tenth of a second, on a loaded machine many.
const startTime = 60 * time.Second

// Server is a server that runs.
type Server struct {
	// Endpoint is its URL.
	Endpoint string

	log string
}

// Start runs a server until the test ends, and waits until it answers. When the test fails, the end of its log is part of
// the output.
func Start(t testing.TB) *Server {
	t.Helper()
	binary, err := find()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Endpoint: "http://" + address, log: filepath.Join(dir, "log")}
	cmd := exec.Command(binary, "-scheme", "http", "-host", host, "-port", port, "-backend", "memory",
		"-public-host", address, "-external-url", s.Endpoint, "-log-level", "warn")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir}
	ended, err := run(t, cmd, s.log)
	if err != nil {
		t.Fatalf("start GCS server: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the GCS server ends with:\n%s", s.logTail())
		}
	})
	if err := s.wait(t.Context(), ended); err != nil {
		t.Fatalf("start GCS server: %v", err)
	}
	return s
}

// Bucket makes a bucket with a new name. One with versions keeps objects that are deleted without their generation.
func (s *Server) Bucket(t testing.TB, versions bool) string {
	t.Helper()
	name := fmt.Sprintf("bucket-%016x", mathrand.Uint64())
	body := fmt.Sprintf(`{"name": %q, "versioning": {"enabled": %t}}`, name, versions)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Endpoint+"/storage/v1/b?project=test", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("make bucket: %v", err)
	}
	if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("make bucket: %s, %v", response.Status, err)
	}
	return name
}

// Options are those of a store in a bucket of the server, with small chunks, and pauses that take no time worth speaking of.
func (s *Server) Options(bucket string) gcs.Options {
	o := gcs.Options{Endpoint: s.Endpoint, Bucket: bucket, ChunkSize: 4 << 20}
	o.Retry.Base, o.Retry.Max = time.Millisecond, 20*time.Millisecond
	return o
}

// find gives the server that the module's test/servers pins.
func find() (string, error) {
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return "", errors.New("no go.mod above the working directory")
		}
	}
	pin, err := os.ReadFile(filepath.Join(root, "test", "servers", "fake-gcs-server", "go.mod"))
	if err != nil {
		return "", err
	}
	match := regexp.MustCompile(`github\.com/fsouza/fake-gcs-server v(\S+)`).FindSubmatch(pin)
	if match == nil {
		return "", errors.New("test/servers/fake-gcs-server/go.mod requires no fake-gcs-server")
	}
	binary := filepath.Join(root, ".cache", "servers", "fake-gcs-server-"+string(match[1]), "fake-gcs-server")
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("the GCS server for tests is missing: run \"make tools\" (%w)", err)
	}
	return binary, nil
}

// freeAddress gives an address that nobody else takes: a port that is free on some address of 127.0.0.0/8, where other
// programs use 127.0.0.1.
func freeAddress() (string, error) {
	host := fmt.Sprintf("127.%d.%d.%d", 1+mathrand.IntN(254), mathrand.IntN(256), 1+mathrand.IntN(254))
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
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
			t.Errorf("kill GCS server: %v", err)
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
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint, nil)
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
