package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	// usual and large are the sizes of databases, in bytes: of a cluster of some hundred nodes, and of one that is near the
	// most that etcd is meant for.
	usual = 700_000_000
	large = 3_500_000_000

	targetFolder = "/home/bench"
)

// snapshotSpeed compares the snapshot action with the three commands that do the same by hand.
func snapshotSpeed(ctx context.Context, l *lab, r *report) error {
	d, err := l.fill(ctx, r, "etcd", usual)
	if err != nil {
		return err
	}
	err = l.alternate(ctx, r, []work{
		{name: "holdfast", do: func(f figures) error { return l.snapshot(ctx, d, f, "max-rate=0") }, clean: d.removeArchives},
		{name: "by hand", do: func(f figures) error { return l.snapshotByHand(ctx, d, f) }, clean: d.removeArchives},
	})
	if err != nil {
		return err
	}
	r.gateRatio("wall_s", "holdfast", "by hand", 1.0/3)
	return nil
}

// target is the folder of the unit's own disk that archives go to.
func (d *deployed) target() string { return filepath.Join(d.root, targetFolder) }

func (d *deployed) removeArchives() error { return os.RemoveAll(d.target()) }

// snapshot runs the action as people do.
func (l *lab) snapshot(ctx context.Context, d *deployed, f figures, params ...string) error {
	return d.withServer(f, func() error {
		if err := l.action(ctx, d, f, append([]string{"snapshot", "target=" + targetFolder}, params...)...); err != nil {
			return err
		}
		archive, err := d.archive()
		if err != nil {
			return err
		}
		return fileSize(archive, f)
	})
}

// archive finds the one archive of the unit.
func (d *deployed) archive() (string, error) {
	found, err := filepath.Glob(filepath.Join(d.target(), "*.tar.gz"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("find archive: %q has %d", d.target(), len(found))
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

func fileSize(path string, f figures) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f["archive_bytes"] = float64(info.Size())
	return nil
}

// save is etcd's own snapshot, into the folder that our archives go to.
func (l *lab) save(ctx context.Context, d *deployed, f figures) error {
	if err := os.MkdirAll(d.target(), 0o700); err != nil {
		return err
	}
	return tool(l.etcd.CtlCommand(ctx, d.env, "snapshot", "save", filepath.Join(d.target(), "db")), f, "save")
}

// snapshotByHand makes the same archive with etcdctl, tar and sha256sum.
func (l *lab) snapshotByHand(ctx context.Context, d *deployed, f figures) error {
	return d.withServer(f, func() error {
		if err := l.save(ctx, d, f); err != nil {
			return err
		}
		archive := filepath.Join(d.target(), "etcd-snapshot.tar.gz")
		if err := tool(exec.CommandContext(ctx, "tar", "czf", archive, "-C", d.target(), "./db"), f, "tar"); err != nil {
			return err
		}
		if err := tool(exec.CommandContext(ctx, "sha256sum", archive), f, "sha256sum"); err != nil {
			return err
		}
		return fileSize(archive, f)
	})
}

// snapshotMemory looks at the agent's memory while it makes snapshots as fast as it can.
func snapshotMemory(ctx context.Context, l *lab, r *report) error {
	const (
		usualMost = 128 << 20
		// A page of a database takes 4,096 bytes, and at most 40 bytes of the agent's memory.
		largeMost = usualMost + large/100
	)
	var sides []work
	for _, size := range []struct {
		name  string
		bytes int64
	}{{"usual", usual}, {"large", large}} {
		d, err := l.fill(ctx, r, size.name, size.bytes)
		if err != nil {
			return err
		}
		sides = append(sides, work{
			name: size.name, clean: d.removeArchives,
			do: func(f figures) error { return l.snapshot(ctx, d, f, "max-rate=0") },
		})
	}
	if err := l.alternate(ctx, r, sides); err != nil {
		return err
	}
	r.gateMost("memory_bytes", "usual", usualMost)
	r.gateMost("memory_bytes", "large", largeMost)
	return nil
}

// snapshotLatency looks at a steady client's writes while nothing else goes on, during a snapshot at the default pace, and
// during etcdctl snapshot save to the same disk.
func snapshotLatency(ctx context.Context, l *lab, r *report) error {
	d, err := l.fill(ctx, r, "etcd", usual)
	if err != nil {
		return err
	}
	return l.latency(ctx, r, d, work{do: func(f figures) error { return l.snapshot(ctx, d, f) }, clean: d.removeArchives}, 0.6)
}

// latency compares a steady client's writes during our work with those of an idle time, and of etcdctl snapshot save. mostP99
// is how much of the p99 of the latter ours may have.
func (l *lab) latency(ctx context.Context, r *report, d *deployed, ours work, mostP99 float64) error {
	const idleTime = 10 * time.Second
	p := startPuts(ctx, putRate, putter(d.client, l.seed))
	var spans [][2]time.Time
	timed := func(do func(f figures) error) func(f figures) error {
		return func(f figures) error {
			from := time.Now()
			err := do(f)
			spans = append(spans, [2]time.Time{from, time.Now()})
			return err
		}
	}
	err := l.alternate(ctx, r, []work{
		{name: "idle", do: timed(func(figures) error { return pause(ctx, idleTime) })},
		{name: "holdfast", do: timed(ours.do), clean: ours.clean},
		{name: "etcdctl", do: timed(func(f figures) error { return l.save(ctx, d, f) }), clean: d.removeArchives},
	})
	samples, putErr := p.end()
	if err != nil {
		return err
	}
	if putErr != nil {
		return putErr
	}
	for i, span := range spans {
		s := r.Rounds[i/3].Sides[i%3]
		if err := latencies(samples, span[0], span[1], s.Figures); err != nil {
			return fmt.Errorf("%s: %w", s.Side, err)
		}
	}
	r.Notes = append(r.Notes, fmt.Sprintf("%d puts a second of %d bytes; latency from the time that each was due", putRate, putSize))
	r.gateRatio("p99_ms", "holdfast", "etcdctl", mostP99)
	r.gateRatio("p50_ms", "holdfast", "idle", 1.5)
	return nil
}
