package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/store"
)

// RemovedSegments is a run of segments of one level in a Removal: Count segments, one after the other without a hole, with all
// revisions from First to Last. Their sums are not told: segments are not numbered, and there are too many.
type RemovedSegments struct {
	Cluster  string           `json:"cluster"`
	Timeline Timeline         `json:"timeline"`
	Level    int              `json:"level"`
	First    history.Revision `json:"first"`
	Last     history.Revision `json:"last"`
	Count    int64            `json:"count"`
	// Reason is why they were not kept.
	Reason string `json:"reason"`
}

// RemovedRevisions are the revisions of segments and snapshots of a cluster that were removed on purpose, as far as that can be
// believed. Those of snapshots are told as if they were of live segments, with a Count of 0.
func (r *Repository) RemovedRevisions(ctx context.Context, cluster string) (removed []RemovedSegments, err error) {
	removals, err := r.Removals(ctx)
	if err != nil {
		return nil, err
	}
	for _, removal := range removals {
		if removal.Err != nil {
			continue
		}
		removed = append(removed, removal.Removal.Segments...)
		for _, gone := range removal.Removal.Snapshots {
			if p, err := gone.Point(); err == nil {
				removed = append(removed, RemovedSegments{Cluster: p.Cluster, Timeline: p.Timeline, First: p.First, Last: p.Last, Reason: gone.Reason})
			}
		}
	}
	return slices.DeleteFunc(removed, func(r RemovedSegments) bool { return r.Cluster != cluster }), nil
}

// SegmentVictim is a segment that is to be removed, and why, such as that a merged one was read back.
type SegmentVictim struct {
	Read   SegmentRead
	Reason string
}

// SegmentOutcome is what became of a SegmentVictim. When it is neither gone nor locked, the removal ended before it.
type SegmentOutcome struct {
	Gone   bool
	Locked *store.Locked
}

// RemoveSegments removes segments as Remove does snapshots: first it says so, signed, then go the manifests, each before its
// data. 16 go at once, so that after an error any of them may be left. A live segment that was completed less than
// LiveAtLeast ago is refused.
func (r *Repository) RemoveSegments(ctx context.Context, w *Writer, victims []SegmentVictim) (outcomes []SegmentOutcome, err error) {
	deleter, can := r.store.(store.Deleter)
	if !can {
		return nil, ErrNoDelete
	}
	if err := r.MayPrune(ctx, w); err != nil {
		return nil, err
	}
	runs, err := runsOf(victims)
	if err != nil {
		return nil, fmt.Errorf("remove segments: %w", err)
	}
	for some := range slices.Chunk(runs, mostRemoved) {
		v := Removal{
			Format: removalFormat, Repository: r.document.Repository, ID: newID(time.Now()), Signer: w.key.Public().Fingerprint(),
			Snapshots: []Removed{}, Segments: some,
		}
		if err := r.putRemoval(ctx, w, v); err != nil {
			return nil, err
		}
	}
	outcomes = make([]SegmentOutcome, len(victims))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(fetchesAtOnce)
	for i, victim := range victims {
		group.Go(func() (err error) {
			if groupCtx.Err() != nil {
				return context.Cause(groupCtx)
			}
			if outcomes[i], err = removeSegment(groupCtx, deleter, victim.Read); err != nil {
				err = fmt.Errorf("remove %s: %w", victim.Read.Point, err)
			}
			return err
		})
	}
	return outcomes, group.Wait()
}

// removeSegment removes one segment, or gives the lock that holds it, before anything of it is gone.
func removeSegment(ctx context.Context, deleter store.Deleter, read SegmentRead) (SegmentOutcome, error) {
	err := deleter.Delete(ctx, read.Point.manifestName())
	if locked, is := errors.AsType[store.Locked](err); is {
		return SegmentOutcome{Locked: &locked}, nil
	}
	if err == nil {
		// Without its manifest what a lock holds is data that nobody claims, and goes with the next prune that may.
		err = deleteUnlocked(ctx, deleter, read.Segment.Object.Name)
	}
	return SegmentOutcome{Gone: err == nil}, err
}

// runsOf joins victims that follow each other, by place and revision.
func runsOf(victims []SegmentVictim) ([]RemovedSegments, error) {
	sorted := slices.Clone(victims)
	slices.SortFunc(sorted, func(a, b SegmentVictim) int {
		if a.Read.Point.Cluster != b.Read.Point.Cluster {
			return strings.Compare(a.Read.Point.Cluster, b.Read.Point.Cluster)
		}
		return a.Read.Point.compare(b.Read.Point)
	})
	var runs []RemovedSegments
	for _, victim := range sorted {
		s := victim.Read.Segment
		switch {
		case victim.Read.Err != nil:
			return nil, victim.Read.Err
		case len(victim.Reason) > mostReason:
			return nil, fmt.Errorf("the reason has %d bytes, want at most %d", len(victim.Reason), mostReason)
		case s.Level == SegmentLive && time.Since(s.Completed) < LiveAtLeast:
			return nil, fmt.Errorf("%s was completed less than %s ago, and keeps others from its place", victim.Read.Point, LiveAtLeast)
		}
		next := RemovedSegments{Cluster: s.Cluster, Timeline: s.Timeline, Level: s.Level, First: s.First, Last: s.Last, Count: 1, Reason: victim.Reason}
		if last := len(runs) - 1; last >= 0 && runs[last].joins(next) {
			runs[last].Last = next.Last
			runs[last].Count++
			continue
		}
		runs = append(runs, next)
	}
	return runs, nil
}

