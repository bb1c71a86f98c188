package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// pointArgs is the optional word that names a snapshot.
func pointArg(args []string) string {
	if len(args) == 0 {
		return "latest"
	}
	return args[0]
}

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

// export writes a snapshot of a repository to a file.
func (a *app) export() *cobra.Command {
	var f repoFlags
	var format string
	var overwrite bool
	command := &cobra.Command{
		Use:   "export [SNAPSHOT] FILE",
		Short: "Write a snapshot of a repository to a file that etcd's own tools read",
		Long: "Write a snapshot of a repository to a new file: a plain database with etcd's checksum behind it, as etcdctl snapshot save\n" +
			"makes it, or the tar.gz of the backups page. SNAPSHOT is an id of list; without it, it is the newest.\n" +
			"The file holds every Secret of the cluster, readable: it is made with mode 0600, and only after everything was checked.",
		Example: "  " + a.Program + " export --identity key.txt 2026-11-25T17:01:02Z snapshot.db\n  " + a.Program + " export --format tar.gz etcd-snapshot.tar.gz",
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
			_, m, fetch, err := a.prepareFetch(c.Context(), &f, pointArg(args[:len(args)-1]))
			if err != nil {
				return err
			}
			err = publish(target, overwrite, func(out io.Writer) error {
				if format == "db" {
					return fetch(c.Context(), out, snapshot.NewScanner(snapshot.Options{Size: m.Content.Size}))
				}
				return exportArchive(c.Context(), out, m, fetch)
			})
			if err != nil {
				return fmt.Errorf("export snapshot %s: %w", m.ID.Short(), err)
			}
			if f.output == "json" {
				return json.NewEncoder(a.Stdout).Encode(exported{File: target, Format: format, ID: m.ID.Long(), Cluster: m.Cluster, Revision: int64(m.Content.Revision)})
			}
			fmt.Fprintf(a.Stderr, "snapshot %s of cluster %s, revision %s, is in %s\n", m.ID.Short(), m.Cluster, m.Content.Revision, target)
			return nil
		},
	}
	f.register(a, command.Flags())
	f.registerCluster(command.Flags())
	f.registerIdentity(a, command.Flags())
	command.Flags().StringVar(&format, "format", "db", "db: a plain database file; tar.gz: the archive of the backups page")
	command.Flags().BoolVar(&overwrite, "overwrite", false, "replace an existing file")
	return command
}

// exported is what export says; docs/contracts/repository.md has the JSON form.
type exported struct {
	File     string `json:"file"`
	Format   string `json:"format"`
	ID       string `json:"id"`
	Cluster  string `json:"cluster"`
	Revision int64  `json:"revision"`
}

// fetchFunc writes the backend of a snapshot and gives no error only when all of it was checked, by the scanner too.
type fetchFunc func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error

// prepareFetch finds a snapshot and the keys to read it with, before anything is written.
func (a *app) prepareFetch(ctx context.Context, f *repoFlags, text string) (*repository.Repository, repository.Manifest, fetchFunc, error) {
	fail := func(err error) (*repository.Repository, repository.Manifest, fetchFunc, error) {
		return nil, repository.Manifest{}, nil, err
	}
	repo, err := a.openRepository(ctx, f)
	if err != nil {
		return fail(err)
	}
	identities, err := f.identities(repo)
	if err != nil {
		return fail(err)
	}
	m, err := findManifest(ctx, repo, f, text)
	if err != nil {
		return fail(err)
	}
	fetch := func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
		show := a.transferProgress("read snapshot "+m.ID.Short(), f)
		defer show.close()
		return repo.FetchScanned(ctx, m, identities, dst, show.counter(m.Object.Size), scanner)
	}
	return repo, m, fetch, nil
}

// exportArchive puts the backend into a tar.gz while it comes; nothing plain is on the disk beside it.
func exportArchive(ctx context.Context, out io.Writer, m repository.Manifest, fetch fetchFunc) error {
	reader, writer := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := fetch(ctx, writer, snapshot.NewScanner(snapshot.Options{Size: m.Content.Size}))
		writer.CloseWithError(err)
		fetched <- err
	}()
	err := archivefile.Write(out, reader, m.Content.Size, m.Completed)
	reader.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if fetchErr := <-fetched; fetchErr != nil && !errors.Is(fetchErr, io.ErrClosedPipe) {
		return fetchErr // it explains more than that its bytes ended
	}
	return err
}

