package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// side is one of the two states that restores go back and forth between.
type side struct {
	name    string
	archive string // inside the unit
	state   keyspace.State
}

// restoreRig is a unit with two archives.
type restoreRig struct {
	*rig
	sides [2]side
	// now is the side that etcd serves.
	now int
}

func newRestoreRig(t *testing.T, h *home.Home, application string) *restoreRig {
	t.Helper()
	r := &restoreRig{rig: newRig(t, h, application)}
	stop := r.start(t)
	for i, name := range []string{"first", "second"} {
		if i > 0 {
			_, err := r.etcd.Delete(t.Context(), "/registry/pods/", clientv3.WithPrefix())
			must(t, err)
			_, err = r.etcd.Put(t.Context(), "only the second has this", "x")
			must(t, err)
		}
		task := r.run(t, api.TaskRequest{Key: name, Action: "snapshot", Params: map[string]any{"target": "/archives/" + name}})
		r.sides[i] = side{name: name, archive: snapshotPath(task), state: r.served(t)}
	}
	r.now = 1
	stop(syscall.SIGTERM)
	return r
}

// request asks for the other side.
func (r *restoreRig) request(key string, params ...string) api.TaskRequest {
	request := api.TaskRequest{Key: key, Action: "restore", Params: map[string]any{"path": r.sides[1-r.now].archive}}
	for _, name := range params {
		request.Params[name] = true
	}
	return request
}

// TestKilledRestore kills the agent before durable calls from its start to the end of a restore.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	const (
		most  = 44 // kills; one takes some seconds
		units = 2  // that share them
	)
	h := home.New(t)
	for shard := range units {
		t.Run(fmt.Sprint(shard), func(t *testing.T) {
			t.Parallel()
			r := newRestoreRig(t, h, fmt.Sprint("etcd-", string(rune('a'+shard))))
			calls := r.rehearse(t, r.request("rehearsal"))
			r.now = 1 - r.now
			r.tidy(t)
			kills, outcomes := 0, map[string]int{}
			for i, at := range points(calls, most) {
				if i%units != shard {
					continue
				}
				killed, outcome := r.crash(t, at)
				outcomes[outcome]++
				if killed {
					kills++
				}
			}
			t.Logf("killed %d times, in a run of %d durable calls: %v", kills, len(calls), outcomes)
			if kills < 10 || outcomes["old data"] == 0 || outcomes["new data"] == 0 {
				t.Errorf("%d kills, and not every outcome: %v", kills, outcomes)
			}
		})
	}
}

// crash kills a restore, sees what the next agent makes of it, and restores to the end.
func (r *restoreRig) crash(t *testing.T, at int) (killed bool, outcome string) {
	t.Helper()
	p := r.trace(t, before(at))
	key := fmt.Sprint("killed at ", at)
	r.ask(t, p, r.request(key))
	p.end(syscall.SIGTERM)
	must(t, p.err)
	calls := p.list()
	defer func() {
		if t.Failed() {
			t.Fatalf("killed before call %d, %v", at, calls[len(calls)-1])
		}
	}()
	// There is an exchange of names: not even for a moment is nothing there.
	if _, err := os.Stat(filepath.Join(r.data, "member", "snap", "db")); err != nil {
		t.Errorf("after the kill: %v", err)
	}
	r.checkFiles(t, false)
	stop := r.start(t)
	task := r.settled(t, key)
	outcome = r.whichData(t, task)
	r.checkFiles(t, true)
	r.tidy(t)
	r.run(t, r.request("after "+key, "skip-backup"))
	r.now = 1 - r.now
	if d := keyspace.Diff(r.sides[r.now].state, r.served(t)); d != "" {
		t.Errorf("after a restore that nobody killed:\n%s", d)
	}
	stop(syscall.SIGTERM)
	r.tidy(t)
	return p.killed(), outcome
}

