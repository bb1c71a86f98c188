package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// momentMemory looks at the memory of an archiver, which begins with a snapshot, and of restores, all of a large database.
func momentMemory(ctx context.Context, l *lab, r *report) error {
	const changes = 50_000
	d, err := l.fill(ctx, r, "etcd", large)
	if err != nil {
		return err
	}
	v, err := l.newVault(ctx)
	if err != nil {
		return err
	}
	c, stop := newChurn(d.client, l.seed)
	defer stop()
	data, first := filepath.Join(l.dir, "data"), int64(0)
	restore := func(revision func() int64) func(f figures) error {
		return func(f figures) error {
			return tool(v.run(ctx, "restore", "--revision", fmt.Sprint(revision()), "--identity", v.identity, "--quiet", "--data-dir", data), f, "restore")
		}
	}
	clean := func() error { return os.RemoveAll(data) }
	err = l.alternate(ctx, r, []work{
		{name: "archive", do: func(f figures) error {
			// Without what it knows, each archiver begins with a snapshot.
			if err := os.RemoveAll(l.archiveState()); err != nil {
				return err
			}
			a, err := v.archive(ctx, d, "--max-rate", "0")
			if err != nil {
				return err
			}
			base, err := a.await(ctx, covering)
			if err == nil {
				err = c.steadily(ctx, changes)
			}
			if err == nil {
				_, err = a.await(ctx, storedTo(c.revision.Load()))
			}
			first = base.Last
			return errors.Join(err, a.end(f))
		}},
		{name: "moment", do: restore(c.revision.Load), clean: clean},
		{name: "snapshot", do: restore(func() int64 { return first }), clean: clean},
	})
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes, fmt.Sprintf("archive: an unpaced snapshot and %d events at full speed; moment: a restore of its last revision; snapshot: of its first one", changes))
	r.gateMost("memory-anonymous_bytes", "archive", 128<<20)
	r.gateMost("memory-anonymous_bytes", "moment", 256<<20)
	r.gateMost("memory-anonymous_bytes", "snapshot", 256<<20)
	return nil
}
