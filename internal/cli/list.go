package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/repository"
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
	Error    string              `json:"error,omitempty"`
}

func (a *app) list() *cobra.Command {
	var f repoFlags
	command := &cobra.Command{
		Use:   "list",
		Short: "List the snapshots of a repository, oldest first",
		Long:  "List the snapshots of a repository, oldest first, with what their signed manifests say.\nA manifest that cannot be believed is shown with the reason, and makes the exit code 3.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			clusters := []string{f.cluster}
			if f.cluster == "" {
				if clusters, err = repo.Clusters(c.Context()); err != nil {
					return err
				}
			}
			all, strange := []listed{}, []string{}
			for _, cluster := range clusters {
				reads, odd, err := repo.Snapshots(c.Context(), cluster)
				if err != nil {
					return err
				}
				strange = append(strange, odd...)
				for _, read := range reads {
					all = append(all, listedOf(read))
				}
			}
			return a.writeList(all, strange, f.output)
		},
	}
	f.register(a, command.Flags())
	f.registerCluster(command.Flags())
	return command
}

func listedOf(read repository.Read) listed {
	p, m := read.Point, read.Manifest
	one := listed{ID: p.ID.Long(), Cluster: p.Cluster, Timeline: p.Timeline, First: int64(p.First), Last: int64(p.Last)}
	if read.Err != nil {
		one.Error = read.Err.Error()
		return one
	}
	one.Size, one.Stored, one.Etcd, one.Signer = m.Content.Size, m.Object.Size, m.Source.EtcdVersion, m.Signer.Short()
	return one
}

func (a *app) writeList(all []listed, strange []string, form string) error {
	var bad []error
	for _, name := range strange {
		bad = append(bad, fmt.Errorf("object %q is among the manifests and is none", name))
	}
	for _, one := range all {
		if one.Error != "" {
			bad = append(bad, errors.New(one.Error))
		}
	}
	if form == "json" {
		if err := json.NewEncoder(a.Stdout).Encode(all); err != nil {
			return err
		}
	} else if err := a.tabulate(all); err != nil {
		return err
	}
	if len(bad) > 0 {
		return findings{errors.Join(bad...)}
	}
	return nil
}

func (a *app) tabulate(all []listed) error {
	if len(all) == 0 {
		fmt.Fprintln(a.Stderr, "The repository holds no snapshots.")
		return nil
	}
	// The digits behind an id are needed only where two are of the same second.
	seconds := map[string]int{}
	for _, one := range all {
		seconds[one.Cluster+one.ID[:len(rfc3339Seconds)]]++
	}
	table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tCluster\tRevision\tFrom\tSize\tStored\tEtcd\tTimeline")
	for _, one := range all {
		id := one.ID
		if short := id[:len(rfc3339Seconds)]; seconds[one.Cluster+short] == 1 {
			id = short
		}
		if one.Error != "" {
			fmt.Fprintf(table, "%s\t%s\t%d\t%d\t?\t?\t?\t%s\n", id, one.Cluster, one.Last, one.First, one.Timeline)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", id, one.Cluster, one.Last, one.First,
			humanize.Bytes(uint64(one.Size)), humanize.Bytes(uint64(one.Stored)), one.Etcd, one.Timeline)
	}
	return table.Flush()
}

const rfc3339Seconds = "2006-01-02T15:04:05Z"
