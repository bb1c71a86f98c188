package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/juju"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// The two warnings of the backups page.
const (
	volumesWarning = "Application data in persistent volumes is not in a snapshot of etcd. Back it up with other means."
	restoreWarning = "Restoring is refused while more than one unit of etcd is running. There is no flag to force it."
)

// requestFlags are the flags of run-action and run.
type requestFlags struct {
	wait       string
	background bool
	params     string
	stringArgs bool
	format     string
	output     string
	utc        bool
	jujuExit   bool
}

// register adds the flags; forms lists what --format takes, the default first.
func (f *requestFlags) register(flags *pflag.FlagSet, forms string) {
	flags.StringVar(&f.params, "params", "", "read parameters from a YAML file; key=value words override it")
	flags.BoolVar(&f.stringArgs, "string-args", false, "take the values of key=value words as they are, not as YAML")
	flags.StringVar(&f.format, "format", firstForm(forms), "form of the output: "+forms)
	flags.StringVarP(&f.output, "output", "o", "", "write the output to this file instead")
	flags.BoolVar(&f.jujuExit, "juju-exit-codes", false, "exit 0 although the action failed, as Juju does")
}

// firstForm gives the first of "plain, yaml or json".
func firstForm(forms string) string {
	return strings.FieldsFunc(forms, func(r rune) bool { return r == ',' || r == ' ' })[0]
}

func (f *requestFlags) exitPolicy() juju.ExitPolicy {
	if f.jujuExit {
		return juju.JujuExit
	}
	return juju.HonestExit
}

// paramOptions reads the file of --params.
func (f *requestFlags) paramOptions() (juju.ParamOptions, error) {
	options := juju.ParamOptions{StringArgs: f.stringArgs}
	if f.params == "" {
		return options, nil
	}
	content, err := os.ReadFile(f.params)
	if err != nil {
		return options, fmt.Errorf("read parameters: %w", err)
	}
	options.File = content
	return options, nil
}

func (a *app) runAction() *cobra.Command {
	var flags requestFlags
	command := &cobra.Command{
		Use:   "run-action UNIT... ACTION [KEY=VALUE...]",
		Short: "Run an action on units, in the words of the backups page",
		Long: "Run an action on one or more units. A unit is APPLICATION/NUMBER, or APPLICATION/leader.\n\n" +
			"Without --wait it queues the action and prints its id; show-action-output ID tells the result. With --wait it returns\n" +
			"when the action has ended, and exits 1 unless it completed. The actions and their parameters: actions APPLICATION --schema.",
		Example: strings.Join([]string{
			"  " + a.Program + " run-action etcd/0 snapshot --wait",
			"  " + a.Program + " run-action etcd/0 snapshot --wait target=/mnt/backups",
			"  " + a.Program + " run-action new-etcd/0 restore --wait",
			"  " + a.Program + " run-action etcd/0 health --wait=30s",
		}, "\n"),
		RunE: func(c *cobra.Command, words []string) error {
			wait, err := juju.RunActionWait(juju.WaitFlags{Given: c.Flags().Changed("wait"), Text: flags.wait})
			if err != nil {
				return err
			}
			return a.runLegacy(c.Context(), words, flags, wait)
		},
	}
	flags.register(command.Flags(), "yaml or json")
	command.Flags().StringVar(&flags.wait, "wait", "", "wait for the result; --wait=30s waits 30 seconds at most, and the action goes on")
	command.Flags().Lookup("wait").NoOptDefVal = "true"
	return command
}

func (a *app) runLegacy(ctx context.Context, words []string, flags requestFlags, wait juju.Wait) error {
	format, err := juju.ParseFormat(flags.format, juju.YAML, juju.JSON)
	if err != nil {
		return err
	}
	tasks, m, err := a.enqueue(ctx, juju.Legacy, words, flags)
	if err != nil {
		return err
	}
	defer m.close()
	if !wait.Waits {
		return a.output(flags.output, func(w io.Writer) error { return juju.WriteQueued(w, format, tasks) })
	}
	var follow func(action.Task, action.LogEntry)
	if terminal(a.Stderr) {
		follow = a.followLog(time.Local)
	}
	tasks, err = m.await(ctx, tasks, wait.Limit, follow)
	if err != nil {
		return a.leftRunning(err, tasks)
	}
	if err := a.output(flags.output, func(w io.Writer) error { return juju.WriteRunAction(w, format, tasks) }); err != nil {
		return err
	}
	a.exit = juju.ExitCode(juju.Legacy, flags.exitPolicy(), tasks)
	if flags.jujuExit {
		return nil
	}
	return juju.NewTimeoutError(juju.Legacy, tasks)
}