// restore runs the action on a unit, or with --data-dir makes a data dir from a snapshot of a repository.
func (a *app) restore() *cobra.Command {
	var f repoFlags
	var o restore.FreshOptions
	var bump, dryRun bool
	var target string
	command := a.restoreHelp()
	onUnit := command.RunE
	command.Use = "restore UNIT [KEY=VALUE...] | restore [SNAPSHOT] --data-dir DIR"
	command.Short = "Restore on the only unit of an application, or from a repository into a new data dir"
	command.Long += "\n\nWith --data-dir it restores a snapshot of a repository into a new data dir for a cluster of one member; SNAPSHOT is an id\n" +
		"of list, the newest without it. Everything is checked before the data dir appears under its name. Start etcd with the --name\n" +
		"and --initial-advertise-peer-urls that are given here, then add members."
	command.Example += "\n  " + a.Program + " restore --repo file:///srv/backups --identity key.txt --data-dir /var/lib/etcd\n" +
		"  " + a.Program + " restore 2026-11-25T17:01:02Z --data-dir /var/lib/etcd --name m1 --initial-advertise-peer-urls https://10.0.0.1:2380"
	command.RunE = func(c *cobra.Command, words []string) error {
		if !c.Flags().Changed("data-dir") {
			return onUnit(c, words)
		}
		if len(words) > 1 || o.DataDir == "" {
			return usagef("want at most one SNAPSHOT and --data-dir DIR, given %d words", len(words))
		}
		if err := repositoryForm(c.Flags(), &f); err != nil {
			return err
		}
		return a.runRestore(c.Context(), &f, o, pointArg(words), target, !bump, dryRun)
	}
	flags := command.Flags()
	f.registerPlace(a, flags)
	f.registerCluster(flags)
	f.registerIdentity(a, flags)
	flags.StringVar(&o.DataDir, "data-dir", "", "folder for the new data; it does not exist or is empty")
	flags.StringVar(&o.Name, "name", "default", "name of the member that will serve the data")
	flags.StringVar(&o.PeerURL, "initial-advertise-peer-urls", "http://localhost:2380", "peer URL of that member")
	flags.BoolVar(&bump, "bump", true, "go on far above every revision that clients may have seen, so that Kubernetes API servers read everything again")
	flags.BoolVar(&o.AcceptCorrupt, "accept-corrupt", false, "take a snapshot of a cluster whose members had found their data to differ")
	flags.StringVar(&target, "etcd-version", "", "version of the etcd that will serve the data, such as 3.5; checked when given")
	flags.BoolVar(&dryRun, "dry-run", false, "say what would be done, and do nothing")
	return command
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
	// Source is the revision of the snapshot, Revision the first of the new cluster.
	Source   int64 `json:"source-revision"`
	Revision int64 `json:"revision"`
}

func (a *app) runRestore(ctx context.Context, f *repoFlags, o restore.FreshOptions, text, target string, keep, dryRun bool) error {
	if target != "" {
		version, err := restore.ParseMinor(target)
		if err != nil {
			return usageError{err}
		}
		o.Target = version
	}
	repo, m, fetch, err := a.prepareFetch(ctx, f, text)
	if err != nil {
		return err
	}
	source, err := restore.ParseMinor(m.Source.EtcdVersion)
	if err != nil && target != "" {
		return err
	}
	note := ""
	if target != "" {
		if note, err = restore.Compatible(source, o.Target); err != nil {
			return err
		}
	}
	// Clients may have seen what came after the snapshot.
	points, _, err := repo.Points(ctx, m.Cluster)
	if err != nil {
		return err
	}
	highest := history.Revision(0)
	for _, p := range points {
		highest = max(highest, p.Last)
	}
	o.Size, o.Fetch, o.KeepRevision, o.HighestKnown = m.Content.Size, fetch, keep, highest
	if o.DataDir, err = filepath.Abs(o.DataDir); err != nil {
		return err
	}
	if err := restore.CheckFresh(o.DataDir, o.Size); err != nil {
		return fmt.Errorf("restore into %q: %w", o.DataDir, err)
	}
	a.planRestore(o, m, note)
	if dryRun {
		fmt.Fprintln(a.Stderr, "nothing was done: --dry-run")
		return nil
	}
	result, err := restore.Fresh(ctx, o)
	if err != nil {
		return err
	}
	if f.output == "json" {
		return json.NewEncoder(a.Stdout).Encode(restored{
			DataDir: o.DataDir, ID: m.ID.Long(), Cluster: m.Cluster, ClusterID: fmt.Sprintf("%x", result.ClusterID), MemberID: fmt.Sprintf("%x", result.MemberID),
			Source: int64(m.Content.Revision), Revision: int64(result.Revision),
		})
	}
	fmt.Fprintf(a.Stdout, "restored %s: etcd cluster %x, member %x, revision %s\n", o.DataDir, result.ClusterID, result.MemberID, result.Revision)
	fmt.Fprintf(a.Stderr, "start it with: etcd --data-dir %s --name %s --initial-advertise-peer-urls %s --listen-peer-urls %s\n", o.DataDir, o.Name, o.PeerURL, o.PeerURL)
	fmt.Fprintln(a.Stderr, "and with your own --listen-client-urls, --advertise-client-urls and certificates; then add members")
	return nil
}

// planRestore shows what is going to be done.
func (a *app) planRestore(o restore.FreshOptions, m repository.Manifest, note string) {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(a.Stderr, "  %-10s %s\n", label, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(a.Stderr, "restore snapshot %s of cluster %s\n", m.ID.Short(), m.Cluster)
	line("holds", "revision %s, %s, of etcd %s", m.Content.Revision, humanize.Bytes(uint64(m.Content.Size)), m.Source.EtcdVersion)
	line("into", "%s, a new data dir for member %q, %s", o.DataDir, o.Name, o.PeerURL)
	next := restore.NextRevision(m.Content.Revision, o.HighestKnown, o.KeepRevision)
	if o.KeepRevision {
		line("revision", "%s; clients that have seen a later one will miss changes", next)
	} else {
		line("revision", "%s; below it all is marked compacted, so that clients read everything again", next)
	}
	if o.HighestKnown > m.Content.Revision {
		line("loses", "what came after: the repository knows revisions up to %s", o.HighestKnown)
	}
	if m.Content.AuthEnabled {
		line("note", "users must log in, with the passwords of that time")
	}
	if note != "" {
		line("note", "%s", note)
	}
}
