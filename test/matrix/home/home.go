// Package home runs the holdfast program as an operator does, with real agents and real etcd servers, in a home folder of
// its own. It is for the tests that need whole units; they start with Main and New.
//
// A Home is safe for concurrent use by parallel tests that work on applications of their own. Its units are destroyed
// when the test ends; they stay when the test process is killed, because units outlive whoever made them.
package home

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

const (
	// programVariable names the program under test. Where it is not set, Main builds the program.
	programVariable = "HOLDFAST_TEST_PROGRAM"
	// commandTimeout is how long one command may take. Seconds on an idle machine.
	commandTimeout = 3 * time.Minute
)

// Main is what TestMain of a package calls: it builds the program as "make build" does, runs the tests, and gives the
// exit code.
func Main(m *testing.M) (code int) {
	if os.Getenv(programVariable) != "" {
		return m.Run()
	}
	folder, err := os.MkdirTemp("", "holdfast-program-")
	if err == nil {
		defer func() { _ = os.RemoveAll(folder) }() // It is in the folder for temporary files.
		err = build(filepath.Join(folder, "holdfast"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func build(program string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/holdfast-project/holdfast/cmd/holdfast")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build program: %w\n%s", err, out)
	}
	return os.Setenv(programVariable, program)
}

// Home is a home folder with what was deployed in it.
type Home struct {
	// Dir is the home folder.
	Dir string
	// Program is the path of the program.
	Program string
	// Env are more variables for the program, "NAME=VALUE"; the later counts.
	Env []string
}

// New makes an empty home. All applications in it are destroyed at the end of the test.
func New(t testing.TB) *Home {
	t.Helper()
	h := &Home{Dir: filepath.Join(t.TempDir(), "home"), Program: os.Getenv(programVariable)}
	if h.Program == "" {
		t.Fatal("no program: TestMain must call home.Main")
	}
	t.Cleanup(func() {
		for application := range h.view(t).Applications {
			h.Must(t, "destroy", application, "--yes")
		}
	})
	return h
}

// view reads the inventory.
func (h *Home) view(t testing.TB) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Open(filepath.Join(h.Dir, "inventory.yaml")).View()
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// Environment is the whole environment of the program.
func (h *Home) Environment() []string {
	return append([]string{"HOLDFAST_HOME=" + h.Dir, "PATH=" + os.Getenv("PATH"), "HOME=" + h.Dir, "TMPDIR=" + os.TempDir()}, h.Env...)
}

// Run runs a command line of the program to its end.
func (h *Home) Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	// Not the test's context: cleaning up goes on after that has ended.
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = h.Environment(), &out, &problems
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || !exit.Exited()) {
		t.Fatalf("holdfast %q: %v\n%s%s", args, err, &out, &problems)
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

// Must is Run for what has to work. It gives the standard output.
func (h *Home) Must(t testing.TB, args ...string) string {
	t.Helper()
	stdout, stderr, code := h.Run(t, args...)
	if code != 0 {
		t.Fatalf("holdfast %q: exit code %d\n%s%s", args, code, stdout, stderr)
	}
	return stdout
}

// Task is what run-action prints of one task.
type Task struct {
	ID      string
	Status  string
	Message string
	Results map[string]any
}

// Get gives a result by its dotted key, "" when there is none.
func (k Task) Get(key string) string {
	var value any = k.Results
	for _, part := range strings.Split(key, ".") {
		inner, _ := value.(map[string]any)
		value = inner[part]
	}
	text, _ := value.(string)
	return text
}

// Action runs an action on a unit and waits for its end. words are the action and its parameters.
func (h *Home) Action(t testing.TB, name string, words ...string) Task {
	t.Helper()
	args := append([]string{"run-action", name}, words...)
	stdout, stderr, code := h.Run(t, append(args, "--wait", "--format", "json")...)
	var tasks map[string]Task
	if err := json.Unmarshal([]byte(stdout), &tasks); err != nil || len(tasks) != 1 {
		t.Fatalf("%q: exit code %d, %v\n%s%s", args, code, err, stdout, stderr)
	}
	for _, task := range tasks {
		if (task.Status == "completed") != (code == 0) {
			t.Fatalf("%q: status %s and exit code %d", args, task.Status, code)
		}
		return task
	}
	panic("unreachable")
}

// MustAct is Action for what has to complete.
func (h *Home) MustAct(t testing.TB, name string, words ...string) Task {
	t.Helper()
	task := h.Action(t, name, words...)
	if task.Status != "completed" {
		t.Fatalf("%s %q: %s: %s", name, words, task.Status, task.Message)
	}
	return task
}

// Record gives the inventory's record of a unit.
func (h *Home) Record(t testing.TB, name string) unit.Record {
	t.Helper()
	record, err := h.view(t).Unit(parse(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// Folder is where the files of a unit are.
func (h *Home) Folder(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(h.Dir, "units", parse(t, name).Dir())
}

func parse(t testing.TB, name string) unit.Name {
	t.Helper()
	parsed, err := unit.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Etcd gives a client of the unit's own member, with the operator's certificate. It lives as long as the test.
func (h *Home) Etcd(t testing.TB, name string) *clientv3.Client {
	t.Helper()
	config, err := pki.ClientTLS(pki.Files(deploy.OperatorFolder(h.Dir), "etcd"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: h.Record(t, name).ClientURLs, TLS: config, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // All its calls are over.
	return client
}

// Agent gives a client of the unit's agent, with the operator's certificate. It lives as long as the test.
func (h *Home) Agent(t testing.TB, name string) *api.Client {
	t.Helper()
	config, err := pki.ClientTLS(pki.Files(deploy.OperatorFolder(h.Dir), "operator"))
	if err != nil {
		t.Fatal(err)
	}
	client := api.NewClient(parse(t, name), h.Record(t, name).Agent, config)
	t.Cleanup(client.Close)
	return client
}
