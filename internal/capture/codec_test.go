package capture

import (
	"bytes"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// TestLean holds the codec against protobuf's own reading, of messages that are whole, cut and changed.
func TestLean(t *testing.T) {
	var codec lean
	random := rand.New(rand.NewPCG(1, 3))
	for i := range 300 {
		want := &pb.SnapshotResponse{RemainingBytes: random.Uint64() >> random.IntN(64), Version: []string{"", "3.6.0"}[i%2], Blob: make([]byte, random.IntN(5000))}
		for j := range want.Blob {
			want.Blob[j] = byte(random.Uint32())
		}
		if i%3 == 0 {
			want.Header = &pb.ResponseHeader{ClusterId: random.Uint64(), Revision: 7}
		}
		message, err := proto.Marshal(want)
		must(t, err)
		cut := random.IntN(len(message) + 1)
		var got pb.SnapshotResponse
		must(t, codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(message[:cut]), mem.SliceBuffer(message[cut:])}, &got))
		if got.RemainingBytes != want.RemainingBytes || got.Version != want.Version || !bytes.Equal(got.Blob, want.Blob) {
			t.Fatalf("message %d: %d bytes, version %q, %d remain", i, len(got.Blob), got.Version, got.RemainingBytes)
		}
		damaged := bytes.Clone(message[:cut])
		if len(damaged) > 0 {
			damaged[random.IntN(min(len(damaged), 20))] ^= 1 << random.IntN(8)
		}
		var theirs, ours pb.SnapshotResponse
		theirErr := proto.Unmarshal(damaged, &theirs)
		ourErr := parseSnapshotResponse(damaged, &ours)
		// What protobuf takes is taken in the same way. The header and a version that is no UTF-8 are not looked at.
		if theirErr == nil && (ourErr != nil || ours.RemainingBytes != theirs.RemainingBytes || !bytes.Equal(ours.Blob, theirs.Blob)) {
			t.Fatalf("message %d, damaged: %v, %d bytes instead of %d", i, ourErr, len(ours.Blob), len(theirs.Blob))
		}
	}
	if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer("")}, &pb.StatusResponse{}); err == nil {
		t.Error("another message was read")
	}
}
