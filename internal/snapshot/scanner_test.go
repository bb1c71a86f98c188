package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/holdfast-project/holdfast/internal/history"
)

// databases are the kinds of file that everything is tried on. They are made anew for each test that asks.
func databases() map[string]func(t testing.TB) []byte {
	return map[string]func(t testing.TB) []byte{
		"empty": func(t testing.TB) []byte { return newEtcd(t).snapshot() },
		"tiny": func(t testing.TB) []byte {
			e := newEtcd(t)
			e.put("/registry/pods/a", 10, 0)
			e.delete("/registry/pods/a")
			e.put("b", 0, 77)
			e.facts("3.6.0", 1, 2)
			return e.snapshot()
		},
		"many keys": func(t testing.TB) []byte {
			e := newEtcd(t)
			e.facts("3.5", 3, 500)
			e.users(300)
			for i := range 4000 {
				e.put(fmt.Sprintf("/registry/configmaps/%04d", e.rnd.IntN(3000)), e.rnd.IntN(600), int64(i%7))
				if i%9 == 0 {
					e.delete(fmt.Sprintf("/registry/configmaps/%04d", e.rnd.IntN(3000)))
				}
				if i%11 == 0 {
					e.txn("a", "b", "c")
				}
				if i%1500 == 1499 {
					e.b.ForceCommit()
					e.compact(e.rev - 500)
				}
			}
			return e.snapshot()
		},
		"big values": func(t testing.TB) []byte {
			e := newEtcd(t)
			e.facts("3.7.0", 9, 20)
			for i := range 36 {
				e.put(fmt.Sprintf("big-%d", i%20), []int{1500 << 10, 3, 9000, 4096, 70000, 100, 4040}[i%7], 0)
				if i%5 == 0 {
					e.b.ForceCommit()
				}
			}
			e.compact(e.rev - 10)
			e.put("big-1", 1<<20, 0)
			return e.snapshot()
		},
		"compacted to the end": func(t testing.TB) []byte {
			e := newEtcd(t)
			for i := range 500 {
				e.put(fmt.Sprint("k", i), 50, 0)
			}
			e.b.ForceCommit()
			e.kv.DeleteRange([]byte("k"), []byte("l"))
			e.compact(e.kv.Rev())
			return e.snapshot()
		},
		"defragmented": func(t testing.TB) []byte {
			e := newEtcd(t)
			e.facts("3.6.0", 3, 40)
			for i := range 3000 {
				e.put(fmt.Sprint("k", i%900), 300, 0)
			}
			e.compact(e.rev - 100)
			if err := e.b.Defrag(); err != nil {
				t.Fatal(err)
			}
			return e.snapshot()
		},
		"raised revision": func(t testing.TB) []byte {
			e := newEtcd(t)
			e.put("a", 10, 0)
			raise(e, true)
			return e.snapshot()
		},
		"raised revision, not compacted": func(t testing.TB) []byte {
			e := newEtcd(t)
			for i := range 300 {
				e.put(fmt.Sprint(i%40), 100, 0)
				if i%31 == 0 {
					raise(e, false)
				}
			}
			return e.snapshot()
		},
		"freelist on disk": func(t testing.TB) []byte {
			fill := func(from int64) func(tx *bbolt.Tx) error {
				return func(tx *bbolt.Tx) error {
					b, err := tx.CreateBucketIfNotExists([]byte("key"))
					for i := range int64(2000) {
						k, v := record(from+i, 0, fmt.Sprint(i), make([]byte, 200))
						err = errors.Join(err, b.Put(k, v))
						k, _ = record(from-2000+i, 0, "", nil)
						err = errors.Join(err, b.Delete(k))
					}
					return errors.Join(err, compacted(tx, from-1))
				}
			}
			return plain(t, nil, fill(1), fill(2001), fill(4001))
		},
		"nested buckets and odd keys": func(t testing.TB) []byte {
			return plain(t, nil, func(tx *bbolt.Tx) error {
				a, err := tx.CreateBucket([]byte(strings.Repeat("top", 50)))
				if err != nil {
					return err
				}
				for i := range 14 {
					sub, err := a.CreateBucket(fmt.Appendf(nil, "sub%d", i))
					if err != nil {
						return err
					}
					for j := range i * 12 {
						if err := sub.Put(fmt.Appendf(nil, "%d%s", j, strings.Repeat("k", j%90)), make([]byte, i*j)); err != nil {
							return err
						}
					}
				}
				b, err := tx.CreateBucket([]byte("long"))
				for i := range 12 {
					err = errors.Join(err, b.Put(fmt.Appendf(nil, "%s%d", strings.Repeat("long key ", 1500), i), []byte("v")))
				}
				return err
			})
		},
		"pages of 64 KiB": func(t testing.TB) []byte {
			return plain(t, &bbolt.Options{PageSize: 64 << 10, NoFreelistSync: true}, func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucket([]byte("key"))
				for i := range int64(3000) {
					k, v := record(2+i, 0, fmt.Sprint(i), make([]byte, i%700))
					err = errors.Join(err, b.Put(k, v))
				}
				return err
			})
		},
		"root in many pages": func(t testing.TB) []byte {
			return plain(t, nil, func(tx *bbolt.Tx) error {
				var err error
				for i := range 300 {
					b, e := tx.CreateBucket(fmt.Appendf(nil, "bucket-%03d", i))
					err = errors.Join(err, e, b.Put([]byte("k"), make([]byte, i%300)))
				}
				b, e := tx.CreateBucket([]byte("key"))
				k, v := record(2, 0, "x", make([]byte, 5000))
				return errors.Join(err, e, b.Put(k, v))
			})
		},
	}
}

