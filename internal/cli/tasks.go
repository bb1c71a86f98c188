package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/juju"
)

// showFlags are the flags of the commands that show a task or an operation.
type showFlags struct {
	wait   string
	watch  bool
	utc    bool
	format string
	output string
}

// register adds the flags; forms lists what --format takes, the default first.
func (f *showFlags) register(command *cobra.Command, forms string) {
	flags := command.Flags()
	flags.StringVar(&f.wait, "wait", "", "wait so long for the end, such as 30s; 0 is for ever")
	flags.BoolVar(&f.watch, "watch", false, "wait for the end")
	flags.BoolVar(&f.utc, "utc", false, "show times in UTC")
	flags.StringVar(&f.format, "format", firstForm(forms), "form of the output: "+forms)
	flags.StringVarP(&f.output, "output", "o", "", "write the output to a file")
}

func (f *showFlags) waitFor(command *cobra.Command) (juju.Wait, error) {
	return juju.ShowWait(juju.WaitFlags{Given: command.Flags().Changed("wait"), Text: f.wait, Watch: f.watch})
}

// findTask finds the task that a reference means among all units. Units that do not answer matter only when the task is
// not on another one.
func (m *model) findTask(c *cobra.Command, dialect juju.Dialect, reference string) (action.Task, error) {
	tasks, unanswered := m.tasks(c.Context())
	task, err := juju.FindTask(dialect, tasks, reference)
	return task, besides(err, unanswered)
}

// besides adds to an error that something was not found the errors of the units that did not answer: it may be there.
func besides(err, unanswered error) error {
	if err == nil || unanswered == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, unanswered)
}

// showOne is the flow of show-action-output and show-task.
func (a *app) showOne(c *cobra.Command, dialect juju.Dialect, reference string, flags showFlags, formats []juju.Format,
	write func(io.Writer, juju.Format, action.Task) error,
) error {
	format, err := juju.ParseFormat(flags.format, formats...)
	if err != nil {
		return err
	}
	wait, err := flags.waitFor(c)
	if err != nil {
		return err
	}
	m, err := a.model()
	if err != nil {
		return err
	}
	defer m.close()
	task, err := m.findTask(c, dialect, reference)
	if err != nil {
		return err
	}
	tasks := []action.Task{task}
	if wait.Waits {
		if tasks, err = m.await(c.Context(), tasks, wait.Limit, nil); err != nil {
			return a.leftRunning(err, tasks)
		}
	}
	if err := a.output(flags.output, func(w io.Writer) error { return write(w, format, tasks[0]) }); err != nil {
		return err
	}
	if wait.Waits {
		return juju.NewTimeoutError(dialect, tasks)
	}
	return nil
}

func (a *app) showActionOutput() *cobra.Command {
	var flags showFlags
	command := &cobra.Command{
		Use:   "show-action-output ID",
		Short: "Show the result of an action by its id, or the beginning of it",
		Example: "  " + a.Program + " show-action-output 3d6a505e-07d7-4697-8471-60156f87b1b4\n  " +
			a.Program + " show-action-output 3d6a505e- --wait=30s",
		Args: exactArgs(1, "one ID"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.showOne(c, juju.Legacy, args[0], flags, []juju.Format{juju.YAML, juju.JSON}, juju.WriteActionOutput)
		},
	}
	flags.register(command, "yaml or json")
	return command
}

func (a *app) showTask() *cobra.Command {
	var flags showFlags
	command := &cobra.Command{
		Use:     "show-task ID",
		Short:   "Show a task by its number or id",
		Long:    "Show a task by its number or id. --format yaml shows when it ran as well, and its log.",
		Example: "  " + a.Program + " show-task 2 --format yaml",
		Args:    exactArgs(1, "one ID"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.showOne(c, juju.Juju3, args[0], flags, []juju.Format{juju.Plain, juju.YAML, juju.JSON},
				func(w io.Writer, f juju.Format, t action.Task) error { return juju.WriteTask(w, f, t, zone(flags.utc)) })
		},
	}
	flags.register(command, "plain, yaml or json")
	return command
}

func (a *app) showActionStatus() *cobra.Command {
	var name, formatName, output string
	command := &cobra.Command{
		Use:   "show-action-status [ID]",
		Short: "List actions and their status",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			format, err := juju.ParseFormat(formatName, juju.YAML, juju.JSON)
			if err != nil {
				return err
			}
			query := juju.StatusQuery{Action: name}
			if len(args) == 1 {
				query.Ref = args[0]
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			tasks, unanswered := m.tasks(c.Context())
			found, err := juju.FindStatus(tasks, query)
			if err != nil && unanswered == nil {
				return err
			}
			if err := a.output(output, func(w io.Writer) error { return juju.WriteActionStatus(w, juju.Legacy, format, found) }); err != nil {
				return err
			}
			return unanswered
		},
	}
	command.Flags().StringVar(&name, "name", "", "only actions of this name")
	command.Flags().StringVar(&formatName, "format", "yaml", "form of the output: yaml or json")
	command.Flags().StringVarP(&output, "output", "o", "", "write the output to a file")
	return command
}

func (a *app) cancelAction() *cobra.Command {
	return a.cancelCommand(juju.Legacy, "cancel-action ID...", "Cancel actions, by id or the beginning of it")
}

