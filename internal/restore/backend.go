package restore

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Names of etcd's own in a backend.
var (
	keyBucket     = []byte("key")
	alarmBucket   = []byte("alarm")
	clusterBucket = []byte("cluster")
	membersBucket = []byte("members")
	removedBucket = []byte("members_removed")
	downgradeKey  = []byte("downgrade")
	metaBucket    = []byte("meta")
	authBucket    = []byte("auth")
	authKey       = []byte("authEnabled")
	authOff       = []byte{0}
	// newMetaKeys are what etcd 3.5 has in the meta bucket and 3.4 has not.
	newMetaKeys = [][]byte{[]byte("term"), []byte("confState")}
)

// lockTime is how long a backend file may be locked by somebody else. Nobody should have it open.
const lockTime = time.Second

// source is what must be known of a backend beyond what snapshot tells.
type source struct {
	// lastRecord is the revision of the last record in the key bucket; 0 when there is none.
	lastRecord history.Revision
	// alarms names the alarms, sorted, each kind once.
	alarms  []string
	corrupt bool
	// downgrade tells that the cluster was asked to become one of an older version.
	downgrade bool
}

// readSource looks into a backend file that snapshot has found to be sound.
func readSource(path string) (s source, err error) {
	db, err := openReadOnly(path)
	if err != nil {
		return source{}, fmt.Errorf("open backend %q: %w", path, err)
	}
	defer func() { _ = db.Close() }() // Only read from.
	err = db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(keyBucket); b != nil {
			if k, _ := b.Cursor().Last(); len(k) >= 8 {
				s.lastRecord = history.Revision(binary.BigEndian.Uint64(k))
			}
		}
		if b := tx.Bucket(clusterBucket); b != nil {
			s.downgrade = b.Get(downgradeKey) != nil
		}
		b := tx.Bucket(alarmBucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, _ []byte) error {
			var alarm etcdserverpb.AlarmMember
			if err := proto.Unmarshal(k, &alarm); err != nil {
				return fmt.Errorf("decode alarm: %w", err)
			}
			s.alarms = append(s.alarms, alarm.GetAlarm().String())
			s.corrupt = s.corrupt || alarm.GetAlarm() == etcdserverpb.AlarmType_CORRUPT
			return nil
		})
	})
	if err != nil {
		return source{}, fmt.Errorf("read backend %q: %w", path, err)
	}
	slices.Sort(s.alarms)
	s.alarms = slices.Compact(s.alarms)
	return s, nil
}

// dropState removes from a skeleton that etcdutl has restored what belongs to the life of the old cluster. A NOSPACE alarm would keep the new
// one from taking writes, and comes again by itself if it is due; a downgrade would go on.
//
// For an etcd 3.4 it also removes what etcdutl has added of later versions. That etcd would leave it as it is, so that
// every later snapshot of its data looked like one of etcd 3.5, which etcd 3.4 may not open.
func dropState(path string, s source, opts Options) (err error) {
	old, noAuth := opts.Target == oldest, opts.WithoutAuth && opts.Source.AuthEnabled
	if len(s.alarms) == 0 && !s.downgrade && !old && !noAuth {
		return nil
	}
	db, err := openBackend(path, true)
	if err != nil {
		return fmt.Errorf("open skeleton: %w", err)
	}
	defer func() {
		if closeErr := db.Close(); err == nil {
			err = closeErr
		}
	}()
	return db.Update(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(clusterBucket); b != nil {
			if err := b.Delete(downgradeKey); err != nil {
				return err
			}
		}
		if b := tx.Bucket(metaBucket); b != nil && old {
			for _, key := range newMetaKeys {
				if err := b.Delete(key); err != nil {
					return err
				}
			}
		}
		if b := tx.Bucket(authBucket); b != nil && noAuth {
			if err := b.Put(authKey, authOff); err != nil {
				return err
			}
		}
		b := tx.Bucket(alarmBucket)
		if b == nil {
			return nil
		}
		for k, _ := b.Cursor().First(); k != nil; k, _ = b.Cursor().First() {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}
