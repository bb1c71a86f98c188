package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestStreamIsTakenAsItIs(t *testing.T) {
	for _, step := range []int{1, 1000, 32 << 10, 300_000} {
		whole := backend(300_000)
		if step == 1 {
			whole = backend(500)
		}
		client, _ := start(t, func(stream pb.Maintenance_SnapshotServer) error { return send(stream, messages(whole, step)) })
		s, err := Open(t.Context(), client, Unlimited)
		must(t, err)
		if s.Size() != int64(len(whole)) || s.StorageVersion() != "3.7" {
			t.Errorf("step %d: size %d of %d, version %q", step, s.Size(), len(whole), s.StorageVersion())
		}
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, whole) {
			t.Errorf("step %d: %d bytes: %v", step, len(got), err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("step %d: a read after the end gives %d, %v", step, n, err)
		}
		must(t, s.Close())
	}
}

// TestCutAnywhere ends the stream after each number of bytes, in order and with an error. Nothing but the whole is taken.
func TestCutAnywhere(t *testing.T) {
	const first = 40
	whole := backend(150)
	cut, broken := 0, error(nil)
	client, _ := start(t, func(stream pb.Maintenance_SnapshotServer) error {
		left := cut
		for i, reply := range messages(whole, first) {
			if left < len(reply.Blob) && i > 0 {
				reply.Blob = reply.Blob[:left]
			}
			left -= len(reply.Blob)
			if err := stream.Send(reply); err != nil || left <= 0 {
				break
			}
		}
		return broken
	})
	for _, broken = range []error{nil, status.Error(codes.Unavailable, "etcdserver: server stopped")} {
		for cut = first; cut <= len(whole); cut++ {
			s, err := Open(t.Context(), client, Unlimited)
			must(t, err)
			got, err := io.ReadAll(s)
			switch {
			case !bytes.Equal(got, whole[:cut]):
				t.Fatalf("cut at %d: %d bytes, or wrong ones", cut, len(got))
			case broken != nil && (err == nil || !strings.Contains(err.Error(), "etcdserver: server stopped")):
				t.Errorf("broken at %d: %v", cut, err)
			case broken == nil && cut < len(whole) && (err == nil || err.Error() != fmt.Sprintf("read snapshot stream: it ended %d bytes early", len(whole)-cut)):
				t.Errorf("cut at %d: %v", cut, err)
			case broken == nil && cut == len(whole) && err != nil:
				t.Errorf("the whole: %v", err)
			}
			if n, again := s.Read(make([]byte, 1)); n != 0 || again == nil || err != nil && again.Error() != err.Error() {
				t.Errorf("cut at %d: a read after the error gives %d, %v", cut, n, again)
			}
			must(t, s.Close())
		}
	}
}

