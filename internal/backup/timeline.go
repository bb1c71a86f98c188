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

// begins gives the timeline of a first backup. Several may make it at once, and then it is one timeline; but revisions that are
// archived under that name are of a life whose snapshots are gone, and then it is a new one.
func begins(ctx context.Context, repo *repository.Repository, cluster string, c member.Candidate) (repository.Timeline, error) {
	first := repo.FirstTimeline(cluster, c.Status.ClusterID.String())
	last, err := repo.LastSegment(ctx, cluster, first)
	if err != nil || last != nil {
		return "", err
	}
	return first, nil
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
