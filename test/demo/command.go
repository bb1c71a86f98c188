package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gopkg.in/yaml.v2"
)

// stopTime is how long an interrupted command has to end by itself.
const stopTime = 10 * time.Second

// demo is one run. Its folder holds everything: "home" is the HOLDFAST_HOME, "bin" has holdfast and juju, and "work" is
// where the commands are typed.
type demo struct {
	*voice
	folder string
	// program is the path of the holdfast binary, without links.
	program string
	// objects is how many Kubernetes objects are written.
	objects int

	// What steps learn and later ones need:

	// taken is the result of the snapshot, and archive the name of its copy.
	taken   result
	archive string
	// saved is what etcd held when the snapshot was made, and moved is what it held after some more work.
	saved, moved clusterState
}

func (d *demo) home() string { return filepath.Join(d.folder, "home") }

// run shows a command, runs it, and gives what it printed. A command that fails is an error.
func (d *demo) run(ctx context.Context, line string) (string, error) {
	d.command(line)
	output, code, err := d.shell(ctx, line, d)
	if err == nil && code != 0 {
		err = fmt.Errorf("%q ended with exit code %d", line, code)
	}
	return output, err
}

// runRefused is run for a command that must end with exit code 1.
func (d *demo) runRefused(ctx context.Context, line string) (string, error) {
	d.command(line)
	output, code, err := d.shell(ctx, line, d)
	if err == nil && code != 1 {
		err = fmt.Errorf("%q ended with exit code %d and not with 1", line, code)
	}
	return output, err
}

// errStruck means that a command ended by a signal. One that is sent to the group of the demo can hit a command that was
// started just now, before it has a group of its own.
var errStruck = errors.New("a signal ended it")

// shell gives a line to sh, as if it was pasted into a terminal, and gives all that it printed and its exit code. The
// output also goes to show as it comes.
func (d *demo) shell(ctx context.Context, line string, show io.Writer) (output string, code int, err error) {
	var all bytes.Buffer
	both := io.MultiWriter(&all, show)
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir = filepath.Join(d.folder, "work")
	cmd.Env = d.environment()
	cmd.Stdout, cmd.Stderr = both, both
	// A process group of its own: Ctrl-C at the terminal reaches the demo alone, so that what cleans up is not cut off.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = stopTime
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return all.String(), 0, context.Cause(ctx)
	case errors.As(err, &exit) && exit.Exited():
		return all.String(), exit.ExitCode(), nil
	case errors.As(err, &exit):
		return all.String(), 0, fmt.Errorf("run %q: %w: %w", line, errStruck, err)
	case err != nil:
		return all.String(), 0, fmt.Errorf("run %q: %w", line, err)
	}
	return all.String(), 0, nil
}

// environment is the caller's, without what would lead commands to the caller's own clusters.
func (d *demo) environment() []string {
	var env []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if name == "PATH" || strings.HasPrefix(name, "HOLDFAST_") || strings.HasPrefix(name, "ETCD") || strings.HasPrefix(name, "JUJU_") {
			continue
		}
		env = append(env, variable)
	}
	return append(env, "HOLDFAST_HOME="+d.home(), "PATH="+filepath.Join(d.folder, "bin")+":"+os.Getenv("PATH"))
}

// result is what the demo needs of an action's result.
type result struct {
	Status  string
	Message string
	Results struct {
		Copy      struct{ Cmd string }
		Snapshot  struct{ Path, SHA256 string }
		Restore   struct{ Keys string }
		ResultMap struct{ Message string } `yaml:"result-map"`
	}
}

// parseResult reads what run-action printed about one unit, such as "unit-etcd-0".
func parseResult(output, unit string) (result, error) {
	var all map[string]result
	if err := yaml.Unmarshal([]byte(output), &all); err != nil {
		return result{}, fmt.Errorf("read result of %s: %w", unit, err)
	}
	one, found := all[unit]
	if !found || len(all) != 1 {
		return result{}, fmt.Errorf("read result: want that of %s alone", unit)
	}
	return one, nil
}
