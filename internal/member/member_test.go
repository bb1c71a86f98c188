package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, s *etcdtest.Server) *Client {
	t.Helper()
	c, err := Dial(s.Endpoint, s.TLS.Config)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// put writes n revisions of one key.
func put(t *testing.T, s *etcdtest.Server, key string, n int) {
	t.Helper()
	for i := range n {
		_, err := s.Client.Put(t.Context(), key, fmt.Sprint(i, strings.Repeat("x", 1000)))
		must(t, err)
	}
}

func TestOneMember(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{Name: "etcd-0", TLS: etcdtest.NewTLS(t)})
	c := dial(t, s)
	ctx := t.Context()
	put(t, s, "a", 1)
	put(t, s, "b", 499)

	status, err := c.Status(ctx)
	must(t, err)
	real, err := s.Client.Status(ctx, s.Endpoint)
	must(t, err)
	if uint64(status.ClusterID) != real.Header.ClusterId || uint64(status.MemberID) != real.Header.MemberId || status.Leader != status.MemberID ||
		status.Version != s.Version.Full || status.Revision != 501 || status.Size < 500_000 || status.InUse == 0 || status.InUse > status.Size ||
		status.RaftTerm != real.RaftTerm || status.RaftIndex == 0 || status.Learner || len(status.Errors) != 0 {
		t.Errorf("status %+v", status)
	}
	for what, list := range map[string]func(context.Context) ([]Member, error){"Members": c.Members, "KnownMembers": c.KnownMembers} {
		members, err := list(ctx)
		must(t, err)
		want := Member{ID: status.MemberID, Name: "etcd-0", PeerURLs: []string{s.PeerURL}, ClientURLs: []string{s.Endpoint}}
		if len(members) != 1 || fmt.Sprint(members[0]) != fmt.Sprint(want) {
			t.Errorf("%s gives %+v, want %+v", what, members, want)
		}
	}
	must(t, c.Probe(ctx))
	if keys, err := c.CountKeys(ctx); err != nil || keys != 2 {
		t.Errorf("%d keys: %v", keys, err)
	}
	if c.Endpoint() != s.Endpoint {
		t.Errorf("endpoint %q", c.Endpoint())
	}
	t.Run("compact and defragment", func(t *testing.T) { checkUpkeep(t, s, c, status) })
	t.Run("alarms", func(t *testing.T) { checkAlarms(t, s, c, status) })
	t.Run("learners", func(t *testing.T) { checkLearners(t, c) })
	t.Run("who may not read is answered", func(t *testing.T) { checkAuth(t, s, c) })
}

func checkUpkeep(t *testing.T, s *etcdtest.Server, c *Client, before Status) {
	ctx := t.Context()
	err := c.Compact(ctx, before.Revision+1, true)
	if !errors.Is(err, rpctypes.ErrFutureRev) || !strings.Contains(err.Error(), "compact to revision 502 at "+s.Endpoint+": ") {
		t.Errorf("a revision that is to come: %v", err)
	}
	must(t, c.Compact(ctx, before.Revision, true))
	if _, err := s.Client.Get(ctx, "b", clientv3.WithRev(int64(before.Revision)-1)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("a read below the compact revision: %v", err)
	}
	if err := c.Compact(ctx, before.Revision, false); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("a second time: %v", err)
	}
	must(t, c.Defragment(ctx))
	after, err := c.Status(ctx)
	must(t, err)
	if after.Size >= before.Size/2 || after.Revision != before.Revision {
		t.Errorf("size %d before, %d after; revision %d", before.Size, after.Size, after.Revision)
	}
}

