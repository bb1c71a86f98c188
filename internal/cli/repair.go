package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
)

func (a *app) repoRepair() *cobra.Command {
	var f repoFlags
	var adopt []string
	var grace time.Duration
	command := &cobra.Command{
		Use:   "repair",
		Short: "Mend what this host and the store disagree about, and find data whose manifest was lost",
		Long: "Count the manifests of this host anew, and look at data that no manifest names: most of it is of backups that were cut off,\n" +
			"and goes with prune. What is a whole snapshot, or a whole segment of an archive, is told, and with --adopt ID gets a manifest,\n" +
			"signed by this host. It then says nothing of where it is from, and nothing proves who made it: adopt only what you know was\n" +
			"yours. Of segments is told whether their revisions are missing; --adopt missing adopts all of which that is so, and none that\n" +
			"has revisions of another one.\n" +
			"A repository.json that is lost is put back from the copy that this host kept when it opened the repository.\n" +
			"Nothing is removed or changed.",
		Example: "  " + a.Program + " repo repair --identity key.txt\n  " + a.Program + " repo repair --identity key.txt --adopt missing",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			repo, err := a.openRepairing(c.Context(), &f)
			if err != nil {
				return err
			}
			identities, err := f.identities(repo)
			if err != nil && (len(adopt) > 0 || !errors.Is(err, errNoKey)) {
				return err
			}
			writer, err := a.writer()
			if err != nil {
				return err
			}
			last, remembered, err := writer.Repair(c.Context(), repo)
			if err != nil {
				return err
			}
			if remembered > last {
				fmt.Fprintf(a.Stderr, "this host remembers that it has signed up to number %d: somebody removed what came after number %d\n", remembered, last)
			}
			fmt.Fprintf(a.Stdout, "this host has signed %s in this repository\n", plural(int(last), "manifest"))
			clusters := []string{f.cluster}
			if f.cluster == "" {
				if clusters, err = repo.Clusters(c.Context()); err != nil {
					return err
				}
			}
			r := repair{app: a, flags: &f, repo: repo, writer: writer, identities: identities, adopt: adopt}
			for _, cluster := range clusters {
				unclaimed, err := repo.Unclaimed(c.Context(), cluster)
				if err != nil {
					return err
				}
				if err := r.cluster(c.Context(), cluster, slices.DeleteFunc(unclaimed, func(o repository.Unclaimed) bool { return o.Age < grace })); err != nil {
					return err
				}
			}
			return r.missed()
		},
	}
	f.register(a, command.Flags())
	f.registerCluster(command.Flags())
	command.Flags().Lookup("cluster").Usage = "only the data of this cluster"
	f.registerIdentity(a, command.Flags())
	command.Flags().StringArrayVar(&adopt, "adopt", nil, "id of data to make a snapshot or segment of again, or \"missing\" for all segments that are missed; may be repeated")
	command.Flags().DurationVar(&grace, "grace", time.Hour, "how old data without a manifest must be to be looked at")
	return command
}

// openRepairing opens a repository, and puts its document back where that is lost and its objects are not.
func (a *app) openRepairing(ctx context.Context, f *repoFlags) (*repository.Repository, error) {
	repo, err := a.openRepository(ctx, f)
	if !errors.Is(err, repository.ErrNoRepository) {
		return repo, err
	}
	opened, at, openErr := f.openStore(ctx, a, false)
	if openErr != nil {
		return nil, err
	}
	if _, is := errors.AsType[*repository.Orphaned](repository.CheckVacant(ctx, opened)); !is {
		return nil, err // an empty place is no repository that lost something
	}
	trust, trustErr := a.trust()
	if trustErr != nil {
		return nil, trustErr
	}
	if putErr := trust.PutBack(ctx, opened, at.Place(), repository.Fingerprint(f.trust)); errors.Is(putErr, repository.ErrNotKept) {
		return nil, hinted{fmt.Errorf("%w; %w", err, putErr), a.hint(err)}
	} else if putErr != nil {
		return nil, putErr
	}
	fmt.Fprintln(a.Stdout, "repository.json was lost: it is put back from the copy that this host has kept")
	return a.openRepository(ctx, f)
}

// repair is one run of repo repair.
type repair struct {
	*app
	flags      *repoFlags
	repo       *repository.Repository
	writer     *repository.Writer
	identities []seal.Identity
	adopt      []string
	adopted    []string
	refused    []error
}

// cluster looks at data without a manifest. Younger data is of a backup that is on its way, or an archiver puts it again.
func (r *repair) cluster(ctx context.Context, cluster string, unclaimed []repository.Unclaimed) error {
	var segments []repository.Unclaimed
	for _, object := range unclaimed {
		if object.Segment {
			segments = append(segments, object)
			continue
		}
		if err := r.look(ctx, cluster, object); err != nil {
			return err
		}
	}
	return r.segments(ctx, cluster, segments)
}

// look tells of data without a manifest, and adopts it when it was named.
func (r *repair) look(ctx context.Context, cluster string, object repository.Unclaimed) error {
	if r.repo.Document().Encryption != repository.None && len(r.identities) == 0 {
		fmt.Fprintf(r.Stdout, "%s, %s: give --identity to look inside\n", object.Name, humanize.Bytes(uint64(object.Size)))
		return nil
	}
	show := r.transferProgress("read "+object.Name, r.flags)
	found, err := r.repo.Examine(ctx, cluster, object, r.identities, show.counter(object.Size))
	show.close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		fmt.Fprintf(r.Stdout, "%s, %s: no whole snapshot: %v\n", object.Name, humanize.Bytes(uint64(object.Size)), err)
		return nil
	}
	m := found.Manifest()
	if !slices.ContainsFunc(r.adopt, func(text string) bool { return text == m.ID.String() || text == m.ID.Long() }) {
		fmt.Fprintf(r.Stdout, "%s, %s: a whole snapshot of revision %s; --adopt %s makes it one again\n", object.Name, humanize.Bytes(uint64(object.Size)), m.Content.Revision, m.ID.Long())
		return nil
	}
	if m, err = r.repo.Adopt(ctx, r.writer, found); err != nil {
		return err
	}
	r.adopted = append(r.adopted, m.ID.String(), m.ID.Long())
	fmt.Fprintf(r.Stdout, "%s: adopted as snapshot %s of cluster %s, revision %s\n", object.Name, m.ID.Long(), m.Cluster, m.Content.Revision)
	return nil
}

// missed says which data that was to be adopted was not.
func (r *repair) missed() error {
	missed := r.refused
	for _, text := range r.adopt {
		if text != adoptMissing && !slices.Contains(r.adopted, text) {
			missed = append(missed, fmt.Errorf("%q was not adopted: there is no data of that id without a manifest, or it is no whole snapshot or segment, or it is younger than --grace", text))
		}
	}
	return errors.Join(missed...)
}
