package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-project/holdfast/internal/repository"
)

var (
	// ErrOtherCluster means that the repository knows another etcd cluster by that name.
	ErrOtherCluster = errors.New("another etcd cluster than the one that was backed up by this name")
	// ErrWentBack means that the cluster is at a revision or term that it had already passed.
	ErrWentBack = errors.New("its history went back since the last backup: it was restored, or lost writes")
)

// newest gives the manifest of the newest snapshot of a cluster, nil when there is none.
func newest(ctx context.Context, repo *repository.Repository, cluster string) (*repository.Manifest, error) {
	points, _, err := repo.Points(ctx, cluster)
	if err != nil || len(points) == 0 {
		return nil, err
	}
	manifest, err := repo.Manifest(ctx, points[len(points)-1])
	if err != nil {
		return nil, fmt.Errorf("look at the last backup: %w", err)
	}
	return &manifest, nil
}

// continues gives the timeline that a backup of a cluster belongs to, "" for a new one. Revisions of two lives of a keyspace
// must never be mixed: when no member can be in the life that was backed up before, that is an error, until a person says
// that it is known. A member that is a little behind is no sign of another life, so the most advanced one counts.
func continues(last *repository.Manifest, members []Candidate, opts Options) (repository.Timeline, error) {
	if last == nil || opts.NewTimeline {
		return "", nil
	}
	now := slices.MaxFunc(members, func(a, b Candidate) int { return cmp.Compare(a.Status.RaftIndex, b.Status.RaftIndex) }).Status
	switch {
	case last.Source.ClusterID != now.ClusterID.String():
		return "", fmt.Errorf("etcd cluster %s is %w (%s, snapshot %s)", now.ClusterID, ErrOtherCluster, last.Source.ClusterID, last.ID.Short())
	case now.Revision < last.Content.Revision:
		return "", fmt.Errorf("%w: revision %d, the last backup has %d", ErrWentBack, now.Revision, last.Content.Revision)
	case now.RaftTerm < last.Content.RaftTerm || now.RaftIndex < last.Content.RaftIndex:
		return "", fmt.Errorf("%w: raft term %d and index %d, the last backup has %d and %d", ErrWentBack,
			now.RaftTerm, now.RaftIndex, last.Content.RaftTerm, last.Content.RaftIndex)
	}
	return last.Timeline, nil
}
