package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Parts of names of the archive, all below the folder of a cluster.
const (
	segmentPart  = "/segments/" // sealed segments
	archivePart  = "/archive/"  // what they are, and what else is said of a timeline
	segmentKind  = "segment"
	pastSegments = "4" // sorts after every level, and before the notes of a timeline
)

// Levels of segments: how long a time the revisions of one are from.
const (
	// SegmentLive is written while the cluster goes on, up to a second of it.
	SegmentLive = iota
	// SegmentMinute, SegmentHour and SegmentDay are merged from those of the level below.
	SegmentMinute
	SegmentHour
	SegmentDay
)

// SegmentPoint is one segment as the name of its manifest tells of it, without a look inside.
type SegmentPoint struct {
	Cluster  string
	Timeline Timeline
	// Level is SegmentLive to SegmentDay.
	Level int
	// First and Last are its revisions. Last is 0 of a live one: its name, which is the fence between archivers, does not
	// say it.
	First, Last history.Revision
}

func archiveFolder(cluster string, t Timeline) string {
	return clusterFolder + cluster + archivePart + string(t) + "/"
}

// manifestName gives the name of the segment's manifest.
func (p SegmentPoint) manifestName() string {
	name := fmt.Sprintf("%s%d/%020d", archiveFolder(p.Cluster, p.Timeline), p.Level, p.First)
	if p.Level != SegmentLive {
		name += fmt.Sprintf("-%020d", p.Last)
	}
	return name + ".json"
}

// end is the last revision that is certain from the name.
func (p SegmentPoint) end() history.Revision { return max(p.First, p.Last) }

func (p SegmentPoint) compare(o SegmentPoint) int {
	return cmp.Or(cmp.Compare(p.Timeline, o.Timeline), cmp.Compare(p.Level, o.Level), cmp.Compare(p.First, o.First), cmp.Compare(p.Last, o.Last))
}

// String tells people which one it is.
func (p SegmentPoint) String() string {
	if p.Level == SegmentLive {
		return fmt.Sprintf("segment from revision %d of timeline %s", p.First, p.Timeline)
	}
	return fmt.Sprintf("segment %d-%d, level %d, of timeline %s", p.First, p.Last, p.Level, p.Timeline)
}

// inArchive takes the name of an object in the archive of a cluster apart: what comes after the timeline is not looked at.
func inArchive(name, part string) (cluster string, t Timeline, rest string, ok bool) {
	rest, inClusters := strings.CutPrefix(name, clusterFolder)
	cluster, rest, inPart := strings.Cut(rest, part)
	timeline, rest, _ := strings.Cut(rest, "/")
	ok = inClusters && inPart && CheckCluster(cluster) == nil && timelinePattern.MatchString(timeline)
	return cluster, Timeline(timeline), rest, ok
}

// parseSegmentPoint reads the name of a manifest of a segment.
func parseSegmentPoint(name string) (SegmentPoint, error) {
	fail := func() (SegmentPoint, error) {
		return SegmentPoint{}, fmt.Errorf("object %q is not named as a segment", name)
	}
	cluster, timeline, rest, ok := inArchive(name, archivePart)
	folder, file := path.Split(rest)
	level, levelErr := strconv.Atoi(strings.TrimSuffix(folder, "/"))
	if !ok || levelErr != nil || level < SegmentLive || level > SegmentDay {
		return fail()
	}
	p := SegmentPoint{Cluster: cluster, Timeline: timeline, Level: level}
	firstText, lastText, _ := strings.Cut(strings.TrimSuffix(file, ".json"), "-")
	var err error
	if p.First, err = parseRevision(firstText); err != nil {
		return fail()
	}
	if level != SegmentLive {
		if p.Last, err = parseRevision(lastText); err != nil || p.Last < p.First {
			return fail()
		}
	}
	if p.manifestName() != name {
		return fail()
	}
	return p, nil
}

// parseRevision reads the digits of a revision. Whether there are 20 shows when the name is made again.
func parseRevision(text string) (history.Revision, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < 1 {
		err = fmt.Errorf("revision %d is below 1", n)
	}
	return history.Revision(n), err
}

// SegmentPoints lists the segments of a timeline, or of all when it is "", from names alone: by timeline, level and first
// revision. Strange are objects among them that are not named as one.
func (r *Repository) SegmentPoints(ctx context.Context, cluster string, t Timeline) (points []SegmentPoint, strange []string, err error) {
	timelines := []string{string(t)}
	if t == "" {
		if err := CheckCluster(cluster); err != nil {
			return nil, nil, err
		}
		if timelines, err = r.folders(ctx, clusterFolder+cluster+archivePart); err != nil {
			return nil, nil, fmt.Errorf("list timelines of %q: %w", cluster, err)
		}
	}
	for _, timeline := range timelines {
		if t == "" && !timelinePattern.MatchString(timeline) {
			strange = append(strange, archiveFolder(cluster, Timeline(timeline)))
			continue
		}
		some, odd, err := r.segmentPoints(ctx, cluster, Timeline(timeline))
		if err != nil {
			return nil, nil, err
		}
		points, strange = append(points, some...), append(strange, odd...)
	}
	return points, strange, nil // names sort so in a store
}

