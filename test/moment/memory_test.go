package moment

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

const (
	// mostMemory is what an archiver may take of anonymous memory, in bytes: 128 MiB is promised, and a quarter is kept back for
	// other machines.
	mostMemory = 96 << 20
	// loadTime is how long the cluster is written to at full speed.
	loadTime = 8 * time.Second
	// slowness is how long the store takes for each answer.
	slowness = 400 * time.Millisecond
)

// TestMemory: an archiver stays small when the cluster is written to as fast as it can, in big values, while the store is
// slow, also when the spool gets full and the watch is closed.
func TestMemory(t *testing.T) {
	server := s3test.Start(t)
	proxy := faultstore.NewProxy(t, server.Endpoint)
	p := &place{Home: home.New(t), dir: t.TempDir()}
	p.make(t, "AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+server.SecretKey,
		"HOLDFAST_REPO=s3://"+server.Bucket(t, false)+"?endpoint="+proxy.URL)
	proxy.Add(faultstore.HTTPFault{Times: -1, Do: faultstore.Change, Change: func(*http.Response) { time.Sleep(slowness) }})
	etcd := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{Args: []string{"--quota-backend-bytes=8000000000"}})
	a := newArchiver(t, p, "--endpoints", etcd.Endpoint, "--spool-limit", "64MiB", "--max-rate", "0")
	a.start(t)
	poll(t, "the first snapshot", func() bool { return a.told(t, "snapshot") > 0 })

	ctx, cancel := context.WithTimeout(t.Context(), loadTime)
	defer cancel()
	var writers sync.WaitGroup
	var written atomic.Int64
	for w := range 4 {
		writers.Go(func() {
			random := rand.NewChaCha8([32]byte{byte(w)})
			for i := 0; ctx.Err() == nil; i++ {
				value := make([]byte, 100_000)
				_, _ = random.Read(value) // It always fills it.
				if _, err := etcd.Client.Put(ctx, fmt.Sprintf("/registry/secrets/%d-%d", w, i%50), string(value)); err == nil {
					written.Add(int64(len(value)))
				} else if ctx.Err() == nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	most := int64(0)
	for ctx.Err() == nil {
		most = max(most, memory(t, a.cmd.Process.Pid))
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	writers.Wait()
	t.Logf("%d MB written in %s; %d segments stored, %d snapshots; at most %d MiB of memory",
		written.Load()/1e6, loadTime, a.told(t, "stored"), a.told(t, "snapshot"), most>>20)
	if most > mostMemory {
		t.Errorf("%d MiB of anonymous memory, at most %d are wanted", most>>20, mostMemory>>20)
	}
	log, err := os.ReadFile(a.log)
	must(t, err)
	if a.told(t, "stored") < 2 || written.Load() < 64<<20 || !strings.Contains(string(log), "the spool is full") {
		t.Error("that was no load")
	}
	a.end(t)
}

// memory gives what a process takes of memory that is no file's, in bytes.
func memory(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, is := strings.CutPrefix(line, "RssAnon:"); is {
			var kb int64
			_, err := fmt.Sscan(rest, &kb)
			must(t, err)
			return kb << 10
		}
	}
	t.Fatal("the kernel does not tell")
	return 0
}
