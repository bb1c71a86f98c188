// Package cli is the command line: one file per command, each of which turns flags into an options struct, makes one call,
// and prints. It also is what the program does under other names: called as "juju" it speaks of itself as juju.
//
// It is the top of the import levels, used by main alone, and it is not safe for concurrent use. Data goes to the standard
// output, talk to the standard error, and the exit code says the rest.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/holdfast-project/holdfast/internal/config"
)

// Environment is what the program was started with.
type Environment struct {
	// Args are the words after the program's name.
	Args []string
	// Program is the name that the program was called by, without folders.
	Program        string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// Version is the version of this program.
const Version = "0.1.0-dev"

// app is what every command shares.
type app struct {
	Environment
	// exit is the exit code of a command that did its work and has something to say by it.
	exit int
	// ran is the command that the words were of, for the hint of one that cannot be understood.
	ran *cobra.Command
}

// Run runs the command line and gives the exit code.
func Run(ctx context.Context, environment Environment) int {
	a := &app{Environment: environment}
	if a.Program != "juju" {
		a.Program = "holdfast"
	}
	var err error
	if a.ran, err = a.root().ExecuteContextC(ctx); err == nil {
		return ofSignal(ctx, a.exit)
	}
	fmt.Fprintf(a.Stderr, "ERROR %s\n", strings.ReplaceAll(err.Error(), "\n", "\nERROR ")) // several findings have a line each
	if hint := a.hint(err); hint != "" {
		fmt.Fprintf(a.Stderr, "hint: %s\n", hint)
	}
	return ofSignal(ctx, exitCode(err))
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           a.Program,
		Short:         "Keeps the state of a Kubernetes cluster, which lives in etcd, safe and recoverable",
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       Version,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return a.unknown(c, args[0])
			}
			return c.Help()
		},
		SuggestionsMinimumDistance: 2, // letters
	}
	root.SetArgs(a.Args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{inWords(err)} })
	root.SetHelpCommand(a.help())
	root.AddGroup(
		&cobra.Group{ID: groupPage, Title: "The backups page:"},
		&cobra.Group{ID: groupRepository, Title: "A repository of backups:"},
		&cobra.Group{ID: groupUnits, Title: "Units:"},
		&cobra.Group{ID: groupTasks, Title: "Tasks:"},
		&cobra.Group{ID: groupHost, Title: "On the host of a unit:"},
	)
	for _, group := range []struct {
		id       string
		commands []*cobra.Command
	}{
		{groupPage, []*cobra.Command{a.runAction(), a.run(), a.snapshotHelp(), a.restore(), a.scp(), a.verify(), a.attachResource(), a.resources()}},
		{groupRepository, []*cobra.Command{a.repo(), a.backup(), a.archive(), a.merge(), a.list(), a.export(), a.importFiles(), a.copy(), a.prune(), a.pin(), a.unpin(), a.key()}},
		{groupUnits, []*cobra.Command{a.deploy(), a.addUnit(), a.removeUnit(), a.destroy(), a.start(), a.status(), a.env()}},
		{groupTasks, []*cobra.Command{a.actions(), a.showActionOutput(), a.showActionStatus(), a.cancelAction(), a.operations(), a.showOperation(), a.showTask(), a.cancelTask()}},
		{groupHost, []*cobra.Command{a.agent(), a.localAction(), a.etcd(), a.spawn(), a.inspect()}},
	} {
		for _, command := range group.commands {
			command.GroupID = group.id
			command.Args = usageArgs(command.Args)
			root.AddCommand(command)
		}
	}
	return root
}

// help is cobra's, but for a command that is not there.
func (a *app) help() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(c *cobra.Command, args []string) error {
			about, _, err := c.Root().Find(args)
			if err != nil || about == c.Root() && len(args) > 0 {
				return a.unknown(c.Root(), args[0])
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

// unknown is the error of a command that is not there, with those that may be meant.
func (a *app) unknown(root *cobra.Command, word string) error {
	err := usageError{fmt.Errorf("unknown command %q for %q", word, a.Program)}
	meant := root.SuggestionsFor(word)
	if len(meant) == 0 {
		return err
	}
	return hinted{err, fmt.Sprintf("did you mean %s %s?", a.Program, strings.Join(meant, ", or "+a.Program+" "))}
}

// inWords takes the names of Go's functions out of an error about the value of a flag.
func inWords(err error) error {
	if text, _, found := strings.Cut(err.Error(), ": time: "); found {
		return errors.New(text + ": want a time such as 90m or 720h, which is 30 days")
	}
	text, _, found := strings.Cut(err.Error(), ": strconv.")
	if !found {
		return err
	}
	if strings.Contains(err.Error(), "strconv.ParseBool") {
		return errors.New(text + ": want true or false")
	}
	return errors.New(text + ": want a whole number")
}

const (
	groupPage       = "page"
	groupRepository = "repository"
	groupUnits      = "units"
	groupTasks      = "tasks"
	groupHost       = "host"
)

// home gives the folder of the local state.
func (a *app) home() (string, error) { return config.Home(a.Getenv) }

// self gives the path of this program, for the processes that it starts.
func self() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return filepath.EvalSymlinks(path)
}

// terminal tells whether a stream is a terminal that a person looks at.
func terminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// exactArgs is cobra.ExactArgs as a usage error.
func exactArgs(n int, usage string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("want %s, given %s", usage, plural(len(args), "word"))}
		}
		return nil
	}
}

// usageArgs makes what a check of cobra's refuses a usage error, which says what is wanted as the help does.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	if check == nil {
		return nil
	}
	return func(command *cobra.Command, args []string) error {
		err := check(command, args)
		switch {
		case err == nil:
			return nil
		case !ofCobra(err) || command.HasSubCommands():
			return usageError{err}
		}
		_, wanted, _ := strings.Cut(command.Use, " ")
		if wanted == "" {
			return usagef("%s takes flags only, given %q", command.Name(), args)
		}
		return usagef("want %s, given %s", wanted, plural(len(args), "word"))
	}
}

// ofCobra tells whether an error is of one of cobra's checks of the number of words, which have no type.
func ofCobra(err error) bool {
	return slices.ContainsFunc([]string{"accepts ", "requires at least ", "unknown command "}, func(begin string) bool {
		return strings.HasPrefix(err.Error(), begin)
	})
}

// usageError is a command line that cannot be understood: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// output gives where a command's data goes: the file of -o, or the standard output.
func (a *app) output(file string, write func(io.Writer) error) (err error) {
	if file == "" {
		return write(a.Stdout)
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("open output file: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return write(out)
}
