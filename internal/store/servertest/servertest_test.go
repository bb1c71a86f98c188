package servertest_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store/servertest"
)

// TestProcess starts a program twice, the second time after it was killed, and has it end with the test.
func TestProcess(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	var p *servertest.Process
	t.Run("test", func(t *testing.T) {
		p = servertest.New(t, "server", log)
		if p.Running() {
			t.Error("it runs before it is started")
		}
		for runs := 1; runs <= 2; runs++ {
			p.Start(t, exec.Command("/bin/sh", "-c", "echo I run; exec sleep 1000"), func(context.Context) error {
				text, err := os.ReadFile(log)
				if err == nil && strings.Count(string(text), "I run\n") != runs {
					err = errors.New("it says nothing")
				}
				return err
			})
			if !p.Running() {
				t.Error("it does not run")
			}
			if runs == 1 {
				p.Kill(t)
				p.Kill(t)
				if p.Running() {
					t.Error("it runs after it was killed")
				}
			}
		}
	})
	if p.Running() {
		t.Error("it does not end with the test")
	}
}

// TestFreeAddress gives addresses of this machine that can be listened on.
func TestFreeAddress(t *testing.T) {
	address := net.JoinHostPort(servertest.FreeAddress(t))
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil || !strings.HasPrefix(address, "127.") {
		t.Errorf("%s: %v", address, err)
	}
}
