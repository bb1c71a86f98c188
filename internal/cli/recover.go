package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// findManifest finds what a person named, and believes its manifest only after checking it.
func findManifest(ctx context.Context, repo *repository.Repository, f *repoFlags, text string) (repository.Manifest, error) {
	cluster, err := f.oneCluster(ctx, repo)
	if err != nil {
		return repository.Manifest{}, err
	}
	point, err := repo.Find(ctx, cluster, text)
	if errors.Is(err, repository.ErrNoPoint) {
		return repository.Manifest{}, hinted{err, "holdfast list shows what there is"}
	}
	if err != nil {
		return repository.Manifest{}, err
	}
	return repo.Manifest(ctx, point)
}

// export writes a moment of a repository to a file.
func (a *app) export() *cobra.Command {
	var f repoFlags
	var t targetFlags
	var format string
	var overwrite, keepHistory bool
	command := &cobra.Command{
		Use:   "export [SNAPSHOT] FILE",
		Short: "Write a moment of a repository to a file that etcd's own tools read",
		Long: "Write a moment of a repository to a new file: a plain database with etcd's checksum behind it, as etcdctl snapshot save\n" +
			"makes it, or the tar.gz of the backups page. SNAPSHOT is an id of list; --at and --revision name any other moment; without\n" +
			"any it is the latest one.\n" +
			"The file holds every Secret of the cluster, readable: it is made with mode 0600, and only after everything was checked.",
		Example: "  " + a.Program + " export --identity key.txt 2026-11-25T17:01:02Z snapshot.db\n  " + a.Program + " export --at \"10 minutes ago\" --format tar.gz etcd-snapshot.tar.gz",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if format != "db" && format != "tar.gz" {
				return usagef("--format must be db or tar.gz, given %q", format)
			}
			target := args[len(args)-1]
			if target == "-" {
				return usagef("want FILE: what is not checked to its end yet must not go into a pipe")
			}
			if _, err := os.Lstat(target); err == nil && !overwrite {
				return existing(target)
			}
			if len(args) == 2 && args[0] == "" {
				return usagef("SNAPSHOT is empty")
			}
			r, err := a.resolve(c.Context(), &f, &t, strings.Join(args[:len(args)-1], ""))
			if err != nil {
				return err
			}
			if err := r.identify(&f); err != nil {
				return err
			}
			do := func() error { return a.exportTo(c.Context(), &f, r, target, overwrite, format, keepHistory) }
			for err := do(); err != nil; err = do() {
				if err := a.goAround(c.Context(), &f, r, err); err != nil {
					return fmt.Errorf("export %s: %w", r.asked, err)
				}
			}
			if f.output == "json" {
				return json.NewEncoder(a.Stdout).Encode(exported{File: target, Format: format, ID: r.chain.Base.ID.Long(), Cluster: r.cluster, Revision: int64(r.chain.Revision)})
			}
			which := fmt.Sprintf("%s of cluster %s", r.asked, r.cluster)
			if t.revision == 0 {
				which += fmt.Sprintf(", revision %s,", r.chain.Revision)
			}
			fmt.Fprintf(a.Stderr, "%s is in %s\n", which, target)
			return nil
		},
	}
	f.register(a, command.Flags())
	f.registerCluster(command.Flags())
	f.registerIdentity(a, command.Flags())
	t.register(command.Flags())
	command.Flags().StringVar(&format, "format", "db", "db: a plain database file; tar.gz: the archive of the backups page")
	command.Flags().BoolVar(&overwrite, "overwrite", false, "replace an existing file")
	command.Flags().BoolVar(&keepHistory, "keep-history", false, "keep the revisions before, as far as the snapshot has them")
	return command
}

// exportTo makes the file.
func (a *app) exportTo(ctx context.Context, f *repoFlags, r *resolved, target string, overwrite bool, format string, keepHistory bool) error {
	show := a.transferProgress("read "+r.asked, f)
	defer show.close()
	r.parts.Observe = show.counter(r.chain.Size())
	return publish(target, overwrite, func(out io.Writer) error { return r.write(ctx, target, format, keepHistory, out) })
}

// exported is what export says; docs/contracts/repository.md has the JSON form.
type exported struct {
	File     string `json:"file"`
	Format   string `json:"format"`
	ID       string `json:"id"`
	Cluster  string `json:"cluster"`
	Revision int64  `json:"revision"`
}

