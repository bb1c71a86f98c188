package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/verify"
)

// verified is what verify says of one snapshot; docs/contracts/repository.md has the JSON form.
type verified struct {
	ID       string           `json:"id"`
	Cluster  string           `json:"cluster"`
	Revision int64            `json:"revision"`
	Level    repository.Level `json:"level"`
	Result   string           `json:"result"`
	Seconds  float64          `json:"duration_s"`
	Error    string           `json:"error,omitempty"`
	// Compared tells that the hash of the keyspace was that of the live cluster; NotCompared is why it was not compared.
	Compared    bool               `json:"compared"`
	NotCompared string             `json:"not-compared,omitempty"`
	Keys        int64              `json:"keys,omitempty"`
	Hash        uint32             `json:"hash,omitempty"`
	Recorded    bool               `json:"recorded"`
	Resources   []verifiedResource `json:"resources,omitempty"`
}

type verifiedResource struct {
	Name  string `json:"name"`
	Keys  int64  `json:"keys"`
	Bytes int64  `json:"bytes"`
}

// What was found out about a snapshot.
const (
	foundListed      = "listed"
	foundCiphertext  = "ciphertext checked"
	foundChecked     = "checked"
	foundReplayed    = "replayed"
	foundProven      = "proven"
	foundNotCompared = "restored, not compared"
	foundBad         = "bad"
	foundNothing     = "not checked"
)

// verifyFlags are those of verify on a repository.
type verifyFlags struct {
	level    string
	sample   string
	scratch  string
	noRecord bool
}

func (v *verifyFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&v.level, "level", string(repository.LevelChecksum), "how deep to check a repository: listing, checksum, replay or drill")
	flags.StringVar(&v.sample, "sample", "", "check only a part, such as 10%: the snapshots that were not verified for the longest time")
	flags.StringVar(&v.scratch, "scratch-dir", "", "folder for the levels replay and drill, whose content is readable there meanwhile (default: scratch in $HOLDFAST_HOME)")
	flags.BoolVar(&v.noRecord, "no-record", false, "do not write the results into the repository")
}

// noSnapshots is the error of who looks for snapshots where there are none.
func noSnapshots(cluster string, others []string) error {
	if cluster == "" {
		return errors.New("the repository holds no snapshots")
	}
	err := fmt.Errorf("the repository holds no snapshots of cluster %q", cluster)
	if len(others) > 0 {
		return hinted{err, "it holds some of: " + strings.Join(others, " ")}
	}
	return err
}

// checkChains checks the numbering of all manifests of a repository, also against what was seen there before, and remembers
// what is seen now.
func (a *app) checkChains(repo *repository.Repository, all []repository.Read, removals []repository.RemovalRead) (bad []error, err error) {
	seen, remember, err := a.seen(repo)
	if err != nil {
		return nil, err
	}
	broken, heads := repository.CheckChains(all, removals, seen)
	for _, b := range broken {
		bad = append(bad, errors.New(b.String()))
	}
	return bad, remember(heads)
}

// seen gives the last manifests that this machine has seen in a repository, or signed itself, and what remembers them.
func (a *app) seen(repo *repository.Repository) (heads repository.Heads, remember func(repository.Heads) error, err error) {
	home, err := a.home()
	if err != nil {
		return nil, nil, err
	}
	trust, err := a.trust()
	if err != nil {
		return nil, nil, err
	}
	id := repo.Document().Repository
	before, err := trust.Heads(id)
	if err != nil {
		return nil, nil, err
	}
	heads = maps.Clone(before)
	if writer, err := repository.FindWriter(filepath.Join(home, config.SignerFolder)); err == nil {
		own := writer.Public().Fingerprint()
		if head := writer.Head(repo); head.Sequence > heads[own].Sequence {
			heads[own] = head
		}
	}
	return heads, func(now repository.Heads) error { return trust.Remember(id, before, now) }, nil
}

