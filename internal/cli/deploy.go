package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/etcdproc"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// healthTimeout is how long units may take to become healthy voting members.
const healthTimeout = 2 * time.Minute

// charmName is the one thing that can be deployed, by its name in the backups page.
const charmName = "etcd"

// provider makes units on this machine.
func (a *app) provider() (*deploy.Provider, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	program, err := self()
	if err != nil {
		return nil, err
	}
	return &deploy.Provider{
		Home: home, Program: program, Inventory: inventory.Open(inventoryFile(home)), Environ: os.Environ(),
		Say: func(format string, args ...any) { fmt.Fprintf(a.Stderr, format+"\n", args...) },
	}, nil
}

func (a *app) deploy() *cobra.Command {
	var units int
	var options deploy.Options
	var resources []string
	var noWait bool
	command := &cobra.Command{
		Use:   "deploy etcd [NAME]",
		Short: "Deploy an etcd cluster of one or more units on this machine",
		Long: "Deploy an etcd cluster of one or more units on this machine. Each unit is an agent and the etcd that it supervises,\n" +
			"with TLS and client certificates on every listener. It returns when every unit is a healthy voting member.",
		Example: "  " + a.Program + " deploy etcd --units 3\n  " + a.Program + " deploy etcd new-etcd --resource snapshot=FILE",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] != charmName {
				return usagef("cannot deploy %q: only %q can be deployed", args[0], charmName)
			}
			if units < 1 {
				return usagef("--units must be at least 1, given %d", units)
			}
			attachments, err := a.parseAttachments(c.Context(), resources)
			if err != nil {
				return err
			}
			if err := resolveEtcd(c.Context(), &options); err != nil {
				return err
			}
			return a.deployUnits(c.Context(), args[len(args)-1], units, options, attachments, noWait)
		},
	}
	flags := command.Flags()
	flags.IntVarP(&units, "units", "n", 1, "number of units")
	flags.StringVar(&options.EtcdBinary, "etcd-binary", "", "etcd server to run, of version 3.4 to 3.7; without it the one inside this program")
	flags.StringVar(&options.EtcdTools, "etcd-tools", "", "folder with that server's etcdctl and etcdutl (default: the folder of --etcd-binary)")
	flags.StringArrayVar(&options.EtcdArgs, "etcd-arg", nil, "argument to add to the server's, such as --enable-v2; may be repeated")
	flags.StringArrayVar(&resources, "resource", nil, "attach a file, as in snapshot=FILE")
	flags.BoolVar(&noWait, "no-wait", false, "do not wait for the units to be healthy")
	return command
}

