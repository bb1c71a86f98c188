package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/retention"
	"github.com/holdfast-project/holdfast/internal/store"
)

// archivePolicy is for the snapshots of a cluster that is archived, when no rule is given: in the window of the archive any
// revision can be restored anyway, and before it a point of each hour for 30 days, of each day for a year and of each month for
// three, as far as there are snapshots.
func archivePolicy() retention.Policy {
	return retention.Policy{Hourly: 30 * 24, Daily: 365, Monthly: 36}
}

// leaseAge is how old the word of an archiver is when nobody waits for it any more.
const leaseAge = time.Hour

// prunedSegments is what prune says of segments of one level that follow each other and have the same fate;
// docs/contracts/repository.md has the JSON form.
type prunedSegments struct {
	Cluster  string `json:"cluster"`
	Timeline string `json:"timeline"`
	Level    int    `json:"level"`
	First    int64  `json:"first"`
	Last     int64  `json:"last"`
	Count    int    `json:"count"`
	Stored   int64  `json:"stored"`
	Action   string `json:"action"`
	Reason   string `json:"reason"`
}

// segmentFate is what becomes of one segment.
type segmentFate struct {
	read           repository.SegmentRead
	cover          *repository.Segment
	action, reason string
}

// old tells whether it is to go for no other reason than its age.
func (f segmentFate) old() bool { return f.action == pruneRemove && f.cover == nil }

// addArchive decides about the segments of a cluster. It gives the snapshots that they need.
func (r *pruneResult) addArchive(ctx context.Context, repo *repository.Repository, cluster string, snapshots []repository.Manifest, w coverage.Window) (needed map[repository.ID]string, archived bool, err error) {
	points, _, err := repo.SegmentPoints(ctx, cluster, "")
	if err != nil || len(points) == 0 {
		return nil, false, err
	}
	reads, err := repo.SegmentsOf(ctx, points)
	if err != nil {
		return nil, false, err
	}
	var segments []repository.Segment
	byPoint := map[repository.SegmentPoint]repository.SegmentRead{}
	for _, read := range reads {
		switch {
		case errors.Is(read.Err, repository.ErrForged):
			r.fates = append(r.fates, segmentFate{read: read, action: pruneKeep, reason: "in doubt: its manifest cannot be believed"})
		case read.Err != nil:
			// What only could not be read may be on the way to what must stay.
			return nil, false, read.Err
		default:
			segments = append(segments, read.Segment)
			byPoint[read.Point] = read
		}
	}
	retained := coverage.Retain(snapshots, segments, w)
	for _, d := range retained.Segments {
		fate := segmentFate{read: byPoint[d.Segment.Point()], cover: d.Cover, action: pruneKeep, reason: d.Reason}
		if until := d.Segment.RetainUntil; !d.Keep && until.After(w.Now) {
			fate.action, fate.reason = pruneRetained, "locked until "+until.Format(rfc3339)
		} else if !d.Keep {
			fate.action = pruneRemove
		}
		r.fates = append(r.fates, fate)
	}
	r.archives = append(r.archives, cluster)
	return retained.Needed, true, nil
}

// segmentVictims counts the segments that are to go.
func (r *pruneResult) segmentVictims() (n int) {
	for _, f := range r.fates {
		if f.action == pruneRemove {
			n++
		}
	}
	return n
}

// checkCovers reads the merged segments that make others superfluous, and keeps what one that is damaged was made of.
func (r *pruneResult) checkCovers(ctx context.Context, repo *repository.Repository) (bad []error, err error) {
	checked := map[repository.SegmentPoint]error{}
	for i := range r.fates {
		f := &r.fates[i]
		if f.action != pruneRemove || f.cover == nil {
			continue
		}
		point := f.cover.Point()
		problem, found := checked[point]
		if !found {
			problem = repo.CheckStoredSegment(ctx, *f.cover, nil)
			switch {
			case problem == nil:
			case errors.Is(problem, repository.ErrDamaged), errors.Is(problem, store.ErrNotFound):
				bad = append(bad, fmt.Errorf("%s: %w; what it was merged from is kept", point, problem))
			default:
				return bad, problem
			}
			checked[point] = problem
		}
		if problem != nil {
			f.action, f.reason = pruneKeep, "what it was merged into is damaged"
		}
	}
	return bad, nil
}

