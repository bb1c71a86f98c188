package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// Options of Backend.
type Options struct {
	// Target is the revision whose state is wanted: that after all its events.
	Target history.Revision
	// KeepHistory keeps every record from the base's compact revision on. By default only what lives at the target is
	// written, and the target is marked compacted.
	KeepHistory bool
	// Work is a folder of mode 0700 for temporary files, on the file system of the result. They hold every secret of the
	// cluster. Nothing is left in it, unless the process is killed: then it may hold a half-written result.
	Work string
}

// Base is a backend file with what snapshot said of that very file.
type Base struct {
	// File is its path. It is plain, with or without etcd's trailer. Nobody may write to it.
	File  string
	Info  snapshot.Info
	Index *snapshot.Index
}

// Events gives the events of one segment. It is used by one goroutine.
type Events interface {
	// Next gives the next event: sorted by key, then revision. Its slices are valid until the next call. io.EOF comes
	// after the last, and only when everything was checked: that all events of all the segment's revisions were given, and
	// are those that were stored.
	Next() (history.Event, error)
	// Leases are what is known of the leases that the segment's keys are attached to. It is asked once, before Next.
	Leases() []history.Lease
	// Close is called once, whatever happened.
	Close() error
}

// Segment is a run of events that can be read.
type Segment struct {
	Range history.Range
	// Open is called at most once. Events that come later must end soon after ctx has.
	Open func(ctx context.Context) (Events, error)
}

// Result is what Backend has made.
type Result struct {
	// Revision is the target. CompactRevision is the last compaction: the target, or with KeepHistory that of the base.
	Revision, CompactRevision history.Revision
	// Keys live at the target. Records are what was written, with deletes and, when it is kept, history.
	Keys, Records int64
	// Events were read in segments, and BaseRecords in the base.
	Events, BaseRecords int64
	// Size is that of the file; Read is the base and the keys and values of all events; Spilled was in the spill file. All in
	// bytes.
	Size, Read, Spilled int64
	// Leases are those that were kept. Of DefaultedLeases nobody knew the TTL, so that they got DefaultTTL.
	Leases, DefaultedLeases int64
	// SegmentsTime, BaseTime and WriteTime are what the three parts took.
	SegmentsTime, BaseTime, WriteTime time.Duration
}

// RecordsPerSecond is how many events and records were read and written each second.
func (r Result) RecordsPerSecond() float64 {
	took := r.SegmentsTime + r.BaseTime + r.WriteTime
	if took <= 0 {
		return 0
	}
	return float64(r.Events+r.BaseRecords+r.Records) / took.Seconds()
}

// Errors of Backend. Ask with errors.Is.
var (
	// ErrOutOfReach means that base and segments do not lead to the target.
	ErrOutOfReach = errors.New("the target is out of reach")
	// ErrEvents means that the events of a segment cannot be those of a cluster, or are not in order.
	ErrEvents = errors.New("impossible events")
)

// Backend makes, at path, the backend file of the target revision: with mode 0600, durable and without trailer. Its
// consistent index and term are those of the base, for a restore to rewrite. There must be no file at path.
//
// Segments are adjacent and ascending. They begin at the latest right after the base's revision; events up to that are not
// looked at. A segment that has nothing to give is not opened. When the target is not after the base's revision no segment is
// needed.
//
// On error there is no file at path and nothing in Work: ErrOutOfReach, ErrEvents, snapshot.ErrCorrupt when the base is not
// as it was, an error of the segments, the disk's, or the cause of ctx.
func Backend(ctx context.Context, path string, base Base, segments []Segment, o Options) (result Result, err error) {
	defer func() {
		if err != nil {
			result, err = Result{}, fmt.Errorf("replay to revision %d: %w", o.Target, err)
		}
	}()
	needed, err := chain(base.Info, segments, o)
	if err != nil {
		return Result{}, err
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return Result{}, errors.Join(err, fmt.Errorf("there is %q already", filepath.Base(path)))
	}
	r := &replay{o: o, base: base, places: newPlaces(), keys: newKeys(), known: map[int64]int64{}}
	// Where no event comes after the base, the base's leases are those of the target.
	r.allLeases = o.Target == base.Info.Revision && len(needed) == 0
	if r.spill, err = newSpill(o.Work); err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, r.spill.close()) }()
	if r.file, err = os.Open(base.File); err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, r.file.Close()) }()
	for _, step := range []struct {
		run  func(context.Context) error
		took *time.Duration
	}{
		{func(ctx context.Context) error { return r.readSegments(ctx, needed) }, &r.result.SegmentsTime},
		{r.readBase, &r.result.BaseTime},
		{func(ctx context.Context) error { return r.write(ctx, path) }, &r.result.WriteTime},
	} {
		start := time.Now()
		if err := step.run(ctx); err != nil {
			return Result{}, err
		}
		*step.took = time.Since(start)
	}
	return r.result, nil
}

