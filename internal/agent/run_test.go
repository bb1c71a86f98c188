package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/service"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// do runs an action to its end through the API.
func (f *fixture) do(t *testing.T, name string, params action.Params) action.Task {
	t.Helper()
	client := f.operator(t)
	task, err := client.Enqueue(t.Context(), api.TaskRequest{Key: t.Name() + time.Now().String(), Action: name, Params: params, Program: "juju"})
	must(t, err)
	for !task.Status.Terminal() {
		task, err = client.Task(t.Context(), task.ID, api.LongestWait)
		must(t, err)
	}
	return task
}

// result gives a result of a task that must have succeeded.
func result(t *testing.T, task action.Task, key string) string {
	t.Helper()
	value, found := task.Results.Get(key)
	if task.Status != action.Completed || !found {
		t.Fatalf("task %s is %s, has no %s: %s %v", task.Action, task.Status, key, task.Message, task.Results)
	}
	return value
}

func (f *fixture) value(t *testing.T, key string) string {
	t.Helper()
	reply, err := f.etcd(t).Get(t.Context(), key)
	must(t, err)
	if len(reply.Kvs) == 0 {
		return ""
	}
	return string(reply.Kvs[0].Value)
}

// TestLifeOfAnAgent runs one unit through what an agent goes through.
func TestLifeOfAnAgent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stop := f.run(t)
	state := f.healthy(t)
	if state.Unit != f.config.Unit || state.Holdfast != "test" || state.Root != f.config.Record.Root || state.Busy != "" || state.Etcd.Members != 1 ||
		!state.Etcd.Leader || state.Etcd.Learner || state.Etcd.PID == 0 || !strings.HasPrefix(state.Etcd.Version, "3.7.") || state.Etcd.Revision != 1 {
		t.Errorf("state %+v", state)
	}
	_, err := f.etcd(t).Put(t.Context(), "key", "value")
	must(t, err)
	t.Run("archives are fetched wherever they are", func(t *testing.T) { checkArchiveAnywhere(t, f) })
	whole := t // what a part starts goes on after it
	t.Run("etcd outlives the agent", func(t *testing.T) {
		stop()
		if got := f.value(t, "key"); got != "value" {
			t.Errorf("without an agent the key is %q", got)
		}
		stop = f.run(whole)
		after := f.healthy(t)
		if after.Etcd.PID != state.Etcd.PID || after.Etcd.Started != state.Etcd.Started || !strings.Contains(f.log.String(), "etcd adopted") {
			t.Errorf("etcd was process %d of %d, is %d of %d", state.Etcd.PID, state.Etcd.Started, after.Etcd.PID, after.Etcd.Started)
		}
	})
	t.Run("a dead etcd is told and started again", func(t *testing.T) {
		before := f.healthy(t)
		process, err := os.FindProcess(before.Etcd.PID)
		must(t, err)
		must(t, process.Kill())
		eventually(t, func() error {
			if f.healthy(t).Etcd.PID == before.Etcd.PID {
				return errors.New("it is the old one")
			}
			return nil
		})
		if got := f.value(t, "key"); got != "value" {
			t.Errorf("the key is %q", got)
		}
	})
	t.Run("what runs is ended", func(t *testing.T) {
		checkRunningAction(t, f, stop, func() { stop = f.run(whole) })
	})
	t.Run("without an agent", func(t *testing.T) {
		stop()
		checkLocalAction(t, f)
	})
}

func checkArchiveAnywhere(t *testing.T, f *fixture) {
	task := f.do(t, "snapshot", action.Params{"target": "/mnt/backups"})
	archive := result(t, task, "snapshot.path")
	if command := result(t, task, "copy.cmd"); command != "juju scp etcd/0:"+archive+" ." || path.Dir(archive) != "/mnt/backups" {
		t.Errorf("path %q, command %q", archive, command)
	}
	client := f.operator(t)
	for _, file := range []string{archive, archive + ".sha256", archive + ".json", "/mnt/./backups//" + path.Base(archive)} {
		content, size, err := client.ReadFile(t.Context(), file)
		must(t, err)
		if n, err := io.Copy(io.Discard, content); err != nil || n != size || n == 0 {
			t.Errorf("%q gives %d of %d bytes: %v", file, n, size, err)
		}
		must(t, content.Close())
	}
	must(t, os.WriteFile(f.inRoot("/mnt/backups/other"), []byte("secret"), 0o600))
	for _, file := range []string{"/mnt/backups/other", "/mnt/backups", archive + ".part", archive + "/../other"} {
		if _, _, err := client.ReadFile(t.Context(), file); err == nil || !strings.Contains(err.Error(), "does not serve that folder") {
			t.Errorf("%q: %v", file, err)
		}
	}
	for _, file := range []string{archive, "/mnt/backups/new"} {
		if err := client.WriteFile(t.Context(), file, strings.NewReader("x"), 1, true); err == nil || !strings.Contains(err.Error(), "does not serve that folder") {
			t.Errorf("write %q: %v", file, err)
		}
	}
}

