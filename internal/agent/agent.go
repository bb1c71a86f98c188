// Package agent is the daemon beside one etcd member: it keeps the member's server running, carries out actions from its
// journal, and serves the agent API.
//
// It is the composition root of the parts below: Run opens them, joins them and returns when all have stopped. Where the
// machine's configuration says so, one of them archives the cluster, or waits while another unit's agent does. The etcd
// server is not among what stops: it goes on serving while the agent restarts, and the next agent adopts it.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/archiver"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/etcdproc"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/service"
	"github.com/holdfast-project/holdfast/internal/unit"
	"github.com/holdfast-project/holdfast/internal/unitaction"
)

// Options are what the command line knows beside the configuration.
type Options struct {
	// Program is the path of this program, for the processes that the agent starts.
	Program string
	// Version is the version of this program.
	Version string
	Logger  *slog.Logger
}

// Agent is the daemon of one unit.
type Agent struct {
	config    config.Agent
	version   string
	log       *slog.Logger
	root      *os.Root
	etcdTLS   *tls.Config
	child     *service.Child
	unit      *unitaction.Unit
	resources *resources
	runner    *action.Runner
	program   string
	environ   []string
	bounds    bounds
	archive   archiver.Tracker
}

// Open prepares an agent: it reads its files, takes its journal, and finishes or undoes a restore that a crash cut off.
// The error is action.ErrLocked while another agent runs for the unit. The caller closes it.
func Open(c config.Agent, o Options) (_ *Agent, err error) {
	a := &Agent{
		config: c, version: o.Version, program: o.Program, log: o.Logger,
		resources: &resources{dir: filepath.Join(c.StateDir, "resources"), log: o.Logger},
		environ:   service.Environment(os.Environ()),
		bounds:    usualBounds(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	for _, folder := range []string{c.StateDir, c.Record.Root} {
		if err := durable.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	if a.root, err = os.OpenRoot(c.Record.Root); err != nil {
		return nil, fmt.Errorf("open root of unit: %w", err)
	}
	if !c.Record.TLS.IsZero() {
		if a.etcdTLS, err = pki.ClientTLS(c.Record.TLS); err != nil {
			return nil, err
		}
	}
	if a.child, err = service.New(service.Options{Dir: c.StateDir, Spawn: []string{o.Program, "spawn"}}); err != nil {
		return nil, err
	}
	a.unit = &unitaction.Unit{
		Name: c.Unit, Record: c.Record, Root: a.root, TLS: a.etcdTLS, Service: held{a.child},
		Resources: a.resources, ServerVersion: a.serverVersion, Logger: a.log,
		Scratch: filepath.Join(c.StateDir, "scratch"),
	}
	if c.Inventory != "" {
		a.unit.ApplicationUnits = a.applicationUnits
	}
	if c.Home != "" {
		a.unit.Vault = a.vault
	}
	a.runner, err = action.OpenRunner(action.Options{
		Dir: filepath.Join(c.StateDir, "journal"), Unit: c.Unit, Actions: a.unit.Actions(), Logger: a.log,
	})
	if err != nil {
		return nil, err
	}
	// Only now that the journal is ours, and before anything can start an etcd.
	if err := a.unit.RecoverData(context.Background()); err != nil {
		return nil, err
	}
	return a, errors.Join(a.clearUploads(), a.resources.clear())
}

// Close lets go of what Open took. The etcd server stays as it is.
func (a *Agent) Close() error {
	var failed []error
	if a.runner != nil {
		failed = append(failed, a.runner.Close())
	}
	if a.root != nil {
		failed = append(failed, a.root.Close())
	}
	return errors.Join(failed...)
}

// Run serves until ctx ends, and returns when the action that then runs has been cut off cleanly. A part that fails ends
// the others.
func (a *Agent) Run(ctx context.Context) error {
	listener, err := a.listen()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.runner.Run(ctx) })
	group.Go(func() error {
		err := a.child.Supervise(ctx, a.etcdCommand, a.logEvent)
		if ctx.Err() != nil {
			return nil // the agent stops; its etcd does not
		}
		return err
	})
	group.Go(func() error { return a.serve(ctx, listener) })
	group.Go(func() error { return a.keepArchiving(ctx) })
	a.log.Info("agent serves", "unit", a.config.Unit.String(), "address", listener.Addr().String())
	return group.Wait()
}

// RunOnce carries out one task without serving the API, for a call on the host while no agent runs. Meanwhile it keeps the
// etcd running as Run does, and leaves it running.
func (a *Agent) RunOnce(ctx context.Context, request action.Request) (action.Task, error) {
	task, err := a.runner.Enqueue(request)
	if err != nil {
		return task, err
	}
	supervising, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, supervising := errgroup.WithContext(supervising)
	group.Go(func() error {
		// It is what starts the server again after a restore has held it.
		err := a.child.Supervise(supervising, a.etcdCommand, a.logEvent)
		if supervising.Err() != nil {
			return nil
		}
		return err
	})
	task, err = a.runner.RunUntil(ctx, task.ID)
	stop()
	return task, errors.Join(err, group.Wait())
}

func (a *Agent) listen() (net.Listener, error) {
	config, err := pki.ServerTLS(a.config.TLS)
	if err != nil {
		return nil, err
	}
	listener, err := tls.Listen("tcp", a.config.Record.Agent, config)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent API: %w", err)
	}
	return listener, nil
}

