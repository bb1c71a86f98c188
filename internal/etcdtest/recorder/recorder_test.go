package recorder

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRecords makes calls of every kind through the proxy and wants them answered, and known.
func TestRecords(t *testing.T) {
	for _, version := range etcdtest.Versions(t) {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			secrets := etcdtest.NewTLS(t)
			server := etcdtest.Start(t, version, etcdtest.Options{TLS: secrets})
			r := Start(t, server.Endpoint, secrets.Config)
			client, err := clientv3.New(clientv3.Config{Endpoints: []string{r.Endpoint()}, Logger: zap.NewNop()})
			must(t, err)
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()

			watch := client.Watch(ctx, "a")
			_, err = client.Put(ctx, "a", "1")
			must(t, err)
			if reply := <-watch; len(reply.Events) != 1 || string(reply.Events[0].Kv.Value) != "1" {
				t.Errorf("watch gives %v", reply)
			}
			if _, err := client.Get(ctx, ""); err == nil || err.Error() != "etcdserver: key is not provided" {
				t.Errorf("an error of the server comes as %v", err)
			}
			want := map[string]int{"/etcdserverpb.Watch/Watch": 1, "/etcdserverpb.KV/Put": 1, "/etcdserverpb.KV/Range": 1}
			if got := r.Methods(); !maps.Equal(got, want) {
				t.Errorf("methods %v, want %v", got, want)
			}
			var put pb.PutRequest
			if list := r.Requests("/etcdserverpb.KV/Put"); len(list) != 1 || proto.Unmarshal(list[0], &put) != nil || string(put.Key) != "a" {
				t.Errorf("requests %q", list)
			}

			r.Pause()
			short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
			_, err = client.Get(short, "a")
			stop()
			if err == nil {
				t.Error("a call passes a paused proxy")
			}
			_, err = server.Client.Put(ctx, "a", "2")
			must(t, err)
			select {
			case reply := <-watch:
				t.Errorf("an event passes a paused proxy: %v", reply)
			default:
			}
			r.Resume()
			if reply := <-watch; len(reply.Events) != 1 || string(reply.Events[0].Kv.Value) != "2" {
				t.Errorf("after the pause the watch gives %v", reply)
			}

			r.Delay(50 * time.Millisecond)
			begun := time.Now()
			_, err = client.Get(ctx, "a")
			must(t, err)
			if took := time.Since(begun); took < 100*time.Millisecond {
				t.Errorf("a call with two delays took %s", took)
			}
			r.Delay(0)

			r.Refuse(true)
			r.Cut()
			short, stop = context.WithTimeout(ctx, 200*time.Millisecond)
			_, err = client.Get(short, "a")
			stop()
			if err == nil {
				t.Error("a call passes a cut proxy")
			}
			r.Refuse(false)
			_, err = client.Get(ctx, "a")
			must(t, err)
			if names := slices.Sorted(maps.Keys(r.Methods())); len(names) != 3 {
				t.Errorf("methods %v", names)
			}
		})
	}
}
