// Package member talks to one live etcd member: its status, the membership of its cluster, and upkeep (compaction,
// defragmentation, alarms).
//
// A Client is safe for concurrent use. Every call is bounded by its context; nothing is retried here, and nothing is
// written to etcd except by the methods that say so.
package member

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-project/holdfast/internal/history"
)

// DialTimeout bounds one attempt to connect. A member on a healthy network answers in milliseconds.
const DialTimeout = 5 * time.Second

// window is how much a member may send before it was read, in bytes.
const window = 4 << 20

// ID is an etcd member or cluster id, written in hexadecimal as etcdctl does.
type ID uint64

// String gives the lower-case hexadecimal form.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 16) }

// Member is one entry of a cluster's membership.
type Member struct {
	ID         ID
	Name       string // empty until the member has started once
	PeerURLs   []string
	ClientURLs []string
	Learner    bool
}

// Status is what a member says of itself.
type Status struct {
	ClusterID ID
	MemberID  ID
	Leader    ID // 0 when there is none
	Version   string
	Revision  history.Revision
	// Size and InUse are the bytes of the backend file and of its pages in use.
	Size, InUse int64
	RaftIndex   uint64
	RaftTerm    uint64
	Learner     bool
	// Errors are the member's own complaints, such as alarms.
	Errors []string
}

// ErrNotReady is the class of refusals that pass by themselves: a learner that has not caught up, or members that have not
// been connected for long enough for the membership to change.
var ErrNotReady = errors.New("not ready yet")

// ErrNotSupported is that the member's etcd has no such call: it is too old.
var ErrNotSupported = errors.New("not supported by this version of etcd")

// Client is a connection to one member.
type Client struct {
	endpoint string
	config   *tls.Config
	etcd     *clientv3.Client
}

// keepAlive is how long a connection in use is silent before it is pinged, and then how long the answer may take. The shortest
// that gRPC allows for the first.
const keepAlive = 10 * time.Second

// Dial prepares a client of the member at endpoint, a client URL. It does not wait for the connection: that nobody is there
// shows at the first call. config may be nil for plain http. The caller closes the client.
func Dial(endpoint string, config *tls.Config) (*Client, error) { return dialWith(endpoint, config) }

func dialWith(endpoint string, config *tls.Config, more ...grpc.DialOption) (*Client, error) {
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		TLS:         config,
		DialTimeout: DialTimeout,
		Logger:      zap.NewNop(),
		// The system notices after a quarter of an hour that the other host is gone, and etcd is asked for a sign of itself only
		// where a call is silent. etcd takes no more pings than one in 5 s.
		DialKeepAliveTime:    keepAlive,
		DialKeepAliveTimeout: keepAlive,
		// A snapshot is hundreds of megabytes: with windows of 64 KiB a member waits for leave to go on all the time, which
		// costs it a seventh more processor time.
		DialOptions: append([]grpc.DialOption{
			grpc.WithReadBufferSize(256 << 10), grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		}, more...),
	})
	if err != nil {
		return nil, fmt.Errorf("dial member %q: %w", endpoint, err)
	}
	return &Client{endpoint: endpoint, config: config, etcd: etcd}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.etcd.Close() }

// Endpoint is the client URL that the client was made for.
func (c *Client) Endpoint() string { return c.endpoint }

// Conn is the raw connection, for the calls that clientv3 hides.
func (c *Client) Conn() grpc.ClientConnInterface { return c.etcd.ActiveConnection() }

// Status asks the member for its state. It needs no quorum. Unlike the calls that go through etcd's own client, which try
// again for as long as they may, it tells at once that nobody is there.
func (c *Client) Status(ctx context.Context) (Status, error) {
	reply, err := pb.NewMaintenanceClient(c.Conn()).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return Status{}, c.wrap("read status", err)
	}
	return Status{
		ClusterID: ID(reply.Header.ClusterId),
		MemberID:  ID(reply.Header.MemberId),
		Leader:    ID(reply.Leader),
		Version:   reply.Version,
		Revision:  history.Revision(reply.Header.Revision),
		Size:      reply.DbSize,
		InUse:     reply.DbSizeInUse,
		RaftIndex: reply.RaftIndex,
		RaftTerm:  reply.RaftTerm,
		Learner:   reply.IsLearner,
		Errors:    reply.Errors,
	}, nil
}

// Members lists the membership that a quorum agrees on, learners and members that never started included. (Before etcd 3.5
// it is what this member knows.)
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	reply, err := c.etcd.MemberList(ctx)
	if err != nil {
		return nil, c.wrap("list members", err)
	}
	return fromMembers(reply.Members), nil
}