// resolveEtcd makes the paths absolute, asks the binary for its version, and finds the tools beside it.
func resolveEtcd(ctx context.Context, o *deploy.Options) (err error) {
	if o.EtcdBinary == "" {
		return nil
	}
	if o.EtcdBinary, err = filepath.Abs(o.EtcdBinary); err != nil {
		return err
	}
	info, err := os.Stat(o.EtcdBinary)
	if err != nil {
		return fmt.Errorf("find etcd server: %w", err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("find etcd server: %q is no program", o.EtcdBinary)
	}
	version, err := etcdproc.BinaryVersion(ctx, o.EtcdBinary)
	if err != nil {
		return err
	}
	if err := etcdproc.CheckSupported(version); err != nil {
		return fmt.Errorf("etcd server %q: %w", o.EtcdBinary, err)
	}
	if o.EtcdTools == "" {
		if _, err := os.Stat(filepath.Join(filepath.Dir(o.EtcdBinary), "etcdctl")); err == nil {
			o.EtcdTools = filepath.Dir(o.EtcdBinary)
		}
		return nil
	}
	o.EtcdTools, err = filepath.Abs(o.EtcdTools)
	return err
}

func (a *app) deployUnits(ctx context.Context, application string, units int, options deploy.Options, files []attachment, noWait bool) error {
	provider, err := a.provider()
	if err != nil {
		return err
	}
	if inv, err := provider.Inventory.View(); err != nil {
		return err
	} else if _, err := inv.AddApplication(application); err != nil && inv.Applications[application] == nil {
		return err
	} else if err != nil {
		return hinted{err, fmt.Sprintf("choose another name, %s deploy etcd NAME; %s status %s shows this one", a.Program, a.Program, application)}
	}
	fmt.Fprintf(a.Stderr, "deploying %s with %s\n", application, plural(units, "unit"))
	names, err := provider.Deploy(ctx, application, units, options)
	if err != nil {
		return a.halfDeployed(err, application, names)
	}
	if noWait {
		return nil
	}
	m, err := a.model()
	if err != nil {
		return err
	}
	defer m.close()
	if err := a.awaitHealthy(ctx, m, provider, application, units); err != nil {
		return a.halfDeployed(err, application, names)
	}
	for _, file := range files {
		if err := a.attach(ctx, m, application, file); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.Stdout, "%s is ready: %s\n", application, joinNames(names))
	return nil
}

// halfDeployed adds how to be rid of what is there so far.
func (a *app) halfDeployed(err error, application string, names []unit.Name) error {
	if len(names) == 0 {
		return err
	}
	return hinted{err, fmt.Sprintf("%s destroy %s --yes removes what was made", a.Program, application)}
}

// awaitHealthy waits until the application has so many units whose members are all healthy and vote.
func (a *app) awaitHealthy(ctx context.Context, m *model, provider *deploy.Provider, application string, units int) error {
	deadline := time.Now().Add(healthTimeout)
	progress := a.progress("waiting for " + application)
	defer progress.done()
	for {
		states, err := m.unitStates(ctx, application)
		if err != nil {
			return err
		}
		problem := firstProblem(states, units)
		if problem == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("application %q is not healthy after %s: %w%s", application, healthTimeout, problem, lastWords(provider, states))
		}
		progress.say(problem.Error())
		pause(ctx, 200*time.Millisecond)
	}
}

// firstProblem gives what keeps the units from being healthy voting members, nil when nothing does.
func firstProblem(states []answer[api.Unit], units int) error {
	for _, state := range states {
		etcd := state.value.Etcd
		switch {
		case state.err != nil:
			return state.err
		case etcd.Error != "":
			return fmt.Errorf("unit %q: %s", state.name, etcd.Error)
		case etcd.Learner:
			return fmt.Errorf("unit %q is a learner", state.name)
		case etcd.Members != units || etcd.Healthy != units:
			return fmt.Errorf("unit %q sees %d of %d members healthy", state.name, etcd.Healthy, etcd.Members)
		}
	}
	return nil
}

// lastWords gives the end of the log of the first agent that does not answer.
func lastWords(provider *deploy.Provider, states []answer[api.Unit]) string {
	for _, state := range states {
		if words := agentWords(provider, state.name, state.err); words != "" {
			return words
		}
	}
	return ""
}

// agentWords gives the end of the log of an agent that does not answer; nothing after any other error.
func agentWords(provider *deploy.Provider, name unit.Name, err error) string {
	if !errors.Is(err, api.ErrUnreachable) {
		return ""
	}
	tail, err := provider.AgentLog(name, 5)
	if err != nil || tail == "" {
		return ""
	}
	return fmt.Sprintf("\nthe agent of %s said last:\n%s", name, tail)
}

