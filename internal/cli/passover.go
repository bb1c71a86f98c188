package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/verify"
)

// broken are the parts of an archive that cannot be used: their objects are gone, or not what was stored.
type broken struct {
	snapshots map[repository.ID]bool
	segments  map[repository.SegmentPoint]bool
}

func (b *broken) add(part *chain.PartError) {
	if b.snapshots == nil {
		b.snapshots, b.segments = map[repository.ID]bool{}, map[repository.SegmentPoint]bool{}
	}
	if part.Segment.Cluster != "" {
		b.segments[part.Segment] = true
		return
	}
	b.snapshots[part.Snapshot] = true
}

// reach finds what leads to a target, and passes over what cannot be used: there may be another way.
func (a *app) reach(ctx context.Context, f *repoFlags, r *resolved, t *targetFlags, target coverage.Target) error {
	if err := r.identify(f); err != nil && !errors.Is(err, errNoKey) {
		return err
	}
	r.near = target.Time
	for {
		if err := a.look(ctx, r); err != nil {
			return err
		}
		parts, err := r.choose(ctx, f, t, target)
		if err != nil {
			return err
		}
		if len(parts) == 0 {
			return nil
		}
		a.passOver(r, parts...)
	}
}

// mostPassed is how many parts are told of one by one: a folder of segments that is gone may have had thousands.
const mostPassed = 10

// passOver leaves parts out from now on, and says so.
func (a *app) passOver(r *resolved, parts ...*chain.PartError) {
	for i, part := range parts {
		if r.broken.add(part); i < mostPassed {
			fmt.Fprintf(a.Stderr, "passed over: %v\n", part)
		}
	}
	if more := len(parts) - mostPassed; more > 0 {
		fmt.Fprintf(a.Stderr, "passed over: %s more, the last is %v\n", plural(more, "part"), parts[len(parts)-1])
	}
}

// choose takes the chain to a target, or gives the parts that must be passed over first. A drill takes what there is: damage is
// what it is for.
func (r *resolved) choose(ctx context.Context, f *repoFlags, t *targetFlags, target coverage.Target) ([]*chain.PartError, error) {
	times := func(s repository.Segment) ([]history.Span, error) {
		if err := r.identify(f); err != nil {
			return nil, fmt.Errorf("look when revisions %s came about: %w", s.Range(), err)
		}
		return r.parts.Times(ctx, s)
	}
	var err error
	if t.random {
		if target.Revision, target.Timeline, err = randomMoment(r.timelines); err != nil {
			return nil, err
		}
		r.asked = target.String()
	}
	r.chain, err = r.readable(target, times)
	_, refused := errors.AsType[*coverage.Unreachable](err)
	if err != nil && !refused && target.Time.IsZero() && (t.drilled || errors.Is(err, errNoKey)) {
		// A revision is the same whenever it came about: who only plans needs no key for it.
		r.chain, err = coverage.Resolve(r.timelines, target, nil)
	}
	if part, is := errors.AsType[*chain.PartError](err); is && !t.drilled && verify.Damage(err) {
		return []*chain.PartError{part}, nil
	}
	if err != nil {
		return nil, err
	}
	r.chain.Highest = max(r.chain.Highest, r.highest)
	if t.drilled {
		return nil, nil
	}
	return r.known(ctx)
}

// readable takes the chain to a target, and where the given keys do not open all of it another one to the same revision, if there
// is one that they open.
func (r *resolved) readable(target coverage.Target, times coverage.Times) (coverage.Chain, error) {
	found, err := coverage.Resolve(r.timelines, target, times)
	if err == nil && r.opens(found.Base.Object) && !slices.ContainsFunc(found.Segments, func(s repository.Segment) bool { return !r.opens(s.Object) }) {
		return found, nil
	}
	if err == nil {
		target = coverage.Target{Revision: found.Revision, Timeline: found.Timeline}
	} else if !errors.Is(err, seal.ErrNoIdentity) {
		return found, err
	}
	var manifests []repository.Manifest
	var segments []repository.Segment
	for _, t := range r.timelines {
		for _, m := range t.Snapshots {
			if r.opens(m.Object) {
				manifests = append(manifests, m)
			}
		}
		for _, s := range t.Segments {
			if r.opens(s.Object) {
				segments = append(segments, s)
			}
		}
	}
	if other, no := coverage.Resolve(coverage.Of(manifests, segments, nil), target, times); no == nil {
		other.Newest = max(other.Newest, found.Newest)
		return other, nil
	}
	return found, err
}

