package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// childVariable makes the test binary a process that does one thing to a data dir: "OPERATION\nDATA-DIR\nWAL-DIR".
const childVariable = "HOLDFAST_TEST_DATADIR"

func TestMain(m *testing.M) {
	if order := os.Getenv(childVariable); order != "" {
		// strace counts calls by thread.
		runtime.LockOSThread()
		if err := obey(strings.Split(order, "\n")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func obey(order []string) error {
	d, err := At(order[1], order[2])
	if err != nil {
		return err
	}
	switch order[0] {
	case "commit":
		return d.Commit()
	case "recover":
		_, err := d.Recover()
		return err
	}
	if _, err := d.Switch(testStamp); err != nil {
		return err
	}
	if order[0] == "switch and recover" {
		_, err := d.Recover()
		return err
	}
	return d.Commit()
}

// run obeys an order in a process that strace injects faults into. It tells whether the process came to its end.
func (f fixture) run(t *testing.T, operation string, injections ...string) (finished bool) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace: run `make tools` (%v)", err)
	}
	var calls []string
	args := []string{"-f", "-qq", "-o", "/dev/null"}
	for _, injection := range injections {
		call, _, _ := strings.Cut(injection, ":")
		calls = append(calls, call)
		args = append(args, "-e", "inject="+injection)
	}
	if len(calls) > 0 {
		args = append(args, "-e", "trace="+strings.Join(calls, ","))
	}
	cmd := exec.Command(strace, append(args, os.Args[0])...)
	cmd.Env = f.environment(operation)
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return true
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled(), exit != nil && exit.ExitCode() == 128+int(syscall.SIGKILL):
		return false // strace ends in the way that its child did.
	}
	t.Fatalf("%s with %q: %v\n%s", operation, injections, err, output)
	return false
}

// environment gives a child its order. The race detector would let it sleep for a second at its end.
func (f fixture) environment(operation string) []string {
	return append(os.Environ(), "GORACE=atexit_sleep_ms=0", childVariable+"="+operation+"\n"+f.dir.data+"\n"+f.dir.wal)
}

// changing are the calls by which the code changes the disk, and the syncs between them.
var changing = []string{"renameat", "renameat2", "fsync", "mkdirat", "unlinkat", "write", "fchmod", "fchown"}

// noExchange makes the file system one that cannot exchange two names.
const noExchange = "renameat2:error=EINVAL"

// TestCrash kills a restore before every single call that changes the disk, and then lets Recover put things right.
func TestCrash(t *testing.T) {
	plain, separate, fresh := shapes[0], shapes[1], shapes[2]
	for _, tt := range []struct {
		operation string
		shape     shape
		calls     []string
		faults    []string
	}{
		{"switch and recover", separate, changing, nil},
		{"switch and recover", fresh, changing, nil},
		{"switch and recover", separate, []string{"renameat"}, []string{noExchange}}, // The rest is as without faults.
		{"commit", plain, changing, nil},
		{"commit", separate, changing, nil},
	} {
		t.Run(fmt.Sprint(tt.operation, "/", tt.shape.name, tt.faults), func(t *testing.T) {
			t.Parallel()
			prepare := func(f fixture) {
				if tt.operation == "commit" {
					if _, err := f.dir.Switch(testStamp); err != nil {
						t.Fatal(err)
					}
				}
			}
			kills, outcomes := 0, map[Outcome]int{}
			for _, call := range tt.calls {
				kills += crashAt(t, tt.shape, tt.operation, prepare, call, tt.faults, outcomes)
			}
			if outcomes[RolledBack] == 0 || tt.operation == "commit" && outcomes[Finished] == 0 {
				t.Errorf("not every way to recover was taken: %v", outcomes)
			}
			// A floor, so that the matrix cannot shrink to nothing unseen.
			if least := 10; kills < least {
				t.Errorf("killed only %d times, want at least %d", kills, least)
			}
			t.Logf("killed %d times", kills)
		})
	}
}

// TestCrashOfRecoverAfterCrash kills a switch at each of its renames, and the recovery from that at each of its own.
func TestCrashOfRecoverAfterCrash(t *testing.T) {
	for _, faults := range [][]string{{}, {noExchange}} {
		t.Run(fmt.Sprint(faults), func(t *testing.T) {
			t.Parallel()
			for first := 1; ; first++ {
				finished := false
				crash := func(f fixture) {
					finished = f.run(t, "switch and commit", append([]string{fmt.Sprintf("renameat:signal=KILL:when=%d", first)}, faults...)...)
				}
				if crash(shapes[1].build(t)); finished {
					if first < 6 {
						t.Fatalf("only %d renames", first-1)
					}
					return
				}
				for _, call := range []string{"renameat", "renameat2"} {
					crashAt(t, shapes[1], "recover", crash, call, faults, map[Outcome]int{})
				}
			}
		})
	}
}