func (a *app) addUnit() *cobra.Command {
	var units int
	var noWait bool
	command := &cobra.Command{
		Use:     "add-unit APPLICATION",
		Short:   "Add units to an application, one learner at a time",
		Example: "  " + a.Program + " add-unit new-etcd -n 2",
		Args:    exactArgs(1, "one APPLICATION"),
		RunE: func(c *cobra.Command, args []string) error {
			if units < 1 {
				return usagef("--num-units must be at least 1, given %d", units)
			}
			provider, err := a.provider()
			if err != nil {
				return err
			}
			if err := a.checkGrowable(c.Context(), args[0]); err != nil {
				return err
			}
			var added []unit.Name
			for range units {
				name, err := provider.AddUnit(c.Context(), args[0])
				if err != nil {
					return a.halfAdded(err, args[0], added, name, units)
				}
				added = append(added, name)
			}
			if noWait {
				return nil
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
			if err := a.awaitHealthy(c.Context(), m, provider, args[0], len(names)); err != nil {
				return fmt.Errorf("%s added, but: %w", joinNames(added), err)
			}
			fmt.Fprintf(a.Stdout, "added %s: %s has %s\n", joinNames(added), args[0], plural(len(names), "unit"))
			return nil
		},
	}
	command.Flags().IntVarP(&units, "num-units", "n", 1, "number of units to add")
	command.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for the units to be healthy")
	return command
}

// checkGrowable refuses to add to an application that is not well: etcd would not take the new member, and what is wrong
// comes first for whoever wants to put it right.
func (a *app) checkGrowable(ctx context.Context, application string) error {
	m, err := a.model()
	if err != nil {
		return err
	}
	defer m.close()
	states, err := m.unitStates(ctx, application)
	if err != nil {
		return err
	}
	if problem := firstProblem(states, len(states)); problem != nil {
		return a.notGrowable(ctx, application, problem)
	}
	return nil
}

// notGrowable says what to do about an application to which nothing can be added.
func (a *app) notGrowable(ctx context.Context, application string, problem error) error {
	nothing := func(problem error, hint string, args ...any) error {
		return hinted{fmt.Errorf("nothing was added: %w", problem), fmt.Sprintf(hint, args...)}
	}
	unhealthy := fmt.Errorf("application %q is not healthy: %w", application, problem)
	provider, err := a.provider()
	if err != nil {
		return err
	}
	found, err := provider.Membership(ctx, application)
	switch {
	case err != nil:
		return nothing(unhealthy, "%s status %s shows how its units are", a.Program, application)
	case found.NoQuorum:
		return nothing(unhealthy, "%s start %s; %s", a.Program, application, goneForGood)
	case len(found.Outsiders) > 0:
		names := joinNames(found.Outsiders)
		return nothing(fmt.Errorf("%s %s of the cluster: an add-unit was cut off", names, notMembers(len(found.Outsiders))),
			"%s remove-unit %s, then add again", a.Program, strings.ReplaceAll(names, ",", ""))
	case len(found.Learners) > 0:
		names := joinNames(found.Learners)
		return nothing(fmt.Errorf("%s has no vote yet: its add-unit goes on, or was cut off", names),
			"wait for the other add-unit, or %s remove-unit %s, then add again", a.Program, strings.ReplaceAll(names, ",", ""))
	}
	return nothing(unhealthy, "%s start %s, or %s remove-unit of what is gone for good, then add again", a.Program, application, a.Program)
}

// goneForGood is what helps a cluster that will not have a quorum again.
const goneForGood = "if they are gone for good, restore a snapshot into a new application"

func notMembers(n int) string {
	if n == 1 {
		return "is not a member"
	}
	return "are not members"
}

// halfAdded says, when units could not all be added, which stay, which was taken back, and how to go on.
func (a *app) halfAdded(err error, application string, added []unit.Name, last unit.Name, wanted int) error {
	half, isHalf := errors.AsType[*deploy.HalfAddedError](err)
	if !isHalf && !last.IsZero() {
		added = append(added, last) // it votes; only the command was cut off
	}
	var said []string
	if len(added) > 0 {
		said = append(said, joinNames(added)+" was added and stays")
	}
	var next []string
	if isHalf {
		if half.Left == nil {
			said = append(said, half.Name.String()+" was taken out of the cluster again, its files are there")
		}
		next = append(next, fmt.Sprintf("%s remove-unit %s", a.Program, half.Name))
	}
	if left := wanted - len(added); left > 0 {
		next = append(next, fmt.Sprintf("%s add-unit %s -n %d", a.Program, application, left))
	}
	if len(said) == 0 && exitCode(err) != exitInterrupted {
		return err
	}
	if exitCode(err) == exitInterrupted && (!isHalf || half.Left == nil) {
		err = errInterrupted
	}
	if len(said) == 0 {
		said = append(said, "nothing was added")
	}
	err = fmt.Errorf("%w: %s", err, strings.Join(said, "; "))
	if len(next) == 0 {
		return err
	}
	return hinted{err, "to go on: " + strings.Join(next, ", then ")}
}

func (a *app) removeUnit() *cobra.Command {
	return &cobra.Command{
		Use:   "remove-unit UNIT...",
		Short: "Take units out of their cluster and stop them; their files are set aside",
		Long: "Take units out of their cluster and stop them. Their files are moved to the folder \"removed\" of the home, for you to delete.\n" +
			"Unit numbers are not used again. The last unit is removed with destroy. Nothing is removed while the etcd of a unit\n" +
			"that is to stay does not answer.",
		Example: "  " + a.Program + " remove-unit etcd/2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			names, err := parseUnits(args)
			if err != nil {
				return err
			}
			provider, err := a.provider()
			if err != nil {
				return err
			}
			if names, err = provider.CheckRemovable(c.Context(), names); err != nil {
				return a.notRemoved(err)
			}
			var kept, applications []string
			voting := map[string]int{}
			for _, name := range names {
				var done deploy.Removed
				if done, err = provider.RemoveUnit(c.Context(), name); err != nil {
					break
				}
				if done.KeptAt == "" {
					fmt.Fprintf(a.Stdout, "removed %s, which had no files\n", name)
				} else {
					fmt.Fprintf(a.Stdout, "removed %s; its files are in %s\n", name, done.KeptAt)
					kept = append(kept, done.KeptAt)
				}
				if !slices.Contains(applications, name.Application) {
					applications = append(applications, name.Application)
				}
				voting[name.Application] = done.Voting
			}
			for _, application := range applications {
				fmt.Fprintf(a.Stderr, "%s has %s now: it stands %s\n", application,
					plural(voting[application], "voting member"), failures(voting[application]))
			}
			a.sayKept(kept)
			return err
		},
	}
}