func (a *app) cancelTask() *cobra.Command {
	return a.cancelCommand(juju.Juju3, "cancel-task ID...", "Cancel tasks, by number or id")
}

func (a *app) cancelCommand(dialect juju.Dialect, use, short string) *cobra.Command {
	var formatName string
	command := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(c *cobra.Command, args []string) error {
			format, err := juju.ParseFormat(formatName, juju.YAML, juju.JSON)
			if err != nil {
				return err
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			tasks, unanswered := m.tasks(c.Context())
			found, err := juju.FindCancel(dialect, tasks, args)
			if err != nil {
				return besides(err, unanswered)
			}
			for i, task := range found {
				if task.Status.Terminal() {
					fmt.Fprintf(a.Stderr, "%s of %s (%s) had ended already: %s\n", task.Action, task.Unit, task.ID, task.Status)
				}
				client, err := m.client(task.Unit)
				if err != nil {
					return err
				}
				if found[i], err = client.Cancel(c.Context(), task.ID); err != nil {
					return err
				}
			}
			return juju.WriteActionStatus(a.Stdout, dialect, format, found)
		},
	}
	command.Flags().StringVar(&formatName, "format", "yaml", "form of the output: yaml or json")
	return command
}

func (a *app) operations() *cobra.Command {
	var query juju.OperationQuery
	var flags showFlags
	command := &cobra.Command{
		Use:   "operations",
		Short: "List operations: the tasks that were asked for together",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			format, err := juju.ParseFormat(flags.format, juju.Plain, juju.YAML, juju.JSON)
			if err != nil {
				return err
			}
			if err := query.Validate(); err != nil {
				return err
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			tasks, unanswered := m.tasks(c.Context())
			page := query.Select(juju.Operations(tasks))
			if len(page.Operations) == 0 && format == juju.Plain {
				fmt.Fprintln(a.Stderr, juju.NoOperations)
				return unanswered
			}
			if err := a.output(flags.output, func(w io.Writer) error { return juju.WriteOperations(w, format, page, zone(flags.utc)) }); err != nil {
				return err
			}
			return unanswered
		},
	}
	command.Flags().StringSliceVar(&query.Applications, "apps", nil, "only operations on these applications")
	command.Flags().StringSliceVar(&query.Units, "units", nil, "only operations on these units")
	command.Flags().StringSliceVar(&query.Actions, "actions", nil, "only operations of these actions")
	command.Flags().StringSliceVar(&query.Statuses, "status", nil, "only operations of these statuses")
	command.Flags().IntVar(&query.Limit, "limit", 0, fmt.Sprintf("list so many at most (default %d)", juju.DefaultOperationLimit))
	command.Flags().IntVar(&query.Offset, "offset", 0, "leave out so many first")
	command.Flags().BoolVar(&flags.utc, "utc", false, "show times in UTC")
	command.Flags().StringVar(&flags.format, "format", "plain", "form of the output: plain, yaml or json")
	command.Flags().StringVarP(&flags.output, "output", "o", "", "write the output to a file")
	return command
}

func (a *app) showOperation() *cobra.Command {
	var flags showFlags
	command := &cobra.Command{
		Use:   "show-operation NUMBER",
		Short: "Show an operation and the results of its tasks",
		Args:  exactArgs(1, "one NUMBER"),
		RunE: func(c *cobra.Command, args []string) error {
			format, err := juju.ParseFormat(flags.format, juju.YAML, juju.JSON)
			if err != nil {
				return err
			}
			wait, err := flags.waitFor(c)
			if err != nil {
				return err
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			tasks, unanswered := m.tasks(c.Context())
			operation, err := juju.FindOperation(juju.Operations(tasks), args[0])
			if err != nil {
				return besides(err, unanswered)
			}
			if wait.Waits {
				ended, err := m.await(c.Context(), operation.Tasks, wait.Limit, nil)
				if err != nil {
					return a.leftRunning(err, ended)
				}
				operation = juju.Operations(ended)[0]
			}
			return a.output(flags.output, func(w io.Writer) error {
				return juju.WriteOperation(w, format, operation, zone(flags.utc))
			})
		},
	}
	flags.register(command, "yaml or json")
	return command
}

func (a *app) actions() *cobra.Command {
	var options juju.ActionsOptions
	var formatName string
	command := &cobra.Command{
		Use:     "actions APPLICATION",
		Aliases: []string{"list-actions"},
		Short:   "List what the units of an application can do",
		Args:    exactArgs(1, "one APPLICATION"),
		RunE: func(c *cobra.Command, args []string) error {
			options.Format = juju.Format(formatName)
			if err := options.Validate(); err != nil {
				return err
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			names, err := m.units(args[0])
			if err != nil {
				return err
			}
			if len(names) == 0 {
				fmt.Fprintln(a.Stderr, juju.NoActions(args[0]))
				return nil
			}
			var failed error
			for _, name := range names { // all units of an application can do the same; the first that answers will do
				client, err := m.client(name)
				if err != nil {
					return err
				}
				specs, err := client.Actions(c.Context())
				if err == nil {
					return juju.WriteActions(a.Stdout, specs, options)
				}
				failed = err
			}
			return failed
		},
	}
	command.Flags().BoolVar(&options.Schema, "schema", false, "show the parameters and their defaults as well")
	command.Flags().StringVar(&formatName, "format", "", "form of the output: tabular, yaml or json")
	return command
}
