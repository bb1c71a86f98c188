package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// CheckResult is what Check found. docs/contracts/repository.md has the JSON form.
type CheckResult struct {
	Clusters  int `json:"clusters"`
	Snapshots int `json:"snapshots"`
	// Segments counts those of the archive, at all levels.
	Segments int `json:"segments"`
	// Bytes is the size of all data objects that a manifest names.
	Bytes int64 `json:"bytes"`
	// Removed counts the snapshots that were pruned.
	Removed int `json:"removed"`
	// Unclaimed counts data objects that no manifest names: of backups that were cut off, or are on their way.
	Unclaimed      int   `json:"unclaimed"`
	UnclaimedBytes int64 `json:"unclaimed-bytes"`
	// Problems are lines for people, each naming an object or a signer.
	Problems []string `json:"problems"`
}

// Check looks at everything that listings and manifests tell, of all clusters; it reads no data. What is wrong is in the
// result; the error is for what could not be looked at. seen are the heads that the reader remembers, heads are those of now.
func (r *Repository) Check(ctx context.Context, seen Heads) (result CheckResult, heads Heads, err error) {
	c := checking{CheckResult: &result}
	defer func() { result.Problems = c.lines() }()
	clusters, err := r.Clusters(ctx)
	if err != nil {
		return result, nil, err
	}
	var all []Read
	for _, cluster := range clusters {
		reads, strange, err := r.Snapshots(ctx, cluster)
		if err != nil {
			return result, nil, err
		}
		for _, name := range strange {
			c.say(fmt.Errorf("object %q is among the manifests and is none", name))
		}
		if err := r.checkData(ctx, cluster, reads, &c); err != nil {
			return result, nil, err
		}
		if err := r.checkArchive(ctx, cluster, &c); err != nil {
			return result, nil, err
		}
		all = append(all, reads...)
	}
	result.Clusters, result.Snapshots = len(clusters), len(all)
	removals, err := r.Removals(ctx)
	if err != nil {
		return result, nil, err
	}
	removed := map[string]bool{} // by sha256: a removal that was cut off is told of again
	for _, removal := range removals {
		if removal.Err != nil {
			c.say(removal.Err)
		}
		for _, gone := range removal.Removal.Snapshots {
			removed[gone.SHA256] = true
		}
	}
	result.Removed = len(removed)
	broken, heads := CheckChains(all, removals, seen)
	for _, broken := range broken {
		c.say(errors.New(broken.String()))
	}
	_, strange, err := r.Signers(ctx)
	for _, name := range strange {
		c.say(fmt.Errorf("object %q is among the signers and is none", name))
	}
	return result, heads, err
}

// checking is one Check on its way.
type checking struct {
	*CheckResult
	found []error
}

func (c *checking) say(err error) { c.found = append(c.found, err) }

// lines are the problems.
func (c *checking) lines() []string {
	lines := []string{}
	for _, err := range BySigner(c.found) {
		lines = append(lines, err.Error())
	}
	return lines
}

// checkData compares the data objects of a cluster with its manifests, and looks at what else is said of its snapshots.
func (r *Repository) checkData(ctx context.Context, cluster string, reads []Read, c *checking) error {
	sizes := map[string]int64{}
	for object, err := range r.store.List(ctx, clusterFolder+cluster+dataPart, "") {
		if err != nil {
			return fmt.Errorf("list data of %q: %w", cluster, err)
		}
		sizes[object.Name] = object.Size
	}
	for _, read := range reads {
		if read.Err != nil {
			c.say(read.Err)
			for _, encrypted := range []bool{true, false} {
				delete(sizes, dataName(cluster, read.Point.ID, encrypted))
			}
			continue
		}
		o := read.Manifest.Object
		size, there := sizes[o.Name]
		delete(sizes, o.Name)
		c.Bytes += size
		// A listing may lag behind; only a look at the object itself says that it is not there.
		if !there || size != o.Size {
			if err := r.CheckListed(ctx, read.Manifest); err != nil {
				c.say(err)
			}
		}
	}
	for _, size := range sizes {
		c.Unclaimed++
		c.UnclaimedBytes += size
	}
	verifications, strange, err := r.Verifications(ctx, cluster, nil)
	if err != nil {
		return err
	}
	for _, v := range verifications {
		if v.Err != nil {
			c.say(v.Err)
		}
	}
	for _, name := range strange {
		c.say(fmt.Errorf("object %q is among the verifications and is none", name))
	}
	pins, err := r.PinsOf(ctx, cluster)
	if err != nil {
		return err
	}
	for _, pin := range pins {
		if pin.Err != nil {
			c.say(pin.Err)
		}
	}
	return nil
}

