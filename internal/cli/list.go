package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/verify"
)

// listed is one snapshot as list tells of it; docs/contracts/repository.md has the JSON form.
type listed struct {
	ID       string              `json:"id"`
	Cluster  string              `json:"cluster"`
	Timeline repository.Timeline `json:"timeline"`
	First    int64               `json:"first"`
	Last     int64               `json:"last"`
	Size     int64               `json:"size"`
	Stored   int64               `json:"stored"`
	Etcd     string              `json:"etcd-version"`
	Signer   string              `json:"signer"`
	// Standing is bad, stored, verified or proven; Verified is when that was found out, and Level how.
	Standing repository.Standing `json:"standing"`
	Verified string              `json:"verified,omitempty"`
	Level    repository.Level    `json:"level,omitempty"`
	Pinned   bool                `json:"pinned"`
	// PinReason is what the person said who pinned it.
	PinReason string `json:"pin-reason,omitempty"`
	// Keys are the ids of the recipients that can read it; OldKeys tells that none of them is one of now.
	Keys    []string `json:"keys"`
	OldKeys bool     `json:"old-keys"`
	Error   string   `json:"error,omitempty"`
	// Problem is what is wrong with its object, as a listing tells.
	Problem string `json:"problem,omitempty"`
	// Archive is what the archive of the timeline holds; only of the newest snapshot of each timeline that has one.
	Archive *listedArchive `json:"archive,omitempty"`

	proof repository.Proof
	made  time.Time
}

// listFlags are those of list alone.
type listFlags struct {
	keys          bool
	maxAge        time.Duration
	provenWithin  time.Duration
	maxLag        time.Duration
	gaplessWithin time.Duration
}

func (a *app) list() *cobra.Command {
	var f repoFlags
	var l listFlags
	command := &cobra.Command{
		Use:   "list",
		Short: "List the snapshots of a repository, oldest first, and how well each is known to be good",
		Long: "List the snapshots of a repository, oldest first, with what their signed manifests say, and the last verification that\n" +
			"decides: stored (checked while it was made, and not since), verified (all of its content was read again), proven (restored\n" +
			"into an etcd that started and had the hash of the live cluster), bad (found damaged, or its object is not in the store any\n" +
			"more). Of clusters that are archived it shows which revisions and times can be restored, what is missing and why, and how the\n" +
			"archive stands. What is bad, cannot be believed or is missing is named, and makes the exit code 3; a loss that an archiver\n" +
			"has recorded is history, and does so with --gapless-within only. So do the limits for monitoring: --max-age,\n" +
			"--proven-within, --max-lag, --gapless-within.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			repo, err := a.openForLook(c.Context(), &f)
			if err != nil {
				return err
			}
			clusters, err := repo.Clusters(c.Context())
			if err != nil {
				return err
			}
			if f.cluster != "" && !slices.Contains(clusters, f.cluster) {
				return noSnapshots(f.cluster, clusters)
			}
			if f.cluster != "" {
				clusters = []string{f.cluster}
			}
			recipients, err := currentKeys(c.Context(), repo)
			if err != nil {
				return err
			}
			all, bad := []listed{}, []error{}
			var reads []repository.Read
			var archives []archivedLine
			for _, cluster := range clusters {
				some, read, wrong, err := listCluster(c.Context(), repo, cluster, recipients)
				if err != nil {
					return err
				}
				all, reads, bad = append(all, some...), append(reads, read...), append(bad, wrong...)
				bad = append(bad, l.overdue(cluster, some, time.Now())...)
				lines, odd, err := archiveOf(c.Context(), repo, cluster, usable(read, some), listedSegments)
				if err != nil {
					return err
				}
				bad = append(bad, odd...)
				for _, line := range lines {
					bad = append(bad, line.findings()...)
				}
				bad = append(bad, l.archiveOverdue(cluster, lines, time.Now())...)
				archives = append(archives, lines...)
			}
			if f.cluster == "" {
				missing, err := a.listMissing(c.Context(), repo, reads)
				if err != nil {
					return err
				}
				bad = append(bad, missing...)
			}
			if len(clusters) == 0 && l.limited() {
				bad = append(bad, noSnapshots("", nil))
			}
			if err := a.writeList(all, archives, l, f.output); err != nil {
				return err
			}
			if len(bad) > 0 {
				return a.found(bad)
			}
			return nil
		},
	}
	f.register(a, command.Flags())
	f.registerCluster(command.Flags())
	command.Flags().BoolVar(&l.keys, "keys", false, "show which age keys can read each snapshot, and which need a key that new ones are not encrypted to")
	command.Flags().DurationVar(&l.maxAge, "max-age", 0, "exit with 3 when the newest snapshot of a cluster is older, such as 25h")
	command.Flags().DurationVar(&l.provenWithin, "proven-within", 0, "exit with 3 when no snapshot of a cluster was proven by a drill in that time, such as 168h")
	command.Flags().DurationVar(&l.maxLag, "max-lag", 0, "exit with 3 when a cluster has no archive, or it is not known to be complete up to so long ago, such as 1m")
	command.Flags().DurationVar(&l.gaplessWithin, "gapless-within", 0, "exit with 3 when an archive has lost revisions in that time, such as 168h")
	return command
}

