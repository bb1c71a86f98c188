package datadir

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
)

// Member is one member of the cluster that a data dir belongs to, as the data dir records it.
type Member struct {
	ID uint64 `json:"id"`
	// Name is empty for a member that was added and has not started yet.
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
	Learner  bool     `json:"isLearner"`
}

// Members lists who is in the cluster according to the data dir, learners and members that never started included,
// ordered by id. It takes the membership of the backend, which etcd has kept there since 3.1, and adds what the WAL says
// that the backend has not seen yet. An addition that was not committed counts; a removal that was not does not.
//
// An absent or empty data dir has no members; that is no error. When an etcd runs on the data dir, the error is ErrInUse:
// ask that etcd. When the data dir cannot be read, it is ErrDamaged.
func (d Dir) Members() ([]Member, error) {
	members, err := d.members()
	if err != nil {
		return nil, fmt.Errorf("read members of data dir %q: %w", d.data, err)
	}
	return slices.SortedFunc(maps.Values(members), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) }), nil
}

func (d Dir) members() (map[uint64]Member, error) {
	segments, err := walSegments(d.walDir())
	if err != nil {
		return nil, err
	}
	members, applied, err := readBackend(d.backend())
	if errors.Is(err, fs.ErrNotExist) {
		if len(segments) > 0 {
			// etcd makes the backend first.
			return nil, fmt.Errorf("%w: there is a WAL but no %s", ErrDamaged, d.backend())
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	changes, err := readChanges(segments, applied)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		c.apply(members)
	}
	return members, nil
}

// readBackend gives the members of a backend file and the index of the last raft entry that it has seen.
func readBackend(path string) (members map[uint64]Member, applied uint64, err error) {
	// bbolt maps the file and believes what it reads: a damaged one makes it panic, or fault outside of the file. The
	// data dir of a member that needs a restore may well be damaged.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var file *os.File
	defer func() {
		if cause := recover(); cause != nil {
			// The lock would hinder etcd. The mapping outlives the file, and the lock with it, unless it is dropped.
			err = fmt.Errorf("%w: read %q: %v", ErrDamaged, path, cause)
			err = errors.Join(err, syscall.Flock(int(file.Fd()), syscall.LOCK_UN), file.Close())
		}
	}()
	db, err := bbolt.Open(path, 0, &bbolt.Options{
		ReadOnly: true,
		Timeout:  time.Nanosecond, // Ask for the lock once. Zero would wait for ever.
		OpenFile: func(name string, flag int, perm fs.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, perm)
			file = f
			return f, err
		},
	})
	switch {
	case errors.Is(err, bberrors.ErrTimeout):
		return nil, 0, ErrInUse
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, 0, err
	case err != nil:
		return nil, 0, fmt.Errorf("%w: open %q: %w", ErrDamaged, path, err)
	}
	members = map[uint64]Member{}
	err = db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte("meta")); b != nil {
			if v := b.Get([]byte("consistent_index")); len(v) == 8 {
				applied = binary.BigEndian.Uint64(v)
			}
		}
		b := tx.Bucket([]byte("members"))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			m, err := parseMember(k, v)
			members[m.ID] = m
			return err
		})
	})
	return members, applied, errors.Join(err, db.Close())
}

func parseMember(key, value []byte) (Member, error) {
	var m Member
	id, err := strconv.ParseUint(string(key), 16, 64)
	if err == nil {
		err = json.Unmarshal(value, &m)
	}
	if err == nil && m.ID != id {
		err = fmt.Errorf("it has the id %x", m.ID)
	}
	if err != nil {
		return m, fmt.Errorf("%w: member %q of the backend: %w", ErrDamaged, key, err)
	}
	return m, nil
}