func checkAlarms(t *testing.T, s *etcdtest.Server, c *Client, status Status) {
	ctx := t.Context()
	if alarms, err := c.Alarms(ctx); err != nil || len(alarms) != 0 {
		t.Errorf("alarms %v: %v", alarms, err)
	}
	_, err := pb.NewMaintenanceClient(s.Client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: uint64(status.MemberID), Alarm: pb.AlarmType_NOSPACE,
	})
	must(t, err)
	want := Alarm{Member: status.MemberID, Kind: "NOSPACE"}
	if alarms, err := c.Alarms(ctx); err != nil || len(alarms) != 1 || alarms[0] != want {
		t.Errorf("alarms %v: %v", alarms, err)
	}
	// Protobuf, which etcdctl prints with, puts in one blank or two as it likes.
	if told := strings.Join(strings.Fields(s.Etcdctl(t, "alarm", "list")), " "); told != want.String() {
		t.Errorf("etcdctl says %q, we say %q", told, want)
	}
	if now, err := c.Status(ctx); err != nil || len(now.Errors) == 0 {
		t.Errorf("status complains %q: %v", now.Errors, err)
	}
	if alarms, err := c.DisarmAlarms(ctx); err != nil || len(alarms) != 1 || alarms[0] != want {
		t.Errorf("disarmed %v: %v", alarms, err)
	}
	if alarms, err := c.Alarms(ctx); err != nil || len(alarms) != 0 {
		t.Errorf("alarms %v are left: %v", alarms, err)
	}
}

func checkLearners(t *testing.T, c *Client) {
	ctx := t.Context()
	const peer = "https://127.0.0.1:1"
	id, members, err := c.AddLearner(ctx, peer)
	must(t, err)
	i := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
	if len(members) != 2 || i < 0 || !members[i].Learner || members[i].Name != "" || len(members[i].ClientURLs) != 0 || members[i].PeerURLs[0] != peer {
		t.Errorf("members %+v", members)
	}
	if _, _, err := c.AddLearner(ctx, "https://127.0.0.1:2"); !errors.Is(err, ErrNotReady) || !errors.Is(err, rpctypes.ErrTooManyLearners) {
		t.Errorf("a second learner: %v", err)
	}
	if _, _, err := c.AddLearner(ctx, peer); err == nil || errors.Is(err, ErrNotReady) {
		t.Errorf("the same once more: %v", err)
	}
	if err := c.Promote(ctx, id); !errors.Is(err, ErrNotReady) {
		t.Errorf("promote a learner that never started: %v", err)
	}
	if health := CheckHealth(ctx, c.Endpoint(), nil); health.ListError == nil {
		t.Errorf("without TLS there is health: %s", health)
	}
	must(t, c.Remove(ctx, id))
	if err := c.Remove(ctx, id); err == nil || errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "remove member "+id.String()) {
		t.Errorf("remove it again: %v", err)
	}
	if members, err := c.Members(ctx); err != nil || len(members) != 1 {
		t.Errorf("members %v: %v", members, err)
	}
}

// checkAuth turns authentication on; the client's certificate names no user.
func checkAuth(t *testing.T, s *etcdtest.Server, c *Client) {
	ctx := t.Context()
	_, err := s.Client.UserAdd(ctx, "root", "secret")
	must(t, err)
	_, err = s.Client.UserGrantRole(ctx, "root", "root")
	must(t, err)
	_, err = s.Client.AuthEnable(ctx)
	must(t, err)
	if _, err := c.CountKeys(ctx); err == nil {
		t.Error("keys are counted for nobody")
	}
	must(t, c.Probe(ctx))
}

