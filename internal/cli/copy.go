package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// copyFlags are those of copy alone.
type copyFlags struct {
	to     repoFlags
	as     string
	reseal bool
	retain time.Duration
	// snapshotsOnly leaves archives behind.
	snapshotsOnly bool
}

func (a *app) copy() *cobra.Command {
	var f repoFlags
	var o copyFlags
	command := &cobra.Command{
		Use:   "copy [SNAPSHOT...] --to URL",
		Short: "Copy snapshots and archives to a second repository",
		Long: "Copy to a second repository what is not there yet: all snapshots and the archives, from which every moment between snapshots\n" +
			"comes back, or the named snapshots alone. Every byte is compared with its sha256 on the way, and only what can be believed is\n" +
			"copied. The stored bytes are copied as they are, which needs no secret key: who could read them before can read them there.\n" +
			"With --reseal and --identity they are decrypted, checked down to every page and event, and encrypted to the recipients of the\n" +
			"second repository. This host's key signs there, and needs to be enrolled there. An archiver may run on the first meanwhile;\n" +
			"run it again, from time to time, for what has come since.",
		Example: "  " + a.Program + " copy --repo file:///srv/backups --to s3://far-away/backups",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, words []string) error {
			if o.to.url == "" {
				return usagef("--to URL is missing: the repository to copy to")
			}
			if o.as != "" && f.cluster == "" {
				return usagef("--as renames one cluster; --cluster says which")
			}
			return a.runCopy(c.Context(), &f, o, words)
		},
	}
	flags := command.Flags()
	f.register(a, flags)
	f.registerCluster(flags)
	flags.Lookup("cluster").Usage = "only this cluster"
	f.registerIdentity(a, flags)
	flags.StringVar(&o.to.url, "to", "", "the repository to copy to")
	flags.StringVar(&o.to.trust, "to-trust", "", "fingerprint of its root key (default: what was there first)")
	flags.StringVar(&o.as, "as", "", "what the cluster is called there (default: as it is here)")
	flags.BoolVar(&o.reseal, "reseal", false, "decrypt, check everything, and encrypt to the recipients of the second repository")
	flags.BoolVar(&o.snapshotsOnly, "snapshots-only", false, "leave the archives: no moments between snapshots there")
	registerRetain(flags, &o.retain)
	return command
}

func (a *app) runCopy(ctx context.Context, f *repoFlags, o copyFlags, words []string) error {
	until, err := retainUntil(o.retain)
	if err != nil {
		return err
	}
	from, err := a.openRepository(ctx, f)
	if err != nil {
		return err
	}
	o.to.output = f.output
	to, err := a.openRepository(ctx, &o.to)
	if err != nil {
		return err
	}
	if from.Document().Repository == to.Document().Repository {
		return errors.New("both are the same repository")
	}
	options := backup.CopyOptions{From: from, To: to, Reseal: o.reseal, Retain: repository.UploadOptions{RetainUntil: until}}
	if o.reseal {
		if options.Identities, err = f.identities(from); err != nil {
			return err
		}
	}
	writer, err := a.writer()
	if err != nil {
		return err
	}
	run := &copyRun{app: a, f: f, o: o, writer: writer, options: options, tried: map[string]bool{}}
	if err := run.all(ctx, words); err != nil {
		return a.copyHint(err, writer, o.to.url)
	}
	if len(run.bad) > 0 {
		return findings{errors.Join(run.bad...)}
	}
	return nil
}

// copyRun is one copy.
type copyRun struct {
	*app
	f       *repoFlags
	o       copyFlags
	writer  *repository.Writer
	options backup.CopyOptions
	// bad is what could not be believed.
	bad []error
	// tried are the manifests of snapshots that were looked at, by their sha256.
	tried map[string]bool
}

// all copies the chosen snapshots, and the archives of clusters that are copied as a whole.
func (c *copyRun) all(ctx context.Context, words []string) error {
	chosen, bad, err := c.chosen(ctx, c.options.From, c.f, words)
	if err != nil {
		return err
	}
	c.bad = bad
	clusters := map[string][]repository.Read{}
	if len(words) == 0 {
		// Also those of which only an archive is left.
		names, err := c.options.From.Clusters(ctx)
		if err != nil {
			return err
		}
		for _, name := range names {
			if c.f.cluster == "" || c.f.cluster == name {
				clusters[name] = nil
			}
		}
	}
	for _, read := range chosen {
		clusters[read.Point.Cluster] = append(clusters[read.Point.Cluster], read)
	}
	for _, cluster := range sortedKeys(clusters) {
		c.options.Cluster = cluster
		if c.o.as != "" {
			c.options.Cluster = c.o.as
		}
		if err := c.snapshots(ctx, cluster, clusters[cluster]); err != nil {
			return err
		}
		if len(words) == 0 {
			if err := c.archive(ctx, cluster); err != nil {
				return err
			}
		}
	}
	return nil
}

// snapshots copies those that are not there, and were not tried before. What is damaged is noted, and the others are copied.
func (c *copyRun) snapshots(ctx context.Context, cluster string, all []repository.Read) error {
	all = slices.DeleteFunc(slices.Clone(all), func(r repository.Read) bool { return c.tried[r.SHA256] })
	if len(all) == 0 {
		return nil
	}
	for _, read := range all {
		c.tried[read.SHA256] = true
	}
	reads, err := backup.Uncopied(ctx, all, c.options.To, c.options.Cluster)
	if errors.Is(err, backup.ErrOtherHistory) {
		return hinted{err, "--as NAME copies it under another name"}
	}
	if err != nil {
		return err
	}
	if n := len(all) - len(reads); n > 0 && !c.f.quiet {
		fmt.Fprintf(c.Stderr, "cluster %s: %s there already\n", cluster, plural(n, "snapshot"))
	}
	for _, read := range reads {
		if err := c.copyOne(ctx, c.writer, read, c.options, c.f); err != nil {
			if ctx.Err() != nil || !isDamage(err) {
				return err
			}
			c.bad = append(c.bad, err)
		}
	}
	return nil
}

// isDamage tells whether an error is about one snapshot, so that the others can still be copied.
func isDamage(err error) bool {
	return errors.Is(err, repository.ErrDamaged) || errors.Is(err, repository.ErrForged)
}

func (a *app) copyHint(err error, writer *repository.Writer, url string) error {
	switch {
	case errors.Is(err, repository.ErrNotEnrolled):
		return a.enrollHint(err, writer, url)
	case errors.Is(err, backup.ErrOtherEncryption):
		return hinted{err, "--reseal, with --identity where the first one is encrypted"}
	}
	return err
}

func (a *app) copyOne(ctx context.Context, writer *repository.Writer, read repository.Read, o backup.CopyOptions, f *repoFlags) error {
	show := a.transferProgress("copy "+read.Point.ID.Short(), f)
	defer show.close()
	o.Observe = show.counter(read.Manifest.Object.Size)
	m, err := backup.Copy(ctx, writer, read, o)
	show.close()
	if err != nil {
		return err
	}
	if f.output == "json" {
		return json.NewEncoder(a.Stdout).Encode(m)
	}
	_, err = fmt.Fprintf(a.Stdout, "snapshot %s of cluster %s is copied, %s\n", read.Point.ID.Short(), read.Point.Cluster, humanize.Bytes(uint64(m.Object.Size)))
	return err
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