// checkArchive compares the data of segments with their manifests, and looks at what else is in the archive of a cluster.
// Whether revisions are missing is not for it to say: that takes the snapshots, too.
func (r *Repository) checkArchive(ctx context.Context, cluster string, c *checking) error {
	problem := func(format string, a ...any) { c.say(fmt.Errorf(format, a...)) }
	sizes, err := r.segmentSizes(ctx, cluster)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		if _, err := parseSegmentData(name); err != nil {
			problem("object %q is among the data of segments and is none", name)
		}
	}
	points, timelines, strange, err := r.listArchive(ctx, cluster)
	if err != nil {
		return err
	}
	for _, name := range strange {
		problem("object %q is in the archive and does not belong there", name)
	}
	reads, err := r.SegmentsOf(ctx, points)
	if err != nil {
		return err
	}
	c.Segments += len(reads)
	for _, read := range reads {
		if read.Err != nil {
			c.say(read.Err)
			continue
		}
		o := read.Segment.Object
		size, there := sizes[o.Name]
		c.Bytes += size
		// A listing may lag behind; only a look at the object itself says that it is not there.
		if !there || size != o.Size {
			if err := r.checkListed(ctx, o); err != nil {
				c.say(err)
			}
		}
	}
	claimed := newClaims(reads)
	for name, size := range sizes {
		d, err := parseSegmentData(name)
		if err != nil || !claimed.by(name, segmentPlace{d.timeline, d.first}) {
			c.Unclaimed++
			c.UnclaimedBytes += size
		}
	}
	return r.checkNotes(ctx, cluster, timelines, c)
}

// segmentSizes lists the data of all segments of a cluster.
func (r *Repository) segmentSizes(ctx context.Context, cluster string) (map[string]int64, error) {
	sizes := map[string]int64{}
	for object, err := range r.store.List(ctx, clusterFolder+cluster+segmentPart, "") {
		if err != nil {
			return nil, fmt.Errorf("list segments of %q: %w", cluster, err)
		}
		sizes[object.Name] = object.Size
	}
	return sizes, nil
}

// CheckSegmentsListed looks whether the objects of segments of one cluster are there with their sizes, by one listing and a
// look at those that it does not show so. It gives for each segment, in their order, what is wrong; nil when nothing is.
func (r *Repository) CheckSegmentsListed(ctx context.Context, cluster string, segments []Segment) ([]error, error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, err
	}
	return r.checkAllListed(ctx, clusterFolder+cluster+segmentPart, len(segments), func(i int) Object { return segments[i].Object })
}

// CheckSnapshotsListed is CheckSegmentsListed for snapshots.
func (r *Repository) CheckSnapshotsListed(ctx context.Context, cluster string, snapshots []Manifest) ([]error, error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, err
	}
	return r.checkAllListed(ctx, clusterFolder+cluster+dataPart, len(snapshots), func(i int) Object { return snapshots[i].Object })
}

// checkAllListed looks whether n objects of a folder are there.
func (r *Repository) checkAllListed(ctx context.Context, folder string, n int, at func(int) Object) ([]error, error) {
	missing := make(map[string]int, n) // their places, until they are seen
	for i := range n {
		missing[at(i).Name] = i
	}
	for object, err := range r.store.List(ctx, folder, "") {
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", folder, err)
		}
		if i, wanted := missing[object.Name]; wanted && object.Size == at(i).Size {
			delete(missing, object.Name)
		}
	}
	found := make([]error, n)
	// A listing may lag behind; only a look at the object itself says that it is not there.
	for _, i := range missing {
		found[i] = r.checkListed(ctx, at(i))
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return found, nil
}

// CheckSegmentStored is CheckStored for a segment.
func (r *Repository) CheckSegmentStored(ctx context.Context, s Segment, observe io.Writer) error {
	return r.copyObject(ctx, s.Object, io.Discard, observe)
}

// listArchive lists all that is in the archive of a cluster. Leases count by their names.
func (r *Repository) listArchive(ctx context.Context, cluster string) (points []SegmentPoint, timelines []Timeline, strange []string, err error) {
	noted := map[Timeline]bool{}
	for object, err := range r.store.List(ctx, clusterFolder+cluster+archivePart, "") {
		if err != nil {
			return nil, nil, nil, fmt.Errorf("list archive of %q: %w", cluster, err)
		}
		if point, err := parseSegmentPoint(object.Name); err == nil {
			points = append(points, point)
			continue
		}
		gap, gapErr := parseGap(object.Name)
		hashes, hashesErr := parseHashes(object.Name)
		drill, drillErr := parseDrill(object.Name)
		_, leaseErr := parseLease(object.Name)
		switch {
		case gapErr == nil:
			noted[gap.Timeline] = true
		case hashesErr == nil:
			noted[hashes.Timeline] = true
		case drillErr == nil:
			noted[drill.Timeline] = true
		case leaseErr != nil:
			strange = append(strange, object.Name)
		}
	}
	return points, slices.Sorted(maps.Keys(noted)), strange, nil
}

func (r *Repository) checkNotes(ctx context.Context, cluster string, timelines []Timeline, c *checking) error {
	for _, t := range timelines {
		gaps, _, err := r.Gaps(ctx, cluster, t)
		if err != nil {
			return err
		}
		for _, read := range gaps {
			if read.Err != nil {
				c.say(read.Err)
			}
		}
		hashes, _, err := r.Hashes(ctx, cluster, t, 0)
		if err != nil {
			return err
		}
		for _, read := range hashes {
			if read.Err != nil {
				c.say(read.Err)
			}
		}
		drills, _, err := r.Drills(ctx, cluster, t)
		if err != nil {
			return err
		}
		for _, read := range drills {
			if read.Err != nil {
				c.say(read.Err)
			}
		}
	}
	return nil
}