// raise writes what a restore with a raised revision does, and goes on there.
func raise(e *etcd, compact bool) {
	tx := e.b.BatchTx()
	tx.LockOutsideApply()
	tx.UnsafePut(schema.Key, mvcc.RevToBytes(mvcc.Revision{Main: e.rev + 1e9}, mvcc.NewRevBytes()), []byte{})
	if compact {
		mvcc.UnsafeSetScheduledCompact(tx, e.rev+1e9)
	}
	tx.Unlock()
	e.b.ForceCommit()
	if err := e.kv.Restore(e.b); err != nil {
		e.t.Fatal(err)
	}
}

func compacted(tx *bbolt.Tx, rev int64) error {
	b, err := tx.CreateBucketIfNotExists([]byte("meta"))
	k, _ := record(rev, 0, "", nil)
	return errors.Join(err, b.Put([]byte("finishedCompactRev"), k))
}

func TestScannerAgreesWithBbolt(t *testing.T) {
	for name, make := range databases() {
		t.Run(name, func(t *testing.T) {
			db := make(t)
			want := readOracle(t, db)
			rnd := newRand(t, 11)
			for _, trailer := range []bool{false, true} {
				file := db
				want.info.Size, want.info.Trailer = int64(len(db)), trailer
				if trailer {
					file = withTrailer(db)
					want.info.Size = int64(len(file))
				}
				chunks := []int{0}
				if len(file) < 1<<18 {
					chunks = append(chunks, 0, 0, 1<<20, 4096, 4095, 33, 1)
				} else if trailer {
					chunks = append(chunks, 1<<20, 4095, 33)
				}
				for i, chunk := range chunks {
					s, got, err := scan(file, chunk, rnd)
					if err != nil {
						t.Fatalf("pieces of %d: %v", chunk, err)
					}
					if diff := cmp.Diff(want.info, got); diff != "" {
						t.Fatalf("pieces of %d, trailer %v (-want +got):\n%s", chunk, trailer, diff)
					}
					if i > 0 {
						continue
					}
					records, err := readRecords(file, s.Index())
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(want.records, records); diff != "" {
						t.Fatalf("records (-want +got):\n%s", diff)
					}
					contents, err := ReadContents(bytes.NewReader(file), s.Index())
					if err != nil {
						t.Fatal(err)
					}
					if contents != want.contents {
						t.Fatalf("contents: want %+v, got %+v", want.contents, contents)
					}
				}
			}
		})
	}
}

