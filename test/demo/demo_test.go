package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// testFolder holds the programs that the tests run.
var testFolder string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if testFolder, err = os.MkdirTemp("", "demo-test-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(testFolder)
		return m.Run()
	}())
}

// build makes the programs, once. They are without the race detector, as people run them: their time counts.
var build = sync.OnceValue(func() error {
	holdfast := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(testFolder, "holdfast"), "../../cmd/holdfast")
	holdfast.Env = append(os.Environ(), "CGO_ENABLED=0") // as in `make build`
	demo := exec.Command("go", "build", "-o", filepath.Join(testFolder, "demo"), ".")
	for _, cmd := range []*exec.Cmd{holdfast, demo} {
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w\n%s", cmd.Args, err, output)
		}
	}
	return os.Symlink("holdfast", filepath.Join(testFolder, "juju"))
})

// show is one run of the demo in a test.
type show struct {
	args []string
	// path goes before the PATH of the test; only is all of it, if set.
	path, only string
	// program is what to show instead of a fresh holdfast.
	program string
	// objects is how many Kubernetes objects it writes; a few, if not set.
	objects string
	// on is called for each line of the output.
	on func(p *playing, line string)
}

// playing is a demo that runs.
type playing struct {
	pid    int
	stdout io.Closer
}

// interrupt sends a signal as a terminal does: to the whole process group.
func (p *playing) interrupt(t *testing.T, s syscall.Signal) {
	if err := syscall.Kill(-p.pid, s); err != nil {
		t.Errorf("send %s: %v", s, err)
	}
}

// shown is a demo that has ended.
type shown struct {
	code           int
	stdout, stderr string
	// temp is the folder that it made its own folder in.
	temp string
	took time.Duration
}

