package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// Names of etcd's own in a backend.
var (
	bucketKey   = []byte("key")
	bucketMeta  = []byte("meta")
	bucketLease = []byte("lease")

	finishedKey  = []byte("finishedCompactRev")
	scheduledKey = []byte("scheduledCompactRev")
)

// DefaultTTL is what a lease gets of which nobody knows the TTL, in seconds: that of the events of Kubernetes, which have most
// of the leases in a cluster.
const DefaultTTL = 3660

const (
	// mostTTL is what etcd grants at most, in seconds.
	mostTTL = 9_000_000_000
	// lockTime is how long a file may be locked by somebody else. Nobody should have it open.
	lockTime = time.Second
	// copyBytes is how much goes into one transaction, in bytes.
	copyBytes = 8 << 20
)

// writeBuckets gives a file that has the records everything else, and cuts off what it has beyond its last page.
func (r *replay) writeBuckets(ctx context.Context, path string, leases map[int64]bool) (err error) {
	from, err := bbolt.Open(r.base.File, 0, &bbolt.Options{ReadOnly: true, Timeout: lockTime})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	// Nobody relies on the file before it is synced as a whole.
	to, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTime, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoSync: true, NoGrowSync: true,
	})
	if err != nil {
		return err
	}
	c := copier{ctx: ctx, db: to}
	defer func() { err = errors.Join(err, c.close()) }()
	err = from.View(func(old *bbolt.Tx) error {
		err := old.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if bytes.Equal(name, bucketKey) || bytes.Equal(name, bucketLease) && !r.allLeases {
				return nil
			}
			return c.copy(name, b)
		})
		if err != nil {
			return err
		}
		return r.writeLeases(&c, old.Bucket(bucketLease), leases)
	})
	if err != nil {
		return err
	}
	if !r.o.KeepHistory {
		for _, name := range [][]byte{finishedKey, scheduledKey} {
			if err := c.put(bucketMeta, name, appendRevision(nil, r.o.Target)); err != nil {
				return err
			}
		}
	}
	size, err := c.finish()
	if err != nil {
		return err
	}
	return os.Truncate(path, size)
}

// writeLeases writes the leases that live keys are attached to; old, which may be nil, has those of the base.
func (r *replay) writeLeases(c *copier, old *bbolt.Bucket, leases map[int64]bool) error {
	if r.allLeases {
		r.result.Leases = r.base.Info.Leases
	}
	if err := c.create(bucketLease); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(leases)) {
		key := binary.BigEndian.AppendUint64(nil, uint64(id))
		var value []byte
		if old != nil {
			value = old.Get(key)
		}
		if r.allLeases && value != nil {
			continue
		}
		r.result.Leases++
		switch ttl := r.known[id]; {
		case value != nil && (ttl == 0 || ttl == ttlOf(value)):
			// As it was, with what was left of it.
		case ttl != 0:
			value = appendLease(nil, id, ttl)
		default:
			value = appendLease(nil, id, DefaultTTL)
			r.result.DefaultedLeases++
		}
		if err := c.put(bucketLease, key, value); err != nil {
			return err
		}
	}
	return nil
}

// appendLease appends the message leasepb.Lease that etcd keeps of a lease: 1 id, 2 TTL; 3, what remains of it, is left
// out where it is not known.
func appendLease(to []byte, id, ttl int64) []byte {
	return appendNumber(appendNumber(to, 1<<3, id), 2<<3, ttl)
}

// ttlOf reads the TTL of such a message; zero when there is none.
func ttlOf(b []byte) int64 {
	for len(b) > 1 {
		number, n := binary.Uvarint(b[1:])
		if n <= 0 {
			return 0
		}
		if b[0] == 2<<3 {
			return int64(number)
		}
		b = b[1+n:]
	}
	return 0
}

// copier writes elements in transactions of a bounded size.
type copier struct {
	ctx  context.Context
	db   *bbolt.DB
	tx   *bbolt.Tx
	used int
}

// begin gives the transaction, a new one when the last is full.
func (c *copier) begin() (*bbolt.Tx, error) {
	if c.ctx.Err() != nil {
		return nil, context.Cause(c.ctx)
	}
	if c.used > copyBytes {
		if err := c.commit(); err != nil {
			return nil, err
		}
	}
	if c.tx == nil {
		tx, err := c.db.Begin(true)
		if err != nil {
			return nil, err
		}
		c.tx = tx
	}
	return c.tx, nil
}

func (c *copier) commit() error {
	tx := c.tx
	c.tx, c.used = nil, 0
	return tx.Commit()
}

func (c *copier) create(name []byte) error {
	tx, err := c.begin()
	if err != nil {
		return err
	}
	_, err = tx.CreateBucketIfNotExists(name)
	return err
}

func (c *copier) put(bucket, key, value []byte) error {
	tx, err := c.begin()
	if err != nil {
		return err
	}
	b, err := tx.CreateBucketIfNotExists(bucket)
	if err != nil {
		return err
	}
	c.used += len(key) + len(value)
	return b.Put(key, value)
}

// copy makes a bucket what another is.
func (c *copier) copy(name []byte, from *bbolt.Bucket) error {
	if err := c.create(name); err != nil {
		return err
	}
	return from.ForEach(func(k, v []byte) error {
		if v == nil {
			return fmt.Errorf("bucket %q has another inside", name)
		}
		return c.put(name, k, v)
	})
}

// finish tells how long the file must be, in bytes.
func (c *copier) finish() (int64, error) {
	if _, err := c.begin(); err != nil {
		return 0, err
	}
	if err := c.commit(); err != nil {
		return 0, err
	}
	tx, err := c.db.Begin(false)
	if err != nil {
		return 0, err
	}
	return tx.Size(), tx.Rollback()
}

func (c *copier) close() error {
	var err error
	if c.tx != nil {
		err = c.tx.Rollback()
	}
	return errors.Join(err, c.db.Close())
}
