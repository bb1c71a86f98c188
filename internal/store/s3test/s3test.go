// Package s3test runs a real S3 server, versitygw on a folder, on loopback. It is for tests and benches only.
//
// A Server is a child process with random credentials and folders of its own, and ends with the test, also when the test
// process dies. It is safe for concurrent use. Linux only: addresses in 127.0.0.0/8 and the end of children with their
// parent rest on it.
package s3test

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/holdfast-project/holdfast/internal/store/s3"
	"github.com/holdfast-project/holdfast/internal/store/servertest"
)

// Server is a server that runs.
type Server struct {
	// Endpoint is its URL.
	Endpoint             string
	AccessKey, SecretKey string
	// Client is one that may do everything.
	Client *minio.Core
}

// Start runs a server until the test ends, and waits until it answers. When the test fails, the end of its log is part of
// the output.
func Start(t testing.TB) *Server {
	t.Helper()
	binary, dir := servertest.Pinned(t, "github.com/versity/versitygw"), t.TempDir()
	address := net.JoinHostPort(servertest.FreeAddress(t))
	s := &Server{Endpoint: "http://" + address, AccessKey: "test" + rand.Text(), SecretKey: rand.Text()}
	for _, folder := range []string{"data", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "--port", address, "posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data"))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "ROOT_ACCESS_KEY_ID=" + s.AccessKey, "ROOT_SECRET_ACCESS_KEY=" + s.SecretKey}
	servertest.New(t, "S3 server", filepath.Join(dir, "log")).Start(t, cmd, servertest.HTTP(s.Endpoint))
	client, err := minio.NewCore(address, &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	s.Client = client
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