// checkRunningAction stops the agent in the middle of a snapshot, starts it again, and cancels in the middle of another.
func checkRunningAction(t *testing.T, f *fixture, stop, start func()) {
	etcd := f.etcd(t)
	for i := range 60 {
		_, err := etcd.Put(t.Context(), fmt.Sprint("large", i), strings.Repeat(strconv.Itoa(i), 50_000))
		must(t, err)
	}
	client := f.operator(t)
	slow := func(key string) action.Task {
		task, err := client.Enqueue(t.Context(), api.TaskRequest{Key: key, Action: "snapshot", Params: action.Params{"max-rate": "100kB"}})
		must(t, err)
		eventually(t, func() error {
			if parts, _ := filepath.Glob(f.inRoot("/home/ubuntu/etcd-snapshots/.*.part")); len(parts) != 1 {
				return errors.New("no archive is being written")
			}
			return nil
		})
		return task
	}
	before := f.healthy(t)
	task := slow("stopped")
	waiting, err := client.Enqueue(t.Context(), api.TaskRequest{Key: "waiting", Action: "health"})
	must(t, err)
	if state, err := client.Unit(t.Context()); err != nil || state.Busy != "snapshot" {
		t.Errorf("the unit is busy with %q: %v", state.Busy, err)
	}
	begun := time.Now()
	stop()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the agent took %s to stop", took)
	}
	left := f.files(t, f.inRoot("/home/ubuntu"))
	if len(left) != 0 {
		t.Errorf("files %q", left)
	}
	start()
	if after := f.healthy(t); after.Etcd.PID != before.Etcd.PID {
		t.Errorf("etcd was process %d, is %d", before.Etcd.PID, after.Etcd.PID)
	}
	if task, err = client.Task(t.Context(), task.ID, 0); err != nil || task.Status != action.Failed || task.Message != "agent stopped while the action ran: no archive was left" {
		t.Errorf("the stopped task is %s, %q: %v", task.Status, task.Message, err)
	}
	if waiting, err = client.Task(t.Context(), waiting.ID, api.LongestWait); err != nil || waiting.Status != action.Completed {
		t.Errorf("the task that waited is %s, %q: %v", waiting.Status, waiting.Message, err)
	}
	task = slow("cancelled")
	task, err = client.Cancel(t.Context(), task.ID)
	if err != nil || task.Status != action.Aborting && task.Status != action.Aborted {
		t.Errorf("the cancelled task is %s: %v", task.Status, err)
	}
	if task, err = client.Task(t.Context(), task.ID, api.LongestWait); err != nil || task.Status != action.Aborted || !strings.Contains(task.Message, action.ErrCancelled.Error()) {
		t.Errorf("the cancelled task is %s, %q: %v", task.Status, task.Message, err)
	}
	if left := f.files(t, f.inRoot("/home/ubuntu")); len(left) != 0 {
		t.Errorf("files %q", left)
	}
}

