package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/retention"
)

// The outcomes of prune for one snapshot.
const (
	pruneKeep     = "keep"
	pruneRemove   = "remove"   // what it would do
	pruneRemoved  = "removed"  // what it did
	pruneRetained = "retained" // a lock holds it
)

// pruned is what prune says of one snapshot; docs/contracts/repository.md has the JSON form.
type pruned struct {
	ID      string   `json:"id"`
	Cluster string   `json:"cluster"`
	Action  string   `json:"action"`
	Reasons []string `json:"reasons"`
	Stored  int64    `json:"stored"`
	// RetainedUntil is when the lock ends that holds the snapshot, as far as the store says.
	RetainedUntil string `json:"retained-until,omitempty"`

	read repository.Read
}

// pruneResult is what prune says at its end.
type pruneResult struct {
	Snapshots []pruned `json:"snapshots"`
	// Segments are runs of segments of archives.
	Segments []prunedSegments `json:"segments"`
	// Unclaimed counts data without a manifest that is older than the grace time; UnclaimedBytes is its size.
	Unclaimed      int   `json:"unclaimed"`
	UnclaimedBytes int64 `json:"unclaimed-bytes"`
	// Swept counts what killed uploads had left in the store, where no listing shows it, and is gone.
	Swept int `json:"swept"`
	// Done tells that it was carried out, and not only said.
	Done bool `json:"done"`
	// FreedBytes is the size of what is gone.
	FreedBytes int64 `json:"freed-bytes"`
	// Leases counts the words of archivers that nobody waits for any more, and that are gone.
	Leases int `json:"leases"`

	fates     []segmentFate
	archives  []string                          // clusters
	unclaimed map[string][]repository.Unclaimed // by cluster
}

func registerPolicy(p *retention.Policy, flags *pflag.FlagSet) {
	flags.IntVar(&p.Last, "keep-last", 0, "keep so many of the newest")
	flags.IntVar(&p.Hourly, "keep-hourly", 0, "keep the newest of each of the last so many hours that have one")
	flags.IntVar(&p.Daily, "keep-daily", 0, "keep the newest of each of the last so many days (UTC) that have one")
	flags.IntVar(&p.Weekly, "keep-weekly", 0, "keep the newest of each of the last so many weeks that have one")
	flags.IntVar(&p.Monthly, "keep-monthly", 0, "keep the newest of each of the last so many months that have one")
	flags.IntVar(&p.Yearly, "keep-yearly", 0, "keep the newest of each of the last so many years that have one")
	flags.DurationVar(&p.Within, "keep-within", 0, "keep all that are at most so much older than the newest, such as 168h")
}

func checkPolicy(p retention.Policy) error {
	for _, n := range []int{p.Last, p.Hourly, p.Daily, p.Weekly, p.Monthly, p.Yearly, int(p.Within)} {
		if n < 0 {
			return usagef("a rule that keeps a negative number means nothing")
		}
	}
	return nil
}

// errNoRule is for a cluster that is not archived.
func errNoRule(cluster string) error {
	return hinted{usagef("no rule says what to keep of cluster %q", cluster), "--keep-daily 7 --keep-weekly 5 --keep-monthly 12, for example"}
}

// pruneRules say what is kept of a cluster.
type pruneRules struct {
	retention.Policy
	// archive is the window in which every revision is kept.
	archive time.Duration
	grace   time.Duration
}

