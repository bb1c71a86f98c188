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
}

func (a *app) copy() *cobra.Command {
	var f repoFlags
	var o copyFlags
	command := &cobra.Command{
		Use:   "copy [SNAPSHOT...] --to URL",
		Short: "Copy snapshots to a second repository",
		Long: "Copy snapshots to a second repository: the named ones, or all that are not there yet. Every byte is compared with its sha256\n" +
			"on the way, and only what can be believed is copied. The stored bytes are copied as they are, which needs no secret key: who\n" +
			"could read them before can read them there. With --reseal and --identity they are decrypted, checked down to every page, and\n" +
			"encrypted to the recipients of the second repository. This host's key signs there, and needs to be enrolled there.",
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
	flags.Lookup("cluster").Usage = "only the snapshots of this cluster"
	f.registerIdentity(a, flags)
	flags.StringVar(&o.to.url, "to", "", "the repository to copy to")
	flags.StringVar(&o.to.trust, "to-trust", "", "fingerprint of its root key (default: what was there first)")
	flags.StringVar(&o.as, "as", "", "what the cluster is called there (default: as it is here)")
	flags.BoolVar(&o.reseal, "reseal", false, "decrypt, check everything, and encrypt to the recipients of the second repository")
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
	chosen, bad, err := a.chosen(ctx, from, f, words)
	if err != nil {
		return err
	}
	clusters := map[string][]repository.Read{}
	for _, read := range chosen {
		clusters[read.Point.Cluster] = append(clusters[read.Point.Cluster], read)
	}
	for _, cluster := range sortedKeys(clusters) {
		options.Cluster = cluster
		if o.as != "" {
			options.Cluster = o.as
		}
		reads, err := backup.Uncopied(ctx, clusters[cluster], to, options.Cluster)
		if errors.Is(err, backup.ErrOtherHistory) {
			return hinted{err, "--as NAME copies it under another name"}
		}
		if err != nil {
			return err
		}
		if n := len(clusters[cluster]) - len(reads); n > 0 && !f.quiet {
			fmt.Fprintf(a.Stderr, "cluster %s: %s there already\n", cluster, plural(n, "snapshot"))
		}
		if points, _, err := from.SegmentPoints(ctx, cluster, ""); err != nil {
			return err
		} else if len(points) > 0 && !f.quiet {
			fmt.Fprintf(a.Stderr, "cluster %s: its archive, %s, is not copied: moments between snapshots are in this repository alone\n", cluster, plural(len(points), "segment"))
		}
		for _, read := range reads {
			if err := a.copyOne(ctx, writer, read, options, f); err != nil {
				if ctx.Err() != nil || !isDamage(err) {
					return a.copyHint(err, writer, o.to.url)
				}
				bad = append(bad, err)
			}
		}
	}
	if len(bad) > 0 {
		return findings{errors.Join(bad...)}
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