// failures says how many members of so many may fail at a time.
func failures(voting int) string {
	if voting < 3 {
		return "no failure"
	}
	return plural((voting-1)/2, "failure")
}

// sayKept says how to delete the folders of removed units, which no command does.
func (a *app) sayKept(folders []string) {
	if len(folders) == 0 {
		return
	}
	words := make([]string, len(folders))
	for i, folder := range folders {
		words[i] = shellWord(folder)
	}
	fmt.Fprintf(a.Stderr, "the files of removed units hold etcd's secrets and their keys; when you need them no more: rm -r %s\n", strings.Join(words, " "))
}

// shellWord gives a word as a shell takes it.
func shellWord(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// notRemoved adds what to do about units that do not answer.
func (a *app) notRemoved(err error) error {
	if last, is := errors.AsType[*deploy.LastError](err); is {
		return hinted{err, fmt.Sprintf("%s destroy %s", a.Program, last.Application)}
	}
	down, is := errors.AsType[*deploy.DownError](err)
	switch {
	case !is:
		return err
	case down.NoQuorum:
		return hinted{err, fmt.Sprintf("%s start %s; %s", a.Program, down.Application, goneForGood)}
	}
	names := make([]string, len(down.Down))
	for i, name := range down.Down {
		names[i] = name.String()
	}
	return hinted{err, fmt.Sprintf("%s start %s, or %s remove-unit %s first", a.Program, down.Application, a.Program, strings.Join(names, " "))}
}

func parseUnits(words []string) ([]unit.Name, error) {
	var names []unit.Name
	for _, word := range words {
		name, err := unit.ParseName(word)
		if err != nil {
			return nil, usageError{err}
		}
		names = append(names, name)
	}
	return names, nil
}

func (a *app) destroy() *cobra.Command {
	var yes bool
	command := &cobra.Command{
		Use:   "destroy APPLICATION",
		Short: "Stop the units of an application and delete them with their data",
		Long: "Stop the units of an application and delete them with their data, their snapshot archives, and what restores have kept of\n" +
			"older data. Copy the archives that you want to keep first. It says what it deletes and asks for the name of the application.",
		Example: "  " + a.Program + " destroy etcd",
		Args:    exactArgs(1, "one APPLICATION"),
		RunE: func(c *cobra.Command, args []string) error {
			provider, err := a.provider()
			if err != nil {
				return err
			}
			inv, err := provider.Inventory.View()
			if err != nil {
				return err
			}
			names, err := inv.Units(args[0])
			if err != nil {
				return err
			}
			var held holdings
			for _, name := range names {
				record, err := inv.Unit(name)
				if err != nil {
					return err
				}
				if err := held.count(provider.Folder(name), record.DataDir); err != nil {
					return fmt.Errorf("look for archives: %w", err)
				}
			}
			fmt.Fprintf(a.Stderr, "destroying %s deletes %s%s\n", args[0], held.with(names), a.busy(c.Context(), args[0]))
			if !yes {
				if err := a.confirm(args[0]); err != nil {
					return err
				}
			}
			if err := provider.Destroy(c.Context(), args[0]); err != nil {
				return hinted{err, fmt.Sprintf("%s destroy %s again; it goes on with what is left", a.Program, args[0])}
			}
			fmt.Fprintf(a.Stdout, "%s is destroyed\n", args[0])
			removed, err := provider.RemovedFolders(args[0])
			if len(removed) > 0 {
				fmt.Fprintf(a.Stderr, "kept: the files of units that had been removed before, in %s\n", filepath.Dir(removed[0]))
			}
			a.sayKept(removed)
			return err
		},
	}
	command.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return command
}

// busyTimeout is how long a destroy waits for what agents do; one that hangs is destroyed all the same.
const busyTimeout = 3 * time.Second

// busy says which actions a destroy would cut off.
func (a *app) busy(ctx context.Context, application string) string {
	m, err := a.model()
	if err != nil {
		return ""
	}
	defer m.close()
	ctx, cancel := context.WithTimeout(ctx, busyTimeout)
	defer cancel()
	states, err := m.unitStates(ctx, application)
	if err != nil {
		return ""
	}
	var running []string
	for _, state := range states {
		if state.err == nil && state.value.Busy != "" {
			running = append(running, fmt.Sprintf("%s of %s", state.value.Busy, state.name))
		}
	}
	if len(running) == 0 {
		return ""
	}
	return ", and cuts off what runs: " + strings.Join(running, ", ")
}

// confirm lets a person at a terminal type the name of what is to be destroyed.
func (a *app) confirm(name string) error {
	if !terminal(a.Stdin) {
		return hinted{errors.New("nothing was destroyed: there is no terminal to ask at"), "add --yes"}
	}
	fmt.Fprintf(a.Stderr, "Type %q to go on: ", name)
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if err != nil {
		return errors.New("nothing was destroyed: there was no answer")
	}
	if answer = strings.TrimSpace(answer); answer != name {
		return fmt.Errorf("nothing was destroyed: the answer was %q, not %q", answer, name)
	}
	return nil
}

// holdings are what is deleted with units beside their etcd data.
type holdings struct {
	snapshots int // archives that people had made
	archives  int // archives that restores made of the data before
	folders   int // data dirs that restores replaced
}

// count adds what is on one unit.
func (h *holdings) count(folder, dataDir string) error {
	return filepath.WalkDir(filepath.Join(folder, "root"), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile, or the unit was never made
		}
		if err != nil {
			return err
		}
		switch name := entry.Name(); {
		case like("etcd-snapshot-*.tar.gz", name):
			h.snapshots++
		case like("etcd-data-*.tar.gz", name):
			h.archives++
		case entry.IsDir() && filepath.Dir(path) == filepath.Clean(dataDir) && datadir.IsKept(name):
			h.folders++
			return fs.SkipDir
		}
		return nil
	})
}

func like(pattern, name string) bool {
	match, err := filepath.Match(pattern, name)
	return err == nil && match
}

// with names all that goes with these units.
func (h holdings) with(names []unit.Name) string {
	their, them := "their", "them"
	if len(names) == 1 {
		their, them = "its", "it"
	}
	text := fmt.Sprintf("%s (%s), %s etcd data, ", plural(len(names), "unit"), joinNames(names), their)
	snapshots, archives, folders := plural(h.snapshots, "snapshot archive"), plural(h.archives, "archive"), plural(h.folders, "folder")
	const replaced = " of data that restores had replaced"
	switch {
	case h.archives > 0 && h.folders > 0:
		return text + snapshots + ", " + archives + " and " + folders + replaced
	case h.archives > 0:
		return text + snapshots + " and " + archives + replaced
	case h.folders > 0:
		return text + snapshots + " and " + folders + replaced
	}
	return text + "and " + snapshots + " on " + them
}

func joinNames(names []unit.Name) string {
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = name.String()
	}
	return strings.Join(words, ", ")
}

// plural gives "1 unit" and "3 units".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
