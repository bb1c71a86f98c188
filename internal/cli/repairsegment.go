package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/verify"
)

// adoptMissing is given to --adopt for all segments that are missed.
const adoptMissing = "missing"

// lostSegment is a whole segment without a manifest.
type lostSegment struct {
	repository.Segment
	id string
}

// segments tells of data of segments without a manifest, and adopts what was named. All of it is read before anything is
// adopted, as several may hold the same revisions.
func (r *repair) segments(ctx context.Context, cluster string, objects []repository.Unclaimed) error {
	var whole []lostSegment
	for _, object := range objects {
		found, err := r.lookSegment(ctx, cluster, object)
		if err != nil {
			return err
		}
		if found != nil {
			whole = append(whole, *found)
		}
	}
	if len(whole) == 0 {
		return nil
	}
	lines, err := storedLines(ctx, r.repo, cluster)
	if err != nil {
		return err
	}
	removed, err := r.repo.RemovedRevisions(ctx, cluster)
	if err != nil {
		return err
	}
	fits := make([]segmentFit, len(whole))
	for i, lost := range whole {
		fits[i].Fit = lines[lost.Timeline].Fit(lost.Range())
		fits[i].removed = removedFor(removed, lost.Timeline, fits[i].Missing)
	}
	for i, lost := range whole {
		for j, other := range whole {
			fits[i].rival = fits[i].rival || len(fits[j].Overlaps) == 0 && lost.rivals(other)
		}
	}
	for i, lost := range whole {
		t := lines[lost.Timeline]
		fits[i].Fit = t.Fit(lost.Range()) // with what was adopted before it
		adopted, err := r.placeSegment(ctx, lost, fits[i])
		if err != nil {
			return err
		}
		if adopted != nil {
			t.Segments = append(t.Segments, *adopted)
			lines[lost.Timeline] = t
		}
	}
	return nil
}

// rivals tells whether others have some of the revisions, and are not the same.
func (l lostSegment) rivals(o lostSegment) bool {
	return o.Timeline == l.Timeline && o.First <= l.Last && l.First <= o.Last && o.Plain != l.Plain
}

// segmentFit is how a segment without a manifest would fit into the archive.
type segmentFit struct {
	coverage.Fit
	// removed is the reason that was written down when revisions that it has were removed; "" when they were not.
	removed string
	// rival tells that there is other data without a manifest that could be adopted and has some of its revisions.
	rival bool
}

// missed tells that revisions are not there that should be, and that nothing is in the way.
func (f segmentFit) missed() bool {
	return len(f.Overlaps) == 0 && len(f.Missing) > 0 && f.removed == ""
}

// removedFor is why revisions were removed on purpose; "" when they were not.
func removedFor(removed []repository.RemovedSegments, t repository.Timeline, missing []history.Range) string {
	for _, r := range removed {
		for _, m := range missing {
			if r.Timeline == t && r.First <= m.Last && m.First <= r.Last {
				return cmp.Or(r.Reason, "nobody said why")
			}
		}
	}
	return ""
}

// storedLines are the timelines of a cluster with what can be believed of them, those without a snapshot too.
func storedLines(ctx context.Context, repo *repository.Repository, cluster string) (map[repository.Timeline]coverage.Timeline, error) {
	reads, _, err := repo.Snapshots(ctx, cluster)
	if err != nil {
		return nil, err
	}
	points, _, err := repo.SegmentPoints(ctx, cluster, "")
	if err != nil {
		return nil, err
	}
	segments, _, err := segmentsOf(ctx, repo, points)
	if err != nil {
		return nil, err
	}
	manifests, _ := believed(reads)
	lines := map[repository.Timeline]coverage.Timeline{}
	for _, t := range coverage.Of(manifests, segments, nil) {
		lines[t.ID] = t
	}
	return lines, nil
}

// lookSegment reads one; nil when it is no whole segment, which is told.
func (r *repair) lookSegment(ctx context.Context, cluster string, object repository.Unclaimed) (*lostSegment, error) {
	size := humanize.Bytes(uint64(object.Size))
	if r.repo.Document().Encryption != repository.None && len(r.identities) == 0 {
		fmt.Fprintf(r.Stdout, "%s, %s: give --identity to look inside\n", object.Name, size)
		return nil, nil
	}
	show := r.transferProgress("read "+object.Name, r.flags)
	s, problem, err := verify.LostSegment(ctx, r.repo, cluster, object, verify.Options{Identities: r.identities, Observe: show.counter(object.Size)})
	show.close()
	if err != nil {
		return nil, err
	}
	if problem != "" {
		fmt.Fprintf(r.Stdout, "%s, %s: no whole segment: %s\n", object.Name, size, problem)
		return nil, nil
	}
	return &lostSegment{s, repository.LostID(object.Name)}, nil
}