func TestMissingRevisions(t *testing.T) {
	for _, test := range []struct {
		name      string
		gone      []int64 // of 2 to 1000
		compacted int64
		want      history.Revision
	}{
		{"none", nil, 0, 0},
		{"the first", []int64{2}, 0, 2},
		{"one in a page", []int64{500}, 0, 500},
		{"one, compacted", []int64{500, 9}, 500, 0},
		{"two, one compacted", []int64{9, 501}, 500, 501},
		{"several", []int64{700, 701, 702, 13}, 12, 702},
	} {
		db := plain(t, &bbolt.Options{NoFreelistSync: true}, func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte("key"))
			for rev := int64(2); rev <= 1000; rev++ {
				if !slices.Contains(test.gone, rev) {
					for sub := range rev%3 + 1 {
						k, v := record(rev, sub, fmt.Sprint(rev), make([]byte, 50))
						err = errors.Join(err, b.Put(k, v))
					}
				}
			}
			return errors.Join(err, compacted(tx, test.compacted))
		})
		_, info, err := scan(withTrailer(db), 5000, nil)
		if err != nil || info.Missing != test.want {
			t.Errorf("%s: missing %v, want %v (%v)", test.name, info.Missing, test.want, err)
		}
		if _, _, err := scan(db, 5000, nil); errors.Is(err, ErrCorrupt) != (test.want != 0) {
			t.Errorf("%s, without a trailer: %v", test.name, err)
		}
	}
	// The same between pages, wherever they end.
	e := newEtcd(t)
	for i := range 400 {
		e.put(fmt.Sprint(i), 30, 0)
	}
	for rev := int64(2); rev < 402; rev += 7 {
		k := mvcc.RevToBytes(mvcc.Revision{Main: rev}, mvcc.NewRevBytes())
		tx := e.b.BatchTx()
		tx.LockOutsideApply()
		tx.UnsafeDelete(schema.Key, k)
		tx.Unlock()
		e.b.ForceCommit()
		_, info, err := scan(withTrailer(e.snapshot()), 5000, nil)
		if err != nil || info.Missing != history.Revision(rev) && rev != 401 {
			t.Errorf("missing %v, want %v (%v)", info.Missing, rev, err)
		}
	}
}

func TestSourceVersion(t *testing.T) {
	for _, test := range []struct {
		info Info
		want string
		by   Evidence
	}{
		{Info{}, "3.4", ByNoTerm}, {Info{Term: 2}, "3.5", ByTerm}, {Info{Term: 2, StorageVersion: "3.6.0"}, "3.6.0", ByStorageVersion},
	} {
		if got, by := SourceVersion(test.info); got != test.want || by != test.by {
			t.Errorf("%+v: want %q by %q, got %q by %q", test.info, test.want, test.by, got, by)
		}
	}
}

func TestTrailer(t *testing.T) {
	db := databases()["tiny"](t)
	file := withTrailer(db)

	broken := bytes.Clone(file)
	broken[len(db)-1] ^= 1
	_, _, err := scan(broken, 1000, nil)
	if m, ok := errors.AsType[*TrailerMismatch](err); !ok || !errors.Is(err, ErrTrailer) || m.Want == m.Got {
		t.Errorf("a flipped bit: %v", err)
	}
	// Cut so that the length looks complete: the last 32 bytes are no digest.
	for n := 4096; n < len(file); n += 512 {
		if _, _, err := scan(file[:n+32], 1000, nil); n+32 != len(file) && !errors.Is(err, ErrTrailer) && !errors.Is(err, ErrNotBackend) {
			t.Errorf("cut to %d bytes: %v", n+32, err)
		}
	}
}

func TestExpectedSize(t *testing.T) {
	file := withTrailer(databases()["empty"](t))
	for _, size := range []int{len(file) - 1, len(file) + 1, 1} {
		s := NewScanner(Options{Size: int64(size)})
		_, werr := s.Write(file)
		if _, err := s.Finish(); !errors.Is(err, ErrCorrupt) || size < len(file) && !errors.Is(werr, ErrCorrupt) {
			t.Errorf("size %d: %v, %v", size, werr, err)
		}
		if s.Index() != nil {
			t.Error("there is an index of a broken file")
		}
	}
	s := NewScanner(Options{Size: int64(len(file))})
	if _, err := s.Write(file); err != nil {
		t.Error(err)
	}
	if _, err := s.Finish(); err != nil {
		t.Error(err)
	}
	if _, err := s.Write(file); err == nil {
		t.Error("a finished scanner takes bytes")
	}
}

func TestWalkChecksWhatItReads(t *testing.T) {
	file := withTrailer(databases()["many keys"](t))
	s, info, err := scan(file, 0, newRand(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	ignore := func(Record) error { return nil }
	for name, b := range map[string][]byte{
		"shorter":         file[:len(file)/2],
		"without trailer": file[:len(file)-32],
		"longer":          append(bytes.Clone(file), 1),
		"empty":           nil,
	} {
		if err := Walk(bytes.NewReader(b), s.Index(), ignore); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	rnd := newRand(t, 5)
	for range 20 {
		b := bytes.Clone(file)
		b[rnd.IntN(int(info.Size)-32)] ^= 4
		if err := Walk(bytes.NewReader(b), s.Index(), ignore); !errors.Is(err, ErrCorrupt) {
			t.Errorf("another file: %v", err)
		}
	}
	stop := errors.New("stop")
	if err := Walk(bytes.NewReader(file), s.Index(), func(Record) error { return stop }); err != stop {
		t.Errorf("the caller's error: %v", err)
	}
}
