package docs_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/inventory"
)

const (
	// documentTimeout is for all commands of one document. The longest takes some 15 seconds on an idle machine.
	documentTimeout = 4 * time.Minute
	// shownHome is what documents show for the home folder of the person at the shell.
	shownHome = "/home/you"
)

// session is the shell of the person who reads a document: one for all its commands.
type session struct {
	home   string
	stdin  io.Writer
	output *bufio.Reader
	// mark is a line that no command prints; it ends the output of each.
	mark string
}

// program builds holdfast as "make build" does and gives its path.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "holdfast")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "../../cmd/holdfast")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build holdfast: %v\n%s", err, out)
	}
	return path
}

// newSession starts a shell in a home of its own. Beside the shell's folder "bin" with the program there is what a
// reader may have: Debian's etcdctl, etcdutl 3.7, and a release of etcd 3.5 unpacked in etcd-v3.5. With installed the program is found
// by its name. All units are destroyed at the end of the test.
func newSession(t *testing.T, holdfast string, installed bool) *session {
	t.Helper()
	s := &session{home: t.TempDir(), mark: uuid.NewString()}
	folder, tools := filepath.Join(s.home, "holdfast"), filepath.Join(s.home, ".tools")
	for _, dir := range []string{filepath.Join(folder, "bin"), tools} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		filepath.Join(folder, "bin", "holdfast"): holdfast,
		filepath.Join(folder, "etcd-v3.5"):       filepath.Dir(etcdtest.Get(t, "3.5").Server),
		filepath.Join(tools, "etcdctl"):          etcdtest.Get(t, "3.4").Ctl,
		filepath.Join(tools, "etcdutl"):          etcdtest.Get(t, "3.7").Utl,
	} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	search := tools + ":/usr/local/bin:/usr/bin:/bin"
	if installed {
		search = filepath.Join(folder, "bin") + ":" + search
	}
	s.start(t, folder, []string{"HOME=" + s.home, "PATH=" + search, "TZ=UTC", "LANG=C.UTF-8", "TMPDIR=" + os.TempDir()})
	t.Cleanup(func() { s.destroyAll(t, holdfast) })
	return s
}

func (s *session) start(t *testing.T, folder string, environ []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), documentTimeout)
	shell := exec.CommandContext(ctx, "bash", "--noprofile", "--norc")
	shell.Dir, shell.Env = folder, environ
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) }
	shell.WaitDelay = 5 * time.Second
	stdin, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	shell.Stdout, shell.Stderr = write, write
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	s.stdin, s.output = stdin, bufio.NewReader(read)
	t.Cleanup(func() {
		stdin.Close()
		if err := shell.Wait(); err != nil {
			t.Errorf("shell: %v", err)
		}
		cancel()
		read.Close()
	})
}

var deploys = regexp.MustCompile(`^(holdfast|juju) deploy `)

// run runs one command and gives what it printed, on both streams. A command that fails is an error: where that is what
// a document is about, the document shows the exit code as well.
func (s *session) run(command string) (string, error) {
	if _, err := fmt.Fprintf(s.stdin, "{ %s\n} </dev/null\nprintf '\\n%%s %%d\\n' %s $?\n", command, s.mark); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		line, err := s.output.ReadString('\n')
		if status, ended := strings.CutPrefix(line, s.mark+" "); ended {
			code, err := strconv.Atoi(strings.TrimSpace(status))
			if err == nil && code != 0 {
				err = fmt.Errorf("exit code %d", code)
			}
			// The line feed before the mark is ours.
			return strings.ReplaceAll(strings.TrimSuffix(out.String(), "\n"), s.home, shownHome), err
		}
		out.WriteString(line)
		if err != nil {
			return out.String(), fmt.Errorf("the shell ended: %w", err)
		}
	}
}

// settle waits until all clusters of etcd 3.6 and newer have written the version of their storage into their data. They do so
// a moment after they first serve, and what a snapshot says of its version depends on it.
func (s *session) settle(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		missing := s.unsettled(t)
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no storage version after 20 s at %q", missing)
		}
	}
}

// unsettled gives the endpoints that do not know the version of their storage yet.
func (s *session) unsettled(t *testing.T) (missing []string) {
	t.Helper()
	operator := filepath.Join(s.dataHome(), "operator", "etcd")
	inv := s.inventory(t)
	for _, application := range inv.Names() {
		for _, record := range inv.Applications[application].Units {
			if record.EtcdBinary != "" {
				continue
			}
			endpoint := record.ClientURLs[0]
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			out, err := etcdtest.Get(t, "3.7").CtlCommand(ctx, nil, "--endpoints", endpoint, "--cacert", operator+"-ca.crt",
				"--cert", operator+".crt", "--key", operator+".key", "endpoint", "status", "-w", "json").Output()
			cancel()
			if err != nil || !bytes.Contains(out, []byte(`"storageVersion":"`)) {
				missing = append(missing, endpoint)
			}
		}
	}
	return missing
}

// dataHome is where the program keeps its state for the person at the shell.
func (s *session) dataHome() string { return filepath.Join(s.home, ".local", "share", "holdfast") }

func (s *session) inventory(t *testing.T) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Open(filepath.Join(s.dataHome(), "inventory.yaml")).View()
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// destroyAll leaves nothing running.
func (s *session) destroyAll(t *testing.T, holdfast string) {
	for _, application := range s.inventory(t).Names() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		destroy := exec.CommandContext(ctx, holdfast, "destroy", application, "--yes")
		destroy.Env = []string{"HOLDFAST_HOME=" + s.dataHome()}
		out, err := destroy.CombinedOutput()
		cancel()
		if err != nil {
			t.Error(errors.Join(fmt.Errorf("destroy %s: %w", application, err), errors.New(string(out))))
		}
	}
}