// placeSegment tells of a whole segment, and adopts it when that was asked for and nothing is in its place; nil otherwise.
func (r *repair) placeSegment(ctx context.Context, lost lostSegment, fit segmentFit) (*repository.Segment, error) {
	named := slices.Contains(r.adopt, lost.id)
	all := fit.missed() && slices.Contains(r.adopt, adoptMissing)
	switch {
	case named && len(fit.Overlaps) > 0:
		r.refuse(lost, errors.New(fit.overlapping(lost)))
		return nil, nil
	case named, all && !fit.rival:
		return r.adoptSegment(ctx, lost)
	case all:
		r.refuse(lost, errors.New("other data without a manifest has some of its revisions: name the one to take"))
	}
	fmt.Fprintf(r.Stdout, "%s, %s: a whole segment of revisions %s, %s to %s, %s\n", lost.Object.Name, humanize.Bytes(uint64(lost.Object.Size)),
		lost.Range(), coverage.Stamp(lost.FirstTime), coverage.Stamp(lost.LastTime), fit.advice(lost))
	return nil, nil
}

// advice says how a segment fits, and what can be done.
func (f segmentFit) advice(lost lostSegment) string {
	adopt := "; --adopt " + lost.id + " adds it to the archive again"
	switch {
	case len(f.Overlaps) > 0 && len(f.Missing) == 0:
		return "covered: " + f.overlapping(lost) + "; prune removes it"
	case len(f.Overlaps) > 0:
		return fmt.Sprintf("of which %s are missing, but it cannot be adopted: %s", windows(f.Missing), f.overlapping(lost))
	case len(f.Missing) == 0:
		return "covered by the history of snapshots, which does not tell when each came about" + adopt
	case f.removed != "":
		return "which were removed: " + f.removed + adopt
	case f.rival:
		return f.gone(lost) + "missing in the archive, and other data without a manifest has some of them, too" + adopt
	}
	return f.gone(lost) + "missing in the archive" + adopt
}

// gone tells which revisions are missing when not all are; "" otherwise.
func (f segmentFit) gone(lost lostSegment) string {
	if len(f.Missing) == 1 && f.Missing[0] == lost.Range() {
		return ""
	}
	return "of which " + windows(f.Missing) + " are "
}

// overlapping says which segment has revisions of another one.
func (f segmentFit) overlapping(lost lostSegment) string {
	first := f.Overlaps[0].Range()
	switch {
	case first.First <= lost.First && lost.Last <= first.Last:
		return fmt.Sprintf("segment %s has its revisions", first)
	case len(f.Missing) == 0:
		return fmt.Sprintf("segment %s and others have its revisions", first)
	}
	return fmt.Sprintf("segment %s has some of its revisions", first)
}

// adoptSegment gives a segment a manifest; nil when its place is taken.
func (r *repair) adoptSegment(ctx context.Context, lost lostSegment) (*repository.Segment, error) {
	s, err := r.repo.AdoptSegment(ctx, r.writer, lost.Segment)
	if taken, is := errors.AsType[*repository.Taken](err); is {
		r.refuse(lost, taken)
		return nil, nil
	}
	if errors.Is(err, repository.ErrForged) {
		r.refuse(lost, err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.adopted = append(r.adopted, lost.id)
	fmt.Fprintf(r.Stdout, "%s: adopted as a segment of cluster %s, timeline %s, revisions %s\n", lost.Object.Name, s.Cluster, s.Timeline, s.Range())
	return &s, nil
}

// refuse keeps why a segment was not adopted for the end, so that the others are looked at.
func (r *repair) refuse(lost lostSegment, why error) {
	r.refused = append(r.refused, fmt.Errorf("%q was not adopted, revisions %s: %w", lost.id, lost.Range(), why))
	r.adopted = append(r.adopted, lost.id) // what is to be said of it is said
}
