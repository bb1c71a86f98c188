package capture

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
)

// What the fake members are by default.
const (
	fakeCluster = 0xc1
	fakeTerm    = 5
	fakeNow     = 1000
)

// watched is a member in this process: it gives what the test sends, and keeps what it was asked.
type watched struct {
	replies chan *pb.WatchResponse
	// end is what comes when replies is closed; nil means io.EOF.
	end error
	// hangs makes the very call hang.
	hangs bool

	mu   sync.Mutex
	sent []*pb.WatchRequest
	// onProgress is called for each progress request.
	onProgress func()
	options    []grpc.CallOption
}

// watchOf gives a member that says all of replies and nothing more.
func watchOf(replies ...*pb.WatchResponse) *watched {
	w := &watched{replies: make(chan *pb.WatchResponse, len(replies)+100)}
	for _, reply := range replies {
		w.replies <- reply
	}
	return w
}

func (w *watched) Watch(ctx context.Context, options ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	w.options = options
	if w.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &watchedStream{ctx: ctx, watched: w}, nil
}

type watchedStream struct {
	grpc.ClientStream
	*watched
	ctx context.Context
}

func (s *watchedStream) Send(request *pb.WatchRequest) error {
	s.mu.Lock()
	s.sent = append(s.sent, request)
	answer := s.onProgress
	s.mu.Unlock()
	if request.GetProgressRequest() != nil && answer != nil {
		answer()
	}
	return nil
}

func (s *watchedStream) Recv() (*pb.WatchResponse, error) {
	select {
	case reply, ok := <-s.replies:
		if !ok && s.end != nil {
			return nil, s.end
		}
		if !ok {
			return nil, io.EOF
		}
		return reply, nil
	case <-s.ctx.Done():
		return nil, errors.New("rpc error: code = Canceled") // as gRPC says it, without the cause
	}
}

// progressRequests counts them.
func (w *watched) progressRequests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := 0
	for _, request := range w.sent {
		if request.GetProgressRequest() != nil {
			count++
		}
	}
	return count
}

func header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: fakeCluster, MemberId: 1, Revision: fakeNow, RaftTerm: fakeTerm}
}

func created() *pb.WatchResponse { return &pb.WatchResponse{Header: header(), Created: true} }

// progress is an answer to a progress request.
func progress() *pb.WatchResponse { return &pb.WatchResponse{Header: header(), WatchId: -1} }

// events is a response with a put for each revision; 0 marks it as a fragment.
func events(revisions ...int64) *pb.WatchResponse {
	reply := &pb.WatchResponse{Header: header()}
	for _, r := range revisions {
		if r == 0 {
			reply.Fragment = true
			continue
		}
		reply.Events = append(reply.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("secret key"), Value: []byte("secret value"), CreateRevision: 1, ModRevision: r, Version: 1}})
	}
	return reply
}

// change changes a response.
func change(reply *pb.WatchResponse, how func(*pb.WatchResponse)) *pb.WatchResponse {
	how(reply)
	return reply
}

// fakeWatch is a gRPC server that answers a watch as the test says.
type fakeWatch struct {
	pb.UnimplementedWatchServer
	watch func(pb.Watch_WatchServer) error
}

func (f *fakeWatch) Watch(stream pb.Watch_WatchServer) error { return f.watch(stream) }

// serveWatch gives a client of a fake member that is reached by gRPC.
func serveWatch(t testing.TB, watch func(pb.Watch_WatchServer) error) *member.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterWatchServer(server, &fakeWatch{watch: watch})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	client, err := member.Dial("http://"+listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Stop()
		if err := errors.Join(client.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	return client
}

// revisions are those of events, each as often as it has one.
func revisions(list []history.Event) []int64 {
	var found []int64
	for _, e := range list {
		found = append(found, int64(e.Revision))
	}
	return found
}
