package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// missed is how many revisions an archiver has missed when it is started again.
const missed = 100_000

// archiveResume compares how long an archiver takes to cover a cluster again with how long a watch takes to come from the old
// revision to the present one, and what a steady client of the cluster feels meanwhile.
func archiveResume(ctx context.Context, l *lab, r *report) error {
	const idleTime = 10 * time.Second
	d, err := l.fill(ctx, r, "etcd", momentBytes)
	if err != nil {
		return err
	}
	v, err := l.newVault(ctx)
	if err != nil {
		return err
	}
	c, stop := newChurn(d.client, l.seed)
	defer stop()
	b := &behind{vault: v, d: d, churn: c}
	if err := b.begin(ctx); err != nil {
		return err
	}
	steady := func(do func(f figures) error) func(f figures) error {
		return func(f figures) error {
			p := startPuts(ctx, putRate, putter(d.client, l.seed))
			from := time.Now()
			err := do(f)
			to := time.Now()
			samples, putErr := p.end()
			if err = errors.Join(err, putErr); err != nil {
				return err
			}
			return latencies(samples, from, to, f)
		}
	}
	miss := func() error { return b.miss(ctx) }
	err = l.alternate(ctx, r, []work{
		{name: "idle", do: steady(func(figures) error { return pause(ctx, idleTime) })},
		{name: "holdfast", prepare: miss, do: steady(func(f figures) error { return b.resume(ctx, f) })},
		{name: "watch", prepare: miss, do: steady(func(f figures) error { return d.withServer(f, func() error { return b.catchUp(ctx, f) }) })},
	})
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes,
		fmt.Sprintf("holdfast: an archiver that was stopped %d revisions before, or more, from its start until everything up to a revision after its start is in the repository; watch: a watch of all keys from the same revision to the present one", missed),
		"before each, etcd is compacted at that revision and defragmented",
		fmt.Sprintf("%d puts a second of %d bytes meanwhile; latency from the time that each was due", putRate, putSize))
	r.gateRatio("caught-up_s", "holdfast", "watch", 1.0/5)
	r.gateRatio("p50_ms", "holdfast", "idle", 2)
	return nil
}

// behind is a cluster whose archiver does not run.
type behind struct {
	*vault
	d     *deployed
	churn *churn
	// position is the last revision that is archived.
	position int64
}

// begin lets an archiver cover the cluster and end.
func (b *behind) begin(ctx context.Context) error {
	a, err := b.archive(ctx, b.d)
	if err != nil {
		return err
	}
	if _, err = a.await(ctx, covering); err == nil {
		err = b.churn.steadily(ctx, 100)
	}
	if err == nil {
		_, err = a.await(ctx, storedTo(b.churn.revision.Load()))
	}
	return errors.Join(err, b.ended(a, figures{}))
}

// ended ends an archiver and takes note of where it came to.
func (b *behind) ended(a *archiver, f figures) error {
	err := a.end(f)
	for _, line := range a.stored() {
		b.position = max(b.position, line.Last)
	}
	return err
}

// present is the revision that the cluster has.
func (b *behind) present(ctx context.Context) (int64, error) {
	reply, err := b.d.client.Get(ctx, "revision", clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return reply.Header.Revision, nil
}

// miss lets the cluster go on until the archiver has missed enough, and removes what was before.
func (b *behind) miss(ctx context.Context) error {
	present, err := b.present(ctx)
	if err != nil {
		return err
	}
	if err := b.churn.steadily(ctx, int(missed-(present-b.position))); err != nil {
		return err
	}
	if _, err := b.d.client.Compact(ctx, b.position, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return err
	}
	_, err = b.d.client.Defragment(ctx, b.d.client.Endpoints()[0])
	return err
}

// resume starts the archiver again and waits until there is no hole behind it.
func (b *behind) resume(ctx context.Context, f figures) error {
	present, err := b.present(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	a, err := b.archive(ctx, b.d)
	if err != nil {
		return err
	}
	base, err := a.await(ctx, covering)
	if err == nil && base.First > b.position+1 {
		err = fmt.Errorf("the snapshot's history begins at %d, archived was up to %d", base.First, b.position)
	}
	f["snapshot-after_s"] = time.Since(began).Seconds()
	if err == nil {
		// The client goes on meanwhile, so that something comes after the snapshot.
		_, err = a.await(ctx, storedTo(max(present, base.Last)+1))
	}
	f["caught-up_s"] = time.Since(began).Seconds()
	return errors.Join(err, b.ended(a, f))
}

// catchUp watches all keys from what the archiver missed on until the revision that was the present one when it began.
func (b *behind) catchUp(ctx context.Context, f figures) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	present, err := b.present(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	for reply := range b.d.client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(b.position+1), clientv3.WithFragment()) {
		if err := reply.Err(); err != nil {
			return err
		}
		if n := len(reply.Events); n > 0 && reply.Events[n-1].Kv.ModRevision >= present {
			f["caught-up_s"] = time.Since(began).Seconds()
			return nil
		}
	}
	return errors.Join(errors.New("the watch has ended"), context.Cause(ctx))
}

// archiveState is where an archiver of this lab keeps what it needs to go on.
func (l *lab) archiveState() string { return filepath.Join(l.dir, "home", "archive") }
