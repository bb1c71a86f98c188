// Package archiver is an archive of one cluster put together: the archiver with its snapshots and its folder, the members as
// the membership changes, and what people want to know of it.
//
// It sits above archive and backup, which it joins, and below its two front ends: the command archive, and the agent, which
// runs one for its unit. Run belongs to one goroutine; Pool and Tracker are safe for concurrent use. It starts nothing again:
// who runs it decides what an error means.
package archiver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Folder is where an archiver keeps its state and spool, below a folder of whoever runs it: two that may archive one cluster
// must not share it, as it also says who they are.
func Folder(base string, repo *repository.Repository, cluster string) string {
	return filepath.Join(base, "archive", repo.Document().Repository, cluster)
}

// Run archives a cluster until ctx ends, as archive.Run does; o.Snapshot is filled in. rate is the pace of snapshots. A
// cluster whose history cannot be that of the repository ends it with backup.ErrOtherCluster or backup.ErrWentBack: a person
// must say that it was restored, by o.NewTimeline.
func Run(ctx context.Context, repo *repository.Repository, writer *repository.Writer, members archive.Members, o archive.Options, rate capture.Rate) error {
	o.Snapshot = func(ctx context.Context, what archive.Wanted) (repository.Manifest, error) {
		clients, err := members(ctx)
		if err != nil {
			return repository.Manifest{}, err
		}
		pace := rate
		if rate == capture.Automatic && what.Prompt {
			pace = capture.Prompt
		}
		m, err := backup.Run(ctx, repo, writer, clients, backup.Options{
			Cluster: o.Cluster, Rate: pace, CASHA256: o.CASHA256, NewTimeline: what.NewTimeline,
		})
		if errors.Is(err, backup.ErrOtherCluster) || errors.Is(err, backup.ErrWentBack) {
			err = store.Mark(err, archive.ErrFinal)
		}
		return m, err
	}
	if err := checkCluster(ctx, repo, members, o); err != nil {
		return fmt.Errorf("archive cluster %q: %w", o.Cluster, err)
	}
	return archive.Run(ctx, repo, writer, members, o)
}

// checkCluster refuses to wait for the place of an archiver of another etcd cluster: whoever has never archived this one, and
// finds another by its name, has the wrong name. That nobody answers is for the archiver to tell.
func checkCluster(ctx context.Context, repo *repository.Repository, members archive.Members, o archive.Options) error {
	if o.NewTimeline || archive.Began(o.Dir) {
		return nil
	}
	m, err := repo.NewestLive(ctx, o.Cluster, nil)
	if err != nil || m == nil {
		return nil
	}
	clients, err := members(ctx)
	if err != nil {
		return nil
	}
	good, _, err := member.Choose(ctx, clients)
	if err != nil {
		return nil
	}
	if now := good[0].Status.ClusterID.String(); now != m.Source.ClusterID {
		return store.Mark(fmt.Errorf("etcd cluster %s is %w (%s, snapshot %s)", now, backup.ErrOtherCluster, m.Source.ClusterID, m.ID.Short()), archive.ErrFinal)
	}
	return nil
}