// followLog prints the lines of a task's log as they come.
func (a *app) followLog(zone *time.Location) func(action.Task, action.LogEntry) {
	return func(_ action.Task, entry action.LogEntry) {
		// Talk that cannot be written is no reason to end the wait.
		_ = juju.WriteLogLine(a.Stderr, entry, zone)
	}
}

// leftRunning says, when a wait was broken off, that the tasks go on without it.
func (a *app) leftRunning(err error, tasks []action.Task) error {
	if exitCode(err) != exitInterrupted || len(tasks) == 0 {
		return err
	}
	return hinted{fmt.Errorf("%w: the action goes on without this command", errInterrupted), a.goesOn(juju.Legacy, tasks[0])}
}

// goesOn says how to look after a task that is not waited for any more.
func (a *app) goesOn(dialect juju.Dialect, task action.Task) string {
	if dialect == juju.Juju3 && task.Number != 0 {
		return fmt.Sprintf("%s show-task %d, or %s cancel-task %d", a.Program, task.Number, a.Program, task.Number)
	}
	return fmt.Sprintf("%s show-action-output %s, or %s cancel-action %s", a.Program, task.ID, a.Program, task.ID)
}

// paramsHint names the parameters that an action takes beside an error about those that were given.
func paramsHint(spec action.Spec, err error) error {
	if _, is := errors.AsType[*action.ParamsError](err); !is {
		return err
	}
	var names []string
	for _, param := range spec.Params {
		names = append(names, param.Name)
	}
	if len(names) == 0 {
		return hinted{err, spec.Name + " has no parameters"}
	}
	return hinted{err, fmt.Sprintf("the parameters of %s are %s", spec.Name, strings.Join(names, ", "))}
}

// enqueue turns a command line into tasks that are on their units' disks. The caller closes the model.
func (a *app) enqueue(ctx context.Context, dialect juju.Dialect, words []string, flags requestFlags) ([]action.Task, *model, error) {
	request, err := juju.ParseRequest(dialect, words)
	if err != nil {
		return nil, nil, a.unitsHint(waitHint(err, words, flags), words)
	}
	options, err := flags.paramOptions()
	if err != nil {
		return nil, nil, err
	}
	if _, err := request.Params(options); err != nil { // before anybody is asked
		return nil, nil, err
	}
	m, err := a.model()
	if err != nil {
		return nil, nil, err
	}
	tasks, err := m.enqueue(ctx, request, options, a.Program)
	if err != nil {
		m.close()
		return nil, nil, err
	}
	return tasks, m, nil
}

// waitHint helps who gave the time to wait as a word of its own.
func waitHint(err error, words []string, flags requestFlags) error {
	for _, word := range words {
		if _, bad := time.ParseDuration(word); bad == nil && flags.wait == "true" {
			return hinted{err, "the time to wait should be --wait=" + word}
		}
	}
	return err
}

// unitsHint helps who gave an application where a unit is wanted.
func (a *app) unitsHint(err error, words []string) error {
	if _, has := errors.AsType[hinted](err); has || len(words) == 0 || !unit.ValidApplication(words[0]) {
		return err
	}
	home, homeErr := a.home()
	if homeErr != nil {
		return err
	}
	inv, viewErr := inventory.Open(inventoryFile(home)).View()
	if viewErr != nil {
		return err
	}
	names, unitsErr := inv.Units(words[0])
	if unitsErr != nil || len(names) == 0 || len(names) > mostNames {
		return err
	}
	return hinted{err, fmt.Sprintf("%s is an application; its units are %s, and %s/leader is the one whose etcd leads", words[0], joinNames(names), words[0])}
}

// paramsFor gives the parameters of a request as the action takes them.
func paramsFor(spec action.Spec, request juju.Request, options juju.ParamOptions) (map[string]any, error) {
	for _, param := range spec.Params {
		if param.Type == action.String {
			options.Text = append(options.Text, param.Name)
		}
	}
	params, err := request.Params(options)
	if err != nil {
		return nil, err
	}
	_, err = spec.Check(params)
	return params, err
}