// crashAt kills the operation at the first, second, … call of one kind, until it comes to its end. It counts what Recover
// had to do.
func crashAt(t *testing.T, s shape, operation string, prepare func(fixture), call string, faults []string, outcomes map[Outcome]int) (kills int) {
	t.Helper()
	for {
		f := s.build(t)
		prepare(f)
		injections := faults
		// One call can have one fault only: the one that cannot exchange is not killed there.
		if len(faults) == 0 || !strings.HasPrefix(faults[0], call+":") {
			injections = append([]string{fmt.Sprintf("%s:signal=KILL:when=%d", call, kills+1)}, faults...)
		}
		finished := f.run(t, operation, injections...)
		t.Logf("%s with %q: finished %v", operation, injections, finished)
		canExchange := len(faults) == 0
		outcomes[f.checkAfterCrash(t, s, operation, finished, canExchange)]++
		if t.Failed() {
			t.Fatalf("%s: killed at %s number %d", operation, call, kills+1)
		}
		if finished {
			return kills
		}
		kills++
	}
}

// checkAfterCrash checks that the old or the new data is there, whole, at once and after Recover.
func (f fixture) checkAfterCrash(t *testing.T, s shape, operation string, finished, canExchange bool) (outcome Outcome) {
	t.Helper()
	live := filepath.Join(f.dir.data, "member", "snap", "db")
	if canExchange && !s.fresh {
		// Even before Recover there is never a moment without data.
		if _, err := os.Stat(live); err != nil {
			t.Errorf("before recover: %v", err)
		}
	}
	pending, err := f.dir.Pending()
	if err != nil {
		t.Fatal(err)
	}
	outcome, err = f.dir.Recover()
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, f.root); got != f.old && got != f.switched {
		t.Fatalf("after recover (%v) the tree is neither old nor new:\n%s", outcome, got)
	} else if pending && got != f.old || operation != "switch and commit" && operation != "commit" && got != f.old {
		t.Fatalf("after recover (%v) the new data is served although it was not committed", outcome)
	} else if (operation == "switch and commit" || operation == "commit") && finished && got != f.switched {
		t.Fatalf("after recover (%v) the old data is served although the new was committed", outcome)
	} else if pending != (outcome == RolledBack) {
		t.Fatalf("pending was %v and recover says: %v", pending, outcome)
	}
	again, err := f.dir.Recover()
	if again != Nothing || err != nil {
		t.Fatalf("second recover: %v, %v", again, err)
	}
	return outcome
}

// TestFaults lets each call fail once, as a full or broken disk does. The old data must be in place, or be put there by
// Recover when the disk works again.
func TestFaults(t *testing.T) {
	for _, call := range []string{"renameat", "renameat2", "fsync", "mkdirat", "write"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				f := shapes[1].build(t)
				if f.fails(t, fmt.Sprintf("%s:error=EIO:when=%d", call, n)) {
					if n == 1 {
						t.Fatal("no fault was injected")
					}
					return
				}
				if pending, err := f.dir.Pending(); err != nil || !pending {
					// The failure was handled on the spot, or came before anything was changed, or after the commit.
					if _, err := f.dir.Recover(); err != nil {
						t.Fatal(err)
					}
					if got := tree(t, f.root); got != f.old && got != f.switched {
						t.Fatalf("%s number %d failed, and the tree is neither old nor new:\n%s", call, n, got)
					}
					continue
				}
				if outcome, err := f.dir.Recover(); outcome != RolledBack || err != nil {
					t.Fatalf("recover: %v, %v", outcome, err)
				}
				f.check(t, f.old)
			}
		})
	}
}

// fails runs switch and commit with a fault and tells whether it succeeded all the same.
func (f fixture) fails(t *testing.T, injection string) (succeeded bool) {
	t.Helper()
	call, _, _ := strings.Cut(injection, ":")
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-qq", "-o", trace, "-e", "trace="+call, "-e", "inject="+injection, os.Args[0])
	cmd.Env = f.environment("switch and commit")
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("%s: %v\n%s", injection, err, output)
	}
	calls, readErr := os.ReadFile(trace)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if err == nil && bytes.Contains(calls, []byte("INJECTED")) {
		t.Errorf("%s: the fault went unnoticed:\n%s", injection, calls)
	}
	return err == nil
}