// write writes the moment in one of the forms. What is no snapshot as it is, is put together first, in a folder beside the
// file that goes again.
func (r *resolved) write(ctx context.Context, target, format string, keepHistory bool, out io.Writer) (err error) {
	chain := r.restoreChain(keepHistory)
	size := chain.Base.Content.Size
	fetch := func(ctx context.Context, dst io.Writer) error {
		return r.parts.Fetch(ctx, chain.Base, dst, snapshot.NewScanner(snapshot.Options{Size: size}))
	}
	if !chain.Plain() {
		work, err := os.MkdirTemp(filepath.Dir(target), "."+filepath.Base(target)+".*.work") // its mode is 0700
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
		backend := filepath.Join(work, "backend")
		if _, err := r.parts.Backend(ctx, chain, backend, work); err != nil {
			return err
		}
		stat, err := os.Stat(backend)
		if err != nil {
			return err
		}
		size = stat.Size() + sha256.Size
		fetch = func(_ context.Context, dst io.Writer) error { return copyWithSum(backend, dst) }
	}
	if format == "db" {
		return fetch(ctx, out)
	}
	return exportArchive(ctx, out, size, r.chain.Base.Completed, fetch)
}

// copyWithSum writes a backend file and etcd's own sha256 of it.
func copyWithSum(path string, dst io.Writer) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	if _, err := io.CopyBuffer(io.MultiWriter(dst, sum), struct{ io.Reader }{file}, make([]byte, 256<<10)); err != nil {
		return err
	}
	_, err = dst.Write(sum.Sum(nil))
	return err
}

// exportArchive puts a backend into a tar.gz while it comes.
func exportArchive(ctx context.Context, out io.Writer, size int64, taken time.Time, fetch func(context.Context, io.Writer) error) error {
	reader, writer := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := fetch(ctx, writer)
		writer.CloseWithError(err)
		fetched <- err
	}()
	err := archivefile.Write(out, reader, size, taken)
	reader.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if fetchErr := <-fetched; fetchErr != nil && !errors.Is(fetchErr, io.ErrClosedPipe) {
		return fetchErr // it explains more than that its bytes ended
	}
	return err
}

// restore runs the action on a unit, or with --data-dir makes a data dir of a moment out of a repository.
func (a *app) restore() *cobra.Command {
	var f repoFlags
	var t targetFlags
	var o restoreFlags
	command := a.restoreHelp()
	onUnit := command.RunE
	command.Use = "restore UNIT [KEY=VALUE...] | restore [SNAPSHOT] --data-dir DIR"
	command.Short = "Restore on the only unit of an application, or any stored moment into a new data dir"
	command.Long += "\n\nWith --data-dir it restores a moment of a repository into a new data dir: the latest one, the one that --at, --revision or\n" +
		"--snapshot names, exactly, or it refuses and says what is near. --plan only shows what would be done. Everything is checked\n" +
		"before etcd could find anything in DIR. Start etcd with the --name and --initial-advertise-peer-urls that are given here.\n" +
		"For a cluster of several members run it once for each, with the same target, --initial-cluster and --initial-cluster-token."
	command.Example += "\n  " + a.Program + " restore --at \"10 minutes ago\" --plan --identity key.txt\n" +
		"  " + a.Program + " restore --at 2026-11-22T10:04:30Z --identity key.txt --data-dir /var/lib/etcd\n" +
		"  " + a.Program + " restore --revision 123456 --data-dir /var/lib/etcd --name m1 --initial-advertise-peer-urls https://10.0.0.1:2380"
	command.RunE = func(c *cobra.Command, words []string) error {
		targeted := slices.ContainsFunc([]string{"data-dir", "plan", "latest", "at", "revision", "snapshot", "timeline"}, c.Flags().Changed)
		if !targeted {
			return onUnit(c, words)
		}
		if err := noUnit(words); err != nil {
			return err
		}
		if len(words) > 1 || len(words) == 1 && words[0] == "" {
			return usagef("want at most one SNAPSHOT, given %q", words)
		}
		if o.DataDir == "" && !o.plan {
			return usagef("want --data-dir DIR, or --plan to see only what would be done")
		}
		if err := repositoryForm(c.Flags(), &f); err != nil {
			return err
		}
		if err := o.check(c.Flags()); err != nil {
			return err
		}
		return a.runRestore(c.Context(), &f, &t, &o, strings.Join(words, ""))
	}
	flags := command.Flags()
	f.registerPlace(a, flags)
	f.registerCluster(flags)
	f.registerIdentity(a, flags)
	t.register(flags)
	o.register(flags)
	flags.Lookup("output").Usage += "; with --data-dir or --plan the form: text or json"
	return command
}