// limited tells whether any limit was given.
func (l listFlags) limited() bool {
	return l.maxAge > 0 || l.provenWithin > 0 || l.maxLag > 0 || l.gaplessWithin > 0
}

// listMissing says which manifests are missing. It is told of all clusters together, as the numbering is.
func (a *app) listMissing(ctx context.Context, repo *repository.Repository, reads []repository.Read) ([]error, error) {
	removals, err := repo.Removals(ctx)
	if err != nil {
		return nil, err
	}
	return a.checkChains(repo, reads, removals)
}

// overdue says what of a cluster is older than the limits.
func (l listFlags) overdue(cluster string, all []listed, now time.Time) []error {
	var newest, proven time.Time
	for _, one := range all {
		if one.Standing != repository.StandingBad && one.made.After(newest) {
			newest = one.made
		}
		if one.proof.Standing == repository.StandingProven && one.proof.At.After(proven) {
			proven = one.proof.At
		}
	}
	var late []error
	for _, limit := range []struct {
		what string
		last time.Time
		most time.Duration
	}{{"snapshot", newest, l.maxAge}, {"proof by a drill", proven, l.provenWithin}} {
		switch {
		case limit.most == 0:
		case limit.last.IsZero():
			late = append(late, fmt.Errorf("cluster %s: there is no %s at all", cluster, limit.what))
		case now.Sub(limit.last) > limit.most:
			late = append(late, fmt.Errorf("cluster %s: the last %s is of %s, more than %s ago", cluster, limit.what, limit.last.Format(rfc3339), limit.most))
		}
	}
	return late
}