func (a *app) prune() *cobra.Command {
	var f repoFlags
	var rules pruneRules
	var yes bool
	command := &cobra.Command{
		Use:   "prune",
		Short: "Remove snapshots and segments that no rule keeps; without --yes only say which",
		Long: "Remove the snapshots of a repository that no rule keeps, and data that interrupted backups left. Without --yes it only says\n" +
			"what it would do. Of a cluster that is archived it keeps every revision of the last 7 days (--keep-archive) with the snapshots\n" +
			"that lead to them, and when no rule is given also one of each hour for 30 days, of each day for a year, of each month for three;\n" +
			"segments that were merged into larger ones go once these were read back.\n" +
			"It always keeps the newest snapshot, the last one that a drill has proven, those that are pinned, and those that were found\n" +
			"damaged or cannot be believed, which count for no rule. The order of snapshots is that of their revisions: a clock that\n" +
			"jumped removes nothing.\n" +
			"The key of this host needs the role prune (key enroll), and its credentials the right to delete, which no other command needs.\n" +
			"What it removes is written down, signed, before it goes. A snapshot that the store has locked stays until its lock ends.",
		Example: "  " + a.Program + " prune --keep-daily 7 --keep-weekly 5 --keep-monthly 12\n  " + a.Program + " prune --keep-last 30 --yes",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkPolicy(rules.Policy); err != nil {
				return err
			}
			if rules.archive < time.Hour {
				return usagef("--keep-archive must be an hour at least, given %s", rules.archive)
			}
			if rules.grace < time.Hour {
				return usagef("--grace must be an hour at least: a backup that is on its way has no manifest yet")
			}
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			var writer *repository.Writer
			if yes {
				if writer, err = a.pruner(c.Context(), repo); err != nil {
					return err
				}
			}
			clusters := []string{f.cluster}
			if f.cluster == "" {
				if clusters, err = repo.Clusters(c.Context()); err != nil {
					return err
				}
			}
			plan := pruneResult{Snapshots: []pruned{}, Segments: []prunedSegments{}, unclaimed: map[string][]repository.Unclaimed{}}
			for _, cluster := range clusters {
				if err := plan.add(c.Context(), repo, cluster, rules); err != nil {
					return err
				}
			}
			if err := a.spareUnclaimed(c.Context(), repo, &plan); err != nil {
				return err
			}
			return a.runPrune(c.Context(), repo, writer, plan, rules.grace, f.output)
		},
	}
	f.register(a, command.Flags())
	f.registerCluster(command.Flags())
	command.Flags().Lookup("cluster").Usage = "only the snapshots of this cluster"
	registerPolicy(&rules.Policy, command.Flags())
	command.Flags().DurationVar(&rules.archive, "keep-archive", 168*time.Hour, "of clusters that are archived, how long a time every revision is kept")
	command.Flags().DurationVar(&rules.grace, "grace", 24*time.Hour, "how old data without a manifest must be to be taken for that of an interrupted backup")
	command.Flags().BoolVar(&yes, "yes", false, "do it")
	return command
}

// add decides about the snapshots of one cluster.
func (r *pruneResult) add(ctx context.Context, repo *repository.Repository, cluster string, rules pruneRules) error {
	reads, _, err := repo.Snapshots(ctx, cluster)
	if err != nil {
		return err
	}
	verifications, _, err := repo.Verifications(ctx, cluster, func(repository.ID) bool { return true })
	if err != nil {
		return err
	}
	for _, v := range verifications {
		// What only could not be read may be the proof that keeps a snapshot.
		if v.Err != nil && !errors.Is(v.Err, repository.ErrForged) {
			return v.Err
		}
	}
	pins, err := repo.PinsOf(ctx, cluster)
	if err != nil {
		return err
	}
	var items []retention.Item
	var believed []repository.Manifest
	var unread error
	window := coverage.Window{Now: time.Now(), Length: rules.archive, Doubted: map[repository.ID]bool{}}
	for _, read := range reads {
		proof := repository.ProofOf(read, verifications)
		pin := pins[read.Point.ID]
		items = append(items, retention.Item{
			Time: read.Point.ID.Time, Proven: proof.Standing == repository.StandingProven,
			Pinned: pin.Pin.Pinned || pin.Err != nil, Doubt: doubt(read, proof),
		})
		window.Doubted[read.Point.ID] = doubt(read, proof) != ""
		switch {
		case read.Err == nil:
			believed = append(believed, read.Manifest)
		case !errors.Is(read.Err, repository.ErrForged):
			unread = read.Err
		}
	}
	needed, archived, err := r.addArchive(ctx, repo, cluster, believed, window)
	if err != nil {
		return err
	}
	if archived && unread != nil {
		return unread // what only could not be read may be the base of the archive
	}
	policy := rules.Policy
	switch {
	case policy.IsZero() && archived:
		policy = archivePolicy()
	case policy.IsZero():
		return errNoRule(cluster)
	}
	for i, read := range reads {
		items[i].Needed = needed[read.Point.ID]
	}
	for i, d := range policy.Apply(items, window.Now) {
		read := reads[i]
		one := pruned{ID: read.Point.ID.Long(), Cluster: cluster, Action: pruneKeep, Reasons: append([]string{}, d.Reasons...), Stored: read.Manifest.Object.Size, read: read}
		if until := read.Manifest.RetainUntil; !d.Keep && until.After(time.Now()) {
			one.Action, one.RetainedUntil = pruneRetained, until.Format(rfc3339)
		} else if !d.Keep {
			one.Action = pruneRemove
		}
		r.Snapshots = append(r.Snapshots, one)
	}
	unclaimed, err := repo.Unclaimed(ctx, cluster)
	if err != nil {
		return err
	}
	for _, object := range unclaimed {
		if object.Age > rules.grace {
			r.Unclaimed++
			r.UnclaimedBytes += object.Size
			r.unclaimed[cluster] = append(r.unclaimed[cluster], object)
		}
	}
	return nil
}

