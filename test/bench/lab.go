package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// lab is the folder and the processes of one run.
type lab struct {
	settings
	// dir holds everything that the run makes; units are in dir/home.
	dir string
	// etcd are the tools of the version that holdfast has inside.
	etcd  etcdtest.Version
	units []*deployed
	out   io.Writer
}

// openLab makes an empty lab on the disk that the checkout is on. The caller closes it.
func openLab(s settings, out io.Writer) (*lab, error) {
	versions, err := etcdtest.FindVersions(".")
	if err != nil {
		return nil, err
	}
	if s.program, err = filepath.Abs(s.program); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(".cache", 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(".cache", "bench.")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	l := &lab{settings: s, dir: dir, etcd: versions[len(versions)-1], out: out}
	disk, err := fileSystem(dir)
	if err == nil && strings.Contains(disk, " tmpfs ") {
		err = fmt.Errorf("folder %q is in memory; a bench needs a disk", dir)
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// close ends everything that runs in the lab and removes its files.
func (l *lab) close() error {
	var failed []error
	for _, d := range l.units {
		failed = append(failed, l.destroy(d))
	}
	return errors.Join(append(failed, os.RemoveAll(l.dir))...)
}

func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.out, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// holdfast is a run of the program that is measured.
func (l *lab) holdfast(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.program, args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_HOME="+filepath.Join(l.dir, "home"))
	cmd.Dir = l.dir
	return cmd
}

// output runs a command and gives what it printed. An error has what it complained of.
func output(cmd *exec.Cmd) (string, error) {
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, problems.String(), out.String())
	}
	return out.String(), nil
}

// cpuOf gives the processor time of a command that has ended, and of the children that it waited for, in seconds.
func cpuOf(cmd *exec.Cmd) float64 {
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
}

// deployed is an application of one unit.
type deployed struct {
	application string
	unit        string
	// folder is what the unit has on this machine; root inside of it is where paths of actions are.
	folder, root string
	// env is what etcdctl needs to reach the unit's etcd.
	env    []string
	client *clientv3.Client
}

// deploy makes an application of one unit and connects to its etcd.
func (l *lab) deploy(ctx context.Context, application string) (*deployed, error) {
	d := &deployed{application: application}
	l.units = append(l.units, d)
	said, err := output(l.holdfast(ctx, "deploy", "etcd", application))
	if err != nil {
		return nil, err
	}
	// Numbers are not used again, so that a second one of the same name is not number 0.
	d.unit = strings.TrimSpace(strings.TrimPrefix(said, application+" is ready:"))
	name, err := unit.ParseName(d.unit)
	if err != nil {
		return nil, err
	}
	d.folder = filepath.Join(l.dir, "home", "units", name.Dir())
	d.root = filepath.Join(d.folder, "root")
	exports, err := output(l.holdfast(ctx, "env", application))
	if err != nil {
		return nil, err
	}
	// The shell reads the lines, as it does for people.
	listed, err := output(exec.CommandContext(ctx, "env", "-i", "sh", "-c", exports+"\nenv"))
	if err != nil {
		return nil, err
	}
	variables := map[string]string{}
	for line := range strings.Lines(listed) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), "="); strings.HasPrefix(name, "ETCDCTL_") && name != "ETCDCTL_API" {
			variables[name] = value
			d.env = append(d.env, name+"="+value)
		}
	}
	tls, err := transport.TLSInfo{
		TrustedCAFile: variables["ETCDCTL_CACERT"], CertFile: variables["ETCDCTL_CERT"], KeyFile: variables["ETCDCTL_KEY"],
	}.ClientConfig()
	if err != nil {
		return nil, err
	}
	d.client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{variables["ETCDCTL_ENDPOINTS"]}, TLS: tls, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
	})
	return d, err
}

// destroy removes an application with its data.
func (l *lab) destroy(d *deployed) error {
	for i, other := range l.units {
		if other == d {
			l.units = append(l.units[:i:i], l.units[i+1:]...)
		}
	}
	var err error
	if d.client != nil {
		err = d.client.Close()
	}
	if _, statErr := os.Stat(filepath.Join(l.dir, "home")); errors.Is(statErr, os.ErrNotExist) {
		return err
	}
	// Not cancelled with the run: it is what cleans up after an interrupt.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, destroyErr := output(l.holdfast(ctx, "destroy", d.application, "--yes"))
	return errors.Join(err, destroyErr)
}

// fill deploys an application and writes a Kubernetes-shaped load until its database has the size, in bytes.
func (l *lab) fill(ctx context.Context, r *report, application string, size int64) (*deployed, error) {
	l.say("making a database of %d MB", size/1_000_000)
	d, err := l.deploy(ctx, application)
	if err != nil {
		return nil, err
	}
	stats, err := kubeload.FillTo(ctx, d.client, l.seed, size)
	if err != nil {
		return nil, err
	}
	status, err := d.client.Status(ctx, d.client.Endpoints()[0])
	if err != nil {
		return nil, err
	}
	r.Data = append(r.Data, dataset{
		Name: application, Shape: "the keyspace of a Kubernetes cluster (internal/etcdtest/kubeload), not compacted",
		BackendBytes: status.DbSize, InUseBytes: status.DbSizeInUse, Revision: status.Header.Revision,
		Objects: stats.Objects, Puts: stats.Puts, Deletes: stats.Deletes, Leases: stats.Leases,
	})
	return d, nil
}

// process gives the number of a process of the unit: "agent" or "etcd".
func (d *deployed) process(name string) (int, error) {
	text, err := os.ReadFile(filepath.Join(d.folder, "state", name+".pid"))
	if err != nil {
		return 0, err
	}
	var recorded struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		return 0, fmt.Errorf("read process of %s: %w", d.unit, err)
	}
	return recorded.PID, nil
}

// action runs an action and waits for it, as people do. The figures get the memory of the agent and the processor times
// of agent, etcd and the waiting command.
func (l *lab) action(ctx context.Context, d *deployed, f figures, words ...string) error {
	agent, err := d.process("agent")
	if err != nil {
		return err
	}
	before, err := cpuTime(agent)
	if err != nil {
		return err
	}
	watch, err := watchMemory(agent)
	if err != nil {
		return err
	}
	cmd := l.holdfast(ctx, append([]string{"run-action", d.unit, "--wait"}, words...)...)
	_, err = output(cmd)
	peak, watchErr := watch.end()
	if err := errors.Join(err, watchErr); err != nil {
		return err
	}
	after, err := cpuTime(agent)
	f["cpu_s"] = after - before + cpuOf(cmd)
	f["memory_bytes"], f["memory-anonymous_bytes"] = float64(peak.rss), float64(peak.anonymous)
	return err
}

// tool runs a command of the other side. Its figures add to those of the tools before it; memory is the largest.
func tool(cmd *exec.Cmd, f figures, step string) error {
	var problems bytes.Buffer
	cmd.Stderr = &problems
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	watch, err := watchMemory(cmd.Process.Pid)
	if err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	peak, watchErr := watch.wait(cmd)
	if cmd.ProcessState == nil || !cmd.ProcessState.Success() {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), watchErr, problems.String())
	}
	f[step+"_s"] = time.Since(began).Seconds()
	f["cpu_s"] += cpuOf(cmd)
	f["memory_bytes"] = max(f["memory_bytes"], float64(peak.rss))
	f["memory-anonymous_bytes"] = max(f["memory-anonymous_bytes"], float64(peak.anonymous))
	return watchErr
}
