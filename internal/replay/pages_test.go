package replay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"
)

// TestPages writes trees of all shapes and has them read by bbolt and by snapshot.
func TestPages(t *testing.T) {
	const seed = 5
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	sizes := map[string]func() int{
		"empty":   func() int { return 0 },
		"small":   func() int { return rnd.IntN(60) },
		"usual":   func() int { return 900 + rnd.IntN(400) },
		"half":    func() int { return 2040 + rnd.IntN(40) },
		"page":    func() int { return 4000 + rnd.IntN(100) },
		"mixed":   func() int { return rnd.IntN(1 << rnd.IntN(17)) },
		"larger":  func() int { return 60_000 + rnd.IntN(10_000) },
		"million": func() int { return rnd.IntN(2) * (rnd.IntN(1 << 20)) },
	}
	counts := map[string][]int{"empty": {0, 1, 2, 125, 40_000}, "small": {1, 50, 5000}, "usual": {1, 2, 3, 4, 365, 366, 50_000}, "half": {500}, "page": {1, 700}, "mixed": {3000}, "larger": {50}, "million": {30}}
	for name, size := range sizes {
		for _, count := range counts[name] {
			for _, pageSize := range []int{4 << 10, 64 << 10} {
				t.Run(fmt.Sprint(name, " ", count, " ", pageSize), func(t *testing.T) {
					path := filepath.Join(t.TempDir(), "db")
					content, written := checkPages(t, path, pageSize, count, rnd, size)
					if pageSize == 4<<10 && count > 1000 && written > content*5/4 {
						t.Errorf("%d bytes take %d", content, written)
					}
				})
			}
		}
	}
	for _, size := range []int{0, 512, 5000, 128 << 10} {
		if _, err := newPageWriter(io.Discard, size); err == nil {
			t.Errorf("pages of %d bytes", size)
		}
	}
}

func checkPages(t *testing.T, path string, pageSize, count int, rnd *rand.Rand, size func() int) (content, written int64) {
	file, err := os.Create(path)
	must(t, err)
	w, err := newPageWriter(file, pageSize)
	must(t, err)
	var keys, values [][]byte
	p := place{main: 1}
	for i := range count {
		p.main, p.sub, p.at = p.main+rnd.Int64N(2), uint32(i), int64(rnd.IntN(2))*markTombstone
		key, value := appendKey(nil, p), make([]byte, size())
		for j := range min(len(value), 50) {
			value[j], value[len(value)-1-j] = byte(rnd.Uint32()), byte(j)
		}
		room, err := w.add(key, len(value))
		must(t, err)
		copy(room, value)
		keys, values = append(keys, key), append(values, value)
		content += elementSize + int64(len(key)+len(value))
	}
	must(t, w.finish(file))
	info, err := file.Stat()
	must(t, err)
	must(t, file.Close())
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, NoSync: true})
	must(t, err)
	must(t, db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt: %v", err)
		}
		i := 0
		c := tx.Bucket(bucketKey).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if i >= count || !bytes.Equal(k, keys[i]) || !bytes.Equal(v, values[i]) {
				return fmt.Errorf("element %d is not what was put", i)
			}
			i++
		}
		if i != count {
			return fmt.Errorf("%d elements, want %d", i, count)
		}
		for range min(count, 100) {
			if i := rnd.IntN(count); !bytes.Equal(tx.Bucket(bucketKey).Get(keys[i]), values[i]) {
				return fmt.Errorf("element %d is not found", i)
			}
		}
		return nil
	}))
	// It is a database like any other: it can be changed.
	must(t, db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketKey)
		for _, i := range rnd.Perm(count)[:count/2] {
			if err := b.Delete(keys[i]); err != nil {
				return err
			}
		}
		return b.Put(appendKey(nil, place{main: p.main + 1}), []byte{1<<3 | 2, 1, 'k', 3 << 3, byte(p.main+1)&0x7f | 0x80, byte((p.main + 1) >> 7 & 0x7f)})
	}))
	must(t, db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt, after a change: %v", err)
		}
		if n := tx.Bucket(bucketKey).Stats().KeyN; n != count-count/2+1 {
			t.Errorf("%d elements are left of %d", n, count)
		}
		return nil
	}))
	must(t, db.Close())
	return content, info.Size()
}

// TestPlaces merges more places than are sorted at a time.
func TestPlaces(t *testing.T) {
	const n = 3*placeBlock + 77
	rnd := rand.New(rand.NewPCG(3, 0))
	l := newPlaces()
	for _, i := range rnd.Perm(n) {
		number, err := l.add(place{main: int64(1 + i/3), sub: uint32(i % 3), size: uint32(i)})
		must(t, err)
		if l.at(number).size != uint32(i) {
			t.Fatal("a place is not where it was put")
		}
	}
	l.keep(func(p place) bool { return p.size%5 != 0 })
	must(t, l.sort(t.Context()))
	var got []uint32
	must(t, l.each(func(p place) error { got = append(got, p.size); return nil }))
	if len(got) != n-(n+4)/5 || !slices.IsSorted(got) {
		t.Errorf("%d places, sorted %v", len(got), slices.IsSorted(got))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.sort(ctx); err == nil {
		t.Error("it sorts after its end")
	}
}
