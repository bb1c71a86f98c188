// Package crash kills real agents: right before each call by which they make something last, and at random while tasks
// come in. What is wanted after the next start is always the same: no task is left running, no file is half-written under
// its final name, no work file stays, and etcd serves the old data or the new, all of it.
package crash

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/service"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

func TestMain(m *testing.M) { os.Exit(home.Main(m)) }

const (
	// patience is how long anything may take that takes a second or two on an idle machine.
	patience = time.Minute
	// step is the pause between two looks.
	step = 20 * time.Millisecond
	// objects is the size of the keyspace, small for many runs.
	objects = 60
)

// restarted begins the message of a task that was cut off.
const restarted = "agent restarted while the action ran"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a unit whose agent the test starts and kills itself.
type rig struct {
	home *home.Home
	name string
	// config is the agent's configuration, state its folder, root the unit's, data etcd's data dir.
	config, state, root, data string
	// log is what the agents say.
	log   string
	agent *api.Client
	etcd  *clientv3.Client
}

// newRig deploys a unit with a small keyspace and stops its agent. Its etcd goes on.
func newRig(t *testing.T, h *home.Home, application string) *rig {
	t.Helper()
	h.Must(t, "deploy", "etcd", application)
	r := &rig{home: h, name: application + "/0", log: filepath.Join(t.TempDir(), "agents.log")}
	record := h.Record(t, r.name)
	r.root, r.data = record.Root, record.DataDir
	r.config = filepath.Join(h.Folder(t, r.name), "agent.yaml")
	r.state = filepath.Join(h.Folder(t, r.name), "state")
	r.agent, r.etcd = h.Agent(t, r.name), h.Etcd(t, r.name)
	deployed, err := service.New(service.Options{Dir: r.state, Name: "agent", Spawn: []string{h.Program, "spawn"}})
	must(t, err)
	must(t, deployed.Stop(t.Context()))
	_, err = kubeload.Fill(t.Context(), r.etcd, kubeload.New(1, objects))
	must(t, err)
	t.Cleanup(func() {
		if log, err := os.ReadFile(r.log); t.Failed() && err == nil {
			t.Logf("the agents said last:\n%s", log[max(0, len(log)-8000):])
		}
	})
	return r
}

// start runs an agent that nobody kills, until stop is called or the test ends.
func (r *rig) start(t *testing.T) (stop func(syscall.Signal)) {
	t.Helper()
	log, err := os.OpenFile(r.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	defer log.Close()
	cmd := exec.Command(r.home.Program, "agent", "--config", r.config)
	cmd.Env, cmd.Stdout, cmd.Stderr = r.home.Environment(), log, log
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // It ends as the test asks it to.
	}()
	stop = func(s syscall.Signal) {
		select {
		case <-done:
		default:
			_ = cmd.Process.Signal(s) // It may have ended just now.
			<-done
		}
	}
	t.Cleanup(func() { stop(syscall.SIGKILL) })
	r.poll(t, "the agent answers", func(ctx context.Context) error {
		_, err := r.agent.Tasks(ctx)
		return err
	})
	return stop
}

// poll waits until a condition holds.
func (r *rig) poll(t *testing.T, what string, holds func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		err := holds(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not after %s: %s: %v", patience, what, err)
		case <-tick.C:
		}
	}
}

// ask gives the traced agent a task, as soon as it takes one. It returns when the task has ended or the agent is gone.
func (r *rig) ask(t *testing.T, p *tracer, request api.TaskRequest) {
	t.Helper()
	r.poll(t, "the agent takes and ends a task, or is killed", func(ctx context.Context) error {
		if p.gone() {
			return nil
		}
		task, err := r.agent.Enqueue(ctx, request) // the same one again, once it is known
		if err == nil && !task.Status.Terminal() {
			task, err = r.agent.Task(ctx, task.ID, time.Second)
		}
		if err == nil && !task.Status.Terminal() {
			err = fmt.Errorf("it is %s", task.Status)
		}
		return err
	})
}

