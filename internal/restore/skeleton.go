package restore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/holdfast-project/holdfast/internal/datadir"
)

// skeleton is a backend with everything that a restore reads or changes, and of the records only the last. etcdutl
// restores it as it would the whole backend, and what it has changed in it is then changed in the whole one.
//
//	before       the skeleton as it was made
//	data/member  what etcdutl made of it: snap/db is the skeleton as it became, beside it are the raft snapshot and the WAL
type skeleton struct{ folder string }

// skeletonOf is the folder for the skeleton of a stage. It is gone when the stage is done.
func skeletonOf(s datadir.Stage) string { return filepath.Join(s.Data, "skeleton") }

func (s skeleton) before() string { return filepath.Join(s.folder, "before") }
func (s skeleton) data() string   { return filepath.Join(s.folder, "data") }
func (s skeleton) after() string  { return backendOf(datadir.Stage{Data: s.data()}) }

// skeletonBuckets are those that a skeleton has whole: who the cluster is and where it stands. They stay small however
// much is kept in etcd. What grows with it (records, leases, users, roles) a restore leaves as it is.
var skeletonBuckets = [][]byte{metaBucket, membersBucket, removedBucket, clusterBucket, alarmBucket, authBucket}

// open opens a backend for writing, as etcd does. It takes a walk over all pages, for the free ones.
func openBackend(path string, noSync bool) (*bbolt.DB, error) {
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTime, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoSync: noSync,
	})
}

func openReadOnly(path string) (*bbolt.DB, error) {
	return bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: lockTime})
}

// make makes the skeleton of a backend that snapshot has found to be sound.
func (s skeleton) make(backend string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make skeleton: %w", err)
		}
	}()
	if err := os.Mkdir(s.folder, 0o700); err != nil {
		return err
	}
	from, err := openReadOnly(backend)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := openBackend(s.before(), true) // It is nobody's after a crash.
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return from.View(func(old *bbolt.Tx) error {
		return to.Update(func(tx *bbolt.Tx) error {
			for _, name := range skeletonBuckets {
				if err := replace(tx, name, old.Bucket(name)); err != nil {
					return err
				}
			}
			records := old.Bucket(keyBucket)
			if records == nil {
				return nil
			}
			made, err := tx.CreateBucket(keyBucket)
			if err != nil {
				return err
			}
			if k, v := records.Cursor().Last(); k != nil {
				return made.Put(k, v)
			}
			return nil
		})
	})
}

// replace makes a bucket have what another has, nil for one that is not there. Elements that are the same stay untouched.
func replace(tx *bbolt.Tx, name []byte, by *bbolt.Bucket) error {
	b := tx.Bucket(name)
	if by == nil {
		if b == nil {
			return nil
		}
		return tx.DeleteBucket(name)
	}
	if b == nil {
		var err error
		if b, err = tx.CreateBucket(name); err != nil {
			return err
		}
	}
	var gone [][]byte
	err := b.ForEach(func(k, _ []byte) error {
		if by.Get(k) == nil {
			gone = append(gone, bytes.Clone(k))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range gone {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return add(b, by)
}

// add puts what a bucket lacks or has otherwise than another.
func add(b, from *bbolt.Bucket) error {
	return from.ForEach(func(k, v []byte) error {
		if v == nil {
			return fmt.Errorf("bucket %q is inside of another", k)
		}
		if have := b.Get(k); have != nil && bytes.Equal(have, v) {
			return nil
		}
		return b.Put(k, v)
	})
}

// graft changes in a backend, in one transaction, what etcdutl has changed in the skeleton of it.
func (s skeleton) graft(backend string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("change backend: %w", err)
		}
	}()
	after, err := openReadOnly(s.after())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, after.Close()) }()
	db, err := openBackend(backend, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return after.View(func(changed *bbolt.Tx) error {
		err := changed.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if !bytes.Equal(name, keyBucket) && !slices.ContainsFunc(skeletonBuckets, func(b []byte) bool { return bytes.Equal(b, name) }) {
				return fmt.Errorf("the restore has made a bucket %q, which is not known here", name)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return db.Update(func(tx *bbolt.Tx) error {
			for _, name := range skeletonBuckets {
				if err := replace(tx, name, changed.Bucket(name)); err != nil {
					return err
				}
			}
			records, more := tx.Bucket(keyBucket), changed.Bucket(keyBucket)
			if records == nil || more == nil {
				return nil // Who opens the backend makes an empty one.
			}
			return add(records, more)
		})
	})
}

// move brings what etcdutl made beside the backend to the stage, and removes the rest. A separate WAL is there already.
func (s skeleton) move(stage datadir.Stage) error {
	from, to := filepath.Join(s.data(), "member"), filepath.Join(stage.Data, "member")
	names := []string{}
	if stage.WAL == "" {
		names = append(names, "wal")
	}
	entries, err := os.ReadDir(filepath.Join(from, "snap"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(s.after()) {
			names = append(names, filepath.Join("snap", e.Name()))
		}
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.folder)
}
