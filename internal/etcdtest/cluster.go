package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Cluster is several servers of one cluster, with a name of "m1" and on.
type Cluster struct {
	Members []*Server
}

// StartCluster runs n new members until the test ends and waits until each is healthy. Options apply to all of them;
// those that tell members apart (names, data dirs, URLs) must be empty.
func StartCluster(t testing.TB, v Version, n int, o Options) *Cluster {
	t.Helper()
	if o.Name != "" || o.DataDir != "" || o.ClientURL != "" || o.PeerURL != "" || o.InitialCluster != "" {
		t.Fatalf("start cluster: options %+v are for one member", o)
	}
	scheme := "http"
	if o.TLS != nil {
		scheme = "https"
	}
	peers, entries := make([]string, n), make([]string, n)
	for i := range n {
		peers[i] = fmt.Sprintf("%s://127.0.0.1:%d", scheme, ReservePort(t))
		entries[i] = fmt.Sprintf("m%d=%s", i+1, peers[i])
	}
	wait := !o.NoWait
	o.NoWait, o.InitialCluster = true, strings.Join(entries, ",")
	c := &Cluster{}
	for i := range n {
		o.Name, o.PeerURL = fmt.Sprintf("m%d", i+1), peers[i]
		c.Members = append(c.Members, Start(t, v, o))
	}
	for _, member := range c.Members {
		if !wait {
			break
		}
		if err := member.WaitHealthy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// Endpoints are the client URLs of all members.
func (c *Cluster) Endpoints() []string {
	endpoints := make([]string, len(c.Members))
	for i, member := range c.Members {
		endpoints[i] = member.Endpoint
	}
	return endpoints
}

// Leader gives the member that is leader by its own word.
func (c *Cluster) Leader(ctx context.Context) (*Server, error) {
	var errs []error
	for _, member := range c.Members {
		status, err := member.Client.Status(ctx, member.Endpoint)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if status.Leader == status.Header.MemberId {
			return member, nil
		}
	}
	return nil, errors.Join(append(errs, errors.New("no member says that it is leader"))...)
}
