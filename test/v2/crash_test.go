package v2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crashes kills the agent while its scratch etcd runs, in a snapshot and in a restore. The scratch etcd ends with it, and
// after a restart nothing is left of either.
func (u target) crashes(t *testing.T, file string) {
	t.Helper()
	must(t, u.store.put(t.Context(), "/stays", "here"))
	u.home.Must(t, "attach-resource", u.application, "snapshot="+file)
	before := u.process(t)
	for _, words := range [][]string{{"snapshot", "keys-version=v2"}, {"restore", "skip-backup=true"}} {
		// The command may take longer to end than the scratch etcd lives, so that who waits for its end comes too late.
		queued := make(chan string, 1)
		go func() {
			out, problems, code := u.home.Run(t, append([]string{"run-action", u.name}, words...)...)
			queued <- fmt.Sprint(out, problems, " exit code ", code)
		}()
		scratch := u.scratchEtcd(t)
		must(t, syscall.Kill(u.agentProcess(t), syscall.SIGKILL))
		said := <-queued
		_, id, found := strings.Cut(said, "Action queued with id: ")
		if id, _, _ = strings.Cut(id, "\n"); !found {
			t.Fatalf("%q: %q", words, said)
		}
		eventually(t, "the scratch etcd is gone", func() bool { return !alive(scratch) })
		// The last thread of the agent may take a while longer, and the agent's lock with it.
		eventually(t, "the agent is started again", func() bool {
			return strings.Contains(u.home.Must(t, "start", u.application), "started "+u.name)
		})
		var status string
		eventually(t, "the agent tells what became of the task", func() bool {
			out, _, _ := u.home.Run(t, "show-action-output", id, "--format", "json")
			var task struct{ Status string }
			_ = json.Unmarshal([]byte(out), &task) // it is asked again
			status = task.Status
			return status != "" && status != "running"
		})
		if status != "failed" {
			t.Errorf("%q: the task is %s", words, status)
		}
		u.clean(t)
		if files, err := filepath.Glob(filepath.Join(u.home.Record(t, u.name).Root, "home", "ubuntu", "*", ".*")); err != nil || len(files) > 0 {
			t.Errorf("%q left %q, %v", words, files, err)
		}
	}
	if files, err := filepath.Glob(filepath.Join(u.home.Record(t, u.name).Root, "home", "ubuntu", "*", "*.tar.gz*")); err != nil || len(files) > 0 {
		t.Errorf("an archive was made: %q, %v", files, err)
	}
	if after := u.process(t); after != before || u.store.read(t)["/stays"] != "here" {
		t.Errorf("etcd was process %d and is %d now, its keys are %v", before, after, u.store.read(t))
	}
}

// scratchEtcd waits until the agent runs an etcd in scratch, or in the stage, and gives its process.
func (u target) scratchEtcd(t *testing.T) (pid int) {
	t.Helper()
	places := [][]byte{
		[]byte("--data-dir=" + filepath.Join(u.home.Folder(t, u.name), "state", "scratch")),
		[]byte("--data-dir=" + filepath.Join(u.home.Record(t, u.name).DataDir, "holdfast-restore")),
	}
	eventually(t, "a scratch etcd runs", func() bool {
		entries, err := os.ReadDir("/proc")
		must(t, err)
		for _, entry := range entries {
			line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline")) // a process may end at any time
			if bytes.Contains(line, places[0]) || bytes.Contains(line, places[1]) {
				pid, err = strconv.Atoi(entry.Name())
				return err == nil
			}
		}
		return false
	})
	return pid
}

func (u target) agentProcess(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(u.home.Folder(t, u.name), "state", "agent.pid"))
	must(t, err)
	var process struct{ PID int }
	must(t, json.Unmarshal(data, &process))
	return process.PID
}

// alive tells whether a process runs. One that waits only for its parent does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	const patience, step = time.Minute, 5 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !happened(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