// noUnit refuses units where a moment of a repository is restored: no snapshot is named like one.
func noUnit(words []string) error {
	for _, word := range words {
		if _, err := unit.ParseName(word); err == nil {
			return hinted{usagef("%q is a unit, and is restored without --data-dir, --plan or the name of a moment; they make a new data dir out of a repository", word),
				"restore UNIT takes an archive of the backups page; export --format tar.gz makes one of a moment"}
		}
	}
	return nil
}

// restoreFlags say what a moment is restored into.
type restoreFlags struct {
	restore.FreshOptions
	plan, keepHistory, noBump bool
	bump                      int64
	target                    string
}

func (o *restoreFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&o.DataDir, "data-dir", "", "folder for the new data; it does not exist or is empty, and may be a mount point")
	flags.StringVar(&o.Name, "name", "default", "name of the member that will serve the data")
	flags.StringVar(&o.PeerURL, "initial-advertise-peer-urls", "http://localhost:2380", "peer URL of that member")
	flags.StringVar(&o.InitialCluster, "initial-cluster", "", "all members of the new cluster, NAME=URL,NAME=URL; this one alone when it is left out")
	flags.StringVar(&o.Token, "initial-cluster-token", "", "what makes several members one cluster: the same for each, and another one than any restore before")
	flags.Int64Var(&o.bump, "bump", int64(restore.RevisionBump), "how far above every revision that clients may have seen the new cluster goes on, so that Kubernetes API servers read everything again")
	flags.BoolVar(&o.noBump, "no-bump", false, "go on at the revision itself: API servers and other watchers that go on running will miss changes")
	flags.BoolVar(&o.keepHistory, "keep-history", false, "keep the revisions before, as far as the snapshot has them; needs --no-bump")
	flags.BoolVar(&o.AcceptCorrupt, "accept-corrupt", false, "take a snapshot of a cluster whose members had found their data to differ")
	flags.StringVar(&o.target, "etcd-version", "", "version of the etcd that will serve the data, such as 3.5; checked when given")
	flags.BoolVar(&o.plan, "plan", false, "say what would be done, from what and what would be lost, and do nothing")
}

// check refuses what cannot be meant, before anything is read.
func (o *restoreFlags) check(flags *pflag.FlagSet) error {
	switch {
	case o.noBump && flags.Changed("bump"):
		return usagef("--bump and --no-bump exclude each other")
	case o.bump < 1:
		return usagef("--bump must be above 0, given %d; --no-bump keeps the revision", o.bump)
	case o.bump > restore.MostBump:
		return usagef("--bump must be at most %d, given %d", int64(restore.MostBump), o.bump)
	case strings.Contains(o.InitialCluster, ",") && o.Token == "":
		return noToken(restore.ErrNoToken)
	case o.keepHistory && !o.noBump:
		return usagef("--keep-history needs --no-bump: what comes before a bump is marked compacted")
	}
	o.KeepRevision, o.Bump = o.noBump, history.Revision(o.bump)
	if o.target == "" {
		return nil
	}
	version, err := restore.ParseMinor(o.target)
	if err != nil {
		return usageError{err}
	}
	o.Target = version
	return nil
}

// repositoryForm takes --output as the commands of a repository have it. On a unit it names a file.
func repositoryForm(flags *pflag.FlagSet, f *repoFlags) error {
	for _, name := range []string{"format", "params", "string-args"} {
		if flags.Changed(name) {
			return usagef("--%s is for a restore on a unit", name)
		}
	}
	if flags.Changed("output") {
		f.output = flags.Lookup("output").Value.String()
	}
	return nil
}

// restored is what restore --data-dir says; docs/contracts/repository.md has the JSON form.
type restored struct {
	DataDir   string `json:"data-dir"`
	ID        string `json:"id"`
	Cluster   string `json:"cluster"`
	ClusterID string `json:"cluster-id"`
	MemberID  string `json:"member-id"`
	// Source is the revision that was restored, Revision the first of the new cluster.
	Source   int64 `json:"source-revision"`
	Revision int64 `json:"revision"`
}

// restoreMemory is what a restore may take before the collector of garbage looks more often, in bytes. Only a plan over a
// hundred thousand segments comes near it.
const restoreMemory = 160 << 20

