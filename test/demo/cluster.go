package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// clusterState is what a cluster holds, and which cluster it is.
type clusterState struct {
	keyspace.State
	ClusterID uint64
	// Members are the ids of the members, in the order that etcd has them.
	Members []uint64
}

// access is how etcd's own client reaches a cluster.
type access struct {
	endpoints []string
	tls       unit.TLSFiles
}

// parseAccess reads what `holdfast env` printed.
func parseAccess(output string) (access, error) {
	variables := map[string]string{}
	for line := range strings.Lines(output) {
		name, value, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if found {
			variables[name] = strings.Trim(value, "'")
		}
	}
	a := access{
		endpoints: strings.Split(variables["ETCDCTL_ENDPOINTS"], ","),
		tls:       unit.TLSFiles{CA: variables["ETCDCTL_CACERT"], Cert: variables["ETCDCTL_CERT"], Key: variables["ETCDCTL_KEY"]},
	}
	if a.endpoints[0] == "" || a.tls.CA == "" || a.tls.Cert == "" || a.tls.Key == "" {
		return a, errors.New("read etcd's address: an ETCDCTL variable is missing")
	}
	return a, nil
}

// dial gives a client of the members at the endpoints. The client certificate makes it root's; a user name goes before
// that.
func (a access) dial(endpoints []string, user, password string) (*clientv3.Client, error) {
	tls, err := pki.ClientTLS(a.tls)
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: tls, Username: user, Password: password, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
	})
}

// access asks for a cluster's address without a word.
func (d *demo) access(ctx context.Context, application string) (access, error) {
	line := "holdfast env " + application
	output, code, err := d.shell(ctx, line, io.Discard)
	if err != nil {
		return access{}, err
	}
	if code != 0 {
		return access{}, fmt.Errorf("%q: %s", line, output)
	}
	return parseAccess(output)
}

// with calls work with a client of all members of an application.
func (d *demo) with(ctx context.Context, application string, work func(*clientv3.Client) error) (err error) {
	at, err := d.access(ctx, application)
	if err != nil {
		return err
	}
	c, err := at.dial(at.endpoints, "", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return work(c)
}

func readState(ctx context.Context, c *clientv3.Client) (clusterState, error) {
	state, err := keyspace.Read(ctx, c)
	if err != nil {
		return clusterState{}, err
	}
	list, err := c.MemberList(ctx)
	if err != nil {
		return clusterState{}, err
	}
	s := clusterState{State: state, ClusterID: list.Header.ClusterId}
	for _, member := range list.Members {
		s.Members = append(s.Members, member.ID)
	}
	return s, nil
}

const (
	viewer         = "viewer"
	viewerPassword = "only-for-this-demo"
	registry       = "/registry/"
)

// addUsers turns etcd's authentication on, with root and a user who may only read.
func addUsers(ctx context.Context, c *clientv3.Client) error {
	_, err := c.RoleAdd(ctx, "read-registry")
	if err != nil {
		return err
	}
	if _, err := c.RoleGrantPermission(ctx, "read-registry", registry, clientv3.GetPrefixRangeEnd(registry), clientv3.PermissionType(clientv3.PermRead)); err != nil {
		return err
	}
	for _, user := range []struct{ name, password, role string }{
		{"root", "also-only-for-this-demo", "root"}, {viewer, viewerPassword, "read-registry"},
	} {
		if _, err := c.UserAdd(ctx, user.name, user.password); err != nil {
			return err
		}
		if _, err := c.UserGrantRole(ctx, user.name, user.role); err != nil {
			return err
		}
	}
	_, err = c.AuthEnable(ctx)
	return err
}

// checkViewer logs the viewer in and says what is wrong with it: it must see the keys and may not write.
func checkViewer(ctx context.Context, at access) (problem string, err error) {
	c, err := at.dial(at.endpoints, viewer, viewerPassword)
	if err != nil {
		return fmt.Sprintf("log in: %v", err), nil
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if _, err := c.Get(ctx, registry, clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil {
		return fmt.Sprintf("read: %v", err), nil
	}
	if _, err := c.Put(ctx, registry+"viewer", "x"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return fmt.Sprintf("write: want %v, got %v", rpctypes.ErrPermissionDenied, err), nil
	}
	return "", nil
}

// listAt lists at a revision, as a client with a half-read list does.
func listAt(ctx context.Context, c *clientv3.Client, revision int64) error {
	_, err := c.Get(ctx, registry, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithRev(revision))
	return err
}

// watchFrom watches from a revision on and gives the first event, or why there is none. Once the watch is there it calls
// then.
func watchFrom(ctx context.Context, c *clientv3.Client, revision int64, then func() error) (*clientv3.Event, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, fmt.Errorf("watch from revision %d: no answer", revision))
	defer cancel()
	for answer := range c.Watch(ctx, registry, clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithCreatedNotify()) {
		switch {
		case answer.Err() != nil:
			return nil, answer.Err()
		case answer.Created:
			if err := then(); err != nil {
				return nil, err
			}
		case len(answer.Events) > 0:
			return answer.Events[0], nil
		}
	}
	return nil, cmp.Or(context.Cause(ctx), errors.New("the watch ended"))
}