// joins tells whether a segment goes on where a run ends, and goes for the same reason.
func (v RemovedSegments) joins(next RemovedSegments) bool {
	return v.Cluster == next.Cluster && v.Timeline == next.Timeline && v.Level == next.Level && v.Last+1 == next.First && v.Reason == next.Reason
}

// segmentPlace is what a manifest and the data of a segment have in common by their names.
type segmentPlace struct {
	timeline Timeline
	first    history.Revision
}

// unclaimedSegments lists the data of segments that no manifest names. Names tell less than with snapshots: several segments
// may begin at one revision, live, merged, or second. So their manifests are read where there is more data than they can
// name. One that could not be read, or believed, claims all data at its place.
func (r *Repository) unclaimedSegments(ctx context.Context, cluster string) ([]Unclaimed, error) {
	// The data first: what comes meanwhile is then on neither list.
	var objects []store.Object
	data := map[segmentPlace]int{}
	for object, err := range r.store.List(ctx, clusterFolder+cluster+segmentPart, "") {
		if err != nil {
			return nil, fmt.Errorf("list segments of %q: %w", cluster, err)
		}
		objects = append(objects, object)
		if d, err := parseSegmentData(object.Name); err == nil {
			data[segmentPlace{d.timeline, d.first}]++
		}
	}
	if len(objects) == 0 {
		return nil, nil
	}
	points, _, err := r.SegmentPoints(ctx, cluster, "")
	if err != nil {
		return nil, err
	}
	manifests := map[segmentPlace]int{}
	for _, p := range points {
		manifests[segmentPlace{p.Timeline, p.First}]++
	}
	points = slices.DeleteFunc(points, func(p SegmentPoint) bool {
		place := segmentPlace{p.Timeline, p.First}
		return data[place] <= manifests[place]
	})
	reads, err := r.SegmentsOf(ctx, points)
	if err != nil {
		return nil, err
	}
	claimed := newClaims(reads)
	var list []Unclaimed
	now := time.Now()
	for _, object := range objects {
		if d, err := parseSegmentData(object.Name); err == nil {
			place := segmentPlace{d.timeline, d.first}
			if data[place] <= manifests[place] || claimed.by(object.Name, place) {
				continue
			}
		}
		list = append(list, Unclaimed{Name: object.Name, Size: object.Size, Age: now.Sub(object.Modified), Segment: true})
	}
	return list, nil
}

// claims are the data that manifests claim.
type claims struct {
	names  map[string]bool
	places map[segmentPlace]bool // of manifests that do not say which data is theirs
}

func newClaims(reads []SegmentRead) claims {
	c := claims{map[string]bool{}, map[segmentPlace]bool{}}
	for _, read := range reads {
		if read.Err != nil {
			c.places[segmentPlace{read.Point.Timeline, read.Point.First}] = true
		} else {
			c.names[read.Segment.Object.Name] = true
		}
	}
	return c
}

func (c claims) by(name string, place segmentPlace) bool { return c.names[name] || c.places[place] }

// RemoveLeases removes leases of a cluster that are older than that by their names; the newest of these stays in each
// timeline. It tells how many are gone. They say nothing that anybody misses, so that there is no record of it.
func (r *Repository) RemoveLeases(ctx context.Context, w *Writer, cluster string, olderThan time.Duration) (removed int, err error) {
	deleter, can := r.store.(store.Deleter)
	if !can {
		return 0, ErrNoDelete
	}
	if err := r.MayPrune(ctx, w); err != nil {
		return 0, err
	}
	timelines, err := r.Timelines(ctx, cluster)
	if err != nil {
		return 0, err
	}
	for _, t := range timelines {
		last := ""
		for object, err := range r.store.List(ctx, archiveFolder(cluster, t)+leasesFolder, "") {
			if err != nil {
				return removed, fmt.Errorf("list leases of %q: %w", cluster, err)
			}
			l, err := parseLease(object.Name)
			if err != nil {
				continue
			}
			if time.Since(l.ID.Time) < olderThan {
				break
			}
			if last != "" {
				if err := deleter.Delete(ctx, last); err != nil {
					return removed, fmt.Errorf("remove lease: %w", err)
				}
				removed++
			}
			last = object.Name
		}
	}
	return removed, nil
}