// TestMoreThanAnnounced sends bytes that no size was told for, as one message too many and within the last ones.
func TestMoreThanAnnounced(t *testing.T) {
	whole := backend(200)
	for name, change := range map[string]func([]*pb.SnapshotResponse) []*pb.SnapshotResponse{
		"a message more": func(l []*pb.SnapshotResponse) []*pb.SnapshotResponse {
			return append(l, &pb.SnapshotResponse{Blob: []byte("x")})
		},
		"a longer trailer": func(l []*pb.SnapshotResponse) []*pb.SnapshotResponse {
			l[len(l)-1].Blob = append(bytes.Clone(l[len(l)-1].Blob), 'x')
			return l
		},
		"less announced": func(l []*pb.SnapshotResponse) []*pb.SnapshotResponse { l[0].RemainingBytes--; return l },
	} {
		client, _ := start(t, func(stream pb.Maintenance_SnapshotServer) error { return send(stream, change(messages(whole, 64))) })
		s, err := Open(t.Context(), client, Unlimited)
		must(t, err)
		got, err := io.ReadAll(s)
		if err == nil || !strings.Contains(err.Error(), "sent 1 bytes more than it announced") || int64(len(got)) > s.Size() {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if n, again := s.Read(make([]byte, 100)); n != 0 || again == nil {
			t.Errorf("%s: a read after the error gives %d bytes, %v", name, n, again)
		}
		must(t, s.Close())
	}
}

func TestBadBeginnings(t *testing.T) {
	for name, tt := range map[string]struct {
		first *pb.SnapshotResponse
		err   error
		want  string
	}{
		"absurd size":    {&pb.SnapshotResponse{Blob: []byte("x"), RemainingBytes: math.MaxUint64}, nil, "member announces 18446744073709551615 bytes"},
		"huge size":      {&pb.SnapshotResponse{RemainingBytes: 1<<50 + 1}, nil, "member announces"},
		"negative size":  {&pb.SnapshotResponse{RemainingBytes: 1 << 63}, nil, "member announces"},
		"nothing at all": {nil, nil, "member sent nothing at all"},
		"no permission":  {nil, status.Error(codes.PermissionDenied, "etcdserver: permission denied"), "permission denied"},
	} {
		client, _ := start(t, func(stream pb.Maintenance_SnapshotServer) error {
			if tt.first != nil {
				return stream.Send(tt.first)
			}
			return tt.err
		})
		_, err := Open(t.Context(), client, Unlimited)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "open snapshot of "+client.Endpoint()+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The largest that is believed, and a member that was only a name.
	client, server := start(t, func(stream pb.Maintenance_SnapshotServer) error {
		return stream.Send(&pb.SnapshotResponse{Blob: []byte("x"), RemainingBytes: 1 << 50})
	})
	s, err := Open(t.Context(), client, Unlimited)
	must(t, err)
	if s.Size() != 1<<50+1+trailerSize {
		t.Errorf("size %d", s.Size())
	}
	must(t, s.Close())
	server.Stop()
	if _, err := Open(t.Context(), client, Unlimited); err == nil {
		t.Error("a member that is gone gives a snapshot")
	}
}

// TestConnectionBreaks loses the member in the middle, between the last page and the trailer.
func TestConnectionBreaks(t *testing.T) {
	whole := backend(100_000)
	sent, gone := make(chan struct{}), make(chan struct{})
	client, server := start(t, func(stream pb.Maintenance_SnapshotServer) error {
		list := messages(whole, 32<<10)
		err := send(stream, list[:len(list)-1])
		close(sent)
		<-stream.Context().Done()
		return err
	})
	s, err := Open(t.Context(), client, Unlimited)
	must(t, err)
	defer s.Close()
	go func() {
		<-sent
		server.Stop()
		close(gone)
	}()
	got, err := io.ReadAll(s)
	<-gone
	if err == nil || !bytes.HasPrefix(whole, got) || len(got) == len(whole) {
		t.Errorf("%d bytes of %d: %v", len(got), len(whole), err)
	}
}

func TestStall(t *testing.T) {
	whole := backend(1000)
	const patience = 200 * time.Millisecond
	for name, sends := range map[string]int{"before the first": 0, "in the middle": 3, "before the trailer": 10, "before the end": 11} {
		client, _ := start(t, func(stream pb.Maintenance_SnapshotServer) error {
			if err := send(stream, messages(whole, 100)[:sends]); err != nil {
				return err
			}
			// What is no progress is no sign of life.
			for stream.Context().Err() == nil && stream.Send(&pb.SnapshotResponse{}) == nil && sends > 0 {
				time.Sleep(patience / 10)
			}
			<-stream.Context().Done()
			return nil
		})
		begun := time.Now()
		s, err := open(t.Context(), pb.NewMaintenanceClient(client.Conn()), Unlimited, patience)
		if err == nil {
			_, err = io.ReadAll(s)
			must(t, s.Close())
		}
		if err == nil || !strings.HasSuffix(err.Error(), "member sent nothing for 200ms") || time.Since(begun) > 10*time.Second {
			t.Errorf("%s: after %s: %v", name, time.Since(begun), err)
		}
	}
}

// TestCancelTellsWhy wants the cause of the cancel, not gRPC's word for it, and the member's read transaction ended.
func TestCancelTellsWhy(t *testing.T) {
	why := errors.New("somebody asked for it")
	ended := make(chan struct{}, 1)
	client, _ := start(t, func(stream pb.Maintenance_SnapshotServer) error {
		err := send(stream, messages(backend(1000), 100)[:5])
		<-stream.Context().Done()
		ended <- struct{}{}
		return err
	})
	for name, pace := range map[string]Rate{"unlimited": Unlimited, "in the wait of the pace": 1} {
		ctx, cancel := context.WithCancelCause(t.Context())
		s, err := Open(ctx, client, pace)
		must(t, err)
		var once bool
		_, err = io.Copy(writerFunc(func(p []byte) (int, error) {
			if !once {
				once = true
				time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
			}
			return len(p), nil
		}), s)
		if pace == 1 && s.limit == nil {
			t.Error("there is no pace")
		}
		if !errors.Is(err, why) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, s.Close())
		<-ended
	}
	// Close alone ends it as well.
	s, err := Open(t.Context(), client, Unlimited)
	must(t, err)
	must(t, s.Close())
	<-ended
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