// verification is one run of verify on a repository.
type verification struct {
	*app
	flags   *repoFlags
	repo    *repository.Repository
	level   repository.Level
	options verify.Options
	// writer signs the results; nil when they are not recorded. notRecorded is why, said once.
	writer      *repository.Writer
	notRecorded error
	// wrongKey counts the snapshots that the given keys do not open, wrongKeySegments the segments.
	wrongKey, wrongKeySegments int
	// bad are the snapshots that were found bad.
	bad map[repository.ID]bool
}

// verifyRepository checks snapshots of a repository: the named ones, or all.
func (a *app) verifyRepository(ctx context.Context, f *repoFlags, v verifyFlags, words []string) error {
	level := repository.Level(v.level)
	if level == repository.LevelCiphertext || !slices.Contains(repository.Levels(), level) {
		return usagef("--level must be listing, checksum, replay or drill, given %q", v.level)
	}
	part, err := parseSample(v.sample)
	if err != nil {
		return err
	}
	repo, err := a.openRepository(ctx, f)
	if err != nil {
		return err
	}
	run := verification{app: a, flags: f, repo: repo, level: level, bad: map[repository.ID]bool{}}
	if run.options, err = a.verifyOptions(repo, f, v, level); err != nil {
		return err
	}
	reads, bad, err := a.chosen(ctx, repo, f, words)
	if err != nil {
		return err
	}
	if len(reads) == 0 {
		return errors.Join(append(bad, noSnapshots(f.cluster, nil))...)
	}
	whole := reads
	if reads, err = run.sampled(ctx, reads, part); err != nil {
		return err
	}
	if !v.noRecord && level != repository.LevelListing {
		run.openWriter(ctx)
	}
	var failed []error
	for _, read := range reads {
		one, err := run.one(ctx, read)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case err != nil:
			one.Error = err.Error()
			failed = append(failed, fmt.Errorf("snapshot %s of cluster %s: %w", one.ID, one.Cluster, err))
		case one.Error != "":
			run.bad[read.Point.ID] = true
			why := read.Err
			if why == nil {
				why = errors.New(one.Error)
			}
			bad = append(bad, fmt.Errorf("snapshot %s of cluster %s: %w", one.ID, one.Cluster, why))
		}
		if err := one.write(a.Stdout, f.output); err != nil {
			return err
		}
	}
	if len(words) == 0 {
		wrong, errs, err := run.archives(ctx, whole, part)
		if err != nil {
			return err
		}
		bad, failed = append(bad, wrong...), append(failed, errs...)
	}
	if run.notRecorded != nil && len(reads) > 0 && !f.quiet {
		fmt.Fprintf(a.Stderr, "the results are not recorded in the repository: %v\n", run.notRecorded)
	}
	if run.wrongKey > 0 {
		failed = append(failed, fmt.Errorf("%s not opened by the given keys, only the ciphertext was checked: %w", are(run.wrongKey, "snapshot"), seal.ErrNoIdentity))
	}
	if run.wrongKeySegments > 0 {
		failed = append(failed, fmt.Errorf("%s not opened by the given keys, only the ciphertext was checked: %w", are(run.wrongKeySegments, "segment"), seal.ErrNoIdentity))
	}
	if len(bad) > 0 {
		return a.found(append(bad, failed...))
	}
	return errors.Join(failed...)
}

// found is what a check found, one line for each, and one for a signer who is not enrolled.
func (a *app) found(bad []error) error {
	all := findings{errors.Join(repository.BySigner(bad)...)}
	if hint := a.enrolHint(bad); hint != "" {
		return hinted{all, hint}
	}
	return all // it may have hints of its own
}

// enrolHint says what to do about signers who are not enrolled; "" when all are.
func (a *app) enrolHint(bad []error) string {
	if !slices.ContainsFunc(bad, func(err error) bool { return strings.Contains(err.Error(), repository.ErrNotEnrolled.Error()) }) {
		return ""
	}
	return a.Program + " key enroll lets a signer in whose enrolment was lost, with the root key and what key show prints on its host"
}

// are is plural with its verb.
func are(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " is"
	}
	return plural(n, noun) + " are"
}