// settled waits until no task of the agent is to be done any more and gives the one with the key, if it is known.
func (r *rig) settled(t *testing.T, key string) (found action.Task) {
	t.Helper()
	r.poll(t, "every task has ended", func(ctx context.Context) error {
		tasks, err := r.agent.Tasks(ctx)
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if task.Key == key {
				found = task
			}
			if !task.Status.Terminal() {
				return fmt.Errorf("task %s is %s", task.ID, task.Status)
			}
		}
		return nil
	})
	if found.ID != "" && found.Status != action.Completed && !strings.HasPrefix(found.Message, restarted) {
		t.Errorf("the killed task is %s: %s", found.Status, found.Message)
	}
	return found
}

// run has the agent carry out a task that must complete.
func (r *rig) run(t *testing.T, request api.TaskRequest) action.Task {
	t.Helper()
	task, err := r.agent.Enqueue(t.Context(), request)
	must(t, err)
	r.poll(t, "the task ends", func(ctx context.Context) error {
		if task, err = r.agent.Task(ctx, task.ID, api.LongestWait); err == nil && !task.Status.Terminal() {
			err = fmt.Errorf("it is %s", task.Status)
		}
		return err
	})
	if task.Status != action.Completed {
		t.Fatalf("%s after the crash: %s: %s", request.Action, task.Status, task.Message)
	}
	return task
}

// served waits until etcd serves and gives what it holds.
func (r *rig) served(t *testing.T) (state keyspace.State) {
	t.Helper()
	r.poll(t, "etcd serves", func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		r.etcd.ActiveConnection().ResetConnectBackoff()
		state, err = keyspace.Read(ctx, r.etcd)
		return err
	})
	return state
}

// checkFiles wants every archive in the unit to be whole and, after an agent has recovered, no file that work was going
// on in.
func (r *rig) checkFiles(t *testing.T, recovered bool) (archives []string) {
	t.Helper()
	for _, folder := range []string{filepath.Join(r.root, "home"), filepath.Join(r.state, "scratch")} {
		err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil || e.IsDir():
			case strings.HasSuffix(path, ".tar.gz"):
				archives = append(archives, path)
				r.home.Must(t, "verify", path)
			case strings.HasSuffix(path, ".tar.gz.json"), strings.HasSuffix(path, ".tar.gz.sha256"):
				if content, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(content), "\n") {
					t.Errorf("%s holds %q, %v", path, content, err)
				}
			case recovered:
				t.Errorf("%s was left behind", path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return archives
}

// trace runs the agent until it is killed.
func (r *rig) trace(t *testing.T, kill func(n int, c call) bool) *tracer {
	t.Helper()
	return trace(t, kill, r.log, r.home.Environment(), r.home.Program, "agent", "--config", r.config)
}

func never(int, call) bool { return false }

func before(at int) func(int, call) bool {
	return func(n int, _ call) bool { return n == at }
}

// points picks the calls to kill at, most of them at the most. When that is not all, it takes from those that are alike:
// the start of the agent, and the files of a data dir that nobody uses yet.
func points(calls []call, most int) []int {
	var picked, alike []int
	working := false
	for i, c := range calls {
		working = working || c.name == "fsync" && strings.HasSuffix(c.what, "/journal.jsonl")
		if working && !strings.Contains(c.what, "/holdfast-restore/member/") {
			picked = append(picked, i+1)
		} else {
			alike = append(alike, i+1)
		}
	}
	picked = spread(picked, most)
	picked = append(picked, spread(alike, most-len(picked))...)
	slices.Sort(picked)
	return append(picked, len(calls)+1) // The last run may come to its end.
}

// spread takes n of a list, evenly.
func spread(list []int, n int) []int {
	if n >= len(list) {
		return list
	}
	var taken []int
	for i := range max(n, 0) {
		taken = append(taken, list[i*len(list)/n])
	}
	return taken
}
