package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// The outcomes of merge for one segment that is to be made.
const (
	mergePlanned = "merge"  // what it would do
	mergeMerged  = "merged" // what it did
	mergeTaken   = "taken"  // somebody else was faster
	mergeFailed  = "failed"
)

// merged is what merge says of one segment; docs/contracts/repository.md has the JSON form.
type merged struct {
	Cluster  string    `json:"cluster"`
	Timeline string    `json:"timeline"`
	Level    int       `json:"level"`
	Period   time.Time `json:"period"`
	First    int64     `json:"first"`
	Last     int64     `json:"last"`
	// Inputs is how many segments it is made of; Stored the size of these when it is not made yet, and else its own.
	Inputs int    `json:"inputs"`
	Stored int64  `json:"stored"`
	Action string `json:"action"`
	Error  string `json:"error,omitempty"`
}

func (a *app) merge() *cobra.Command {
	var f repoFlags
	var scratch string
	var dryRun bool
	command := &cobra.Command{
		Use:   "merge",
		Short: "Merge the segments of days that have ended, where the archiver cannot any more",
		Long: "Merge the segments of an archive that are of days that have ended, so that a restore has less to read. An archiver does so by\n" +
			"itself, with a key that it destroys then; this does it with yours where that key is gone, or of another machine. Days that go\n" +
			"on are left to the archiver. Nothing is removed: prune does. What is merged is read back before it counts.\n" +
			"The key of this host needs the role backup.",
		Example: "  " + a.Program + " merge --repo file:///srv/backups --cluster prod --identity key.txt --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			cluster, err := f.oneCluster(c.Context(), repo)
			if err != nil {
				return err
			}
			o := merge.Options{Dir: scratch}
			if o.Identities, err = f.identities(repo); err != nil {
				return err
			}
			if scratch == "" {
				home, err := a.home()
				if err != nil {
					return err
				}
				o.Dir = filepath.Join(home, "scratch")
			}
			writer, err := a.writer()
			if err != nil {
				return err
			}
			if !dryRun {
				if _, err := repo.Enrolled(c.Context(), writer.Public().Fingerprint(), repository.RoleBackup); errors.Is(err, repository.ErrNotEnrolled) {
					return a.enrollHint(fmt.Errorf("signing key of this host: %w", err), writer, "")
				} else if err != nil {
					return err
				}
			}
			m := merge.NewMerger(repo, writer, cluster)
			strays, err := m.Look(c.Context(), o)
			if err != nil {
				return err
			}
			for _, stray := range strays {
				fmt.Fprintf(a.Stderr, "left alone: %v\n", stray)
			}
			if dryRun {
				return a.showMerges(m.Everything(o, true), f.output)
			}
			return a.runMerges(c.Context(), m, o, &f)
		},
	}
	flags := command.Flags()
	f.register(a, flags)
	f.registerCluster(flags)
	f.registerIdentity(a, flags)
	flags.StringVar(&scratch, "scratch-dir", "", "folder for a temporary file, sealed as it will be stored (default: scratch in $HOLDFAST_HOME)")
	flags.BoolVar(&dryRun, "dry-run", false, "say what would be done, and do nothing")
	return command
}

// showMerges tells the whole plan.
func (a *app) showMerges(plan []merge.Merge, form string) error {
	for _, one := range plan {
		if err := mergedOf(one, mergePlanned).write(a.Stdout, form); err != nil {
			return err
		}
	}
	if len(plan) == 0 && form != "json" {
		fmt.Fprintln(a.Stdout, "there is nothing to merge")
	} else {
		fmt.Fprintln(a.Stderr, "nothing was done: --dry-run")
	}
	return nil
}

// runMerges merges until nothing is due. What fails keeps nothing else from being merged.
func (a *app) runMerges(ctx context.Context, m *merge.Merger, o merge.Options, f *repoFlags) error {
	var failed []error
	done := 0
	for ctx.Err() == nil {
		due := m.Due(o, true)
		if len(due) == 0 {
			break
		}
		for _, one := range due {
			result, err := m.Do(ctx, one, o)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			said := mergedOf(one, mergeMerged)
			switch {
			case err != nil:
				said.Action, said.Error = mergeFailed, err.Error()
				failed = append(failed, err)
			case result.Taken:
				said.Action, said.Stored = mergeTaken, result.Segment.Object.Size
			default:
				said.Stored = result.Segment.Object.Size
			}
			done++
			if err := said.write(a.Stdout, f.output); err != nil {
				return err
			}
		}
	}
	if done == 0 && f.output != "json" {
		fmt.Fprintln(a.Stdout, "there is nothing to merge")
	}
	return errors.Join(failed...)
}

func mergedOf(one merge.Merge, action string) merged {
	r := one.Range()
	said := merged{Cluster: one.Point().Cluster, Timeline: string(one.Timeline()), Level: one.Level, Period: one.Period, First: int64(r.First), Last: int64(r.Last),
		Inputs: len(one.Inputs), Action: action}
	for _, s := range one.Inputs {
		said.Stored += s.Object.Size
	}
	return said
}

func (m merged) write(w io.Writer, form string) error {
	if form == "json" {
		return json.NewEncoder(w).Encode(m)
	}
	layout := map[int]string{repository.SegmentMinute: "2006-01-02T15:04Z", repository.SegmentHour: "2006-01-02T15Z", repository.SegmentDay: time.DateOnly}[m.Level]
	text := fmt.Sprintf("%s  %s %s, %s: %s of %s", m.Cluster, levelName(m.Level), m.Period.Format(layout),
		history.Range{First: history.Revision(m.First), Last: history.Revision(m.Last)}.Words(),
		humanize.Bytes(uint64(m.Stored)), plural(m.Inputs, "segment"))
	switch m.Action {
	case mergePlanned:
		text += ", to merge"
	case mergeFailed:
		text += ", not merged"
	case mergeTaken:
		text += ", merged by somebody else"
	default:
		text += ", merged"
	}
	_, err := fmt.Fprintln(w, text)
	return err
}