// TestSilence wants an error with the endpoint and in time from a member that is hung, gone, or no etcd.
func TestSilence(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{TLS: etcdtest.NewTLS(t)})
	calls := map[string]func(context.Context, *Client) error{
		"read status":           func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err },
		"list members":          func(ctx context.Context, c *Client) error { _, err := c.KnownMembers(ctx); return err },
		"probe":                 func(ctx context.Context, c *Client) error { return c.Probe(ctx) },
		"count keys":            func(ctx context.Context, c *Client) error { _, err := c.CountKeys(ctx); return err },
		"list alarms":           func(ctx context.Context, c *Client) error { _, err := c.Alarms(ctx); return err },
		"disarm alarms":         func(ctx context.Context, c *Client) error { _, err := c.DisarmAlarms(ctx); return err },
		"defragment":            func(ctx context.Context, c *Client) error { return c.Defragment(ctx) },
		"promote member 2a":     func(ctx context.Context, c *Client) error { return c.Promote(ctx, 42) },
		"compact to revision 7": func(ctx context.Context, c *Client) error { return c.Compact(ctx, history.Revision(7), false) },
	}
	check := func(t *testing.T, want string) {
		for step, call := range calls {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				c := dial(t, s)
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				begun := time.Now()
				err := call(ctx, c)
				if err == nil || !strings.HasPrefix(err.Error(), step+" at "+s.Endpoint+": "+want) || time.Since(begun) > 10*time.Second {
					t.Errorf("after %s: %v", time.Since(begun), err)
				}
			})
		}
	}
	must(t, syscall.Kill(s.PID(), syscall.SIGSTOP))
	t.Run("hung", func(t *testing.T) { check(t, "no answer in time") })
	must(t, s.Kill())
	t.Run("gone", func(t *testing.T) { check(t, "") })
}

func TestTexts(t *testing.T) {
	for id, want := range map[ID]string{0: "0", 0x3c149609bfcf7692: "3c149609bfcf7692", 0xabc: "abc"} {
		if id.String() != want {
			t.Errorf("%d is %q", uint64(id), id)
		}
	}
	if got := (Alarm{Member: 10276657743932975437, Kind: "CORRUPT"}).String(); got != "memberID:10276657743932975437 alarm:CORRUPT" {
		t.Errorf("alarm %q", got)
	}
}

// TestLeaseAndAuth asks every version for what no watch tells.
func TestLeaseAndAuth(t *testing.T) {
	t.Parallel()
	for _, version := range etcdtest.Versions(t) {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			s := etcdtest.Start(t, version, etcdtest.Options{TLS: etcdtest.NewTLS(t)})
			c, ctx := dial(t, s), t.Context()
			before, err := s.Client.Get(ctx, "a")
			must(t, err)

			grant, err := s.Client.Grant(ctx, 1234)
			must(t, err)
			if seconds, found, err := c.LeaseTTL(ctx, int64(grant.ID)); err != nil || !found || seconds != 1234 {
				t.Errorf("lease: %d s, %v: %v", seconds, found, err)
			}
			_, err = s.Client.Revoke(ctx, grant.ID)
			must(t, err)
			for _, id := range []int64{int64(grant.ID), 0, -1, 42} {
				if seconds, found, err := c.LeaseTTL(ctx, id); err != nil || found || seconds != 0 {
					t.Errorf("no lease %x: %d s, %v: %v", id, seconds, found, err)
				}
			}

			first, enabled, err := c.AuthRevision(ctx)
			if version.Minor == "3.4" {
				if !errors.Is(err, ErrNotSupported) {
					t.Errorf("auth revision %d: %v", first, err)
				}
			} else {
				must(t, err)
				_, err = s.Client.RoleAdd(ctx, "view")
				must(t, err)
				again, _, err := c.AuthRevision(ctx)
				if err != nil || again <= first || enabled {
					t.Errorf("auth revision %d after %d, enabled %v: %v", again, first, enabled, err)
				}
			}
			after, err := s.Client.Get(ctx, "a")
			must(t, err)
			if after.Header.Revision != before.Header.Revision {
				t.Errorf("revision %d after %d: something was written", after.Header.Revision, before.Header.Revision)
			}
			must(t, s.Kill())
			late, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			if _, _, err := c.LeaseTTL(late, 42); err == nil || !strings.HasPrefix(err.Error(), "read time to live of lease 2a at "+s.Endpoint+": ") {
				t.Errorf("lease of a member that is gone: %v", err)
			}
			if _, _, err := c.AuthRevision(late); err == nil || !strings.HasPrefix(err.Error(), "read auth status at "+s.Endpoint+": ") {
				t.Errorf("auth of a member that is gone: %v", err)
			}
		})
	}
}
