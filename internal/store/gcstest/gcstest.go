// Package gcstest runs a server of Google Cloud Storage's API, fake-gcs-server with its objects in memory, on loopback. It is
// for tests and benches only.
//
// A Server is a child process, and ends with the test, also when the test process dies. It is safe for concurrent use. Linux
// only: addresses in 127.0.0.0/8 and the end of children with their parent rest on it.
//
// The server asks for no credentials, locks nothing, and knows of resumable sessions only what goes well: see Sessions.
package gcstest

import (
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/servertest"
)

// Server is a server that runs.
type Server struct {
	// Endpoint is its URL.
	Endpoint string
}

// Start runs a server until the test ends, and waits until it answers. When the test fails, the end of its log is part of
// the output.
func Start(t testing.TB) *Server {
	t.Helper()
	binary, dir := servertest.Pinned(t, "github.com/fsouza/fake-gcs-server"), t.TempDir()
	host, port := servertest.FreeAddress(t)
	address := net.JoinHostPort(host, port)
	s := &Server{Endpoint: "http://" + address}
	cmd := exec.Command(binary, "-scheme", "http", "-host", host, "-port", port, "-backend", "memory",
		"-public-host", address, "-external-url", s.Endpoint, "-log-level", "warn")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir}
	servertest.New(t, "GCS server", filepath.Join(dir, "log")).Start(t, cmd, servertest.HTTP(s.Endpoint))
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
