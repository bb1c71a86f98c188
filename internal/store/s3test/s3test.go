// Package s3test runs a real S3 server, versitygw on a folder, on loopback. It is for tests and benches only.
//
// A Server is a child process with random credentials and folders of its own, and ends with the test, also when the test
// process dies. It is safe for concurrent use. Linux only: addresses in 127.0.0.0/8 and the end of children with their
// parent rest on it.
package s3test

import (
	"context"
	"crypto/rand"
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
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/holdfast-project/holdfast/internal/store/s3"
)

// startTime is how long a server may take to answer: a second or two, on a loaded machine many.
const startTime = 60 * time.Second

// Server is a server that runs.
type Server struct {
	// Endpoint is its URL.
	Endpoint             string
	AccessKey, SecretKey string
	// Client is one that may do everything.
	Client *minio.Core

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
	s := &Server{Endpoint: "http://" + address, AccessKey: "test" + rand.Text(), SecretKey: rand.Text(), log: filepath.Join(dir, "log")}
	for _, folder := range []string{"data", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "--port", address, "posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data"))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "ROOT_ACCESS_KEY_ID=" + s.AccessKey, "ROOT_SECRET_ACCESS_KEY=" + s.SecretKey}
	ended, err := run(t, cmd, s.log)
	if err != nil {
		t.Fatalf("start S3 server: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the S3 server ends with:\n%s", s.logTail())
		}
	})
	if err := s.wait(t.Context(), ended); err != nil {
		t.Fatalf("start S3 server: %v", err)
	}
	s.Client, err = minio.NewCore(address, &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Bucket makes a bucket with a new name. One with locks has versions too.
func (s *Server) Bucket(t testing.TB, locks bool) string {
	t.Helper()
	name := fmt.Sprintf("bucket-%016x", mathrand.Uint64())
	if err := s.Client.MakeBucket(t.Context(), name, minio.MakeBucketOptions{ObjectLocking: locks}); err != nil {
		t.Fatalf("make bucket: %v", err)
	}
	return name
}

// Options are those of a store in a bucket of the server, with small parts, and pauses that take no time worth speaking of.
func (s *Server) Options(bucket string) s3.Options {
	o := s3.Options{Endpoint: s.Endpoint, Bucket: bucket, PartSize: 5 << 20, Credentials: s3.Credentials{AccessKey: s.AccessKey, SecretKey: s.SecretKey}}
	o.Retry.Base, o.Retry.Max = time.Millisecond, 20*time.Millisecond
	return o
}

// Uploads tells how many multipart uploads are under way in a bucket, or were left behind.
func (s *Server) Uploads(t testing.TB, bucket string) int {
	t.Helper()
	page, err := s.Client.ListMultipartUploads(t.Context(), bucket, "", "", "", "", 1000)
	if err != nil {
		t.Fatalf("list uploads: %v", err)
	}
	return len(page.Uploads)
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
	pin, err := os.ReadFile(filepath.Join(root, "test", "servers", "versitygw", "go.mod"))
	if err != nil {
		return "", err
	}
	match := regexp.MustCompile(`github\.com/versity/versitygw v(\S+)`).FindSubmatch(pin)
	if match == nil {
		return "", errors.New("test/servers/versitygw/go.mod requires no versitygw")
	}
	binary := filepath.Join(root, ".cache", "servers", "versitygw-"+string(match[1]), "versitygw")
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("the S3 server for tests is missing: run \"make servers\" (%w)", err)
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
			t.Errorf("kill S3 server: %v", err)
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
