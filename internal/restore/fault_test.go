package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

// childVariable makes the test binary a process that builds once: "BACKEND\nSTAGE\nWAL-STAGE".
const childVariable = "HOLDFAST_TEST_BUILD"

func TestMain(m *testing.M) {
	order := strings.Split(os.Getenv(childVariable), "\n")
	if len(order) != 3 {
		os.Exit(m.Run())
	}
	info, err := scan(context.Background(), order[0])
	if err == nil {
		stage := datadir.Stage{Data: order[1], WAL: order[2]}
		_, err = Build(context.Background(), Options{Backend: order[0], Source: info, Name: testName, PeerURL: testPeer, Stage: stage})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

// TestFullAndBrokenDisk lets every call of one kind fail, as a full or broken disk does, in the code of etcd and bbolt as
// well as in ours. That code would end the process in some of these cases; here it must give an error and an empty stage.
func TestFullAndBrokenDisk(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace: run `make tools` (%v)", err)
	}
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	fill(t, server, 150)
	source := save(t, server)
	must(t, server.Stop())
	for _, injection := range []string{
		"copy_file_range:error=ENOSPC", // the copy of the backend
		"pwrite64:error=ENOSPC",        // commits of bbolt
		"fdatasync:error=EIO",          // syncs of bbolt and of the WAL
		"fallocate:error=ENOSPC",       // the WAL file
		"ftruncate:error=ENOSPC",
		"fsync:error=EIO",
		"renameat:error=EIO", // the WAL and the raft snapshot start under other names
		"mkdirat:error=ENOSPC",
		"fchmod:error=EIO",
	} {
		call, _, _ := strings.Cut(injection, ":")
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			target := newTarget(t, true)
			stage, err := target.dir.Stage()
			must(t, err)
			before := names(t, filepath.Dir(target.data))
			trace := filepath.Join(t.TempDir(), "trace")
			cmd := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-o", trace, "-e", "trace="+call, "-e", "inject="+injection, os.Args[0])
			cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childVariable+"="+source.path+"\n"+stage.Data+"\n"+stage.WAL)
			output, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 3 || !bytes.HasPrefix(output, []byte("build data dir: ")) {
				t.Errorf("build: %v\n%s", err, output)
			}
			if calls, err := os.ReadFile(trace); err != nil || !bytes.Contains(calls, []byte("INJECTED")) {
				t.Errorf("no fault was injected: %v", err)
			}
			if after := names(t, filepath.Dir(target.data)); !slices.Equal(before, after) {
				t.Errorf("files are now\n%q\nbefore\n%q", after, before)
			}
		})
	}
}
