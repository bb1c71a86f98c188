package kubeload

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

const (
	// writers is how many writes are under way at a time: enough for etcd to put several into one sync of its log.
	writers = 32
	// chunkObjects is how many objects FillTo writes at most between two looks at the size, about 20 MB.
	chunkObjects = 2000
	// objectBytes is about what an object with its updates adds to the backend; it only paces FillTo.
	objectBytes = 10_000
)

// Stats says what was written.
type Stats struct {
	Objects int
	Puts    int
	Deletes int
	// Leases is how many etcd leases were granted.
	Leases int
	// Bytes is the sum of the lengths of all keys and values that were put.
	Bytes int64
}

// Fill writes the whole load and returns when every write is acknowledged. The writes of one key keep their order;
// those of different keys may change places.
func Fill(ctx context.Context, c *clientv3.Client, l Load) (Stats, error) {
	f := newFiller(c, l)
	err := f.objects(ctx, 0, l.objects)
	if err == nil {
		err = f.bookkeeping(ctx)
	}
	return f.stats(), err
}

// FillTo writes objects until the backend of the endpoint that c has first is at least so many bytes large; it ends at
// most about 20 MB above. A server's quota must allow for it: etcd's default is 2 GB.
func FillTo(ctx context.Context, c *clientv3.Client, seed uint64, size int64) (Stats, error) {
	if len(c.Endpoints()) == 0 {
		return Stats{}, errors.New("fill etcd: the client has no endpoint")
	}
	f := newFiller(c, New(seed, 0))
	for {
		status, err := c.Status(ctx, c.Endpoints()[0])
		if err != nil {
			return f.stats(), fmt.Errorf("read size of etcd's backend: %w", err)
		}
		if status.DbSize >= size {
			err := f.bookkeeping(ctx)
			return f.stats(), err
		}
		from := f.load.objects
		f.load.objects += min(chunkObjects, 1+int((size-status.DbSize)/objectBytes))
		if err := f.objects(ctx, from, f.load.objects); err != nil {
			return f.stats(), err
		}
	}
}

// filler writes a load, part by part.
type filler struct {
	client *clientv3.Client
	load   Load
	// leases are the leases by slot less one. They are granted before the writers that use them start.
	leases []clientv3.LeaseID

	objectCount, puts, deletes, bytes atomic.Int64
}

func newFiller(c *clientv3.Client, l Load) *filler { return &filler{client: c, load: l} }

func (f *filler) stats() Stats {
	return Stats{
		Objects: int(f.objectCount.Load()), Puts: int(f.puts.Load()), Deletes: int(f.deletes.Load()),
		Leases: len(f.leases), Bytes: f.bytes.Load(),
	}
}

// objects writes the objects [from, to): all of them as created, then what happens to each.
func (f *filler) objects(ctx context.Context, from, to int) error {
	for len(f.leases) < (to+leaseObjects-1)/leaseObjects {
		granted, err := f.client.Grant(ctx, LeaseTTL)
		if err != nil {
			return fmt.Errorf("grant lease: %w", err)
		}
		f.leases = append(f.leases, granted.ID)
	}
	err := f.each(ctx, from, to, func(ctx context.Context, i int) error {
		f.objectCount.Add(1)
		return f.write(ctx, f.load.create(i))
	})
	if err != nil {
		return err
	}
	return f.each(ctx, from, to, func(ctx context.Context, i int) error {
		for op := range f.load.churn(i) {
			if err := f.write(ctx, op); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *filler) bookkeeping(ctx context.Context) error {
	for _, op := range f.load.bookkeeping() {
		if err := f.write(ctx, op); err != nil {
			return err
		}
	}
	return nil
}

// each calls work for every index of [from, to), from several goroutines, and waits for them.
func (f *filler) each(ctx context.Context, from, to int, work func(ctx context.Context, i int) error) error {
	var next atomic.Int64
	next.Store(int64(from))
	g, ctx := errgroup.WithContext(ctx)
	for range writers {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= to {
					return nil
				}
				if err := work(ctx, i); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func (f *filler) write(ctx context.Context, op Op) error {
	if op.Value == nil {
		f.deletes.Add(1)
		if _, err := f.client.Delete(ctx, op.Key); err != nil {
			return fmt.Errorf("delete %q: %w", op.Key, err)
		}
		return nil
	}
	var options []clientv3.OpOption
	if op.LeaseSlot > 0 {
		options = append(options, clientv3.WithLease(f.leases[op.LeaseSlot-1]))
	}
	f.puts.Add(1)
	f.bytes.Add(int64(len(op.Key) + len(op.Value)))
	if _, err := f.client.Put(ctx, op.Key, string(op.Value), options...); err != nil {
		return fmt.Errorf("put %q: %w", op.Key, err)
	}
	return nil
}
