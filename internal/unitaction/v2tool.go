package unitaction

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/scratch"
)

// v2Tool is the program that makes a backup of the v2 store from the files of a running etcd.
type v2Tool struct {
	path string
	args []string
	env  []string
}

// v2ToolTimeout bounds one run. It reads the last raft snapshot and the log after it.
const v2ToolTimeout = 5 * time.Minute

// checkV2Store refuses a version of etcd that has no v2 store.
func checkV2Store(version string) error {
	switch minorOf(version) {
	case "3.4", "3.5":
		return nil
	}
	return fmt.Errorf("etcd %s has no v2 store: 3.5 was the last that had one", version)
}

// findV2Tool finds the tool of the etcd with that version, which is not any other: each writes what its own etcd reads.
func (u *Unit) findV2Tool(ctx context.Context, version string) (v2Tool, error) {
	if err := checkV2Store(version); err != nil {
		return v2Tool{}, err
	}
	name, minor := "etcdutl", minorOf(version)
	if minor == "3.4" {
		name = "etcdctl" // Version 3.4 has no other.
	}
	if u.Record.EtcdTools == "" {
		return v2Tool{}, fmt.Errorf("a backup of the v2 store needs the %s of etcd %s, and the unit knows no folder with it (etcd-tools)", name, minor)
	}
	tool := v2Tool{path: filepath.Join(u.Record.EtcdTools, name), args: []string{"backup"}, env: scratch.Environment()}
	ask := []string{"version"}
	if name == "etcdctl" {
		tool.env = scratch.Environment("ETCDCTL_API=2")
		ask = []string{"--version"}
	} else {
		tool.args = append(tool.args, "--with-v3=false")
	}
	if _, err := os.Stat(tool.path); err != nil {
		return v2Tool{}, fmt.Errorf("a backup of the v2 store needs the %s of etcd %s: %w", name, minor, err)
	}
	said, err := tool.run(ctx, ask...)
	if err != nil {
		return v2Tool{}, err
	}
	match := toolVersion.FindSubmatch(said)
	if match == nil || string(match[1]) != minor {
		return v2Tool{}, fmt.Errorf("a backup of the v2 store needs the %s of etcd %s, but %q says %q", name, minor, tool.path, firstLine(said))
	}
	return tool, nil
}

var toolVersion = regexp.MustCompile(`(?m)^etcd(?:ctl|utl) version: (\d+\.\d+)\.\d`)

func firstLine(text []byte) string {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return string(line)
}

// backUp makes a backup of a data dir in a folder that does not exist yet.
func (t v2Tool) backUp(ctx context.Context, dataDir, walDir, folder string) error {
	args := append(t.args, "--data-dir="+dataDir, "--backup-dir="+folder)
	if walDir != "" {
		args = append(args, "--wal-dir="+walDir)
	}
	_, err := t.run(ctx, args...)
	return err
}

// run gives what the tool printed. It ends with ctx, and with this program.
func (t v2Tool) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, v2ToolTimeout)
	defer cancel()
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", t.env, &out, &problems
	cmd.WaitDelay = time.Second
	ended, err := scratch.StartChild(cmd)
	if err == nil {
		err = <-ended
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return nil, fmt.Errorf("run %s %s: %w: %s", filepath.Base(t.path), args[0], err, scratch.LastLine(problems.Bytes()))
	}
	return out.Bytes(), nil
}

// v2Argument tells whether a server with these arguments has its v2 API enabled. The last one counts.
func v2Argument(args []string) bool {
	enabled := false
	for _, arg := range args {
		name, value, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if name != "enable-v2" {
			continue
		}
		on, err := strconv.ParseBool(value)
		enabled = !given || err == nil && on
	}
	return enabled
}