// spareUnclaimed keeps data without a manifest as long as manifests are missing: it may be theirs; that of segments also as
// long as revisions are. Segments that are only old stay with missing manifests, too: one may be the base for a part of them.
func (a *app) spareUnclaimed(ctx context.Context, repo *repository.Repository, plan *pruneResult) error {
	if plan.Unclaimed == 0 && !slices.ContainsFunc(plan.fates, segmentFate.old) {
		return nil
	}
	var all repoFlags
	_, bad, err := a.chosen(ctx, repo, &all, nil)
	if err != nil {
		return err
	}
	spare := func(repository.Unclaimed) bool { return true }
	if len(bad) == 0 {
		var missed repository.CheckResult
		if err := missingRevisions(ctx, repo, &missed); err != nil || len(missed.Problems) == 0 {
			return err
		}
		spare = func(o repository.Unclaimed) bool { return o.Segment }
	} else {
		for i := range plan.fates {
			if f := &plan.fates[i]; f.old() {
				f.action, f.reason = pruneKeep, "in doubt: repo check has something to say"
			}
		}
	}
	spared, bytes := 0, int64(0)
	for cluster, objects := range plan.unclaimed {
		plan.unclaimed[cluster] = slices.DeleteFunc(objects, func(o repository.Unclaimed) bool {
			if spare(o) {
				spared, bytes = spared+1, bytes+o.Size
			}
			return spare(o)
		})
	}
	if spared == 0 {
		return nil
	}
	fmt.Fprintf(a.Stderr, "%s without a manifest, %s, kept: repo check has something to say, and repo repair finds what was a snapshot or a segment\n",
		are(spared, "data object"), humanize.Bytes(uint64(bytes)))
	plan.Unclaimed, plan.UnclaimedBytes = plan.Unclaimed-spared, plan.UnclaimedBytes-bytes
	return nil
}

// doubt says why a snapshot cannot be relied on.
func doubt(read repository.Read, proof repository.Proof) string {
	switch {
	case read.Err != nil:
		return "its manifest cannot be believed"
	case proof.Standing == repository.StandingBad:
		return "it was found damaged"
	}
	return ""
}

func (r *pruneResult) victims() (list []repository.Victim, at []int) {
	for i, one := range r.Snapshots {
		if one.Action == pruneRemove {
			list, at = append(list, repository.Victim{Read: one.read, Reason: "no rule keeps it"}), append(at, i)
		}
	}
	return list, at
}

// pruner is the signing key of this host, which may prune.
func (a *app) pruner(ctx context.Context, repo *repository.Repository) (*repository.Writer, error) {
	writer, err := a.writer()
	if err != nil {
		return nil, err
	}
	err = repo.MayPrune(ctx, writer)
	if errors.Is(err, repository.ErrNotEnrolled) {
		err = hinted{err, fmt.Sprintf("on the machine that has the root key: %s key enroll --repo URL --root-key FILE --role prune %s", a.Program, writer.Public())}
	}
	return writer, err
}

// runPrune carries out the plan when there is a writer, and says what it is or what became of it.
func (a *app) runPrune(ctx context.Context, repo *repository.Repository, writer *repository.Writer, r pruneResult, grace time.Duration, form string) error {
	victims, at := r.victims()
	segments := r.segmentVictims()
	var failed error
	if writer != nil {
		failed = r.carryOut(ctx, repo, writer, victims, at, grace)
		r.Done = failed == nil
	}
	r.Segments = r.segmentRuns()
	if form == "json" {
		return errors.Join(json.NewEncoder(a.Stdout).Encode(r), failed)
	}
	if err := r.write(a.Stdout, writer != nil); err != nil {
		return err
	}
	if writer == nil && len(victims)+segments+r.Unclaimed > 0 {
		fmt.Fprintln(a.Stderr, "nothing was removed: give --yes to do it")
	}
	return failed
}

