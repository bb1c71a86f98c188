package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/verify"
)

// verifiedArchive is what verify says of the archive of a timeline; docs/contracts/repository.md has the JSON form. Segments
// have no verifications of their own in the repository: there may be one for every second.
type verifiedArchive struct {
	Cluster  string              `json:"cluster"`
	Timeline repository.Timeline `json:"timeline"`
	Level    repository.Level    `json:"level"`
	Result   string              `json:"result"`
	// Segments and Bytes are what was looked at, as it is stored.
	Segments int   `json:"segments"`
	Bytes    int64 `json:"bytes"`
	// Covered are the revisions that can be restored, as far as was looked.
	Covered  []listedRange `json:"covered"`
	Problems []string      `json:"problems"`
	Seconds  float64       `json:"duration_s"`
}

// segmentsAtOnce is how many segments are read at a time: they are small, and stores answer in tens of milliseconds.
const segmentsAtOnce = 8

// archives verifies the archives of the clusters that snapshots are of. Bad is what is wrong, failed what could not be looked at.
func (v *verification) archives(ctx context.Context, reads []repository.Read, part float64) (bad, failed []error, err error) {
	for len(reads) > 0 {
		cluster := reads[0].Point.Cluster
		n := slices.IndexFunc(reads, func(r repository.Read) bool { return r.Point.Cluster != cluster })
		if n < 0 {
			n = len(reads)
		}
		wrong, errs, err := v.archive(ctx, cluster, reads[:n], part)
		if err != nil {
			return nil, nil, err
		}
		bad, failed, reads = append(bad, wrong...), append(failed, errs...), reads[n:]
	}
	return bad, failed, nil
}

// archive verifies the archive of one cluster.
func (v *verification) archive(ctx context.Context, cluster string, reads []repository.Read, part float64) (bad, failed []error, err error) {
	began := time.Now()
	lines, wrong, err := archiveOf(ctx, v.repo, cluster, reads, segmentsOf)
	if err != nil || len(lines) == 0 && len(wrong) == 0 {
		return wrong, nil, err
	}
	bad = wrong
	told := map[string]bool{}
	for _, err := range wrong {
		told[err.Error()] = true
	}
	points, _, err := v.repo.SegmentPoints(ctx, cluster, "")
	if err != nil {
		return nil, nil, err
	}
	found, err := v.segments(ctx, cluster, points, part)
	if err != nil {
		return nil, nil, err
	}
	var manifests []repository.Manifest
	for _, read := range reads {
		if read.Err == nil && !v.bad[read.Point.ID] {
			manifests = append(manifests, read.Manifest)
		}
	}
	after := coverage.Of(manifests, found.good, nil)
	for _, line := range lines {
		one := verifiedArchive{Cluster: cluster, Timeline: line.line.ID, Level: v.level, Result: found.result(v.level), Problems: []string{}}
		one.Segments, one.Bytes = found.looked(line.line.ID)
		say := func(err error) {
			one.Problems = append(one.Problems, err.Error())
			if !told[err.Error()] {
				bad = append(bad, err)
			}
		}
		for _, problem := range found.problems[line.line.ID] {
			say(problem)
		}
		now := coverage.Timeline{}
		if i := slices.IndexFunc(after, func(t coverage.Timeline) bool { return t.ID == line.line.ID }); i >= 0 {
			now = after[i]
		}
		one.Covered = listedRanges(now.Covered)
		for _, lost := range line.line.Lost(now) {
			say(fmt.Errorf("cluster %s, timeline %s: revisions %s cannot be restored any more; what can be are revisions %s", cluster, line.line.ID, lost, windows(now.Covered)))
		}
		for _, hole := range (archivedLine{cluster: cluster, line: coverage.Timeline{ID: line.line.ID, Covered: now.Covered}, holes: line.holes}).missing() {
			say(hole)
		}
		if len(one.Problems) > 0 {
			one.Result = foundBad
		}
		one.Seconds = time.Since(began).Seconds()
		if err := one.write(v.Stdout, v.flags.output); err != nil {
			return nil, nil, err
		}
	}
	return bad, found.failed, nil
}

// segmentsFound is what was found out about the segments of a cluster.
type segmentsFound struct {
	mu sync.Mutex
	// good are those that nothing is wrong with as far as was looked, and checked those that were looked at.
	good, checked []repository.Segment
	problems      map[repository.Timeline][]error
	failed        []error
	// ciphertext tells that some could be looked at without a key only.
	ciphertext bool
}

