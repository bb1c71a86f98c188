package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

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
	if err := v.archiveOnce(ctx, d, c); err != nil {
		return err
	}
	if err := c.steadily(ctx, missed); err != nil {
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
	err = l.alternate(ctx, r, []work{
		{name: "idle", do: steady(func(figures) error { return pause(ctx, idleTime) })},
		{name: "holdfast",
			prepare: func() error { return c.steadily(ctx, missed) },
			do:      steady(func(f figures) error { return v.resume(ctx, d, c, f) })},
		{name: "unpaced",
			prepare: func() error { return c.steadily(ctx, missed) },
			do:      steady(func(f figures) error { return v.resume(ctx, d, c, f, "--max-rate", "0") })},
		{name: "watch", do: steady(func(f figures) error {
			return d.withServer(f, func() error { return catchUp(ctx, d.client, missed, f) })
		})},
	})
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes,
		fmt.Sprintf("holdfast: an archiver that was stopped %d revisions before, or more, from its start until everything up to a revision after its start is in the repository; watch: a watch of all keys from %d revisions before to the present one", missed, missed),
		fmt.Sprintf("%d puts a second of %d bytes meanwhile; latency from the time that each was due", putRate, putSize))
	r.gateRatio("caught-up_s", "holdfast", "watch", 1.0/5)
	r.gateRatio("p50_ms", "holdfast", "idle", 2)
	return nil
}

// archiveOnce lets an archiver cover the cluster and end.
func (v *vault) archiveOnce(ctx context.Context, d *deployed, c *churn) error {
	a, err := v.archive(ctx, d, "--max-rate", "0")
	if err != nil {
		return err
	}
	if _, err = a.await(ctx, covering); err == nil {
		err = c.steadily(ctx, 100)
	}
	if err == nil {
		_, err = a.await(ctx, storedTo(c.revision.Load()))
	}
	return errors.Join(err, a.end(figures{}))
}

// resume starts the archiver again and waits until there is no hole behind it.
func (v *vault) resume(ctx context.Context, d *deployed, c *churn, f figures, more ...string) error {
	now, err := d.client.Get(ctx, "revision", clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	there := now.Header.Revision
	if there-c.revision.Load() < 0 {
		return errors.New("the cluster has gone back")
	}
	began := time.Now()
	a, err := v.archive(ctx, d, more...)
	if err != nil {
		return err
	}
	_, err = a.await(ctx, watching)
	f["watching-after_s"] = time.Since(began).Seconds()
	var base archived
	if err == nil {
		base, err = a.await(ctx, covering)
	}
	if err == nil && base.First > there-missed {
		err = fmt.Errorf("the snapshot's history begins at %d", base.First)
	}
	f["snapshot-after_s"] = time.Since(began).Seconds()
	if err == nil {
		// The client goes on meanwhile, so that something comes after the snapshot.
		_, err = a.await(ctx, storedTo(max(there, base.Last)+1))
	}
	f["caught-up_s"] = time.Since(began).Seconds()
	return errors.Join(err, a.end(f))
}

// catchUp watches all keys from so many revisions ago until it has the revision that was the present one when it began.
func catchUp(ctx context.Context, client *clientv3.Client, behind int64, f figures) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now, err := client.Get(ctx, "revision", clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	present := now.Header.Revision
	began := time.Now()
	for reply := range client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(present-behind), clientv3.WithFragment()) {
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