// play runs the demo to its end.
func (s show) play(t *testing.T) shown {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	if s.program == "" {
		s.program = filepath.Join(testFolder, "holdfast")
	}
	if s.only == "" {
		s.only = s.path + ":" + os.Getenv("PATH")
	}
	if s.objects == "" {
		s.objects = "200"
	}
	temp, home := t.TempDir(), t.TempDir()
	t.Cleanup(func() { killAll(t, temp) })
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(testFolder, "demo"), append([]string{"-holdfast", s.program, "-objects", s.objects}, s.args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "PATH="+s.only,
		// What must not matter: a person's own home and clusters.
		"HOME="+home, "XDG_DATA_HOME="+home, "HOLDFAST_HOME="+home, "ETCDCTL_ENDPOINTS=http://127.0.0.1:1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	lines := bufio.NewReader(stdout)
	for err == nil {
		var line string
		line, err = lines.ReadString('\n')
		all.WriteString(line)
		if s.on != nil {
			s.on(&playing{cmd.Process.Pid, stdout}, line)
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	result := shown{cmd.ProcessState.ExitCode(), all.String(), stderr.String(), temp, time.Since(started)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("exit code %d\n%s\n%s", result.code, result.stdout, result.stderr)
		}
	})
	if entries, err := os.ReadDir(home); err != nil || len(entries) > 0 {
		t.Errorf("the user's home was touched: %v, %v", entries, err)
	}
	return result
}

// processes gives the processes that have a text in their command line or environment.
func processes(t *testing.T, text string) map[int]string {
	t.Helper()
	found := map[int]string{}
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("list processes: %v, %v", folders, err)
	}
	for _, folder := range folders {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(folder), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		// One that is gone or not ours has nothing to read.
		line, _ := os.ReadFile(filepath.Join(folder, "cmdline"))
		environ, _ := os.ReadFile(filepath.Join(folder, "environ"))
		if strings.Contains(string(line)+"\x00"+string(environ), text) {
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

// killAll takes away what a broken demo has left.
func killAll(t *testing.T, temp string) {
	for pid := range processes(t, temp) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// wantNothingLeft checks that neither a process nor a file is left of a demo.
func (s shown) wantNothingLeft(t *testing.T) {
	t.Helper()
	for pid, line := range processes(t, s.temp) {
		t.Errorf("process %d is left: %s", pid, line)
	}
	if strings.Contains(s.stderr, "clean up: ") {
		t.Errorf("want a clean-up without errors, got %q", s.stderr)
	}
	entries, err := os.ReadDir(s.temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		t.Errorf("%s is left", entry.Name())
	}
}

func (s shown) want(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if s.code != code {
		t.Errorf("want exit code %d, got %d", code, s.code)
	}
	if !strings.Contains(s.stdout, stdout) {
		t.Errorf("the output lacks %q", stdout)
	}
	if !strings.Contains(s.stderr, stderr) {
		t.Errorf("the errors lack %q", stderr)
	}
}

// TestWholeDemo is what `make demo` does. It runs before the others, which are parallel, so that its time means something.
func TestWholeDemo(t *testing.T) {
	s := show{objects: "2000"}.play(t)
	s.want(t, 0, "== Proven, in ", "")
	s.wantNothingLeft(t)
	if s.took > 90*time.Second {
		t.Errorf("it took %s, want at most 90 s", s.took)
	}
	if s.stderr != "" {
		t.Errorf("want no error, got %q", s.stderr)
	}
	if strings.ContainsAny(s.stdout, "\x1b\r") {
		t.Error("there are colours in output that goes to no terminal")
	}
	// The page's commands, in its order.
	rest := s.stdout
	for _, command := range []string{
		`holdfast deploy etcd --units 3`,
		`juju run-action etcd/0 snapshot --wait`,
		`juju scp etcd/0:/home/ubuntu/etcd-snapshots/etcd-snapshot-[-.0-9]+\.tar\.gz \.`,
		`sha256sum etcd-snapshot-[-.0-9]+\.tar\.gz`,
		`holdfast verify etcd-snapshot-[-.0-9]+\.tar\.gz`,
		`juju attach-resource etcd snapshot=\./etcd-snapshot-[-.0-9]+\.tar\.gz`,
		`juju run-action etcd/0 restore --wait`,
		`juju deploy etcd new-etcd`,
		`juju attach-resource new-etcd snapshot=\./etcd-snapshot-[-.0-9]+\.tar\.gz`,
		`juju run-action new-etcd/0 restore --wait`,
		`juju add-unit new-etcd -n 2`,
		`juju run-action new-etcd/0 health --wait`,
		`holdfast destroy etcd --yes`,
		`holdfast destroy new-etcd --yes`,
	} {
		at := regexp.MustCompile(`(?m)^\$ ` + command + `$`).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("the command %s is missing, or not in its place", command)
		}
		rest = rest[at[1]:]
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		// at is the beginning of the line at which the signal comes.
		at     string
		signal syscall.Signal
		want   string
	}{
		"during deploy":         {"deploying etcd with 3 units", syscall.SIGTERM, "Three units of etcd"},
		"after deploy":          {"etcd is ready: etcd/0, etcd/1, etcd/2", syscall.SIGINT, "Three units of etcd"},
		"terminal closed":       {"== [2/", syscall.SIGHUP, "The keyspace of a Kubernetes cluster"},
		"while a learner joins": {"new-etcd/1: joining as a learner", syscall.SIGINT, "Scale it to three units"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signals := 0
			s := show{on: func(p *playing, line string) {
				// The second and later ones are those of a person who does not want to wait.
				for _, at := range []string{tt.at, "== Clean up", "etcd/0: stopping", "etcd/2: stopping"} {
					if strings.HasPrefix(line, at) {
						p.interrupt(t, tt.signal)
						signals++
					}
				}
			}}.play(t)
			s.want(t, exitInterrupted, "No process is left", tt.want+": interrupted")
			s.wantNothingLeft(t)
			if signals < 2 {
				t.Errorf("only %d signals were sent", signals)
			}
			if strings.Contains(s.stdout, "Proven") {
				t.Error("a demo that was cut off claims to have proven something")
			}
		})
	}
}

func TestReaderGoesAway(t *testing.T) {
	t.Parallel()
	s := show{on: func(p *playing, line string) {
		if strings.HasPrefix(line, "etcd is ready") {
			if err := p.stdout.Close(); err != nil {
				t.Error(err)
			}
		}
	}}.play(t)
	s.want(t, exitInterrupted, "", "interrupted")
	s.wantNothingLeft(t)
}

func TestFailedCheck(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	writeProgram(t, filepath.Join(folder, "sha256sum"), "#!/bin/sh\nprintf '%064d  %s\\n' 0 \"$1\"\n")
	s := show{path: folder}.play(t)
	s.want(t, exitFailed, "No process is left", `check "the copy has the sha256 that the snapshot printed": want `)
	s.wantNothingLeft(t)
}

// TestWrongRestoreIsKept shows a holdfast that restores without raising the revision: the comparison must see it. With
// -keep what was made stays, and the lines that the demo prints take it away.
func TestWrongRestoreIsKept(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "holdfast")
	writeProgram(t, program, `#!/bin/sh
[ "$1 $2 $3" = "run-action new-etcd/0 restore" ] && set -- "$@" bump=false
exec `+testFolder+`/"$(basename "$0")" "$@"
`)
	s := show{args: []string{"-keep"}, program: program}.play(t)
	s.want(t, exitFailed, "", `check "all three members hold what the source held: `)
	s.want(t, exitFailed, "", "want revision 1000")
	if left := processes(t, s.temp); len(left) != 12 {
		t.Errorf("want 6 agents and 6 etcd servers, got %v", left)
	}
	var script []string
	for line := range strings.Lines(s.stdout) {
		if strings.HasPrefix(line, "  export HOLDFAST_HOME=") || strings.HasPrefix(line, "  holdfast destroy ") {
			script = append(script, line)
		}
	}
	if len(script) != 2 {
		t.Fatalf("want a line to look and one to destroy, got %q", script)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Join(script, ""))
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", script, err, output)
	}
	s.wantNothingLeft(t)
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shell, filepath.Join(folder, "sh")); err != nil {
		t.Fatal(err)
	}
	s := show{only: folder}.play(t)
	s.want(t, exitFailed, "", "find sha256sum: ")
	s.wantNothingLeft(t)

	s = show{program: filepath.Join(folder, "holdfast")}.play(t)
	s.want(t, exitFailed, "", "`make build` makes it")
	s.wantNothingLeft(t)
}

func writeProgram(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
}
