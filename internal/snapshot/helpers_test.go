package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/history"
)

// etcd is etcd's own storage without a server around it.
type etcd struct {
	t    testing.TB
	rnd  *rand.Rand
	path string
	b    backend.Backend
	kv   mvcc.WatchableKV
	rev  int64
}

func newRand(t testing.TB, seed uint64) *rand.Rand {
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// newEtcd opens an empty store with the buckets that a server makes.
func newEtcd(t testing.TB, change ...func(*backend.BackendConfig)) *etcd {
	t.Helper()
	cfg := backend.DefaultBackendConfig(zap.NewNop())
	cfg.Path = filepath.Join(t.TempDir(), "db")
	cfg.UnsafeNoFsync = true
	cfg.BatchInterval = time.Hour // commits only when the test says so
	cfg.MmapSize = 64 << 20
	for _, fn := range change {
		fn(&cfg)
	}
	b := backend.New(cfg)
	tx := b.BatchTx()
	tx.LockOutsideApply()
	for _, bucket := range schema.AllBuckets {
		tx.UnsafeCreateBucket(bucket)
	}
	tx.Unlock()
	e := &etcd{t: t, rnd: newRand(t, 7), path: cfg.Path, b: b, kv: mvcc.New(zap.NewNop(), b, &lease.FakeLessor{}, mvcc.StoreConfig{}), rev: 1}
	t.Cleanup(func() {
		e.kv.Close()
		if err := e.b.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *etcd) put(key string, size int, id int64) {
	value := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(value[i:], e.rnd.Uint64())
	}
	e.rev = e.kv.Put([]byte(key), value, lease.LeaseID(id))
}

func (e *etcd) delete(key string) { _, e.rev = e.kv.DeleteRange([]byte(key), nil) }

// txn writes several keys at one revision.
func (e *etcd) txn(keys ...string) {
	tx := e.kv.Write(traceutil.TODO())
	for _, k := range keys {
		e.rev = tx.Put([]byte(k), []byte("together"), 0)
	}
	tx.End()
}

func (e *etcd) compact(rev int64) {
	e.t.Helper()
	done, err := e.kv.Compact(traceutil.TODO(), rev)
	if err != nil {
		e.t.Fatal(err)
	}
	<-done
}

// facts writes what a server keeps beside the keys.
func (e *etcd) facts(version string, members, leases int) {
	tx := e.b.BatchTx()
	tx.LockOutsideApply()
	term := uint64(0)
	if version != "3.4" {
		term = 3
	}
	schema.UnsafeUpdateConsistentIndexForce(tx, 4711, term)
	if version != "3.4" && version != "3.5" {
		schema.UnsafeSetStorageVersion(tx, semver.New(version))
	}
	tx.UnsafePut(schema.Auth, schema.AuthEnabledKeyName, []byte{1})
	for i := range leases {
		schema.MustUnsafePutLease(tx, &leasepb.Lease{ID: int64(i + 1), TTL: 60})
	}
	tx.Unlock()
	mb := schema.NewMembershipBackend(zap.NewNop(), e.b)
	for i := range members {
		mb.MustSaveMemberToBackend(&membership.Member{
			ID:             types.ID(0x8e9e05c52164694d * uint64(i+1)),
			RaftAttributes: membership.RaftAttributes{PeerURLs: []string{fmt.Sprintf("https://10.0.0.%d:2380", i)}},
			Attributes:     membership.Attributes{Name: fmt.Sprintf("etcd-%d", i), ClientURLs: []string{"https://c"}},
		})
	}
	alarms := schema.NewAlarmBackend(zap.NewNop(), e.b)
	alarms.MustPutAlarm(&etcdserverpb.AlarmMember{MemberID: 1, Alarm: etcdserverpb.AlarmType_NOSPACE})
}

// snapshot is what etcd streams, without the trailer.
func (e *etcd) snapshot() []byte {
	e.t.Helper()
	e.b.ForceCommit()
	s := e.b.Snapshot()
	defer s.Close()
	var buf bytes.Buffer
	if _, err := s.WriteTo(&buf); err != nil {
		e.t.Fatal(err)
	}
	return buf.Bytes()
}

func withTrailer(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(slices.Clip(b), sum[:]...)
}

// scan gives the bytes to a new scanner in pieces of at most chunk bytes, or of random sizes when it is 0.
func scan(b []byte, chunk int, rnd *rand.Rand) (*Scanner, Info, error) {
	s := NewScanner(Options{})
	for rest := b; len(rest) > 0; {
		n := chunk
		if n == 0 {
			n = 1 + rnd.IntN(1<<(1+rnd.IntN(20)))
		}
		n = min(n, len(rest))
		piece := bytes.Clone(rest[:n])
		if _, err := s.Write(piece); err != nil {
			break
		}
		for i := range piece {
			piece[i] = 0xEE // nobody may keep it
		}
		rest = rest[n:]
	}
	info, err := s.Finish()
	return s, info, err
}

// oracle is what bbolt and etcd's own packages read in the same file.
type oracle struct {
	info     Info
	records  map[string]string // rendered, by key
	contents Contents
}

func readOracle(t testing.TB, b []byte) oracle {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	o := oracle{records: map[string]string{}}
	o.info = Info{PageSize: db.Info().PageSize, SHA256: sha256.Sum256(b), Size: int64(len(b))}
	live, mains := map[string]bool{}, map[int64]bool{}
	jump := int64(0)
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt itself finds the file broken: %v", err)
		}
		o.info.Pages = tx.Size() / int64(db.Info().PageSize)
		last := int64(1)
		each := func(name string, fn func(k, v []byte)) {
			if bucket := tx.Bucket([]byte(name)); bucket != nil {
				if err := bucket.ForEach(func(k, v []byte) error { fn(k, v); return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
		each("key", func(k, v []byte) {
			rev := mvcc.BytesToBucketKey(k)
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(v, &kv); err != nil {
				t.Fatal(err)
			}
			o.info.Records++
			last = max(last, rev.Main)
			mains[rev.Main] = true
			if len(v) == 0 {
				jump = rev.Main
			}
			o.records[string(k)] = fmt.Sprint(rev.Main, rev.Sub, mvcc.IsTombstone(k), string(kv.Key), sha256.Sum256(kv.Value),
				kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
			if len(kv.Key) > 0 {
				live[string(kv.Key)] = !mvcc.IsTombstone(k)
			}
			o.contents.Kubernetes = o.contents.Kubernetes || strings.HasPrefix(string(kv.Key), "/registry/")
		})
		each("meta", func(k, v []byte) {
			switch string(k) {
			case "finishedCompactRev":
				o.info.CompactRevision = history.Revision(mvcc.BytesToRev(v).Main)
			case "scheduledCompactRev":
				o.info.ScheduledCompactRevision = history.Revision(mvcc.BytesToRev(v).Main)
			case "consistent_index":
				o.info.ConsistentIndex = binary.BigEndian.Uint64(v)
			case "term":
				o.info.Term = binary.BigEndian.Uint64(v)
			case "storageVersion":
				o.info.StorageVersion = string(v)
			}
		})
		o.info.Revision = max(history.Revision(last), o.info.CompactRevision, o.info.ScheduledCompactRevision)
		for r := last; r > max(1, int64(o.info.CompactRevision), int64(o.info.ScheduledCompactRevision), jump); r-- {
			if !mains[r] {
				o.info.Missing = history.Revision(r)
				break
			}
		}
		each("members", func(_, v []byte) {
			var m membership.Member
			if err := json.Unmarshal(v, &m); err != nil {
				t.Fatal(err)
			}
			o.info.Members = append(o.info.Members, Member{ID: uint64(m.ID), Name: m.Name, PeerURLs: m.PeerURLs})
		})
		slices.SortFunc(o.info.Members, func(a, b Member) int { return strings.Compare(fmt.Sprintf("%020d", a.ID), fmt.Sprintf("%020d", b.ID)) })
		each("auth", func(k, v []byte) { o.info.AuthEnabled = string(k) == "authEnabled" && v[0] == 1 })
		each("alarm", func(_, _ []byte) { o.info.Alarms++ })
		each("lease", func(_, _ []byte) { o.info.Leases++ })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, is := range live {
		if is {
			o.contents.Keys++
		}
	}
	o.contents.Leases = o.info.Leases
	return o
}

// readRecords walks the file and renders its records as the oracle does.
func readRecords(b []byte, index *Index) (map[string]string, error) {
	records := map[string]string{}
	err := Walk(bytes.NewReader(b), index, func(r Record) error {
		k := mvcc.BucketKeyToBytes(mvcc.BucketKey{Revision: mvcc.Revision{Main: int64(r.Revision), Sub: r.Sub}}, mvcc.NewRevBytes())
		if r.Tombstone {
			k = append(k, 't')
		}
		if r.Offset >= 0 {
			if r.Offset+int64(len(r.Stored)) > int64(len(b)) || !bytes.Equal(b[r.Offset:r.Offset+int64(len(r.Stored))], r.Stored) {
				return fmt.Errorf("record %d is not at offset %d", r.Revision, r.Offset)
			}
		} else if len(index.inline) == 0 {
			return fmt.Errorf("record %d has no offset", r.Revision)
		}
		records[string(k)] = fmt.Sprint(int64(r.Revision), r.Sub, r.Tombstone, string(r.Key), sha256.Sum256(r.Value),
			int64(r.CreateRevision), int64(r.ModRevision), r.Version, r.Lease)
		return nil
	})
	return records, err
}

// plain makes a database with bbolt alone.
func plain(t testing.TB, opts *bbolt.Options, fill func(tx *bbolt.Tx) error, more ...func(tx *bbolt.Tx) error) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plain")
	if opts == nil {
		opts = &bbolt.Options{}
	}
	opts.NoSync = true
	db, err := bbolt.Open(path, 0o600, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, fn := range append([]func(tx *bbolt.Tx) error{fill}, more...) {
		if err := db.Update(fn); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if err := db.View(func(tx *bbolt.Tx) error { _, err := tx.WriteTo(&buf); return err }); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// record gives an element of the key bucket.
func record(main, sub int64, key string, value []byte) (k, v []byte) {
	k = mvcc.RevToBytes(mvcc.Revision{Main: main, Sub: sub}, mvcc.NewRevBytes())
	v, err := proto.Marshal(&mvccpb.KeyValue{Key: []byte(key), Value: value, CreateRevision: main, ModRevision: main, Version: 1})
	if err != nil {
		panic(err)
	}
	return k, v
}

// applied notes the index of the last entry, as each commit of a server does.
func (e *etcd) applied(index uint64) {
	tx := e.b.BatchTx()
	tx.LockOutsideApply()
	schema.UnsafeUpdateConsistentIndexForce(tx, index, 3)
	tx.Unlock()
}

// users adds n users with names that are longer than what a summary keeps.
func (e *etcd) users(n int) {
	tx := e.b.BatchTx()
	tx.LockOutsideApply()
	for i := range n {
		tx.UnsafePut(schema.AuthUsers, fmt.Appendf(nil, "user-with-a-very-long-name-that-goes-on/%s/%03d", strings.Repeat("x", i), i), []byte("secret"))
	}
	tx.Unlock()
}