func (a *app) verifyOptions(repo *repository.Repository, f *repoFlags, v verifyFlags, level repository.Level) (o verify.Options, err error) {
	o.Identities, err = f.identities(repo)
	deep := level == repository.LevelReplay || level == repository.LevelDrill
	if err != nil && (deep || !errors.Is(err, errNoKey)) {
		return o, err
	}
	if o.Program, err = self(); err != nil {
		return o, err
	}
	o.Scratch = v.scratch
	if o.Scratch == "" {
		home, err := a.home()
		if err != nil {
			return o, err
		}
		o.Scratch = filepath.Join(home, "scratch")
	}
	o.Scratch, err = filepath.Abs(o.Scratch)
	return o, err
}

// parseSample reads a part in per cent; 1 is all.
func parseSample(text string) (float64, error) {
	if text == "" {
		return 1, nil
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !strings.HasSuffix(text, "%") || !(percent > 0 && percent <= 100) {
		return 0, usagef("--sample must be a part such as 10%%, given %q", text)
	}
	return percent / 100, nil
}

// sampled leaves the part of each cluster's snapshots that was verified at that depth the longest time ago, or never, and one
// at least: so that some runs together see everything.
func (v *verification) sampled(ctx context.Context, reads []repository.Read, part float64) ([]repository.Read, error) {
	if part == 1 {
		return reads, nil
	}
	clusters := map[string][]repository.Read{}
	for _, read := range reads {
		clusters[read.Point.Cluster] = append(clusters[read.Point.Cluster], read)
	}
	var chosen []repository.Read
	for cluster, some := range clusters {
		last, err := v.lastVerified(ctx, cluster)
		if err != nil {
			return nil, err
		}
		rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		slices.SortStableFunc(some, func(a, b repository.Read) int { return last[a.Point.ID].Compare(last[b.Point.ID]) })
		chosen = append(chosen, some[:int(math.Ceil(part*float64(len(some))))]...)
	}
	slices.SortFunc(chosen, func(a, b repository.Read) int {
		return cmp.Or(cmp.Compare(a.Point.Cluster, b.Point.Cluster), cmp.Compare(a.Point.ID.String(), b.Point.ID.String()))
	})
	return chosen, nil
}

// lastVerified gives when each snapshot of a cluster was verified last at the level of this run, or deeper.
func (v *verification) lastVerified(ctx context.Context, cluster string) (map[repository.ID]time.Time, error) {
	depth := func(l repository.Level) int { return slices.Index(repository.Levels(), l) }
	reads, _, err := v.repo.Verifications(ctx, cluster, func(repository.ID) bool { return true })
	if err != nil {
		return nil, err
	}
	last := map[repository.ID]time.Time{}
	for _, read := range reads {
		one := read.Verification
		if read.Err == nil && depth(one.Level) >= depth(v.level) && one.Started.After(last[one.Snapshot]) {
			last[one.Snapshot] = one.Started
		}
	}
	return last, nil
}

// openWriter opens the key that signs results. That there is none, or that it may not, is no reason not to verify.
func (v *verification) openWriter(ctx context.Context) {
	writer, err := v.app.writer()
	if err == nil {
		_, err = v.repo.Enrolled(ctx, writer.Public().Fingerprint(), repository.RoleVerify)
	}
	if err != nil {
		v.notRecorded = err
		return
	}
	v.writer = writer
}

// one verifies one snapshot. The error is for what kept it from being looked at.
func (v *verification) one(ctx context.Context, read repository.Read) (verified, error) {
	one := verified{ID: read.Point.ID.Long(), Cluster: read.Point.Cluster, Revision: int64(read.Point.Last), Level: v.level, Result: foundNothing}
	if errors.Is(read.Err, repository.ErrForged) {
		one.Result, one.Error = foundBad, read.Err.Error()
		return one, nil
	}
	level := v.level
	if level == repository.LevelChecksum && len(v.options.Identities) == 0 && read.Manifest.Object.Encryption != repository.None {
		level = repository.LevelCiphertext
	}
	result, err := v.run(ctx, read, level)
	// Fetch compares what is stored before it says that a key is missing, and that says nothing about the data.
	if errors.Is(err, seal.ErrNoIdentity) && level == repository.LevelChecksum {
		v.wrongKey++
		result, err = v.run(ctx, read, repository.LevelCiphertext)
	}
	one.Seconds = result.Seconds
	if err != nil {
		return one, err
	}
	one.take(result)
	if v.writer != nil {
		if _, err := v.repo.RecordVerification(ctx, v.writer, read, result.Verification); err != nil {
			v.notRecorded = err
		} else {
			one.Recorded = true
		}
	}
	return one, nil
}

func (v *verification) run(ctx context.Context, read repository.Read, level repository.Level) (verify.Result, error) {
	show := v.transferProgress("verify "+read.Point.ID.Short(), v.flags)
	defer show.close()
	o := v.options
	o.Observe = show.counter(read.Manifest.Object.Size)
	return verify.Run(ctx, v.repo, read, level, o)
}

// take puts what was found out into words.
func (v *verified) take(r verify.Result) {
	v.Level, v.Compared, v.NotCompared, v.Keys, v.Hash, v.Error = r.Level, r.Compared, r.Uncompared, r.Keys, r.Hash, r.Problem
	for _, resource := range r.Resources {
		v.Resources = append(v.Resources, verifiedResource(resource))
	}
	switch {
	case !r.Passed:
		v.Result = foundBad
	case r.Level == repository.LevelListing:
		v.Result = foundListed
	case r.Level == repository.LevelCiphertext:
		v.Result = foundCiphertext
	case r.Level == repository.LevelChecksum:
		v.Result = foundChecked
	case r.Level == repository.LevelReplay:
		v.Result = foundReplayed
	case r.Compared:
		v.Result = foundProven
	default:
		v.Result = foundNotCompared
	}
}

// mostShown is how many kinds of objects the text form shows.
const mostShown = 5

func (v verified) write(w io.Writer, form string) error {
	if form == "json" {
		return json.NewEncoder(w).Encode(v)
	}
	result := v.Result
	if result == foundReplayed && v.Compared {
		result += ", with the hash of the live cluster"
	}
	fmt.Fprintf(w, "%s  %s  revision %d  %s, %s\n", v.ID, v.Cluster, v.Revision, result, shortDuration(v.Seconds))
	if v.NotCompared != "" {
		fmt.Fprintf(w, "  not compared: %s\n", v.NotCompared)
	}
	return writeResources(w, v.Keys, v.Resources)
}

// writeResources shows the kinds of objects that take the most.
func writeResources(w io.Writer, keys int64, resources []verifiedResource) error {
	if len(resources) == 0 {
		return nil
	}
	var kinds []string
	for _, r := range resources[:min(len(resources), mostShown)] {
		kinds = append(kinds, fmt.Sprintf("%s %d (%s)", r.Name, r.Keys, humanize.Bytes(uint64(r.Bytes))))
	}
	more := ""
	if n := len(resources) - mostShown; n > 0 {
		more = fmt.Sprintf(", and %d kinds more", n)
	}
	_, err := fmt.Fprintf(w, "  %s: %s%s\n", plural(int(keys), "key"), strings.Join(kinds, ", "), more)
	return err
}

func shortDuration(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}

// chosen reads the manifests that are to be checked. Without words it is all of them, and the numbering of all signers is
// checked too.
func (a *app) chosen(ctx context.Context, repo *repository.Repository, f *repoFlags, words []string) (reads []repository.Read, bad []error, err error) {
	if len(words) > 0 {
		cluster, err := f.oneCluster(ctx, repo)
		if err != nil {
			return nil, nil, err
		}
		var points []repository.Point
		for _, word := range words {
			point, err := repo.Find(ctx, cluster, word)
			if err != nil {
				return nil, nil, err
			}
			points = append(points, point)
		}
		reads, err = repo.Manifests(ctx, points)
		return reads, nil, err
	}
	clusters, err := repo.Clusters(ctx)
	if err != nil {
		return nil, nil, err
	}
	if f.cluster != "" && !slices.Contains(clusters, f.cluster) {
		return nil, nil, noSnapshots(f.cluster, clusters)
	}
	var all []repository.Read
	for _, cluster := range clusters {
		some, strange, err := repo.Snapshots(ctx, cluster)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range strange {
			bad = append(bad, fmt.Errorf("object %q is among the manifests and is none", name))
		}
		all = append(all, some...)
		if f.cluster == "" || f.cluster == cluster {
			reads = append(reads, some...)
		}
	}
	removals, err := repo.Removals(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, removal := range removals {
		if removal.Err != nil {
			bad = append(bad, removal.Err)
		}
	}
	broken, err := a.checkChains(repo, all, removals)
	return reads, append(bad, broken...), err
}

// repoCheck is verify at the level of listings, for all clusters, with what else is in the store.
func (a *app) repoCheck() *cobra.Command {
	var f repoFlags
	command := &cobra.Command{
		Use:   "check",
		Short: "Check the signatures and numbering of all manifests, and that their objects are there",
		Long: "Check the signatures and numbering of all manifests, that their objects are there, and that of the revisions that were\n" +
			"archived none is missing without a reason. It reads no data: verify does.\n" +
			"Data without a manifest, which interrupted backups leave, is counted; it is no fault.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			seen, remember, err := a.seen(repo)
			if err != nil {
				return err
			}
			result, heads, err := repo.Check(c.Context(), seen)
			if err != nil {
				return err
			}
			if err := remember(heads); err != nil {
				return err
			}
			if err := missingRevisions(c.Context(), repo, &result); err != nil {
				return err
			}
			if f.output == "json" {
				if err := json.NewEncoder(a.Stdout).Encode(result); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(a.Stdout, "%s in %s, %s stored\n", plural(result.Snapshots, "snapshot"), plural(result.Clusters, "cluster"), humanize.Bytes(uint64(result.Bytes)))
				if result.Segments > 0 {
					fmt.Fprintf(a.Stdout, "%s of the archive\n", plural(result.Segments, "segment"))
				}
				if result.Unclaimed > 0 {
					fmt.Fprintf(a.Stdout, "%s without a manifest, %s: what interrupted backups left\n", plural(result.Unclaimed, "data object"), humanize.Bytes(uint64(result.UnclaimedBytes)))
				}
			}
			if len(result.Problems) == 0 {
				return nil
			}
			var bad []error
			for _, problem := range result.Problems {
				bad = append(bad, errors.New(problem))
			}
			return hinted{findings{errors.Join(bad...)}, cmp.Or(a.missingHint(repo, bad), a.enrolHint(bad))}
		},
	}
	f.register(a, command.Flags())
	return command
}

// missingRevisions adds the revisions of archives that are not there, which takes snapshots, segments and notes together to see.
func missingRevisions(ctx context.Context, repo *repository.Repository, result *repository.CheckResult) error {
	clusters, err := repo.Clusters(ctx)
	if err != nil {
		return err
	}
	for _, cluster := range clusters {
		reads, _, err := repo.Snapshots(ctx, cluster)
		if err != nil {
			return err
		}
		lines, _, err := archiveOf(ctx, repo, cluster, reads, segmentsOf) // what cannot be believed was told
		if err != nil {
			return err
		}
		for _, line := range lines {
			for _, missing := range line.missing() {
				result.Problems = append(result.Problems, missing.Error())
			}
		}
	}
	return nil
}

// missingHint says what to do when manifests are missing; "" when none are.
func (a *app) missingHint(repo *repository.Repository, bad []error) string {
	trust, err := a.trust()
	if err != nil || !slices.ContainsFunc(bad, func(err error) bool { return strings.Contains(err.Error(), "missing") }) {
		return ""
	}
	return fmt.Sprintf("%s repo repair finds data whose manifest is missing; if the store was set back on purpose, run it too, and remove %s",
		a.Program, trust.HeadsFile(repo.Document().Repository))
}