// KnownMembers is Members by this member's own knowledge, which may be old and needs no quorum.
func (c *Client) KnownMembers(ctx context.Context) ([]Member, error) {
	reply, err := pb.NewClusterClient(c.Conn()).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		return nil, c.wrap("list members", err)
	}
	return fromMembers(reply.Members), nil
}

// AddLearner adds a non-voting member and gives its id with the new membership. It writes to the cluster.
func (c *Client) AddLearner(ctx context.Context, peerURL string) (ID, []Member, error) {
	reply, err := c.etcd.MemberAddAsLearner(ctx, []string{peerURL})
	if err != nil {
		return 0, nil, c.wrap(fmt.Sprintf("add learner %q", peerURL), err)
	}
	return ID(reply.Member.ID), fromMembers(reply.Members), nil
}

// Promote makes a learner a voting member. It writes to the cluster and fails while the learner is behind.
func (c *Client) Promote(ctx context.Context, id ID) error {
	if _, err := c.etcd.MemberPromote(ctx, uint64(id)); err != nil {
		return c.wrap(fmt.Sprintf("promote member %s", id), err)
	}
	return nil
}

// SetPeerURL changes where the other members reach a member. It writes to the cluster.
func (c *Client) SetPeerURL(ctx context.Context, id ID, peerURL string) error {
	if _, err := c.etcd.MemberUpdate(ctx, uint64(id), []string{peerURL}); err != nil {
		return c.wrap(fmt.Sprintf("set peer URL of member %s", id), err)
	}
	return nil
}

// Remove takes a member out of the cluster. It writes to the cluster.
func (c *Client) Remove(ctx context.Context, id ID) error {
	if _, err := c.etcd.MemberRemove(ctx, uint64(id)); err != nil {
		return c.wrap(fmt.Sprintf("remove member %s", id), err)
	}
	return nil
}

// Probe reads one key through the leader: it succeeds only when the member serves and a quorum answers. That the caller may
// not read the key is an answer too: etcd says so after the quorum has answered.
func (c *Client) Probe(ctx context.Context) error {
	_, err := c.etcd.Get(ctx, "health")
	if err == nil || errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) {
		return nil
	}
	return c.wrap("probe", err)
}

// LacksQuorum tells whether the member answers with no quorum behind it: it knows no leader, or a read through the leader
// gets no answer before ctx ends. Of a learner, which serves no such reads, it cannot be told and is false.
func (c *Client) LacksQuorum(ctx context.Context) (bool, error) {
	own, err := c.Status(ctx)
	switch {
	case err != nil || own.Learner:
		return false, err
	case own.Leader == 0:
		return true, nil
	}
	err = c.Probe(ctx)
	late := errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
	for _, sign := range []error{rpctypes.ErrNoLeader, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost} {
		late = late || errors.Is(err, sign)
	}
	if late {
		return true, nil
	}
	return false, err
}

// CountKeys counts the live keys, by the leader's knowledge.
func (c *Client) CountKeys(ctx context.Context) (int64, error) {
	reply, err := c.etcd.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, c.wrap("count keys", err)
	}
	return reply.Count, nil
}

// readPage is how many keys one answer of ReadAll holds at most.
const readPage = 1000

// ReadAll reads every key and value that is live at a revision.
func (c *Client) ReadAll(ctx context.Context, revision history.Revision) (Keyspace, error) {
	sum := NewKeyspaceSum()
	from := "\x00"
	for {
		reply, err := c.etcd.Get(ctx, from, clientv3.WithFromKey(), clientv3.WithRev(int64(revision)), clientv3.WithLimit(readPage))
		if err != nil {
			return Keyspace{}, c.wrap(fmt.Sprintf("read all keys at revision %s", revision), err)
		}
		for _, kv := range reply.Kvs {
			sum.Add(kv.Key, kv.Value, history.Revision(kv.CreateRevision), history.Revision(kv.ModRevision), kv.Version, kv.Lease)
			from = string(kv.Key) + "\x00"
		}
		if !reply.More {
			return sum.Keyspace(), nil
		}
	}
}

// HashKV asks the member for its hash of every record from its compact revision up to revision. It needs no quorum; where
// auth is on it needs root. It fails when the revision is compacted. compacted is 0 when nothing ever was.
func (c *Client) HashKV(ctx context.Context, revision history.Revision) (hash uint32, compacted history.Revision, err error) {
	reply, err := pb.NewMaintenanceClient(c.Conn()).HashKV(ctx, &pb.HashKVRequest{Revision: int64(revision)})
	if err != nil {
		return 0, 0, c.wrap(fmt.Sprintf("hash keyspace at revision %s", revision), err)
	}
	return reply.Hash, history.Revision(max(reply.CompactRevision, 0)), nil // etcd says -1
}

