package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

// change makes one transaction on a file, of puts and deletes in all buckets, and gives the file as it is then.
func change(t *testing.T, b []byte, rnd *rand.Rand, synced bool) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: !synced, FreelistType: bbolt.FreelistMapType, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	err = tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		var gone [][]byte
		var last []byte
		if err := b.ForEach(func(k, v []byte) error {
			if last = bytes.Clone(k); v != nil && string(name) != bucketMeta && rnd.IntN(40) == 0 {
				gone = append(gone, last)
			}
			return nil
		}); err != nil {
			return err
		}
		if string(name) == bucketKey {
			main := int64(1)
			if last != nil {
				main, _, _ = splitRevision(last)
			}
			if len(gone) > 0 { // Only after a compaction may revisions be missing.
				if err := compacted(tx, main); err != nil {
					return err
				}
			}
			for range rnd.IntN(30) {
				main++
				if err := b.Put(record(main, 0, "new", make([]byte, rnd.IntN(20_000)))); err != nil {
					return err
				}
			}
		}
		for _, k := range gone {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, tx.Commit(), db.Close()); err != nil {
		t.Fatal(err)
	}
	changed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// TestRecheck wants the same of a changed file as a Scanner that reads all of it finds.
func TestRecheck(t *testing.T) {
	for name, make := range databases() {
		t.Run(name, func(t *testing.T) {
			db := make(t)
			rnd := newRand(t, rand.Uint64())
			for _, synced := range []bool{false, true} {
				base := db
				if synced {
					base = change(t, db, rnd, true) // has a list of its free pages
				}
				changed := change(t, base, rnd, synced)
				for _, trailer := range []bool{false, true} {
					file := base
					if trailer {
						file = withTrailer(base)
					}
					s, _, err := scan(file, 1<<20, rnd)
					if err != nil {
						t.Fatal(err)
					}
					_, want, err := scan(changed, 1<<20, rnd)
					if err != nil {
						t.Fatal(err)
					}
					want.SHA256 = [32]byte{}
					got, err := s.Recheck(bytes.NewReader(changed), int64(len(changed)))
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("free pages listed %v, trailer %v (-want +got):\n%s", synced, trailer, diff)
					}
				}
			}
		})
	}
}

// readLog notes which bytes of a file were read.
type readLog struct {
	*bytes.Reader
	read int
}

func (r *readLog) ReadAt(p []byte, off int64) (int, error) {
	r.read += len(p)
	return r.Reader.ReadAt(p, off)
}

// TestRecheckFindsDamage damages what the transaction wrote, page by page. What it did not write is not read.
func TestRecheckFindsDamage(t *testing.T) {
	db := databases()["many keys"](t)
	rnd := newRand(t, 3)
	changed := change(t, db, rnd, false)
	fresh := func() *Scanner {
		s, _, err := scan(db, 1<<20, rnd)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	log := &readLog{Reader: bytes.NewReader(changed)}
	if _, err := fresh().Recheck(log, int64(len(changed))); err != nil {
		t.Fatal(err)
	}
	s := fresh()
	if log.read < 6*s.pageSize || log.read > len(changed)/2 {
		t.Errorf("read %d bytes of %d", log.read, len(changed))
	}
	found, harmless := 0, 0
	for at := 0; at+s.pageSize <= len(changed); at += s.pageSize {
		if at/s.pageSize > 1 && s.used.holds(int64(at/s.pageSize)) {
			continue
		}
		every := 5 // Some of them are enough.
		if at+s.pageSize <= len(db) && bytes.Equal(db[at:at+s.pageSize], changed[at:at+s.pageSize]) {
			every = 40
		}
		if at/s.pageSize > 1 && at/s.pageSize%every != 0 {
			continue
		}
		damaged := slices.Clone(changed)
		clear(damaged[at : at+s.pageSize])
		_, want, wantErr := scan(damaged, 1<<20, rnd)
		want.SHA256 = [32]byte{}
		got, err := fresh().Recheck(bytes.NewReader(damaged), int64(len(damaged)))
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || err == nil && !cmp.Equal(want, got) {
			t.Fatalf("page %d: %v, want %v", at/s.pageSize, err, wantErr)
		}
		if err == nil {
			harmless++
			continue
		}
		known(t, err)
		found++
	}
	if found < 10 || harmless == 0 {
		t.Errorf("%d damaged pages were found, %d were harmless", found, harmless)
	}
	if _, err := fresh().Recheck(bytes.NewReader(changed[:len(changed)/2]), int64(len(changed)/2)); err == nil {
		t.Error("half a file was found whole")
	}
	s = NewScanner(Options{})
	if _, err := s.Recheck(bytes.NewReader(changed), int64(len(changed))); err == nil {
		t.Error("a file that nobody has judged was found whole")
	}
}