func (a *app) runRestore(ctx context.Context, f *repoFlags, t *targetFlags, o *restoreFlags, word string) error {
	a.limitMemory(restoreMemory)
	r, err := a.resolve(ctx, f, t, word)
	if err != nil {
		return err
	}
	chain := r.restoreChain(o.keepHistory)
	plan := r.plan(o.keepHistory)
	if err := o.compatible(&plan, chain.Base); err != nil {
		return err
	}
	o.Revision, o.HighestKnown, o.Size = chain.Revision, r.chain.Highest, chain.Space()
	if o.DataDir != "" {
		if o.DataDir, err = filepath.Abs(o.DataDir); err != nil {
			return err
		}
		if err := restore.CheckFresh(o.DataDir, o.Size); err != nil {
			return fmt.Errorf("restore into %q: %w", o.DataDir, err)
		}
		plan.DataDir, plan.Name, plan.InitialCluster = o.DataDir, o.Name, cmp.Or(o.InitialCluster, o.Name+"="+o.PeerURL)
	}
	bump := o.Bump
	if o.KeepRevision {
		bump = 0
	}
	if err := restore.CheckBump(chain.Revision, o.HighestKnown, bump); err != nil {
		return err
	}
	plan.NextRevision, plan.Compacted = int64(restore.NextRevision(chain.Revision, o.HighestKnown, bump)), !o.KeepRevision
	if o.plan && f.output == "json" {
		return json.NewEncoder(a.Stdout).Encode(plan)
	}
	out := a.Stderr
	if o.plan {
		out = a.Stdout
	}
	fmt.Fprintf(out, "restore %s of cluster %s\n", plan.Target, plan.Cluster)
	for _, line := range plan.lines() {
		fmt.Fprintf(out, "  %-10s %s\n", line[0], line[1])
	}
	if o.plan {
		return nil
	}
	if err := r.identify(f); err != nil {
		return err
	}
	result, err := a.carryOut(ctx, f, r, chain, o.FreshOptions)
	for err != nil {
		if errors.Is(err, restore.ErrNoToken) {
			return noToken(err)
		}
		if err := a.goAround(ctx, f, r, err); err != nil {
			return err
		}
		chain = r.restoreChain(o.keepHistory)
		if err := o.compatible(&plan, chain.Base); err != nil {
			return err
		}
		o.Size = chain.Space()
		result, err = a.carryOut(ctx, f, r, chain, o.FreshOptions)
	}
	if f.output == "json" {
		return json.NewEncoder(a.Stdout).Encode(restored{
			DataDir: o.DataDir, ID: chain.Base.ID.Long(), Cluster: r.cluster, ClusterID: fmt.Sprintf("%x", result.ClusterID), MemberID: fmt.Sprintf("%x", result.MemberID),
			Source: int64(chain.Revision), Revision: int64(result.Revision),
		})
	}
	fmt.Fprintf(a.Stdout, "restored %s: etcd cluster %x, member %x, revision %s\n", o.DataDir, result.ClusterID, result.MemberID, result.Revision)
	more := ""
	if o.InitialCluster != "" {
		more = fmt.Sprintf(" --initial-cluster %s", o.InitialCluster)
	}
	fmt.Fprintf(a.Stderr, "start it with: etcd --data-dir %s --name %s --initial-advertise-peer-urls %s --listen-peer-urls %s%s\n", o.DataDir, o.Name, o.PeerURL, o.PeerURL, more)
	if more == "" {
		fmt.Fprintln(a.Stderr, "and with your own --listen-client-urls, --advertise-client-urls and certificates; then add members")
	} else {
		fmt.Fprintln(a.Stderr, "and with your own --listen-client-urls, --advertise-client-urls and certificates, like each other member")
	}
	return nil
}

func noToken(err error) error {
	return hinted{usageError{err}, "--initial-cluster-token, such as restore-" + time.Now().UTC().Format("20060102-1504")}
}

// compatible refuses an etcd that cannot serve what the snapshot's etcd wrote.
func (o *restoreFlags) compatible(plan *momentPlan, base repository.Manifest) error {
	if o.target == "" {
		return nil
	}
	source, err := restore.ParseMinor(base.Source.EtcdVersion)
	if err != nil {
		return err
	}
	note, err := restore.Compatible(source, o.Target)
	if note != "" {
		plan.Notes = append(plan.Notes, note)
	}
	return err
}

// carryOut makes the data dir. A snapshot as it is goes straight to its place; any other moment is put together beside it.
func (a *app) carryOut(ctx context.Context, f *repoFlags, r *resolved, to chain.Chain, o restore.FreshOptions) (restore.Result, error) {
	show := a.transferProgress("restore "+r.asked, f)
	defer show.close()
	r.parts.Observe = show.counter(r.chain.Size())
	if to.Plain() {
		o.Fetch = func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
			return r.parts.Fetch(ctx, to.Base, dst, scanner)
		}
	} else {
		o.Build = func(ctx context.Context, path, work string) error {
			_, err := r.parts.Backend(ctx, to, path, work)
			return err
		}
	}
	return restore.Fresh(ctx, o)
}
