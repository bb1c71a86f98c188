package verify

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
)

// LostSegment reads data that no manifest names as that of a segment, twice and to its end, down to whether each of its
// revisions has an event, and gives what its manifest says of it; Repository.AdoptSegment adds the rest. problem is why it is no
// whole segment, or why the given keys do not tell, "" for nothing; the error is for what kept it from being looked at, such as a
// store that does not answer. Nothing proves who made it.
func LostSegment(ctx context.Context, repo *repository.Repository, cluster string, object repository.Unclaimed, o Options) (s repository.Segment, problem string, err error) {
	s, err = repo.MeasureSegment(ctx, cluster, object, o.Identities, o.Observe)
	if err == nil {
		s, err = describe(ctx, repo, s, o)
	}
	if ctx.Err() != nil {
		return s, "", context.Cause(ctx)
	}
	// Of data that nobody vouched for, that no key opens it or that its format is not known is what there is to say.
	if err != nil && (damage(err) || errors.Is(err, seal.ErrNoIdentity) || errors.Is(err, seal.ErrEncrypted) || errors.Is(err, segment.ErrVersion)) {
		return s, err.Error(), nil
	}
	return s, "", err
}

// describe adds to what is measured of a segment what is in it.
func describe(ctx context.Context, repo *repository.Repository, s repository.Segment, o Options) (repository.Segment, error) {
	found, err := scanSegment(ctx, repo, s, Options{Identities: o.Identities})
	if err != nil {
		return s, err
	}
	if found.First != s.First {
		return s, fmt.Errorf("%w: object %q is named by revision %s and holds %s", repository.ErrDamaged, s.Object.Name, s.First, found.Range)
	}
	if got := hex.EncodeToString(found.SHA256[:]); got != s.Plain.SHA256 || found.Size != s.Plain.Size {
		return s, fmt.Errorf("%w: object %q changed while it was read", repository.ErrDamaged, s.Object.Name)
	}
	s.Last, s.Events, s.Leases, s.Exact = found.Last, found.Events, int64(len(found.Leases)), true
	for span := range found.Times.All() {
		if span.First == s.First {
			s.FirstTime = span.From
		}
		s.LastTime, s.Exact = span.To, s.Exact && span.Exact()
	}
	return s, s.Holds(found)
}
