package snapshot

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/backend"
)

// fragmented is a store that has lived: small commits all the time, compactions, deletes, values of all sizes, so
// that its free pages are full of old leaves and branches.
func fragmented(t testing.TB) []byte {
	// The server's default, which takes free pages from anywhere.
	e := newEtcd(t, func(c *backend.BackendConfig) { c.BackendFreelistType = bbolt.FreelistMapType })
	e.facts("3.6.0", 3, 400)
	write := func(n, commits int) {
		for i := range n {
			size := e.rnd.IntN(2500)
			if i%50 == 0 {
				size = e.rnd.IntN(20000)
			}
			e.put(fmt.Sprintf("/registry/things/%06d", e.rnd.IntN(20000)), size, 0)
			if i%(n/commits) == 0 {
				e.applied(uint64(e.rev))
				e.b.ForceCommit()
			}
		}
	}
	write(13000, 30)
	for range 3 {
		for range 2000 {
			e.delete(fmt.Sprintf("/registry/things/%06d", e.rnd.IntN(20000)))
		}
		e.compact(e.rev - 100)
		write(900, 300)
	}
	return e.snapshot()
}

func TestSummariesAreSmall(t *testing.T) {
	for name, db := range map[string][]byte{"fragmented": fragmented(t), "big values": databases()["big values"](t), "many keys": databases()["many keys"](t)} {
		s, info, err := scan(withTrailer(db), 32<<10, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[byte]int{}
		for i := range s.pages.n {
			if r := ref(*s.pages.at(i)); r != 0 {
				seen[s.summary(r).kind&kindMask]++
			}
		}
		// What is allocated, but for the last block of each, which may be almost empty: it is part of the constant.
		used := s.pages.size() + s.sum.arena.size() + (cap(s.index.leaves)*2+cap(s.pendings))*8
		last := s.sum.arena.blocks[len(s.sum.arena.blocks)-1]
		used -= cap(last) - len(last) + (len(s.pages.blocks)*listBlock-s.pages.n)*4
		per := float64(used) / float64(info.Pages)
		t.Logf("%s: %.1f bytes for each of %d pages (%d leaves, %d branches, %d broken)", name, per, info.Pages,
			seen[kindLeaf], seen[kindBranch], seen[kindFaulty])
		if per > 40 {
			t.Errorf("%s: %.1f bytes for each page, want at most 40", name, per)
		}
	}
}

func BenchmarkScanner(b *testing.B) {
	for name, db := range map[string][]byte{"small records": fragmented(b), "big values": databases()["big values"](b)} {
		b.Run(name, func(b *testing.B) {
			file := withTrailer(db)
			b.SetBytes(int64(len(file)))
			var finish time.Duration
			for b.Loop() {
				s := NewScanner(Options{})
				if _, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{bytes.NewReader(file)}, make([]byte, 32<<10)); err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				if _, err := s.Finish(); err != nil {
					b.Fatal(err)
				}
				finish += time.Since(start)
			}
			b.ReportMetric(float64(finish.Microseconds())/float64(b.N), "finish-us/op")
		})
	}
}

// BenchmarkSHA256 is what the others are held against.
func BenchmarkSHA256(b *testing.B) {
	data := make([]byte, 32<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		sha256.Sum256(data)
	}
}

func BenchmarkWalk(b *testing.B) {
	db := fragmented(b)
	s, _, err := scan(db, 1<<20, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(db)))
	for b.Loop() {
		if _, err := ReadContents(bytes.NewReader(db), s.Index()); err != nil {
			b.Fatal(err)
		}
	}
}
