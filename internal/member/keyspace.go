package member

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Keyspace sums up what lives at one revision. Two are equal when the keyspaces are.
type Keyspace struct {
	Keys int64
	// Bytes are those of keys and values.
	Bytes int64
	// SHA256 is over all keys in their order, with values, revisions, versions and leases, in hexadecimal. It is a secret where
	// the keyspace is so small that its content can be guessed.
	SHA256 string
}

// KeyspaceSum computes a Keyspace. It is used by one goroutine.
type KeyspaceSum struct {
	keys, bytes int64
	sum         hash.Hash
	numbers     []byte
}

// NewKeyspaceSum begins with no keys.
func NewKeyspaceSum() *KeyspaceSum { return &KeyspaceSum{sum: sha256.New()} }

// Add takes the next key, in ascending order. Key and value stay the caller's.
func (k *KeyspaceSum) Add(key, value []byte, created, modified history.Revision, version, lease int64) {
	k.keys++
	k.bytes += int64(len(key) + len(value))
	// Lengths go in before what they are of, so that no two keyspaces give the same bytes.
	k.numbers = k.numbers[:0]
	for _, n := range []int64{int64(len(key)), int64(len(value)), int64(created), int64(modified), version, lease} {
		k.numbers = binary.BigEndian.AppendUint64(k.numbers, uint64(n))
	}
	k.sum.Write(k.numbers)
	k.sum.Write(key)
	k.sum.Write(value)
}

// Keyspace is that of all keys so far.
func (k *KeyspaceSum) Keyspace() Keyspace {
	return Keyspace{Keys: k.keys, Bytes: k.bytes, SHA256: hex.EncodeToString(k.sum.Sum(nil))}
}