// carryOut removes, and notes what became of each.
func (r *pruneResult) carryOut(ctx context.Context, repo *repository.Repository, writer *repository.Writer, victims []repository.Victim, at []int, grace time.Duration) error {
	bad, err := r.carryOutArchive(ctx, repo, writer)
	if err != nil {
		return errors.Join(append(bad, err)...)
	}
	removed, err := repo.Remove(ctx, writer, victims)
	for i, outcome := range removed {
		one := &r.Snapshots[at[i]]
		one.Action = pruneRemoved
		if outcome.Locked != nil {
			one.Action = pruneRetained
			if until := outcome.Locked.Until; !until.IsZero() {
				one.RetainedUntil = until.UTC().Format(rfc3339)
			}
			continue
		}
		r.FreedBytes += one.Stored
	}
	if err != nil {
		return err
	}
	for cluster, objects := range r.unclaimed {
		freed, err := repo.Reclaim(ctx, writer, cluster, objects)
		r.FreedBytes += freed
		if err != nil {
			return err
		}
	}
	if r.Swept, err = repo.Sweep(ctx, grace); err == nil && len(bad) > 0 {
		err = findings{errors.Join(bad...)}
	}
	return err
}

func (r pruneResult) write(w io.Writer, yes bool) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Snapshots) > 0 {
		fmt.Fprintln(table, "ID\tCluster\tStored\tAction\tWhy")
	}
	counts := map[string]int{}
	sizes := map[string]int64{}
	for _, one := range r.Snapshots {
		counts[one.Action]++
		sizes[one.Action] += one.Stored
		why := strings.Join(one.Reasons, ", ")
		switch one.Action {
		case pruneRemove, pruneRemoved:
			why = "no rule keeps it"
		case pruneRetained:
			why = "locked, the store does not say until when"
			if one.RetainedUntil != "" {
				why = "locked until " + one.RetainedUntil
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", one.ID, one.Cluster, humanize.Bytes(uint64(one.Stored)), one.Action, why)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := r.writeArchive(w, yes); err != nil {
		return err
	}
	verb, action := "to remove", pruneRemove
	if yes {
		verb, action = "removed", pruneRemoved
	}
	fmt.Fprintf(w, "%s %s, %s; %s kept", plural(counts[action], "snapshot"), verb, humanize.Bytes(uint64(sizes[action])), plural(counts[pruneKeep], "snapshot"))
	if counts[pruneRetained] > 0 {
		fmt.Fprintf(w, "; %s locked", plural(counts[pruneRetained], "snapshot"))
	}
	if yes && counts[pruneRemove] > 0 {
		fmt.Fprintf(w, "; %s not reached", plural(counts[pruneRemove], "snapshot"))
	}
	fmt.Fprintln(w)
	if r.Unclaimed > 0 {
		fmt.Fprintf(w, "%s without a manifest, %s, of interrupted backups %s\n", plural(r.Unclaimed, "data object"), humanize.Bytes(uint64(r.UnclaimedBytes)), verb)
	}
	if r.Leases > 0 {
		fmt.Fprintf(w, "%s of archivers removed\n", plural(r.Leases, "old lease"))
	}
	if r.Swept > 0 {
		fmt.Fprintf(w, "%s of interrupted uploads removed\n", plural(r.Swept, "leftover"))
	}
	return nil
}

// setPin is pin and unpin.
func (a *app) setPin(use, short string, pinned bool) *cobra.Command {
	var f repoFlags
	var reason string
	command := &cobra.Command{
		Use: use, Short: short,
		Long: short + ". SNAPSHOT is an id of list. The key of this host needs the role prune (key enroll).",
		Args: exactArgs(1, "one SNAPSHOT"),
		RunE: func(c *cobra.Command, args []string) error {
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			m, err := findManifest(c.Context(), repo, &f, args[0])
			if err != nil {
				return err
			}
			writer, err := a.pruner(c.Context(), repo)
			if err != nil {
				return err
			}
			if err := repo.SetPin(c.Context(), writer, m.Point(), pinned, reason); err != nil {
				return err
			}
			state := "is pinned"
			if !pinned {
				state = "is not pinned any more"
			}
			fmt.Fprintf(a.Stdout, "snapshot %s of cluster %s %s\n", m.ID.Short(), m.Cluster, state)
			return nil
		},
	}
	f.register(a, command.Flags())
	f.registerCluster(command.Flags())
	if pinned {
		command.Flags().StringVar(&reason, "reason", "", "why, for people; it is readable for everybody who can read the store")
	}
	return command
}

func (a *app) pin() *cobra.Command {
	return a.setPin("pin SNAPSHOT", "Keep a snapshot whatever the rules of prune say", true)
}

func (a *app) unpin() *cobra.Command {
	return a.setPin("unpin SNAPSHOT", "Let the rules of prune decide about a snapshot again", false)
}
