package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
)

const (
	// clusterNodes is the size of the cluster whose changes are written.
	clusterNodes = 200
	// churnWriters is how many writes are under way at a time at full speed.
	churnWriters = 32
)

// churn writes the changes of a cluster to an etcd, as fast as it takes them or one by one.
type churn struct {
	client *clientv3.Client
	next   func() (kubeload.Change, bool)

	mu     sync.Mutex
	leases map[int]clientv3.LeaseID
	// revision is the highest that a write got, changes how many were written.
	revision, changes atomic.Int64
}

// newChurn begins a cluster's life. The caller ends it with stop.
func newChurn(client *clientv3.Client, seed uint64) (c *churn, stop func()) {
	next, stop := iter.Pull(kubeload.NewCluster(seed, clusterNodes).Changes())
	return &churn{client: client, next: next, leases: map[int]clientv3.LeaseID{}}, stop
}

// take gives the next changes.
func (c *churn) take(n int) []kubeload.Change {
	changes := make([]kubeload.Change, n)
	for i := range changes {
		changes[i], _ = c.next() // they have no end
	}
	return changes
}

// write writes a change, and gives its revision.
func (c *churn) write(ctx context.Context, change kubeload.Change) (int64, error) {
	ops := make([]clientv3.Op, len(change.Ops))
	for i, op := range change.Ops {
		switch {
		case op.Value == nil:
			ops[i] = clientv3.OpDelete(op.Key)
		case op.LeaseSlot > 0:
			id, err := c.lease(ctx, op.LeaseSlot)
			if err != nil {
				return 0, err
			}
			ops[i] = clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(id))
		default:
			ops[i] = clientv3.OpPut(op.Key, string(op.Value))
		}
	}
	reply, err := c.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return 0, fmt.Errorf("write %q: %w", change.Ops[0].Key, err)
	}
	revision := reply.Header.Revision
	for {
		highest := c.revision.Load()
		if revision <= highest || c.revision.CompareAndSwap(highest, revision) {
			break
		}
	}
	c.changes.Add(1)
	return revision, nil
}

// lease gives the etcd lease of a slot.
func (c *churn) lease(ctx context.Context, slot int) (clientv3.LeaseID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, found := c.leases[slot]; found {
		return id, nil
	}
	granted, err := c.client.Grant(ctx, kubeload.LeaseTTL)
	if err != nil {
		return 0, err
	}
	c.leases[slot] = granted.ID
	return granted.ID, nil
}

// errTime ends a run whose time is over.
var errTime = errors.New("time is over")

// run writes changes at full speed, those of one key in their order, until all are written or ctx ends by errTime. It gives
// how many were.
func (c *churn) run(ctx context.Context, changes []kubeload.Change) (int64, error) {
	before := c.changes.Load()
	group, ctx := errgroup.WithContext(ctx)
	lanes := make([]chan kubeload.Change, churnWriters)
	for i := range lanes {
		lanes[i] = make(chan kubeload.Change, 16)
		group.Go(func() error {
			for change := range lanes[i] {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				// A write that was begun is ended, so that it counts or fails.
				if _, err := c.write(context.WithoutCancel(ctx), change); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer func() {
			for _, lane := range lanes {
				close(lane)
			}
		}()
		for _, change := range changes {
			key := fnv.New32a()
			key.Write([]byte(change.Ops[0].Key))
			select {
			case lanes[key.Sum32()%churnWriters] <- change:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	err := group.Wait()
	if errors.Is(err, errTime) {
		err = nil
	}
	return c.changes.Load() - before, err
}

// steadily writes so many of the next changes at full speed, a part at a time, so that memory does not hold them all.
func (c *churn) steadily(ctx context.Context, n int) error {
	const part = 10_000
	for ; n > 0; n -= part {
		if _, err := c.run(ctx, c.take(min(n, part))); err != nil {
			return err
		}
	}
	return nil
}

// runFor is run for a time. It fails when there are too few changes for it.
func (c *churn) runFor(ctx context.Context, changes []kubeload.Change, d time.Duration) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d, errTime)
	defer cancel()
	written, err := c.run(ctx, changes)
	if err == nil && written == int64(len(changes)) {
		err = fmt.Errorf("%d changes were written in less than %s", written, d)
	}
	return written, err
}
