package crash

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// asked is what the clients know of their requests.
type asked struct {
	count atomic.Int64 // of ids

	mu     sync.Mutex
	ids    map[string]string          // of acknowledged tasks, by key
	unsure map[string]api.TaskRequest // without an answer
}

// TestKilledWhileTasksComeIn kills the agent again and again while clients queue tasks. Nothing that was acknowledged may
// be lost or done twice, and what was not can be asked for again.
func TestKilledWhileTasksComeIn(t *testing.T) {
	t.Parallel()
	const clients = 4
	r := newRig(t, home.New(t), "etcd")
	seen := &asked{ids: map[string]string{}, unsure: map[string]api.TaskRequest{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() { seen.askOn(ctx, r.agent, c) })
	}
	// So many acknowledgements after its start the agent is killed, while it works on some earlier task.
	for _, more := range []int64{1, 2, 3, 5, 8, 13, 21, 4} {
		stop := r.start(t)
		enough := seen.count.Load() + more
		r.poll(t, "tasks are acknowledged", func(context.Context) error {
			if n := seen.count.Load(); n < enough {
				return fmt.Errorf("%d of %d", n, enough)
			}
			return nil
		})
		stop(syscall.SIGKILL)
	}
	cancel()
	group.Wait()

	r.start(t)
	for key, request := range seen.unsure {
		task, err := r.agent.Enqueue(t.Context(), request)
		must(t, err)
		seen.ids[key] = task.ID
	}
	r.settled(t, "")
	tasks, err := r.agent.Tasks(t.Context())
	must(t, err)
	seen.check(t, tasks)
	r.checkFiles(t, true)
}

// askOn asks for one task after the other, until ctx ends.
func (a *asked) askOn(ctx context.Context, agent *api.Client, client int) {
	const most = 240 // all clients together stay below what an agent remembers
	actions := []string{"health", "snapshot", "alarm-list"}
	for n := 0; n < most && ctx.Err() == nil; n++ {
		request := api.TaskRequest{Key: fmt.Sprintf("client %d, request %d", client, n), Action: actions[n%len(actions)]}
		if request.Action == "snapshot" {
			// Archives of the same second would wait for each other in one folder.
			request.Params = map[string]any{"target": fmt.Sprintf("/home/ubuntu/%d-%d", client, n)}
		}
		a.note(ctx, agent, request)
	}
}

// note asks until there is an answer. A request that was cut off is repeated with the same key, or left for later.
func (a *asked) note(ctx context.Context, agent *api.Client, request api.TaskRequest) {
	for ctx.Err() == nil {
		task, err := agent.Enqueue(ctx, request)
		a.mu.Lock()
		if err == nil {
			a.ids[request.Key] = task.ID
			delete(a.unsure, request.Key)
			a.count.Add(1)
		} else {
			a.unsure[request.Key] = request
		}
		a.mu.Unlock()
		select {
		case <-time.After(pace):
		case <-ctx.Done():
		}
		if err == nil {
			return
		}
	}
}

// pace is the pause of a client after each request: an agent takes requests faster than it works on them.
const pace = 10 * time.Millisecond

// check compares the agent's tasks with what the clients were told.
func (a *asked) check(t *testing.T, tasks []action.Task) {
	t.Helper()
	found, statuses := map[string]string{}, map[action.Status]int{}
	var last action.Task
	for _, task := range tasks {
		if found[task.Key] != "" {
			t.Errorf("%s has two tasks", task.Key)
		}
		found[task.Key] = task.ID
		statuses[task.Status]++
		if task.Started.Before(last.Completed) {
			t.Errorf("%s began at %s, before the end of %s at %s", task.Key, task.Started, last.Key, last.Completed)
		}
		last = task
		if task.Status == action.Completed || task.Status == action.Failed && strings.HasPrefix(task.Message, restarted) {
			continue
		}
		t.Errorf("%s is %s: %s", task.Key, task.Status, task.Message)
	}
	for key, id := range a.ids {
		if found[key] != id {
			t.Errorf("%s was acknowledged as task %s, the agent has %q", key, id, found[key])
		}
	}
	if len(found) != len(a.ids) {
		t.Errorf("the agent has %d tasks, the clients asked for %d", len(found), len(a.ids))
	}
	t.Logf("%d tasks: %v", len(tasks), statuses)
	if statuses[action.Failed] == 0 || statuses[action.Completed] < 10 {
		t.Errorf("no kill hit a running task, or hardly any was carried out: %v", statuses)
	}
}
