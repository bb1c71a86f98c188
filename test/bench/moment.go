package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store/file"
)

// moments is a repository in which a cluster was archived, and the same history as others keep it.
type moments struct {
	*vault
	// snapshot is the file that etcd gave, before all events.
	snapshot string
	deltas   *deltas
	// revision is the last one.
	revision int64
}

// recordMoments fills a cluster to a size in bytes, and archives so many changes after that, while the same events are
// recorded as others do. The cluster is gone then.
func (l *lab) recordMoments(ctx context.Context, r *report, size int64, changes int) (*moments, error) {
	d, err := l.fill(ctx, r, "etcd", size)
	if err != nil {
		return nil, err
	}
	v, err := l.newVault(ctx)
	if err != nil {
		return nil, err
	}
	m := &moments{vault: v, snapshot: filepath.Join(l.dir, "snapshot.db"), deltas: &deltas{folder: filepath.Join(l.dir, "deltas")}}
	if err := os.Mkdir(m.deltas.folder, 0o700); err != nil {
		return nil, err
	}
	l.say("archiving %d changes", changes)
	a, err := v.archive(ctx, d)
	if err != nil {
		return nil, err
	}
	f := figures{}
	err = m.record(ctx, d, a, changes)
	if err = errors.Join(err, a.end(f)); err != nil {
		return nil, err
	}
	r.Data[len(r.Data)-1].Events = m.deltas.events
	r.Notes = append(r.Notes, fmt.Sprintf("%d events: %d segments of holdfast, %d files of JSON in gzip with %.0f MB",
		m.deltas.events, len(a.stored()), len(m.deltas.files), float64(m.deltas.bytes)/1e6))
	return m, l.destroy(d)
}

func (m *moments) record(ctx context.Context, d *deployed, a *archiver, changes int) error {
	base, err := a.await(ctx, covering)
	if err != nil {
		return err
	}
	if _, err := output(m.run(ctx, "export", "--identity", m.identity, "--quiet", m.snapshot)); err != nil {
		return err
	}
	done := make(chan int64, 1)
	recorded := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		err := m.deltas.record(ctx, d.client, base.Last+1, done)
		if err != nil {
			cancel(err)
		}
		recorded <- err
	}()
	c, stop := newChurn(d.client, m.seed)
	defer stop()
	if err := c.steadily(ctx, changes); err != nil {
		cancel(err)
		return errors.Join(err, <-recorded)
	}
	m.revision = c.revision.Load()
	done <- m.revision
	if err := <-recorded; err != nil {
		return err
	}
	_, err = a.await(ctx, storedTo(m.revision))
	return err
}

// byHoldfast restores the last revision with the program that is measured.
func (m *moments) byHoldfast(ctx context.Context, data string, f figures, more ...string) error {
	args := append([]string{"restore", "--revision", fmt.Sprint(m.revision), "--identity", m.identity, "--quiet", "--data-dir", data}, more...)
	return tool(m.run(ctx, args...), f, "restore")
}

// chain opens the repository and finds what leads to the last revision.
func (m *moments) chain(ctx context.Context) (parts chain.Parts, to chain.Chain, err error) {
	store, err := file.Open(m.folder)
	if err != nil {
		return parts, to, err
	}
	if parts.Repository, err = repository.Open(ctx, store, ""); err != nil {
		return parts, to, err
	}
	if parts.Identities, err = seal.ReadIdentities(m.identity); err != nil {
		return parts, to, err
	}
	snapshots, segments, err := m.manifests(ctx, parts.Repository)
	if err != nil {
		return parts, to, err
	}
	found, err := coverage.Resolve(coverage.Of(snapshots, segments, nil), coverage.Target{Revision: history.Revision(m.revision)}, nil)
	return parts, chain.Chain{Base: found.Base, Segments: found.Segments, Revision: found.Revision}, err
}

func (m *moments) manifests(ctx context.Context, repo *repository.Repository) (snapshots []repository.Manifest, segments []repository.Segment, err error) {
	reads, _, err := repo.Snapshots(ctx, "bench")
	if err != nil {
		return nil, nil, err
	}
	for _, read := range reads {
		snapshots, err = append(snapshots, read.Manifest), errors.Join(err, read.Err)
	}
	points, _, listErr := repo.SegmentPoints(ctx, "bench", "")
	if err = errors.Join(err, listErr); err != nil {
		return nil, nil, err
	}
	found, err := repo.SegmentsOf(ctx, points)
	for _, read := range found {
		segments, err = append(segments, read.Segment), errors.Join(err, read.Err)
	}
	return snapshots, segments, err
}
