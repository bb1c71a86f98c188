package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

var testUnit = unit.Name{Application: "etcd", Number: 0}

// shortLimits are far above what loopback takes and far below what a test may take.
func shortLimits() limits {
	return limits{
		dial: 700 * time.Millisecond, call: time.Second, idle: time.Second, settle: time.Second, answer: 64 << 10,
	}
}

// patience is what no call may exceed: the sum of all short limits, with time for a busy machine.
const patience = 15 * time.Second

// identity is the TLS settings of an agent and of an operator that trust each other.
type identity struct{ agent, operator *tls.Config }

func newIdentity(t *testing.T) identity {
	t.Helper()
	dir := t.TempDir()
	store, err := pki.Open(dir)
	must(t, err)
	issue := func(name string, request pki.Request) unit.TLSFiles {
		bundle, err := store.Issue(pki.AgentAPI, request)
		must(t, err)
		files, err := bundle.Write(dir, name)
		must(t, err)
		return files
	}
	agent, err := pki.ServerTLS(issue("agent", pki.Request{CommonName: "etcd-0", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Role: pki.Agent}))
	must(t, err)
	operator, err := pki.ClientTLS(issue("operator", pki.Request{CommonName: "operator", Role: pki.Operator}))
	must(t, err)
	return identity{agent: agent, operator: operator}
}

// client gives a client of address that ends with the test.
func (i identity) client(t *testing.T, address string) *Client {
	c := newClient(testUnit, address, i.operator, shortLimits())
	t.Cleanup(c.Close)
	return c
}

// serve runs a handler as an agent and gives a client of it.
func (i identity) serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = i.agent
	server.StartTLS()
	t.Cleanup(server.Close)
	return i.client(t, server.Listener.Addr().String())
}

// raw accepts connections and gives each to behave, in a goroutine; they are closed and waited for at the end.
func raw(t *testing.T, behave func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ended := make(chan struct{})
	var conns []net.Conn
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			go behave(conn)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
		for _, conn := range conns {
			conn.Close()
		}
	})
	return listener.Addr().String()
}

// calls are all ways to talk to an agent.
func calls() map[string]func(context.Context, *Client) error {
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	return map[string]func(context.Context, *Client) error{
		"Unit":    func(ctx context.Context, c *Client) error { _, err := c.Unit(ctx); return err },
		"Actions": func(ctx context.Context, c *Client) error { _, err := c.Actions(ctx); return err },
		"Tasks":   func(ctx context.Context, c *Client) error { _, err := c.Tasks(ctx); return err },
		"Task": func(ctx context.Context, c *Client) error {
			_, err := c.Task(ctx, "id", 100*time.Millisecond)
			return err
		},
		"Enqueue": func(ctx context.Context, c *Client) error {
			_, err := c.Enqueue(ctx, TaskRequest{Key: "k", Action: "snapshot"})
			return err
		},
		"Cancel": func(ctx context.Context, c *Client) error { _, err := c.Cancel(ctx, "id"); return err },
		"ReadFile": func(ctx context.Context, c *Client) error {
			file, _, err := c.ReadFile(ctx, "/f")
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, file)
			return errors.Join(err, file.Close())
		},
		"WriteFile": func(ctx context.Context, c *Client) error {
			return c.WriteFile(ctx, "/f", bytes.NewReader(content), int64(len(content)), false)
		},
		"PutResource": func(ctx context.Context, c *Client) error {
			_, err := c.PutResource(ctx, "snapshot", bytes.NewReader(content), int64(len(content)))
			return err
		},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
