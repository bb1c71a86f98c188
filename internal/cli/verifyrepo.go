package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
)

// The levels of a verification, each with what it adds to the one before.
const (
	levelListing  = "listing"  // every manifest is signed and numbered, and its object is there with its size
	levelChecksum = "checksum" // the object's bytes are right and, with a key, all that is inside
)

// verified is what verify says of one snapshot; docs/contracts/repository.md has the JSON form.
type verified struct {
	ID       string  `json:"id"`
	Cluster  string  `json:"cluster"`
	Revision int64   `json:"revision"`
	Level    string  `json:"level"`
	Result   string  `json:"result"`
	Seconds  float64 `json:"duration_s"`
	Error    string  `json:"error,omitempty"`
}

// What was found out about a snapshot.
const (
	foundListed     = "listed"
	foundCiphertext = "ciphertext checked"
	foundChecked    = "checked"
	foundBad        = "bad"
)

// verifyRepository checks snapshots of a repository: the named ones, or all.
func (a *app) verifyRepository(ctx context.Context, f *repoFlags, level string, words []string) error {
	if level != levelListing && level != levelChecksum {
		return usagef("--level must be %s or %s, given %q", levelListing, levelChecksum, level)
	}
	repo, err := a.openRepository(ctx, f)
	if err != nil {
		return err
	}
	identities, err := f.identities(repo)
	if err != nil && !errors.Is(err, errNoKey) {
		return err
	}
	reads, bad, err := a.chosen(ctx, repo, f, words)
	if err != nil {
		return err
	}
	for _, read := range reads {
		one := a.verifyOne(ctx, repo, read, level, identities, f)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if one.Error != "" {
			bad = append(bad, fmt.Errorf("snapshot %s of cluster %s: %s", one.ID, one.Cluster, one.Error))
		}
		if err := one.write(a.Stdout, f.output); err != nil {
			return err
		}
	}
	if len(bad) > 0 {
		return findings{errors.Join(bad...)}
	}
	return nil
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
	for _, broken := range repository.CheckChains(all) {
		bad = append(bad, errors.New(broken.String()))
	}
	return reads, bad, nil
}

func (a *app) verifyOne(ctx context.Context, repo *repository.Repository, read repository.Read, level string, identities []seal.Identity, f *repoFlags) verified {
	started := time.Now()
	one := verified{ID: read.Point.ID.Long(), Cluster: read.Point.Cluster, Revision: int64(read.Point.Last), Level: level, Result: foundListed}
	err := read.Err
	m := read.Manifest
	if err == nil {
		err = repo.CheckListed(ctx, m)
	}
	if err == nil && level == levelChecksum {
		show := a.transferProgress("verify "+read.Point.ID.Short(), f)
		if len(identities) == 0 && m.Object.Encryption != repository.None {
			one.Result = foundCiphertext
			err = repo.CheckStored(ctx, m, show.counter(m.Object.Size))
		} else {
			one.Result = foundChecked
			_, _, err = repo.Fetch(ctx, m, identities, io.Discard, show.counter(m.Object.Size))
		}
		show.close()
	}
	// Fetch compares what is stored before it says that a key is missing, and that says nothing about the data.
	if errors.Is(err, seal.ErrNoIdentity) {
		one.Result, err = foundCiphertext, nil
		fmt.Fprintf(a.Stderr, "snapshot %s is encrypted to other keys than the given ones\n", one.ID)
	}
	if err != nil {
		one.Result, one.Error = foundBad, err.Error()
	}
	one.Seconds = time.Since(started).Seconds()
	return one
}

func (v verified) write(w io.Writer, form string) error {
	if form == "json" {
		return json.NewEncoder(w).Encode(v)
	}
	_, err := fmt.Fprintf(w, "%s  %s  revision %d  %s, %s\n", v.ID, v.Cluster, v.Revision, v.Result, shortDuration(v.Seconds))
	return err
}

func shortDuration(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}

// repoCheck is verify at the level of listings, for all clusters, with what else is in the store.
func (a *app) repoCheck() *cobra.Command {
	var f repoFlags
	command := &cobra.Command{
		Use:   "check",
		Short: "Check the signatures and numbering of all manifests, and that their objects are there",
		Long: "Check the signatures and numbering of all manifests, and that their objects are there. It reads no data: verify does.\n" +
			"Data without a manifest, which interrupted backups leave, is counted; it is no fault.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			result, err := repo.Check(c.Context())
			if err != nil {
				return err
			}
			if f.output == "json" {
				if err := json.NewEncoder(a.Stdout).Encode(result); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(a.Stdout, "%s in %s, %s stored\n", plural(result.Snapshots, "snapshot"), plural(result.Clusters, "cluster"), humanize.Bytes(uint64(result.Bytes)))
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
			return findings{errors.Join(bad...)}
		},
	}
	f.register(a, command.Flags())
	return command
}
