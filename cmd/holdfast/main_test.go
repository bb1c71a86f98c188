package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the program.
func TestMain(m *testing.M) {
	if os.Getenv("BE_HOLDFAST") != "" {
		main()
	}
	os.Exit(m.Run())
}

func program(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	said := &bytes.Buffer{}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "BE_HOLDFAST=1", "HOLDFAST_HOME="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, said
}

// TestEtcdHeedsEarlySignals ends the server at every age: before etcd has a handler of its own, none of ours may take the
// signal. A server that never gets a quorum has no handler for as long as it lives.
func TestEtcdHeedsEarlySignals(t *testing.T) {
	t.Parallel()
	const alone, lonely = "a=http://127.0.0.1:2", "a=http://127.0.0.1:2,b=http://127.0.0.1:3"                // the latter has no quorum
	for i, age := range []int{0, 1, 3, 10, 30, 60, 100, 150, 200, 300, 400, 500, 0, 3, 30, 100, 300, 1000} { // milliseconds
		cluster := alone
		if i >= 12 {
			cluster = lonely
		}
		t.Run(fmt.Sprint(cluster, " ", age), func(t *testing.T) {
			cmd, said := program(t, "etcd", "--data-dir", t.TempDir(), "--name", "a",
				"--listen-client-urls", "http://127.0.0.1:0", "--advertise-client-urls", "http://127.0.0.1:1",
				"--listen-peer-urls", "http://127.0.0.1:0", "--initial-advertise-peer-urls", "http://127.0.0.1:2",
				"--initial-cluster", cluster)
			time.Sleep(time.Duration(age) * time.Millisecond) // the age is what is tested
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err := <-ended:
				failed, is := errors.AsType[*exec.ExitError](err)
				if !is || failed.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
					t.Errorf("it ended with %v, not by the signal: %s", err, said)
				}
			case <-time.After(3 * time.Second):
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
				<-ended
				t.Errorf("it was still there 3 s after SIGTERM: %s", said)
			}
		})
	}
}

// TestSignalsInExitCodes cuts off a command while it asks an etcd server for its version.
func TestSignalsInExitCodes(t *testing.T) {
	t.Parallel()
	for sent, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		dir := t.TempDir()
		server, asked := filepath.Join(dir, "etcd"), filepath.Join(dir, "asked")
		if err := os.WriteFile(server, []byte("#!/bin/sh\n: > '"+asked+"'\nexec sleep 100\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd, said := program(t, "deploy", "etcd", "--etcd-binary", server)
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(asked); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the server was not asked")
			}
		}
		if err := cmd.Process.Signal(sent); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != want || !strings.HasPrefix(said.String(), "ERROR ") {
			t.Errorf("after %s: exit code %d, %v, want %d: %s", sent, got, err, want, said)
		}
	}
}
