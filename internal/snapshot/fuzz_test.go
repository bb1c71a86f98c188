package snapshot

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"go.etcd.io/bbolt"
)

// FuzzScanner gives the bytes as a file, and as the pages behind two valid meta pages, where they are looked at more
// closely. Whatever comes: no panic, an error of a known class, the same answer however the bytes are cut up, and
// what was found whole can be walked or is told to be corrupt.
func FuzzScanner(f *testing.F) {
	tiny := plain(f, &bbolt.Options{NoFreelistSync: true}, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("key"))
		if err != nil {
			return err
		}
		for i := range int64(90) {
			k, v := record(i+2, 0, "k", make([]byte, 40))
			if err := b.Put(k, v); err != nil {
				return err
			}
		}
		return compacted(tx, 1)
	})
	f.Add(false, tiny)
	f.Add(true, tiny[8192:])
	f.Add(true, craft(5).bytes()[8192:])
	f.Add(false, []byte("hello"))
	f.Fuzz(func(t *testing.T, behind bool, data []byte) {
		file := data
		if behind {
			pages := 2 + len(data)/4096
			file = append(craftMeta(pages), data...)
		}
		s, info, err := scan(file, 1<<20, nil)
		again, infoAgain, errAgain := scan(file, 0, rand.New(rand.NewPCG(1, 2)))
		if (err == nil) != (errAgain == nil) || err != nil && err.Error() != errAgain.Error() || !reflect.DeepEqual(info, infoAgain) {
			t.Fatalf("pieces change the answer: %v and %v", err, errAgain)
		}
		if err != nil {
			known(t, err)
			return
		}
		if !reflect.DeepEqual(s.Index(), again.Index()) {
			t.Fatal("pieces change the index")
		}
		if _, err := ReadContents(bytes.NewReader(file), s.Index()); err != nil {
			known(t, err)
		}
	})
}

// craftMeta gives two meta pages of a file with the root in page 2, or in the last page that a small file can have.
func craftMeta(pages int) []byte {
	c := craft(2)
	root := uint64(2)
	if pages > 3 {
		root = uint64(pages - 1) // bbolt writes the root last
	}
	c.meta(root, noFreelist, uint64(pages))
	return c.bytes()
}