// LeaseTTL tells for how many seconds a lease was granted, by this member's knowledge; it asks the leader, so it needs one. It
// does not renew the lease. found is false when there is no such lease (any more). Where auth is on, any user may ask.
func (c *Client) LeaseTTL(ctx context.Context, id int64) (seconds int64, found bool, err error) {
	reply, err := pb.NewLeaseClient(c.Conn()).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id})
	if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, c.wrap(fmt.Sprintf("read time to live of lease %x", id), err)
	}
	// TTL is -1 when there is none: that is etcd's whole answer then.
	return reply.GrantedTTL, reply.TTL >= 0 && reply.GrantedTTL > 0, nil
}

// AuthRevision gives the revision of users and roles, which each change of them raises, and whether auth is on. Where it is,
// only root may ask. The error is ErrNotSupported before etcd 3.5. It changes nothing, but etcd answers by way of its log, as for a write: it
// needs a quorum, and is not to be asked every second.
func (c *Client) AuthRevision(ctx context.Context) (revision uint64, enabled bool, err error) {
	reply, err := pb.NewAuthClient(c.Conn()).AuthStatus(ctx, &pb.AuthStatusRequest{})
	if status.Code(err) == codes.Unimplemented {
		return 0, false, fmt.Errorf("read auth status at %s: %w", c.endpoint, ErrNotSupported)
	}
	if err != nil {
		return 0, false, c.wrap("read auth status", err)
	}
	return reply.AuthRevision, reply.Enabled, nil
}

// Alarm is an alarm that a member has raised.
type Alarm struct {
	Member ID
	Kind   string // NOSPACE or CORRUPT
}

// String is the line that etcdctl prints for an alarm.
func (a Alarm) String() string { return fmt.Sprintf("memberID:%d alarm:%s", uint64(a.Member), a.Kind) }

// Alarms lists the cluster's alarms.
func (c *Client) Alarms(ctx context.Context) ([]Alarm, error) {
	reply, err := c.etcd.AlarmList(ctx)
	if err != nil {
		return nil, c.wrap("list alarms", err)
	}
	return fromAlarms(reply.Alarms), nil
}

// DisarmAlarms clears every alarm of the cluster and gives those it cleared. It writes to the cluster.
func (c *Client) DisarmAlarms(ctx context.Context) ([]Alarm, error) {
	reply, err := c.etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	if err != nil {
		return nil, c.wrap("disarm alarms", err)
	}
	return fromAlarms(reply.Alarms), nil
}

// Compact drops the history below revision. With physical it returns only when the space is free for reuse.
func (c *Client) Compact(ctx context.Context, revision history.Revision, physical bool) error {
	var options []clientv3.CompactOption
	if physical {
		options = append(options, clientv3.WithCompactPhysical())
	}
	if _, err := c.etcd.Compact(ctx, int64(revision), options...); err != nil {
		return c.wrap(fmt.Sprintf("compact to revision %s", revision), err)
	}
	return nil
}

// Defragment rewrites this member's backend file. The member serves nothing meanwhile.
func (c *Client) Defragment(ctx context.Context) error {
	if _, err := c.etcd.Defragment(ctx, c.endpoint); err != nil {
		return c.wrap("defragment", err)
	}
	return nil
}

// wrap names the step and the endpoint, says "no answer" where gRPC only says that time ran out, and marks what passes by
// itself.
func (c *Client) wrap(step string, err error) error {
	for _, passing := range []error{rpctypes.ErrUnhealthy, rpctypes.ErrMemberNotEnoughStarted, rpctypes.ErrMemberLearnerNotReady, rpctypes.ErrTooManyLearners} {
		if errors.Is(err, passing) {
			return fmt.Errorf("%s at %s: %w: %w", step, c.endpoint, ErrNotReady, err)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		err = lateError{err}
	}
	return fmt.Errorf("%s at %s: %w", step, c.endpoint, err)
}

// lateError is that time ran out. The library's words for it say no more, and much less plainly.
type lateError struct{ error }

func (lateError) Error() string { return "no answer in time" }

func (e lateError) Unwrap() error { return e.error }

func fromMembers(list []*pb.Member) []Member {
	members := make([]Member, 0, len(list))
	for _, m := range list {
		members = append(members, Member{ID: ID(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner})
	}
	return members
}

func fromAlarms(list []*pb.AlarmMember) []Alarm {
	alarms := make([]Alarm, 0, len(list))
	for _, a := range list {
		alarms = append(alarms, Alarm{Member: ID(a.MemberID), Kind: a.Alarm.String()})
	}
	return alarms
}
