// Package recorder is a gRPC proxy before an etcd server that knows which calls were made, and that can break: for tests that
// prove what is ever asked of a member, and of what happens when a member is cut off.
//
// It forwards messages as the bytes they are, of any method, with their metadata. Its own side is plain http on loopback, so
// clients of it need no TLS config. A Recorder is safe for concurrent use. It is no proxy of bytes: gRPC's own frames, such
// as pings, it answers itself, even when it is paused.
package recorder

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// Recorder is a running proxy.
type Recorder struct {
	endpoint string
	target   *grpc.ClientConn
	server   *grpc.Server
	streams  sync.WaitGroup

	mu       sync.Mutex
	methods  map[string]int
	requests map[string][][]byte
	conns    map[net.Conn]bool
	refuse   bool
	delay    time.Duration
	alter    func(method string, answer []byte) []byte
	// open is closed while messages pass; nobody reads it otherwise than to wait.
	open   chan struct{}
	paused bool
}

// Start runs a proxy before the server at target, a client URL, until the test ends. config is that of the server's clients; it
// is used when target is https.
func Start(t testing.TB, target string, config *tls.Config) *Recorder {
	t.Helper()
	scheme, address, _ := strings.Cut(target, "://")
	transport := insecure.NewCredentials()
	if scheme == "https" {
		transport = credentials.NewTLS(config)
	}
	unlimited := grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32))
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(transport), unlimited)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Recorder{
		endpoint: "http://" + listener.Addr().String(), target: conn, open: make(chan struct{}),
		methods: map[string]int{}, requests: map[string][][]byte{}, conns: map[net.Conn]bool{},
	}
	close(r.open)
	r.server = grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(r.forward), grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32))
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(&tracked{listener, r}) }()
	t.Cleanup(func() {
		r.server.Stop()
		if err := errors.Join(<-served, conn.Close()); err != nil {
			t.Error(err)
		}
		r.streams.Wait()
	})
	return r
}

// Endpoint is the client URL of the proxy.
func (r *Recorder) Endpoint() string { return r.endpoint }

// Methods gives how often each method was called, by its full name such as "/etcdserverpb.KV/Range".
func (r *Recorder) Methods() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.methods)
}

// Requests gives the request messages of a method, in the order in which they came.
func (r *Recorder) Requests(method string) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]byte(nil), r.requests[method]...)
}

// Pause lets no message pass, in either direction, and keeps all connections: to a client the member hangs.
func (r *Recorder) Pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.paused {
		r.paused, r.open = true, make(chan struct{})
	}
}

// Resume lets messages pass again, those that waited first.
func (r *Recorder) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paused {
		r.paused = false
		close(r.open)
	}
}

// Delay makes each message, in either direction, wait from now on.
func (r *Recorder) Delay(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = d
}

// Alter has a function change every answer from now on, so that the member lies; nil ends that. It is called from several
// goroutines.
func (r *Recorder) Alter(how func(method string, answer []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alter = how
}

// Cut drops all connections of clients. New ones are taken.
func (r *Recorder) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		_ = conn.Close() // it is forgotten by its own Close
	}
}

// Refuse drops new connections as soon as they come, or takes them again.
func (r *Recorder) Refuse(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = on
}

// forward handles one call of any method.
func (r *Recorder) forward(_ any, front grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(front)
	r.mu.Lock()
	r.methods[method]++
	r.mu.Unlock()
	incoming, _ := metadata.FromIncomingContext(front.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(front.Context(), incoming.Copy()))
	defer cancel()
	back, err := r.target.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	r.streams.Go(func() {
		if r.requestsTo(ctx, method, front, back) != nil {
			cancel()
		}
	})
	header, err := back.Header()
	if err == nil {
		err = front.SetHeader(header)
	}
	for err == nil {
		var message []byte
		if err = back.RecvMsg(&message); err != nil {
			break
		}
		if err = r.pass(ctx); err != nil {
			break
		}
		r.mu.Lock()
		alter := r.alter
		r.mu.Unlock()
		if alter != nil {
			message = alter(method, message)
		}
		err = front.SendMsg(&message)
	}
	front.SetTrailer(back.Trailer())
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// requestsTo forwards what the client sends, and that it has ended.
func (r *Recorder) requestsTo(ctx context.Context, method string, front grpc.ServerStream, back grpc.ClientStream) error {
	for {
		var message []byte
		if err := front.RecvMsg(&message); errors.Is(err, io.EOF) {
			return back.CloseSend()
		} else if err != nil {
			return err
		}
		r.mu.Lock()
		r.requests[method] = append(r.requests[method], bytes.Clone(message))
		r.mu.Unlock()
		if err := r.pass(ctx); err != nil {
			return err
		}
		if err := back.SendMsg(&message); err != nil {
			return nil // the reason is what the other direction gets
		}
	}
}

// pass returns when a message may go on.
func (r *Recorder) pass(ctx context.Context) error {
	r.mu.Lock()
	delay := r.delay
	r.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.mu.Lock()
	open := r.open
	r.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tracked is a listener whose connections the recorder can drop.
type tracked struct {
	net.Listener
	r *Recorder
}

func (l *tracked) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.r.mu.Lock()
		refuse := l.r.refuse
		if !refuse {
			l.r.conns[conn] = true
		}
		l.r.mu.Unlock()
		if !refuse {
			return &trackedConn{conn, l.r}, nil
		}
		if err := conn.Close(); err != nil {
			return nil, err
		}
	}
}

type trackedConn struct {
	net.Conn
	r *Recorder
}

func (c *trackedConn) Close() error {
	c.r.mu.Lock()
	delete(c.r.conns, c.Conn)
	c.r.mu.Unlock()
	return c.Conn.Close()
}

// raw is a codec that leaves messages as they are. They are *[]byte.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