// checkLocalAction runs actions through the same journal without an agent.
func checkLocalAction(t *testing.T, f *fixture) {
	a := f.open(t)
	defer func() { must(t, a.Close()) }()
	before := len(a.runner.Tasks())
	task, err := a.RunOnce(t.Context(), action.Request{Action: "snapshot", Program: "holdfast"})
	must(t, err)
	archive := result(t, task, "snapshot.path")
	if got := f.files(t, f.inRoot("/home/ubuntu")); !slices.Contains(got, archive) || len(got) != 3 {
		t.Errorf("files %q, archive %q", got, archive)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	task, err = a.RunOnce(ctx, action.Request{Action: "snapshot"})
	if err != nil || task.Status != action.Cancelled && task.Status != action.Aborted {
		t.Errorf("a call that was given up is %s: %v", task.Status, err)
	}
	if _, err := a.RunOnce(t.Context(), action.Request{Action: "dance"}); err == nil {
		t.Error("an unknown action runs")
	}
	if tasks := a.runner.Tasks(); len(tasks) != before+2 || a.Name() != f.config.Unit {
		t.Errorf("%d tasks, were %d", len(tasks), before)
	}
	if _, running, err := f.child(t).Running(t.Context()); err != nil || !running {
		t.Errorf("etcd runs %v: %v", running, err)
	}
}

// TestDeadAgentInARestore builds what is there when an agent dies after it has started etcd on restored data and before
// anybody saw that serve: the next one stops it and puts the old data back.
func TestDeadAgentInARestore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stop := f.run(t)
	f.healthy(t)
	put := func(value string) {
		_, err := f.etcd(t).Put(t.Context(), "key", value)
		must(t, err)
	}
	put("in the archive")
	backend := filepath.Join(f.dir, "backend")
	saveTo(t, f.etcd(t), backend)
	put("old data")
	stop()
	must(t, f.child(t).Stop(t.Context()))

	dir, err := datadir.At(f.config.Record.DataDir, "")
	must(t, err)
	stage, err := dir.Stage()
	must(t, err)
	built, err := restore.Build(t.Context(), restore.Options{
		Backend: backend, Source: scan(t, backend), Stage: stage, Name: f.config.Record.Member, PeerURL: f.config.Record.PeerURL,
	})
	must(t, err)
	kept, err := dir.Switch("x-1")
	must(t, err)
	started, err := f.child(t).Start(t.Context(), f.command())
	must(t, err)
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		reply, err := f.etcd(t).Get(ctx, "key")
		if err == nil && (reply.Header.ClusterId != built.ClusterID || string(reply.Kvs[0].Value) != "in the archive") {
			err = fmt.Errorf("cluster %x serves %q", reply.Header.ClusterId, reply.Kvs[0].Value)
		}
		return err
	})

	opened := f.open(t)
	if process, running, err := f.child(t).Running(t.Context()); err != nil || running {
		t.Errorf("process %d runs on the restored data: %v", process.PID, err)
	}
	if pending, err := dir.Pending(); err != nil || pending {
		t.Errorf("the switch is pending: %v, %v", pending, err)
	}
	stop = f.runIt(t, opened, opened.Run)
	if state := f.healthy(t); state.Etcd.PID == started.PID {
		t.Errorf("the etcd on the restored data serves on: %+v, %+v", state.Etcd, started)
	}
	if got := f.value(t, "key"); got != "old data" {
		t.Errorf("the key is %q", got)
	}
	if _, err := os.Stat(kept.Member); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%q is there: %v", kept.Member, err)
	}
	if !strings.Contains(f.log.String(), `msg="a restore was cut off" unit=etcd/0 outcome="the old data was put back"`) {
		t.Errorf("the log does not tell:\n%s", f.log)
	}
	stop()
	// Once more: nothing is left to do.
	must(t, f.open(t).Close())
	if strings.Count(f.log.String(), "a restore was cut off") != 1 {
		t.Errorf("it is put back again:\n%s", f.log)
	}
}

// command is that of the unit's etcd, for somebody else to start it.
func (f *fixture) command() service.Command {
	a := &Agent{config: f.config, environ: service.Environment(os.Environ())}
	return a.etcdCommand()
}

// saveTo saves a snapshot as etcdctl does.
func saveTo(t *testing.T, etcd *clientv3.Client, file string) {
	t.Helper()
	stream, err := etcd.Snapshot(t.Context())
	must(t, err)
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o600)
	must(t, err)
	_, err = io.Copy(out, stream)
	must(t, errors.Join(err, out.Close(), stream.Close()))
}

func scan(t *testing.T, file string) snapshot.Info {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	scanner := snapshot.NewScanner(snapshot.Options{})
	_, err = scanner.Write(content)
	must(t, err)
	info, err := scanner.Finish()
	must(t, err)
	return info
}
