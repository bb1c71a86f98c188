package capture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/holdfast-project/holdfast/internal/member"
)

// backend is bytes that stand for a backend with its trailer.
func backend(size int) []byte {
	data := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz"), size/36+1)[:size]
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

// messages cuts a backend into replies as etcd does: the trailer comes in one of its own, and the remaining bytes do not
// count it.
func messages(whole []byte, step int) []*pb.SnapshotResponse {
	data, trailer := whole[:len(whole)-trailerSize], whole[len(whole)-trailerSize:]
	var list []*pb.SnapshotResponse
	for sent := 0; sent < len(data); {
		n := min(step, len(data)-sent)
		sent += n
		list = append(list, &pb.SnapshotResponse{Blob: data[sent-n : sent], RemainingBytes: uint64(len(data) - sent), Version: "3.7"})
	}
	return append(list, &pb.SnapshotResponse{Blob: trailer, Version: "3.7"})
}

// fakeMember is a gRPC server that answers a snapshot as the test says.
type fakeMember struct {
	pb.UnimplementedMaintenanceServer
	snapshot func(pb.Maintenance_SnapshotServer) error
}

func (f *fakeMember) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	return f.snapshot(stream)
}

// start gives a client of a fake member.
func start(t *testing.T, snapshot func(pb.Maintenance_SnapshotServer) error) (*member.Client, *grpc.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := grpc.NewServer()
	pb.RegisterMaintenanceServer(server, &fakeMember{snapshot: snapshot})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	client, err := member.Dial("http://"+listener.Addr().String(), nil)
	must(t, err)
	t.Cleanup(func() {
		must(t, client.Close())
		server.Stop()
		must(t, <-served)
	})
	return client, server
}

// send sends replies one after the other.
func send(stream pb.Maintenance_SnapshotServer, list []*pb.SnapshotResponse) error {
	for _, reply := range list {
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
	return nil
}

// memory is a member in this process, for tests of time: its messages take as long as the test says, and nothing else does.
type memory struct {
	pb.MaintenanceClient
	list []*pb.SnapshotResponse
	// delay is the wait before each message, end what comes after the last; nil means a good end.
	delay func(i int) time.Duration
	end   error
	local net.Addr
}

func (m *memory) Snapshot(ctx context.Context, _ *pb.SnapshotRequest, _ ...grpc.CallOption) (pb.Maintenance_SnapshotClient, error) {
	here := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}
	return &memoryStream{ctx: peer.NewContext(ctx, &peer.Peer{LocalAddr: here, Addr: m.local}), memory: m}, nil
}

type memoryStream struct {
	grpc.ClientStream
	*memory
	ctx  context.Context
	next int
}

func (s *memoryStream) Context() context.Context { return s.ctx }

func (s *memoryStream) Recv() (*pb.SnapshotResponse, error) {
	if s.delay != nil {
		select {
		case <-time.After(s.delay(s.next)):
		case <-s.ctx.Done():
			return nil, errors.New("rpc error: code = Canceled") // as gRPC says it, without the cause
		}
	}
	if s.ctx.Err() != nil {
		return nil, errors.New("rpc error: code = Canceled")
	}
	if s.next == len(s.list) {
		if s.end != nil {
			return nil, s.end
		}
		return nil, io.EOF
	}
	s.next++
	return s.list[s.next-1], nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
