package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// TestKilledSnapshot kills the agent before each durable call from its start to the end of a snapshot.
func TestKilledSnapshot(t *testing.T) {
	t.Parallel()
	const most = 60 // kills; one takes half a second
	r := newRig(t, home.New(t), "etcd")
	// Enough of what cannot be compressed, so that the archive is written out in several steps.
	random := rand.NewChaCha8([32]byte{})
	for i := range 3 {
		value := make([]byte, 1<<20)
		_, _ = random.Read(value) // It always fills it.
		_, err := r.etcd.Put(t.Context(), fmt.Sprint("large/", i), string(value))
		must(t, err)
	}
	want := r.served(t)
	request := func(key string) api.TaskRequest {
		return api.TaskRequest{Key: key, Action: "snapshot", Params: map[string]any{"max-rate": "0"}}
	}
	calls := r.rehearse(t, request("rehearsal"))
	kills := 0
	for _, at := range points(calls, most) {
		p := r.trace(t, before(at))
		key := fmt.Sprint("killed at ", at)
		r.ask(t, p, request(key))
		p.end(syscall.SIGTERM)
		must(t, p.err)
		if p.killed() {
			kills++
		}
		r.checkFiles(t, false)
		where := fmt.Sprintf("killed before call %d, %v", at, p.list()[len(p.list())-1])
		stop := r.start(t)
		task := r.settled(t, key)
		archives := r.checkFiles(t, true)
		if made := filepath.Join(r.root, snapshotPath(task)); task.Status == action.Completed && (len(archives) == 0 || archives[0] != made) {
			t.Errorf("the task has completed with %s; there is %q", made, archives)
		}
		if d := keyspace.Diff(want, r.served(t)); d != "" {
			t.Errorf("etcd serves other data:\n%s", d)
		}
		r.run(t, request("after "+key))
		r.checkFiles(t, true)
		stop(syscall.SIGTERM)
		must(t, os.RemoveAll(filepath.Join(r.root, "home")))
		if t.Failed() {
			t.Fatal(where)
		}
	}
	t.Logf("killed %d times, in a run of %d durable calls", kills, len(calls))
	if kills < 15 {
		t.Errorf("only %d kills", kills)
	}
}

// rehearse runs a traced agent with a task to its end, and gives the durable calls on the way.
func (r *rig) rehearse(t *testing.T, request api.TaskRequest) []call {
	t.Helper()
	p := r.trace(t, never)
	r.ask(t, p, request)
	p.end(syscall.SIGTERM)
	must(t, p.err)
	for i, c := range p.list() {
		t.Logf("durable call %d: %v", i+1, c)
	}
	return p.list()
}

func snapshotPath(task action.Task) string {
	path, _ := task.Results.Get("snapshot.path")
	return path
}
