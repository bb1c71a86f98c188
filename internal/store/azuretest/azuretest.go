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
	cryptorand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-project/holdfast/internal/store/azure"
	"github.com/holdfast-project/holdfast/internal/store/servertest"
)

// Server is a server that runs.
type Server struct {
	// URL is that of the server, without the account.
	URL          string
	Account, Key string
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
	host, port := servertest.FreeAddress(t)
	key := make([]byte, 64)
	_, _ = cryptorand.Read(key) // it cannot fail
	s := &Server{
		URL: "http://" + net.JoinHostPort(host, port), Account: "test" + strings.ToLower(cryptorand.Text())[:16],
		Key: base64.StdEncoding.EncodeToString(key),
	}
	cmd := exec.Command(node, script, "--blobHost", host, "--blobPort", port, "--location", filepath.Join(dir, "data"),
		"--skipApiVersionCheck", "--disableTelemetry", "--silent")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "AZURITE_ACCOUNTS=" + s.Account + ":" + s.Key}
	servertest.New(t, "Azure server", filepath.Join(dir, "log")).Start(t, cmd, servertest.HTTP(s.URL))
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
	root, err := servertest.ModuleRoot()
	if err != nil {
		return "", "", err
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
