package snapshot

import (
	"bytes"
	"hash/maphash"
	"io"
)

// Contents is what a person wants to know of a keyspace at a glance.
type Contents struct {
	// Keys counts the keys that are there at the file's revision.
	Keys int64
	// Kubernetes tells whether a Kubernetes API server keeps or kept its objects here: by the prefix it gives to keys, or by
	// what its binary values begin with.
	Kubernetes bool
	// Leases counts leases, with or without keys.
	Leases int64
}

// ReadContents reads a file again that a Scanner has judged. It takes about 50 bytes of memory for each key, live or
// deleted and not compacted yet. Errors are those of Walk.
func ReadContents(r io.Reader, index *Index) (Contents, error) {
	// Keys are told apart by a hash with a random seed, which nobody can make collide on purpose. By chance, the
	// count of a million keys is off by one in one of 37 million files.
	type latest struct {
		main int64
		sub  int64 // twice the sub revision, plus one for a delete
	}
	keys := make(map[uint64]latest)
	seed := maphash.MakeSeed()
	c := Contents{Leases: index.leases}
	err := Walk(r, index, func(rec Record) error {
		if len(rec.Key) == 0 {
			return nil
		}
		now := latest{main: int64(rec.Revision), sub: rec.Sub << 1}
		if rec.Tombstone {
			now.sub |= 1
		}
		id := maphash.Bytes(seed, rec.Key)
		if old, ok := keys[id]; !ok || now.main > old.main || now.main == old.main && now.sub > old.sub {
			keys[id] = now
		}
		c.Kubernetes = c.Kubernetes || bytes.HasPrefix(rec.Key, []byte("/registry/")) ||
			bytes.HasPrefix(rec.Value, []byte("k8s\x00"))
		return nil
	})
	if err != nil {
		return Contents{}, err
	}
	for _, l := range keys {
		if l.sub&1 == 0 {
			c.Keys++
		}
	}
	return c, nil
}
