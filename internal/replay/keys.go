package replay

import (
	"crypto/rand"
	"crypto/sha256"
)

// keyID stands for a key, see the package's documentation for how surely.
type keyID [16]byte

// decided is what a key has that segments have settled.
const decided = ^uint32(0)

// keys remembers keys that were seen: those that are decided, and of others where the last record so far has its place.
type keys struct {
	prefix int
	buffer []byte // a random prefix, then the key that is asked for
	seen   map[keyID]uint32
}

func newKeys() *keys {
	k := &keys{buffer: make([]byte, 32), seen: map[keyID]uint32{}}
	k.prefix, _ = rand.Read(k.buffer) // It never fails.
	return k
}

func (k *keys) id(key []byte) keyID {
	k.buffer = append(k.buffer[:k.prefix], key...)
	sum := sha256.Sum256(k.buffer)
	return keyID(sum[:16])
}