// etcdCommand is the unit's server as it is to be started.
func (a *Agent) etcdCommand() service.Command {
	cluster := a.config.Cluster
	args := etcdproc.ServerArgs(a.config.Record, etcdproc.ClusterSpec{
		InitialCluster: cluster.Members, State: etcdproc.ClusterState(cluster.State), Token: cluster.Token,
	})
	if a.config.Record.EtcdBinary != "" {
		return service.Command{Path: a.config.Record.EtcdBinary, Args: args, Env: a.environ}
	}
	return service.Command{Path: a.program, Args: append([]string{"etcd"}, args...), Env: a.environ}
}

// serverVersion asks the server program of the unit for its version.
func (a *Agent) serverVersion(ctx context.Context) (string, error) {
	if a.config.Record.EtcdBinary == "" {
		return etcdproc.Version(), nil
	}
	return etcdproc.BinaryVersion(ctx, a.config.Record.EtcdBinary)
}

// applicationUnits reads the units of this unit's application from the operator's inventory.
func (a *Agent) applicationUnits() ([]unit.Name, error) {
	listed, err := inventory.Open(a.config.Inventory).View()
	if err != nil {
		return nil, err
	}
	return listed.Units(a.config.Unit.Application)
}

func (a *Agent) logEvent(e service.Event) {
	level := slog.LevelInfo
	if e.Err != nil {
		level = slog.LevelWarn
	}
	a.log.Log(context.Background(), level, "etcd "+string(e.Kind), "unit", a.config.Unit.String(),
		"pid", e.Process.PID, "err", e.Err, "failures", e.Failures, "duration", e.Delay)
	if e.Changed {
		a.log.Warn("etcd runs with other arguments than today's; they hold after its next start", "unit", a.config.Unit.String())
	}
}

// held is the unit's etcd as the restore action sees it.
type held struct{ child *service.Child }

func (h held) Hold(ctx context.Context) error { return h.child.Hold(ctx) }

func (h held) Release() { h.child.Release() }

func (h held) LogTail(lines int) string {
	tail, err := h.child.LogTail(lines)
	if err != nil {
		return err.Error()
	}
	return tail
}

// Name is the unit that the agent is for.
func (a *Agent) Name() unit.Name { return a.config.Unit }

// Specs gives the definitions of the unit's actions, by name.
func (a *Agent) Specs() []action.Spec { return a.runner.Specs() }
