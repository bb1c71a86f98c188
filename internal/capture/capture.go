// Package capture reads from a live member what Holdfast keeps: the snapshot stream of its backend, and the events of its
// keyspace as they come about.
//
// It sits between member and the writers of archives. A Stream and Events belong to one goroutine each. A Stream promises
// that a read that ends in io.EOF has given exactly the bytes that the member announced; whether they are a sound backend is
// for the snapshot package to say. Events promise that each revision follows the one before, in full; whether the member's
// history is the one that was read before is for the caller to say, by the revision that both have. Neither opens anything a
// second time by itself.
package capture

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/time/rate"

	"github.com/holdfast-project/holdfast/internal/member"
)

// StallTimeout is how long a member may send nothing before the snapshot is given up.
const StallTimeout = 30 * time.Second

const (
	// trailerSize is etcd's sha256 over the backend, which ends the stream.
	trailerSize = sha256.Size
	// mostBytes is what a member may announce, 1 PiB: beyond any backend, and far from overflow.
	mostBytes = 1 << 50
)

// Stream is the snapshot of one member as it arrives: its backend, then etcd's sha256 of it.
type Stream struct {
	size    int64
	version string

	// ctx is that of the whole stream, which outlives the call that opened it; cancel ends it.
	ctx      context.Context
	cancel   context.CancelCauseFunc
	receiver pb.Maintenance_SnapshotClient
	patience time.Duration
	// stall cancels the stream. It runs only while the member is waited for: that the reader takes its time is no stall.
	stall *time.Timer
	limit *rate.Limiter // nil means no pace
	// unwatch ends what sets the limit by how the member is.
	unwatch func()
	blob    []byte // received and not yet read
	left    int64  // bytes not yet read
	err     error  // what every Read gives once blob is read
}

// Open starts a snapshot of the member and waits for its first bytes. The caller closes the stream; until then the
// member holds a read transaction. ctx bounds the whole stream.
func Open(ctx context.Context, client *member.Client, pace Rate) (*Stream, error) {
	s, err := open(ctx, pb.NewMaintenanceClient(client.Conn()), pace, StallTimeout)
	if err != nil {
		return nil, fmt.Errorf("open snapshot of %s: %w", client.Endpoint(), err)
	}
	if (pace == Automatic || pace == Prompt) && s.limit != nil && s.size > considerateFrom {
		s.unwatch = considerate(s.ctx, client.Probe, s.limit, longestRate(s.size))
	}
	return s, nil
}

func open(ctx context.Context, maintenance pb.MaintenanceClient, pace Rate, patience time.Duration) (_ *Stream, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Stream{ctx: ctx, cancel: cancel, patience: patience, unwatch: func() {}}
	s.stall = time.AfterFunc(patience, func() { cancel(fmt.Errorf("member sent nothing for %s", patience)) })
	defer func() {
		s.stall.Stop()
		if err != nil {
			err = s.explain(err)
			s.Close()
		}
	}()
	if s.receiver, err = maintenance.Snapshot(ctx, &pb.SnapshotRequest{}, readsLean()); err != nil {
		return nil, err
	}
	if err := s.first(); err != nil {
		return nil, err
	}
	if perSecond := effectiveRate(pace, local(s.receiver.Context()), s.size); perSecond > 0 {
		s.limit = rate.NewLimiter(rate.Limit(perSecond), burst)
	}
	return s, nil
}

// first reads the first message, whose remaining bytes tell the size of the whole. The trailer is not counted in them.
func (s *Stream) first() error {
	reply, err := s.receiver.Recv()
	if errors.Is(err, io.EOF) {
		return errors.New("member sent nothing at all")
	}
	if err != nil {
		return err
	}
	if reply.RemainingBytes > mostBytes {
		return fmt.Errorf("member announces %d bytes", reply.RemainingBytes)
	}
	s.blob, s.version = reply.Blob, reply.Version
	s.size = int64(len(reply.Blob)) + int64(reply.RemainingBytes) + trailerSize
	s.left = s.size
	return nil
}

// Size is the number of bytes that the stream will give, trailer included.
func (s *Stream) Size() int64 { return s.size }

// StorageVersion is what the member says of its backend's layout ("3.6.0"); empty before etcd 3.6.
func (s *Stream) StorageVersion() string { return s.version }

// Read gives the next bytes. It returns io.EOF only after exactly Size bytes and the end of the member's stream. After an
// error it gives that error again.
func (s *Stream) Read(p []byte) (int, error) {
	if len(s.blob) == 0 && s.err == nil {
		s.blob, s.err = s.receive()
	}
	if len(s.blob) == 0 {
		return 0, s.err
	}
	n := min(len(p), len(s.blob), burst)
	if s.limit != nil {
		if err := s.limit.WaitN(s.ctx, n); err != nil {
			s.blob, s.err = nil, fmt.Errorf("read snapshot stream: %w", s.explain(err))
			return 0, s.err
		}
	}
	copy(p, s.blob[:n])
	s.blob = s.blob[n:]
	s.left -= int64(n)
	return n, nil
}

// receive waits for the next bytes of the member. It gives io.EOF only when nothing is missing.
func (s *Stream) receive() ([]byte, error) {
	s.stall.Reset(s.patience)
	defer s.stall.Stop()
	for {
		reply, err := s.receiver.Recv()
		switch {
		case errors.Is(err, io.EOF) && s.left > 0:
			return nil, fmt.Errorf("read snapshot stream: it ended %d bytes early", s.left)
		case errors.Is(err, io.EOF):
			return nil, io.EOF
		case err != nil:
			return nil, fmt.Errorf("read snapshot stream: %w", s.explain(err))
		case int64(len(reply.Blob)) > s.left:
			return nil, fmt.Errorf("read snapshot stream: member sent %d bytes more than it announced", int64(len(reply.Blob))-s.left)
		case len(reply.Blob) > 0:
			return reply.Blob, nil
		}
	}
}

// Close ends the stream, and with it the member's read transaction.
func (s *Stream) Close() error {
	s.stall.Stop()
	s.cancel(context.Canceled)
	s.unwatch()
	return nil
}

// explain puts the cause of a cancelled stream in the place of gRPC's word for it.
func (s *Stream) explain(err error) error {
	if cause := context.Cause(s.ctx); cause != nil {
		return cause
	}
	return err
}