// whichData tells whether the old data or the new is served, and wants all of it, and the task to say the same.
func (r *restoreRig) whichData(t *testing.T, task action.Task) string {
	t.Helper()
	got := r.served(t)
	old, restored := keyspace.Diff(r.sides[r.now].state, got), keyspace.Diff(r.sides[1-r.now].state, got)
	kept := r.kept(t)
	switch {
	case old == "":
		if task.Status == action.Completed || strings.Contains(task.Message, "the restored data is in place") || len(kept) > 0 {
			t.Errorf("the old data is served; the task is %s: %s; kept is %q", task.Status, task.Message, kept)
		}
		return "old data"
	case restored == "":
		if task.Status != action.Completed && !strings.Contains(task.Message, "the restored data is in place") || len(kept) != 1 {
			t.Errorf("the restored data is served; the task is %s: %s; kept is %q", task.Status, task.Message, kept)
		}
		r.now = 1 - r.now
		return "new data"
	}
	t.Errorf("neither the old data is served nor the new.\nIt differs from the old:\n%s\nand from the new:\n%s", old, restored)
	return "neither"
}

// kept lists the data of earlier restores. Besides there must be nothing but the data itself.
func (r *restoreRig) kept(t *testing.T) (kept []string) {
	t.Helper()
	entries, err := os.ReadDir(r.data)
	must(t, err)
	for _, entry := range entries {
		switch {
		case strings.HasPrefix(entry.Name(), "member.before-restore-"):
			kept = append(kept, filepath.Join(r.data, entry.Name()))
		case entry.Name() != "member":
			t.Errorf("%s was left in the data dir", entry.Name())
		}
	}
	return kept
}

// tidy removes what restores keep, 64 MB each time.
func (r *restoreRig) tidy(t *testing.T) {
	t.Helper()
	for _, path := range append(r.kept(t), filepath.Join(r.root, "home")) {
		must(t, os.RemoveAll(path))
	}
}

// TestKilledRecovery kills a restore when the new data is served already, but is not to stay yet, and then the agent that
// puts the old data back, before each of its durable calls.
func TestKilledRecovery(t *testing.T) {
	t.Parallel()
	const most = 10 // kills
	r := newRestoreRig(t, home.New(t), "etcd")
	// The first intent is that of the switch, the second is to keep the new data.
	beforeCommit := func() func(int, call) bool {
		intents := 0
		return func(_ int, c call) bool {
			if c.name == "renameat" && strings.HasSuffix(c.what, "/switch.json") {
				intents++
			}
			return intents == 2
		}
	}
	crash := func(n int, kill func(int, call) bool) (recovery []call) {
		key := fmt.Sprint("restore ", n)
		p := r.trace(t, beforeCommit())
		r.ask(t, p, r.request(key))
		p.end(syscall.SIGTERM)
		must(t, p.err)
		if !p.killed() {
			t.Fatalf("the restore was not killed: %v", p.list())
		}
		p = r.trace(t, kill)
		r.recovered(t, p, key)
		p.end(syscall.SIGTERM)
		must(t, p.err)
		stop := r.start(t)
		task := r.settled(t, key)
		if outcome := r.whichData(t, task); outcome != "old data" {
			t.Errorf("%s is served", outcome)
		}
		r.checkFiles(t, true)
		stop(syscall.SIGTERM)
		r.tidy(t)
		if t.Failed() {
			t.Fatalf("the recovery was killed before call %d, %v", n, p.list()[len(p.list())-1])
		}
		return p.list()
	}
	calls := crash(0, never)
	for i, c := range calls {
		t.Logf("durable call %d of the recovery: %v", i+1, c)
	}
	for _, at := range spread(numbers(len(calls)), most) {
		crash(at, before(at))
	}
	if len(calls) < 12 {
		t.Errorf("the recovery has only %d durable calls", len(calls))
	}
}

// recovered waits until the traced agent has dealt with the task, or is gone.
func (r *restoreRig) recovered(t *testing.T, p *tracer, key string) {
	t.Helper()
	r.poll(t, "the agent recovers, or is killed", func(ctx context.Context) error {
		if p.gone() {
			return nil
		}
		tasks, err := r.agent.Tasks(ctx)
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if task.Key == key && task.Status.Terminal() {
				return nil
			}
		}
		return fmt.Errorf("task %q is not over", key)
	})
}

// numbers gives 1 to n.
func numbers(n int) (list []int) {
	for i := range n {
		list = append(list, i+1)
	}
	return list
}
