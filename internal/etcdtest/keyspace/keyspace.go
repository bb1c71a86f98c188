// Package keyspace reads everything that a person would miss after a restore from a live etcd, and says how two such
// readings differ.
//
// It is for tests, the demo and the benches: it holds the whole keyspace in memory. It has no state and is safe for
// concurrent use. A reading is consistent for the keys, which are read at one revision; leases, users and roles have
// no revision, so nobody may change them meanwhile.
package keyspace

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pageKeys is how many keys one request asks for: few enough that a page of Kubernetes objects stays a few MB.
const pageKeys = 500

// State is what one etcd cluster holds. Its slices are sorted: keys by key, leases by id, users and roles by name.
type State struct {
	// Revision is the revision that the keys were read at. Diff does not compare it: a restore may raise it.
	Revision int64
	Keys     []Key
	Leases   []Lease
	// AuthEnabled tells whether the cluster asks clients who they are.
	AuthEnabled bool
	Users       []User
	Roles       []Role
}

// Key is one live key with all its fields.
type Key struct {
	Key            []byte
	Value          []byte
	CreateRevision int64
	ModRevision    int64
	Version        int64
	// Lease is the id of the lease that the key hangs on; 0 is none.
	Lease int64
}

// Lease is one lease. The time that is left is not part of it, as it changes by itself.
type Lease struct {
	ID int64
	// GrantedTTL is what was asked for, in seconds.
	GrantedTTL int64
	// Keys are the keys that go when the lease does, sorted.
	Keys []string
}

// User is one user. Its password cannot be read; a test that minds logs in.
type User struct {
	Name  string
	Roles []string
}

// Role is one role with its permissions, each written "readwrite [from, end)".
type Role struct {
	Name        string
	Permissions []string
}

// Read gives the state of the cluster behind c, in requests of bounded size. With auth enabled, c must be root's.
func Read(ctx context.Context, c *clientv3.Client) (State, error) {
	var s State
	for _, step := range []struct {
		what string
		read func(context.Context, *clientv3.Client) error
	}{{"keys", s.readKeys}, {"leases", s.readLeases}, {"users and roles", s.readAuth}} {
		if err := step.read(ctx, c); err != nil {
			return State{}, fmt.Errorf("read %s: %w", step.what, err)
		}
	}
	return s, nil
}

// Get finds a key.
func (s State) Get(key string) (Key, bool) {
	i, found := slices.BinarySearchFunc(s.Keys, []byte(key), func(k Key, want []byte) int { return bytes.Compare(k.Key, want) })
	if !found {
		return Key{}, false
	}
	return s.Keys[i], true
}

func (s *State) readKeys(ctx context.Context, c *clientv3.Client) error {
	for from := "\x00"; ; {
		page, err := c.Get(ctx, from, clientv3.WithFromKey(), clientv3.WithLimit(pageKeys), clientv3.WithRev(s.Revision))
		if err != nil {
			return err
		}
		if s.Revision == 0 {
			s.Revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			s.Keys = append(s.Keys, Key{
				Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
				Version: kv.Version, Lease: kv.Lease,
			})
			from = string(kv.Key) + "\x00"
		}
		if !page.More {
			return nil
		}
	}
}

func (s *State) readLeases(ctx context.Context, c *clientv3.Client) error {
	list, err := c.Leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range list.Leases {
		lease, err := c.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		if err != nil {
			return fmt.Errorf("lease %x: %w", l.ID, err)
		}
		if lease.TTL == -1 { // it ran out since it was listed
			continue
		}
		keys := make([]string, len(lease.Keys))
		for i, key := range lease.Keys {
			keys[i] = string(key)
		}
		slices.Sort(keys)
		s.Leases = append(s.Leases, Lease{ID: int64(l.ID), GrantedTTL: lease.GrantedTTL, Keys: keys})
	}
	slices.SortFunc(s.Leases, func(a, b Lease) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

func (s *State) readAuth(ctx context.Context, c *clientv3.Client) error {
	enabled, err := authEnabled(ctx, c)
	if err != nil {
		return err
	}
	s.AuthEnabled = enabled
	users, err := c.UserList(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(slices.Values(users.Users)) {
		user, err := c.UserGet(ctx, name)
		if err != nil {
			return fmt.Errorf("user %q: %w", name, err)
		}
		s.Users = append(s.Users, User{Name: name, Roles: slices.Sorted(slices.Values(user.Roles))})
	}
	roles, err := c.RoleList(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(slices.Values(roles.Roles)) {
		role, err := c.RoleGet(ctx, name)
		if err != nil {
			return fmt.Errorf("role %q: %w", name, err)
		}
		r := Role{Name: name}
		for _, p := range role.Perm {
			r.Permissions = append(r.Permissions, permission(p))
		}
		slices.Sort(r.Permissions)
		s.Roles = append(s.Roles, r)
	}
	return nil
}

// authEnabled asks by a login that must fail: etcd 3.4 has no call for it, and says first whether it has auth at all.
func authEnabled(ctx context.Context, c *clientv3.Client) (bool, error) {
	_, err := c.Authenticate(ctx, "holdfast-no-such-user", "none")
	switch {
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return false, nil
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return true, nil
	case err == nil:
		return false, errors.New("etcd accepted a user that does not exist")
	}
	return false, err
}

func permission(p *authpb.Permission) string {
	kind := map[authpb.Permission_Type]string{authpb.Permission_READ: "read", authpb.Permission_WRITE: "write", authpb.Permission_READWRITE: "readwrite"}[p.PermType]
	if len(p.RangeEnd) == 0 {
		return fmt.Sprintf("%s %q", kind, p.Key)
	}
	return fmt.Sprintf("%s [%q, %q)", kind, p.Key, p.RangeEnd)
}