// carryOutArchive removes segments and leases, and notes what became of each. What is merged was looked at first. Any part of
// the removals leaves all that is to stay restorable.
func (r *pruneResult) carryOutArchive(ctx context.Context, repo *repository.Repository, writer *repository.Writer) (bad []error, err error) {
	bad, err = r.checkCovers(ctx, repo)
	if err != nil {
		return bad, err
	}
	var victims []repository.SegmentVictim
	var at []int
	for i, f := range r.fates {
		if f.action == pruneRemove {
			victims, at = append(victims, repository.SegmentVictim{Read: f.read, Reason: f.reason}), append(at, i)
		}
	}
	if len(victims) > 0 {
		outcomes, err := repo.RemoveSegments(ctx, writer, victims)
		for i, outcome := range outcomes {
			f := &r.fates[at[i]]
			switch {
			case outcome.Gone:
				f.action = pruneRemoved
				r.FreedBytes += f.read.Segment.Object.Size
			case outcome.Locked != nil:
				f.action, f.reason = pruneRetained, "locked"
				if until := outcome.Locked.Until; !until.IsZero() {
					f.reason = "locked until " + until.UTC().Format(rfc3339)
				}
			}
		}
		if err != nil {
			return bad, err
		}
	}
	for _, cluster := range r.archives {
		removed, err := repo.RemoveLeases(ctx, writer, cluster, leaseAge)
		r.Leases += removed
		if err != nil {
			return bad, err
		}
	}
	return bad, nil
}

// segmentRuns tells the fates of segments in as few words as possible.
func (r *pruneResult) segmentRuns() []prunedSegments {
	fates := slices.Clone(r.fates)
	slices.SortStableFunc(fates, func(a, b segmentFate) int {
		p, q := a.read.Point, b.read.Point
		return cmp.Or(cmp.Compare(p.Cluster, q.Cluster), cmp.Compare(p.Timeline, q.Timeline), cmp.Compare(p.Level, q.Level), cmp.Compare(p.First, q.First))
	})
	runs := []prunedSegments{}
	for _, f := range fates {
		p := f.read.Point
		next := prunedSegments{Cluster: p.Cluster, Timeline: string(p.Timeline), Level: p.Level, First: int64(p.First), Last: int64(max(p.First, p.Last, f.read.Segment.Last)),
			Count: 1, Stored: f.read.Segment.Object.Size, Action: f.action, Reason: f.reason}
		if n := len(runs) - 1; n >= 0 && runs[n].joins(next) {
			runs[n].Last, runs[n].Count, runs[n].Stored = next.Last, runs[n].Count+1, runs[n].Stored+next.Stored
			continue
		}
		runs = append(runs, next)
	}
	return runs
}

func (p prunedSegments) joins(next prunedSegments) bool {
	return p.Cluster == next.Cluster && p.Timeline == next.Timeline && p.Level == next.Level && p.Last+1 == next.First && p.Action == next.Action && p.Reason == next.Reason
}

// levelName is what a person calls a level of segments.
func levelName(level int) string {
	return [...]string{"live", "minute", "hour", "day"}[level]
}

// writeArchive shows the fates of segments.
func (r pruneResult) writeArchive(w io.Writer, yes bool) error {
	if len(r.Segments) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "Revisions\tCluster\tSegments\tStored\tAction\tWhy")
	counts := map[string]int{}
	sizes := map[string]int64{}
	for _, run := range r.Segments {
		counts[run.Action] += run.Count
		sizes[run.Action] += run.Stored
		fmt.Fprintf(table, "%d-%d\t%s\t%d %s\t%s\t%s\t%s\n", run.First, run.Last, run.Cluster, run.Count, levelName(run.Level), humanize.Bytes(uint64(run.Stored)), run.Action, run.Reason)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	verb, action := "to remove", pruneRemove
	if yes {
		verb, action = "removed", pruneRemoved
	}
	fmt.Fprintf(w, "%s %s, %s; %s kept", plural(counts[action], "segment"), verb, humanize.Bytes(uint64(sizes[action])), plural(counts[pruneKeep], "segment"))
	if counts[pruneRetained] > 0 {
		fmt.Fprintf(w, "; %s locked", plural(counts[pruneRetained], "segment"))
	}
	if yes && counts[pruneRemove] > 0 {
		fmt.Fprintf(w, "; %s not reached", plural(counts[pruneRemove], "segment"))
	}
	_, err := fmt.Fprintln(w)
	return err
}