func (a *app) run() *cobra.Command {
	var flags requestFlags
	command := &cobra.Command{
		Use:   "run UNIT... ACTION [KEY=VALUE...]",
		Short: "Run an action on units and wait, in the words of Juju 3",
		Long: "Run an action on one or more units and wait for the results, a minute by default, with the action's log on stderr.\n" +
			"It exits 1 unless the action completed.",
		Example: "  " + a.Program + " run etcd/0 snapshot\n  " + a.Program + " run etcd/0 snapshot --background",
		RunE:    func(c *cobra.Command, words []string) error { return a.runJuju3(c, words, flags) },
	}
	flags.register(command.Flags(), "plain, yaml or json")
	command.Flags().StringVar(&flags.wait, "wait", "", "how long to wait for the results (default 1m0s)")
	command.Flags().BoolVar(&flags.background, "background", false, "do not wait")
	command.Flags().BoolVar(&flags.utc, "utc", false, "show times in UTC")
	return command
}

func (a *app) runJuju3(c *cobra.Command, words []string, flags requestFlags) error {
	format, err := juju.ParseFormat(flags.format, juju.Plain, juju.YAML, juju.JSON)
	if err != nil {
		return err
	}
	wait, err := juju.RunWait(juju.WaitFlags{Given: c.Flags().Changed("wait"), Text: flags.wait, Background: flags.background})
	if err != nil {
		return err
	}
	tasks, m, err := a.enqueue(c.Context(), juju.Juju3, words, flags)
	if err != nil {
		return err
	}
	defer m.close()
	if !wait.Waits {
		return a.output(flags.output, func(w io.Writer) error { return juju.WriteScheduled(w, a.Stderr, a.Program, tasks) })
	}
	if err := juju.WriteRunStarted(a.Stderr, tasks); err != nil {
		return err
	}
	for _, task := range tasks {
		if err := juju.WriteWaiting(a.Stderr, task); err != nil {
			return err
		}
	}
	zone := zone(flags.utc)
	tasks, err = m.await(c.Context(), tasks, wait.Limit, a.followLog(zone))
	if err != nil {
		return a.leftRunning(err, tasks)
	}
	if err := a.output(flags.output, func(w io.Writer) error { return juju.WriteRun(w, format, finished(tasks), zone) }); err != nil {
		return err
	}
	if note := juju.FailedNote(a.Program, tasks); note != "" && !flags.jujuExit {
		fmt.Fprintln(a.Stderr, note)
	}
	a.exit = juju.ExitCode(juju.Juju3, flags.exitPolicy(), tasks)
	return juju.NewTimeoutError(juju.Juju3, tasks)
}

func finished(tasks []action.Task) []action.Task {
	var ended []action.Task
	for _, task := range tasks {
		if task.Status.Terminal() {
			ended = append(ended, task)
		}
	}
	return ended
}

func zone(utc bool) *time.Location {
	if utc {
		return time.UTC
	}
	return time.Local
}

// snapshotHelp and restoreHelp lead people who type the action's name to the command that runs it.
func (a *app) snapshotHelp() *cobra.Command {
	return a.actionShortcut("snapshot", "Save the keys of etcd into an archive on a unit",
		"The archive is made from etcd's own snapshot stream while etcd goes on serving; any unit will do. The result has the\n"+
			"command that copies it from the unit.\n\n"+
			"Warning: "+volumesWarning+"\n\nWarning: "+restoreWarning,
		"  "+a.Program+" snapshot etcd/0\n  "+a.Program+" snapshot etcd/0 target=/mnt/backups max-rate=30MB")
}

func (a *app) restoreHelp() *cobra.Command {
	return a.actionShortcut("restore", "Restore the attached snapshot archive on the only unit of an application",
		"The archive is checked in full before anything is touched. The data that it replaces is kept, and put back when the\n"+
			"restored etcd does not serve in time.\n\nWarning: "+restoreWarning+"\n\nWarning: "+volumesWarning,
		"  "+a.Program+" restore new-etcd/0\n  "+a.Program+" restore new-etcd/0 path=/home/ubuntu/etcd-snapshot-2018-09-26-18.04.02.tar.gz")
}

func (a *app) actionShortcut(name, short, long, example string) *cobra.Command {
	var flags requestFlags
	command := &cobra.Command{
		Use:   name + " UNIT [KEY=VALUE...]",
		Short: short,
		Long: fmt.Sprintf("%s.\n\n%s\n\nIt is the same as: %s run-action UNIT %s --wait\nThe parameters:    %s actions APPLICATION --schema",
			short, long, a.Program, name, a.Program),
		Example: example,
		RunE: func(c *cobra.Command, words []string) error {
			if len(words) == 0 {
				return usagef("no unit specified")
			}
			all := append([]string{words[0], name}, words[1:]...)
			return a.runLegacy(c.Context(), all, flags, juju.Wait{Waits: true})
		},
	}
	flags.register(command.Flags(), "yaml or json")
	return command
}