// segments looks at all segments, or at a part of them beyond their listing.
func (v *verification) segments(ctx context.Context, cluster string, points []repository.SegmentPoint, part float64) (*segmentsFound, error) {
	found := &segmentsFound{problems: map[repository.Timeline][]error{}}
	reads, err := v.repo.SegmentsOf(ctx, points)
	if err != nil {
		return nil, err
	}
	var all []repository.Segment
	for _, read := range reads {
		switch {
		case read.Err == nil:
			all = append(all, read.Segment)
		case !errors.Is(read.Err, store.ErrNotFound): // it was pruned meanwhile
			found.problems[read.Point.Timeline] = append(found.problems[read.Point.Timeline], read.Err)
		}
	}
	listed, err := v.repo.CheckSegmentsListed(ctx, cluster, all)
	if err != nil {
		return nil, err
	}
	var there []repository.Segment
	for i, s := range all {
		switch {
		case listed[i] == nil:
			there = append(there, s)
		case verify.Damage(listed[i]):
			v.settle(ctx, found, s, listed[i].Error())
		default:
			found.failed = append(found.failed, fmt.Errorf("segment %s of cluster %s: %w", s.Range(), cluster, listed[i]))
		}
	}
	if v.level == repository.LevelListing {
		found.good, found.checked = there, all
		return found, nil
	}
	rand.Shuffle(len(there), func(i, j int) { there[i], there[j] = there[j], there[i] })
	n := int(math.Ceil(part * float64(len(there))))
	found.good = append(found.good, there[n:]...)
	return found, v.readAll(ctx, found, there[:n])
}

// readAll reads segments, some at a time.
func (v *verification) readAll(ctx context.Context, found *segmentsFound, segments []repository.Segment) error {
	var all int64
	for _, s := range segments {
		all += s.Plain.Size
	}
	show := v.transferProgress("verify segments", v.flags)
	defer show.close()
	o := v.options
	counter := &lockedWriter{out: show.counter(all)}
	o.Observe = counter
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(segmentsAtOnce)
	for _, s := range segments {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			v.readOne(ctx, found, s, o)
			return context.Cause(ctx)
		})
	}
	return group.Wait()
}

// lockedWriter is a writer for several goroutines.
type lockedWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

// readOne reads one segment, as deep as the keys allow.
func (v *verification) readOne(ctx context.Context, found *segmentsFound, s repository.Segment, o verify.Options) {
	level := repository.LevelChecksum
	if len(o.Identities) == 0 && s.Object.Encryption != repository.None {
		level = repository.LevelCiphertext
	}
	problem, err := verify.Segment(ctx, v.repo, s, level, o)
	wrongKey := errors.Is(err, seal.ErrNoIdentity)
	if wrongKey {
		level = repository.LevelCiphertext
		problem, err = verify.Segment(ctx, v.repo, s, level, o)
	}
	if problem != "" {
		v.settle(ctx, found, s, problem)
	}
	found.mu.Lock()
	defer found.mu.Unlock()
	if wrongKey {
		v.wrongKeySegments++
	}
	found.ciphertext = found.ciphertext || level == repository.LevelCiphertext
	found.checked = append(found.checked, s)
	switch {
	case err != nil:
		found.failed = append(found.failed, fmt.Errorf("segment %s of cluster %s: %w", s.Range(), s.Cluster, err))
	case problem == "":
		found.good = append(found.good, s)
	}
}

// settle notes what is wrong with a segment, unless it was pruned meanwhile: then its manifest went first.
func (v *verification) settle(ctx context.Context, found *segmentsFound, s repository.Segment, problem string) {
	if again := v.repo.Segment(ctx, s.Point()); errors.Is(again.Err, store.ErrNotFound) {
		return
	}
	found.mu.Lock()
	defer found.mu.Unlock()
	found.problems[s.Timeline] = append(found.problems[s.Timeline], fmt.Errorf("segment %s of cluster %s, timeline %s: %s", s.Range(), s.Cluster, s.Timeline, problem))
}

// looked tells how many segments of a timeline were looked at, and their size.
func (f *segmentsFound) looked(t repository.Timeline) (n int, bytes int64) {
	for _, s := range f.checked {
		if s.Timeline == t {
			n, bytes = n+1, bytes+s.Object.Size
		}
	}
	return n, bytes
}

// result puts what was done into words.
func (f *segmentsFound) result(level repository.Level) string {
	switch {
	case level == repository.LevelListing:
		return foundListed
	case len(f.failed) > 0:
		return foundNothing
	case f.ciphertext:
		return foundCiphertext
	}
	return foundChecked
}

func (v verifiedArchive) write(w io.Writer, form string) error {
	if form == "json" {
		return json.NewEncoder(w).Encode(v)
	}
	covered := "none"
	for i, r := range v.Covered {
		text := fmt.Sprintf("%d-%d", r.First, r.Last)
		if i == 0 {
			covered = text
		} else {
			covered += ", " + text
		}
	}
	_, err := fmt.Fprintf(w, "archive of timeline %s  %s  %s, %s  %s, %s\n  can be restored: revisions %s\n",
		v.Timeline, v.Cluster, plural(v.Segments, "segment"), humanize.Bytes(uint64(v.Bytes)), v.Result, shortDuration(v.Seconds), covered)
	return err
}