// opens tells whether the given keys open an object, by what its manifest says. Without keys nobody can tell.
func (r *resolved) opens(o repository.Object) bool {
	return o.Encryption == repository.None || len(r.parts.Identities) == 0 || slices.ContainsFunc(r.parts.Identities, func(i seal.Identity) bool {
		return slices.Contains(o.Recipients, i.Recipient().KeyID())
	})
}

// known gives those parts of the chain that are known not to be usable, without reading them.
func (r *resolved) known(ctx context.Context) (parts []*chain.PartError, err error) {
	base := r.chain.Base
	if err := r.repo.CheckListed(ctx, base); verify.Damage(err) {
		parts = append(parts, chain.OfSnapshot(base, err))
	} else if err != nil {
		return nil, err
	}
	verifications, _, err := r.repo.Verifications(ctx, r.cluster, func(id repository.ID) bool { return id == base.ID })
	if err != nil {
		return nil, err
	}
	if proof := repository.ProofOf(r.reads[base.ID], verifications); proof.Standing == repository.StandingBad && len(parts) == 0 {
		parts = append(parts, chain.OfSnapshot(base, fmt.Errorf("it was found damaged, %s; --snapshot %s takes it all the same", proof.At.Format(rfc3339), base.ID.Short())))
	}
	if len(r.chain.Segments) == 0 {
		return parts, nil
	}
	listed, err := r.repo.CheckSegmentsListed(ctx, r.cluster, r.chain.Segments)
	if err != nil {
		return nil, err
	}
	for i, s := range r.chain.Segments {
		if verify.Damage(listed[i]) {
			parts = append(parts, chain.OfSegment(s, listed[i]))
		} else if listed[i] != nil {
			return nil, listed[i]
		}
	}
	return parts, nil
}

// goAround finds another way to the same revision when a part of the chain was found damaged while it was read. Where there is
// none it gives that failure back.
func (a *app) goAround(ctx context.Context, f *repoFlags, r *resolved, failure error) error {
	part, is := errors.AsType[*chain.PartError](failure)
	if !is || !verify.Damage(failure) || r.named {
		return failure
	}
	exactly := coverage.Target{Revision: r.chain.Revision, Timeline: r.chain.Timeline}
	a.passOver(r, part)
	if err := a.reach(ctx, f, r, &targetFlags{}, exactly); err != nil {
		return fmt.Errorf("%w; without it: %w", failure, err)
	}
	fmt.Fprintf(a.Stderr, "revision %s is reached from snapshot %s and %s as well\n", r.chain.Revision, r.chain.Base.ID.Short(), plural(len(r.chain.Segments), "segment"))
	return nil
}

// look reads the manifests of a cluster, but those of broken parts. What cannot be believed does not count, and is told once.
func (a *app) look(ctx context.Context, r *resolved) error {
	again := r.timelines != nil
	reads, _, err := r.repo.Snapshots(ctx, r.cluster)
	if err != nil {
		return err
	}
	manifests, strange := believed(reads)
	manifests = slices.DeleteFunc(manifests, func(m repository.Manifest) bool { return r.broken.snapshots[m.ID] })
	r.reads = map[repository.ID]repository.Read{}
	for _, read := range reads {
		r.reads[read.Point.ID] = read
	}
	points, _, err := r.repo.SegmentPoints(ctx, r.cluster, "")
	if err != nil {
		return err
	}
	points = slices.DeleteFunc(points, func(p repository.SegmentPoint) bool { return r.broken.segments[p] })
	segments, more, err := segmentsOf(ctx, r.repo, points)
	if err != nil {
		return err
	}
	seen, err := seenOf(ctx, r.repo, r.cluster, r.near)
	if err != nil {
		return err
	}
	r.timelines = coverage.Of(manifests, segments, seen)
	for _, t := range r.timelines {
		r.highest = max(r.highest, t.Highest()) // what is passed over later counts: clients may have seen it
	}
	if !again {
		for _, err := range repository.BySigner(append(strange, more...)) {
			fmt.Fprintf(a.Stderr, "passed over: %v\n", err)
		}
	}
	return nil
}