// segmentPoints lists the segments of one timeline, and not its notes, of which there may be many more.
func (r *Repository) segmentPoints(ctx context.Context, cluster string, t Timeline) (points []SegmentPoint, strange []string, err error) {
	if err := errors.Join(CheckCluster(cluster), CheckTimeline(string(t))); err != nil {
		return nil, nil, err
	}
	folder := archiveFolder(cluster, t)
	for object, err := range r.store.List(ctx, folder, "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list segments of %q: %w", cluster, err)
		}
		if object.Name >= folder+pastSegments {
			break
		}
		point, err := parseSegmentPoint(object.Name)
		if err != nil {
			strange = append(strange, object.Name)
			continue
		}
		points = append(points, point)
	}
	return points, strange, nil
}

// Timelines lists the timelines of a cluster: those with snapshots in the order of their first ones, then those of which
// only an archive is there, by name.
func (r *Repository) Timelines(ctx context.Context, cluster string) ([]Timeline, error) {
	points, _, err := r.Points(ctx, cluster)
	if err != nil {
		return nil, err
	}
	var timelines []Timeline
	for _, p := range points {
		if !slices.Contains(timelines, p.Timeline) {
			timelines = append(timelines, p.Timeline)
		}
	}
	archived, err := r.ArchivedTimelines(ctx, cluster)
	if err != nil {
		return nil, err
	}
	for _, t := range archived {
		if !slices.Contains(timelines, t) {
			timelines = append(timelines, t)
		}
	}
	return timelines, nil
}

// ArchivedTimelines lists the timelines that an archiver has written something of, by name. Where there is no archive it lists
// one object.
func (r *Repository) ArchivedTimelines(ctx context.Context, cluster string) ([]Timeline, error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, err
	}
	names, err := r.folders(ctx, clusterFolder+cluster+archivePart)
	if err != nil {
		return nil, fmt.Errorf("list timelines of %q: %w", cluster, err)
	}
	var timelines []Timeline
	for _, name := range names {
		if timelinePattern.MatchString(name) {
			timelines = append(timelines, Timeline(name))
		}
	}
	return timelines, nil
}

// folders lists the folders right below a prefix, by name. It looks at one object of each.
func (r *Repository) folders(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	after := ""
	for {
		found := ""
		for object, err := range r.store.List(ctx, prefix, after) {
			if err != nil {
				return nil, err
			}
			found = object.Name
			break
		}
		if found == "" {
			slices.Sort(names) // "a-b/" comes before "a/" in a store
			return names, nil
		}
		name, _, inFolder := strings.Cut(strings.TrimPrefix(found, prefix), "/")
		if after = found; inFolder {
			names = append(names, name)
			// Past everything below the folder: "0" is the character after "/".
			after = prefix + name + "0"
		}
	}
}

// LastSegment finds the segment with the last revision of a timeline, live or merged; nil when there is none. It goes by
// names, fetches one manifest or two, and asks for the one behind, as a listing may lag. What cannot be believed does not
// count; what could not be read is an error.
func (r *Repository) LastSegment(ctx context.Context, cluster string, t Timeline) (*Segment, error) {
	points, _, err := r.segmentPoints(ctx, cluster, t)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(points, func(a, b SegmentPoint) int { return cmp.Compare(b.end(), a.end()) })
	var last *Segment
	for _, live := range []bool{true, false} {
		for _, p := range points {
			if (p.Level == SegmentLive) != live || last != nil && p.end() <= last.Last {
				continue
			}
			found, err := r.segmentIfAny(ctx, p)
			if err != nil {
				return nil, err
			}
			if found != nil {
				last = found
				break
			}
		}
	}
	for last != nil {
		next, err := r.segmentIfAny(ctx, SegmentPoint{Cluster: cluster, Timeline: t, First: last.Last + 1})
		if err != nil {
			return nil, err
		}
		if next == nil {
			break
		}
		last = next
	}
	return last, nil
}

// segmentIfAny is nil of a segment that is not there, or that nobody need believe.
func (r *Repository) segmentIfAny(ctx context.Context, p SegmentPoint) (*Segment, error) {
	read := r.Segment(ctx, p)
	switch {
	case errors.Is(read.Err, store.ErrNotFound), errors.Is(read.Err, ErrForged):
		return nil, nil
	case read.Err != nil:
		return nil, read.Err
	}
	return &read.Segment, nil
}