// chain gives the segments that must be read, or why they do not lead to the target.
func chain(base snapshot.Info, segments []Segment, o Options) ([]Segment, error) {
	floor := floorOf(base)
	switch {
	case o.Target < 1:
		return nil, fmt.Errorf("%w: there is no such revision", ErrOutOfReach)
	case o.Target < floor:
		return nil, fmt.Errorf("%w: the snapshot's history begins at revision %d", ErrOutOfReach, floor)
	case base.Missing > 0 && (o.KeepHistory || o.Target < base.Revision):
		return nil, fmt.Errorf("%w: the snapshot lacks revision %d of its history", ErrOutOfReach, base.Missing)
	case o.Target <= base.Revision:
		return nil, nil
	}
	for i, s := range segments {
		if s.Range.Len() == 0 || i > 0 && s.Range.First != segments[i-1].Range.Last+1 {
			return nil, fmt.Errorf("%w: segment %s does not follow the one before", ErrOutOfReach, s.Range)
		}
	}
	var needed []Segment
	reached := base.Revision
	for _, s := range segments {
		if s.Range.Last <= base.Revision || s.Range.First > o.Target {
			continue
		}
		if s.Range.First > reached+1 {
			return nil, fmt.Errorf("%w: nothing holds revisions %d to %d", ErrOutOfReach, reached+1, s.Range.First-1)
		}
		needed, reached = append(needed, s), s.Range.Last
	}
	if reached < o.Target {
		return nil, fmt.Errorf("%w: snapshot and segments end at revision %d", ErrOutOfReach, reached)
	}
	return needed, nil
}

// floorOf is the first revision of which a backend has the whole state. What a compaction that was not finished has
// removed already, nobody knows.
func floorOf(base snapshot.Info) history.Revision {
	return max(base.CompactRevision, base.ScheduledCompactRevision)
}

// replay is the state of one Backend.
type replay struct {
	o         Options
	base      Base
	file      *os.File // base.File
	spill     *spill
	places    *places
	keys      *keys
	known     map[int64]int64 // TTLs of leases that segments know, in seconds
	allLeases bool
	result    Result
}

// write makes the file and gives it its name.
func (r *replay) write(ctx context.Context, path string) (err error) {
	if err := r.spill.flush(); err != nil {
		return err
	}
	if err := r.places.sort(ctx); err != nil {
		return err
	}
	file, err := os.CreateTemp(r.o.Work, "replay-*") // with mode 0600
	if err != nil {
		return err
	}
	temp := file.Name()
	defer func() {
		if err = errors.Join(err, file.Close()); err == nil {
			return
		}
		for _, name := range []string{temp, path} { // The last step can fail after it has given the name.
			if removeErr := os.Remove(name); !errors.Is(removeErr, os.ErrNotExist) {
				err = errors.Join(err, removeErr)
			}
		}
	}()
	leases, err := r.writeRecords(ctx, file)
	if err != nil {
		return fmt.Errorf("write records: %w", err)
	}
	if err := r.writeBuckets(ctx, temp, leases); err != nil {
		return fmt.Errorf("write other buckets: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	r.result.Size, r.result.Spilled = info.Size(), r.spill.size
	r.result.Revision, r.result.CompactRevision = r.o.Target, r.o.Target
	if r.o.KeepHistory {
		r.result.CompactRevision = r.base.Info.CompactRevision
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return durable.Rename(temp, path)
}

// writeRecords writes the key bucket, and tells which leases the live keys are attached to.
func (r *replay) writeRecords(ctx context.Context, file *os.File) (map[int64]bool, error) {
	w, err := newPageWriter(durable.NewOverlapped(file), r.base.Info.PageSize)
	if err != nil {
		return nil, err
	}
	leases := map[int64]bool{}
	var key []byte
	err = r.places.each(func(p place) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		key = appendKey(key[:0], p)
		value, err := w.add(key, int(p.size))
		if err != nil {
			return err
		}
		var from io.ReaderAt = r.file
		if p.spilled() {
			from = r.spill.file
		}
		if _, err := from.ReadAt(value, p.offset()); err != nil {
			return fmt.Errorf("read record %d again: %w", p.main, err)
		}
		r.result.Records++
		rec, err := snapshot.ParseRecord(key, value)
		if err != nil {
			return fmt.Errorf("read record %d again: %w", p.main, err)
		}
		// Without a key is only what a restore with a raised revision leaves.
		if p.latest() && !p.tombstone() && len(rec.Key) > 0 {
			r.result.Keys++
			if rec.Lease != 0 {
				leases[rec.Lease] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return leases, w.finish(file)
}