// currentKeys gives the ids of the recipients that new snapshots are encrypted to.
func currentKeys(ctx context.Context, repo *repository.Repository) ([]string, error) {
	recipients, err := repo.SealTo(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, recipient := range recipients {
		ids = append(ids, recipient.KeyID())
	}
	return ids, nil
}

// listCluster lists one cluster. Wrong is what cannot be believed in it.
func listCluster(ctx context.Context, repo *repository.Repository, cluster string, recipients []string) (all []listed, reads []repository.Read, wrong []error, err error) {
	reads, strange, err := repo.Snapshots(ctx, cluster)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, name := range strange {
		wrong = append(wrong, fmt.Errorf("object %q is among the manifests and is none", name))
	}
	verifications, _, err := repo.Verifications(ctx, cluster, func(repository.ID) bool { return true })
	if err != nil {
		return nil, nil, nil, err
	}
	bySnapshot := map[repository.ID][]repository.VerificationRead{}
	for _, v := range verifications {
		if v.Err != nil {
			wrong = append(wrong, v.Err)
			continue
		}
		bySnapshot[v.Verification.Snapshot] = append(bySnapshot[v.Verification.Snapshot], v)
	}
	pins, err := repo.PinsOf(ctx, cluster)
	if err != nil {
		return nil, nil, nil, err
	}
	gone, err := goneSnapshots(ctx, repo, cluster, reads)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, read := range reads {
		one := listedOf(read, repository.ProofOf(read, bySnapshot[read.Point.ID]))
		if err := gone[read.Point.ID]; err != nil {
			one.Standing, one.Problem = repository.StandingBad, err.Error()
		}
		if pin := pins[read.Point.ID].Pin; pin.Pinned {
			one.Pinned, one.PinReason = true, pin.Reason
		}
		one.OldKeys = len(one.Keys) > 0 && !slices.ContainsFunc(one.Keys, func(id string) bool { return slices.Contains(recipients, id) })
		switch {
		case read.Err != nil:
			wrong = append(wrong, read.Err)
		case one.Problem != "":
			wrong = append(wrong, fmt.Errorf("snapshot %s of cluster %s: %s", one.ID, cluster, one.Problem))
		case one.Standing == repository.StandingBad:
			wrong = append(wrong, fmt.Errorf("snapshot %s of cluster %s was found damaged, %s", one.ID, cluster, one.Verified))
		}
		all = append(all, one)
	}
	return all, reads, wrong, nil
}

// goneSnapshots says of which snapshots the objects are not there with their sizes.
func goneSnapshots(ctx context.Context, repo *repository.Repository, cluster string, reads []repository.Read) (map[repository.ID]error, error) {
	manifests, _ := believed(reads)
	found, err := repo.CheckSnapshotsListed(ctx, cluster, manifests)
	if err != nil {
		return nil, err
	}
	gone := map[repository.ID]error{}
	for i, err := range found {
		if err != nil && !verify.Damage(err) {
			return nil, err
		}
		gone[manifests[i].ID] = err
	}
	return gone, nil
}

// usable are those snapshots that the list, which has them in the same order, finds nothing wrong with.
func usable(reads []repository.Read, all []listed) (good []repository.Read) {
	for i, read := range reads {
		if all[i].Standing != repository.StandingBad {
			good = append(good, read)
		}
	}
	return good
}

func listedOf(read repository.Read, proof repository.Proof) listed {
	p, m := read.Point, read.Manifest
	one := listed{
		ID: p.ID.Long(), Cluster: p.Cluster, Timeline: p.Timeline, First: int64(p.First), Last: int64(p.Last),
		Standing: proof.Standing, Level: proof.Level, Keys: []string{}, proof: proof, made: p.ID.Time,
	}
	if read.Err != nil {
		one.Error, one.Standing = read.Err.Error(), repository.StandingBad
		return one
	}
	if !proof.At.IsZero() {
		one.Verified = proof.At.Format(rfc3339)
	}
	one.Size, one.Stored, one.Etcd, one.Signer = m.Content.Size, m.Object.Size, m.Source.EtcdVersion, m.Signer.Short()
	one.Keys = append(one.Keys, m.Object.Recipients...)
	return one
}

func (a *app) writeList(all []listed, archives []archivedLine, l listFlags, form string) error {
	for _, line := range archives {
		newest := -1
		for i, one := range all {
			if one.Cluster == line.cluster && one.Timeline == line.line.ID && (newest < 0 || one.Last >= all[newest].Last) {
				newest = i
			}
		}
		if newest < 0 {
			fmt.Fprintf(a.Stderr, "cluster %s, timeline %s: there are segments, and no snapshot that leads to revisions %s\n", line.cluster, line.line.ID, windows(line.line.Orphans))
			continue
		}
		all[newest].Archive = line.listed()
	}
	if form == "json" {
		return json.NewEncoder(a.Stdout).Encode(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(a.Stderr, "The repository holds no snapshots.")
	} else if err := a.writeSnapshots(all, l); err != nil {
		return err
	}
	if len(archives) == 0 {
		return nil
	}
	return writeArchives(a.Stdout, archives, time.Now())
}

// writeSnapshots is the table of snapshots.
func (a *app) writeSnapshots(all []listed, l listFlags) error {
	// The digits behind an id are needed only where two are of the same second.
	seconds := map[string]int{}
	for _, one := range all {
		seconds[one.Cluster+one.ID[:len(rfc3339Seconds)]]++
	}
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	last := "Timeline"
	if l.keys {
		last = "Keys"
	}
	fmt.Fprintln(table, "ID\tCluster\tRevision\tFrom\tSize\tStored\tEtcd\tStanding\t"+last)
	for _, one := range all {
		id := one.ID
		if short := id[:len(rfc3339Seconds)]; seconds[one.Cluster+short] == 1 {
			id = short
		}
		last := string(one.Timeline)
		if l.keys {
			last = one.keysText()
		}
		size, stored, etcd := "?", "?", "?"
		if one.Error == "" {
			size, stored, etcd = humanize.Bytes(uint64(one.Size)), humanize.Bytes(uint64(one.Stored)), one.Etcd
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", id, one.Cluster, one.Last, one.First, size, stored, etcd, one.standingText(time.Now()), last)
	}
	return table.Flush()
}

// standingText is the standing with its age.
func (l listed) standingText(now time.Time) string {
	text := string(l.Standing)
	if l.Standing == repository.StandingBad {
		text = "BAD"
	}
	if !l.proof.At.IsZero() && l.Error == "" && l.Problem == "" {
		text += ", " + ago(now.Sub(l.proof.At))
	}
	if l.Pinned {
		text += ", pinned"
	}
	return text
}

// justNow is how long ago something was just now.
const justNow = 20 * time.Second

// ago is an age in its largest unit.
func ago(d time.Duration) string {
	switch {
	case d < justNow:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	}
	return fmt.Sprintf("%dd ago", d/(24*time.Hour))
}

func (l listed) keysText() string {
	switch {
	case len(l.Keys) == 0:
		return "none needed"
	case l.OldKeys:
		return strings.Join(l.Keys, " ") + " (old)"
	}
	return strings.Join(l.Keys, " ")
}

const rfc3339Seconds = "2006-01-02T15:04:05Z"
