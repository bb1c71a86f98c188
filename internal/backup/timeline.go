package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
)

var (
	// ErrOtherCluster means that the repository knows another etcd cluster by that name.
	ErrOtherCluster = errors.New("another etcd cluster than the one that was backed up by this name")
	// ErrWentBack means that the cluster is at a revision or term that it had already passed.
	ErrWentBack = errors.New("its history went back since the last backup: it was restored, or lost writes")
)

// newest gives the manifest of the newest snapshot of a cluster that can be believed, nil when there is none. One that is
// damaged or forged is told of and passed over: it must not keep backups from being made.
func newest(ctx context.Context, repo *repository.Repository, cluster string, observe func(Event)) (*repository.Manifest, error) {
	points, _, err := repo.Points(ctx, cluster)
	if err != nil {
		return nil, err
	}
	for _, point := range slices.Backward(points) {
		manifest, err := repo.Manifest(ctx, point)
		if err == nil && manifest.Source.ClusterID == "" {
			continue // one of a file, or whose manifest was lost: it tells nothing of the life that the cluster is in
		}
		if err == nil {
			return &manifest, nil
		}
		// What only could not be reached may well be right, and then it decides.
		if !errors.Is(err, repository.ErrForged) {
			return nil, fmt.Errorf("look at the last backup: %w", err)
		}
		observe(Event{PassedOver: err})
	}
	return nil, nil
}

// continues gives the timeline that a backup of a cluster belongs to, "" for a new one. Revisions of two lives of a keyspace
// must never be mixed: when no member can be in the life that was backed up before, that is an error, until a person says
// that it is known. A member that is a little behind is no sign of another life, so the most advanced one counts.
func continues(last *repository.Manifest, members []member.Candidate, opts Options) (repository.Timeline, error) {
	if last == nil || opts.NewTimeline {
		return "", nil
	}
	now := slices.MaxFunc(members, func(a, b member.Candidate) int { return cmp.Compare(a.Status.RaftIndex, b.Status.RaftIndex) }).Status
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
