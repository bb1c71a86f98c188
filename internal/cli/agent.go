package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/agent"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/etcdproc"
	"github.com/holdfast-project/holdfast/internal/juju"
	"github.com/holdfast-project/holdfast/internal/service"
	"github.com/holdfast-project/holdfast/internal/verify"
)

func (a *app) agent() *cobra.Command {
	var configFile string
	command := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "Run the agent of a unit",
		Long: "Run the agent of a unit until SIGTERM. It supervises the unit's etcd, which goes on running when the agent stops,\n" +
			"carries out actions one at a time from a journal, and serves the agent API with client certificates.",
		Example: "  " + a.Program + " agent --config /etc/holdfast/agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			// The lock that this process was started with is its own, not that of the programs it runs.
			if err := service.DisinheritFiles(); err != nil {
				return err
			}
			running, err := a.openAgent(configFile, slog.LevelInfo)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, running.Close()) }()
			return running.Run(c.Context())
		},
	}
	command.Flags().StringVar(&configFile, "config", "", "configuration of the agent (required)")
	return command
}

func (a *app) openAgent(configFile string, level slog.Level) (*agent.Agent, error) {
	if configFile == "" {
		return nil, usagef("--config is required")
	}
	loaded, err := config.LoadAgent(configFile)
	if err != nil {
		return nil, err
	}
	program, err := self()
	if err != nil {
		return nil, err
	}
	return agent.Open(loaded, agent.Options{
		Program: program, Version: Version,
		Logger: slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: level})),
	})
}

// localAction runs an action on the host of a unit without its agent, through the same code and the same journal.
func (a *app) localAction() *cobra.Command {
	var configFile, unitName string
	var flags requestFlags
	command := &cobra.Command{
		Use:   "local-action (--unit UNIT | --config FILE) ACTION [KEY=VALUE...]",
		Short: "Run one action on the host of a unit while its agent does not run",
		Long: "Run one action on the host of a unit while its agent does not run: the same action, in the same journal, with the same\n" +
			"result. It exits 11 while the agent runs; then use run-action.",
		Example: "  " + a.Program + " local-action --unit etcd/0 health\n  " + a.Program + " local-action --config /etc/holdfast/agent.yaml snapshot",
		RunE: func(c *cobra.Command, words []string) error {
			format, err := juju.ParseFormat(flags.format, juju.YAML, juju.JSON)
			if err != nil {
				return err
			}
			if unitName != "" && configFile == "" {
				if configFile, err = a.unitConfig(unitName); err != nil {
					return err
				}
			}
			task, err := a.runLocal(c.Context(), configFile, words, flags)
			if err != nil {
				return err
			}
			tasks := []action.Task{task}
			a.exit = juju.ExitCode(juju.Legacy, flags.exitPolicy(), tasks)
			if c.Context().Err() != nil && task.Status == action.Aborted {
				a.exit = exitInterrupted
			}
			return a.output(flags.output, func(w io.Writer) error { return juju.WriteRunAction(w, format, tasks) })
		},
	}
	flags.register(command.Flags(), "yaml or json")
	command.Flags().StringVar(&configFile, "config", "", "configuration of the unit's agent")
	command.Flags().StringVar(&unitName, "unit", "", "a unit of this machine, instead of --config")
	return command
}

// unitConfig gives the agent configuration of a unit of this machine.
func (a *app) unitConfig(word string) (string, error) {
	names, err := parseUnits([]string{word})
	if err != nil {
		return "", err
	}
	provider, err := a.provider()
	if err != nil {
		return "", err
	}
	return provider.ConfigFile(names[0]), nil
}

func (a *app) runLocal(ctx context.Context, configFile string, words []string, flags requestFlags) (_ action.Task, err error) {
	opened, err := a.openAgent(configFile, slog.LevelWarn)
	if err != nil {
		return action.Task{}, err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	request, err := juju.ParseRequest(juju.Legacy, append([]string{opened.Name().String()}, words...))
	if err != nil {
		return action.Task{}, err
	}
	options, err := flags.paramOptions()
	if err != nil {
		return action.Task{}, err
	}
	specs := opened.Specs()
	i := slices.IndexFunc(specs, func(s action.Spec) bool { return s.Name == request.Action })
	if i < 0 {
		return action.Task{}, hinted{juju.ErrNotDefined(request.Action, opened.Name()), "the actions of the unit are " + strings.Join(specNames(specs), ", ")}
	}
	params, err := paramsFor(specs[i], request, options)
	if err != nil {
		return action.Task{}, paramsHint(specs[i], err)
	}
	return opened.RunOnce(ctx, action.Request{Key: uuid.NewString(), Action: request.Action, Params: params, Program: a.Program})
}

func specNames(specs []action.Spec) []string {
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.Name
	}
	return names
}

// The commands that become another program.
const (
	etcdCommand  = "etcd"
	spawnCommand = "spawn"
)

// etcd is the server inside this program, with etcd's own flags.
func (a *app) etcd() *cobra.Command {
	return &cobra.Command{
		Use:                etcdCommand + " [ETCD FLAGS]",
		Short:              fmt.Sprintf("Run the etcd %s inside this program, with etcd's own flags", etcdproc.Version()),
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			etcdproc.Main(args)
			return nil
		},
	}
}

// spawn is the step between an agent and the server it starts; see the service package.
func (a *app) spawn() *cobra.Command {
	return &cobra.Command{
		Use:                spawnCommand,
		Hidden:             true,
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return service.SpawnMain(args, os.Environ()) },
	}
}

// inspect is the child process in which verify opens a database.
func (a *app) inspect() *cobra.Command {
	return &cobra.Command{
		Use:                verify.InspectCommand,
		Hidden:             true,
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return verify.Inspect(args, a.Stdout) },
	}
}
