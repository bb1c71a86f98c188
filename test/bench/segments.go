package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/replay"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// planSpeed looks at the plan of a restore where many live segments are stored, which nobody merged.
func planSpeed(ctx context.Context, l *lab, r *report) error {
	sizes := []struct {
		name     string
		segments int
	}{{"10,000", 10_000}, {"86,400", 86_400}}
	var sides []work
	for _, size := range sizes {
		folder := filepath.Join(l.dir, fmt.Sprint(size.segments))
		last, err := l.manySegments(ctx, folder, size.segments)
		if err != nil {
			return err
		}
		sides = append(sides, work{name: size.name, do: func(f figures) error {
			cmd := l.holdfast(ctx, "restore", "--plan", "--revision", last.String(), "--quiet", "--repo", "file://"+folder)
			var out bytes.Buffer
			cmd.Stdout = &out
			if err := tool(cmd, f, "plan"); err != nil {
				return err
			}
			if !bytes.Contains(out.Bytes(), fmt.Appendf(nil, "and %d segments", size.segments)) {
				return fmt.Errorf("the plan has not all segments:\n%s", out.String())
			}
			return nil
		}})
	}
	if err := l.alternate(ctx, r, sides); err != nil {
		return err
	}
	r.Notes = append(r.Notes, "restore --plan --revision of the last revision of so many live segments in a folder, each signed")
	r.gateMost("cpu_s", "10,000", 2)
	r.gateMost("cpu_s", "86,400", 15)
	r.gateMost("memory-anonymous_bytes", "86,400", 256<<20)
	return nil
}

// manySegments makes a repository of a snapshot and so many segments of a second, whose data is there and is nothing. It gives
// the last revision.
func (l *lab) manySegments(ctx context.Context, folder string, n int) (history.Revision, error) {
	l.say("making a repository of %d segments", n)
	memory := mem.New()
	s, err := l.smallRepository(ctx, memory)
	if err != nil {
		return 0, err
	}
	base, err := s.publish(ctx, time.Now().Add(-24*time.Hour))
	if err != nil {
		return 0, err
	}
	const each = 34
	sum := hex.EncodeToString(make([]byte, sha256.Size))
	last := base.Content.Revision
	const size = 5000
	var names []string
	for i := range n {
		at := base.Started.Add(time.Duration(i) * time.Second)
		m := repository.Segment{
			Cluster: "bench", Timeline: base.Timeline, First: last + 1, Last: last + each, Events: each, FirstTime: at, LastTime: at, // so that nobody asks for the times within
			Exact: true, Plain: repository.Plain{Size: 30_000, SHA256: sum}, Source: base.Source, Started: at, Completed: time.Now(),
		}
		if m.Object, err = s.NewSegmentData(m.Cluster, m.Timeline, m.First, nil); err != nil {
			return 0, err
		}
		m.Object.Size, m.Object.SHA256 = size, sum
		names = append(names, filepath.Join(folder, m.Object.Name))
		if _, err := s.PublishSegment(ctx, s.writer, m); err != nil {
			return 0, err
		}
		last = m.Last
	}
	if err := errors.Join(copyOut(ctx, memory, folder), os.MkdirAll(filepath.Dir(names[0]), 0o700)); err != nil {
		return 0, err
	}
	for _, name := range names {
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, size)); err != nil {
			return 0, err
		}
	}
	return last, nil
}

// copyOut writes the objects of a store as a store in a folder has them, without the syncs.
func copyOut(ctx context.Context, from store.Store, folder string) error {
	for object, err := range from.List(ctx, "", "") {
		if err != nil {
			return err
		}
		body, err := from.Open(ctx, object.Name, 0, -1)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(body)
		path := filepath.Join(folder, object.Name)
		if err = errors.Join(err, body.Close(), os.MkdirAll(filepath.Dir(path), 0o700)); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

const (
	// farAnswer is how long a store far away takes to answer, farSegments an hour of live segments.
	farAnswer   = 30 * time.Millisecond
	farSegments = 3600
)

// momentFar restores over many small segments of a store that is far away.
func momentFar(ctx context.Context, l *lab, r *report) error {
	l.say("making %d segments", farSegments)
	memory := faultstore.New(mem.New())
	s, err := l.smallRepository(ctx, memory)
	if err != nil {
		return err
	}
	to, err := s.hour(ctx, l.seed)
	if err != nil {
		return err
	}
	memory.Add(faultstore.Fault{On: faultstore.Open, Times: -1, Do: faultstore.Slow, Delay: farAnswer})
	parts := chain.Parts{Repository: s.Repository}
	err = l.alternate(ctx, r, []work{
		{name: "holdfast", do: func(f figures) error {
			before, err := ownCPU()
			if err != nil {
				return err
			}
			result, err := l.backend(ctx, parts, to)
			if err != nil {
				return err
			}
			after, err := ownCPU()
			f["cpu_s"], f["segments_s"], f["events"] = after-before, result.SegmentsTime.Seconds(), float64(result.Events)
			return err
		}},
		{name: "one by one", do: func(figures) error {
			for _, segment := range to.Segments {
				body, err := s.StoredSegment(ctx, segment)
				if err != nil {
					return err
				}
				if _, err := io.Copy(io.Discard, body); err != nil {
					return err
				}
				if err := body.Close(); err != nil {
					return err
				}
			}
			return nil
		}},
	})
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes, fmt.Sprintf("%d live segments of a second each in a store in memory that takes %s to answer; one by one: only to read the objects", farSegments, farAnswer))
	r.gateRatio("wall_s", "holdfast", "one by one", 1.0/6)
	return nil
}

// backend makes the backend file of a chain and removes it.
func (l *lab) backend(ctx context.Context, parts chain.Parts, to chain.Chain) (result replay.Result, err error) {
	work := filepath.Join(l.dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	return parts.Backend(ctx, to, filepath.Join(work, "db"), work)
}

// hour archives an hour of a cluster's changes in segments of a second, after the snapshot.
func (s *smallRepository) hour(ctx context.Context, seed uint64) (to chain.Chain, err error) {
	if to.Base, err = s.publish(ctx, time.Now()); err != nil {
		return to, err
	}
	to.Revision = to.Base.Content.Revision
	var memory seal.Memory
	for events := range seconds(seed, to.Revision, farSegments) {
		b := segment.NewBuilder()
		if err := b.Add(events.list, events.at, events.at); err != nil {
			return to, err
		}
		stored, err := encodeSegment(b, seal.Options{Concurrency: 1, FrameSize: liveFrame, Memory: &memory})
		if err != nil {
			return to, err
		}
		m := repository.Segment{Cluster: "bench", Timeline: to.Base.Timeline, First: b.Range().First, Last: b.Range().Last, Events: int64(b.Events()), Plain: stored.plain}
		if m.Object, err = s.NewSegmentData(m.Cluster, m.Timeline, m.First, nil); err != nil {
			return to, err
		}
		sum := sha256.Sum256(stored.sealed)
		m.Object.Size, m.Object.SHA256 = int64(len(stored.sealed)), hex.EncodeToString(sum[:])
		if m.Object, err = s.PutSegmentData(ctx, m.Object, bytes.NewReader(stored.sealed), time.Time{}); err != nil {
			return to, err
		}
		to.Segments, to.Revision = append(to.Segments, m), m.Last
	}
	return to, nil
}
