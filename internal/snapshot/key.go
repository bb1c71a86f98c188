package snapshot

import (
	"bytes"
	"encoding/binary"
)

const (
	revisionSize  = 17 // main revision, '_', sub revision; etcd adds 't' to a tombstone
	tombstoneSize = 18
	tombstoneMark = 't'

	// keyLimit is how much of a key a summary keeps. Revisions, lease and member ids fit; only names of users and
	// roles can be longer, and are then compared by their first bytes.
	keyLimit = 24
)

// isRevision tells whether k is a key of etcd's key bucket.
func isRevision(k []byte) bool {
	return (len(k) == revisionSize || len(k) == tombstoneSize && k[revisionSize] == tombstoneMark) &&
		k[8] == '_' && k[0] < 0x80 && k[9] < 0x80
}

// splitRevision takes a key apart that isRevision has accepted.
func splitRevision(k []byte) (main, sub int64, tombstone bool) {
	return int64(binary.BigEndian.Uint64(k)), int64(binary.BigEndian.Uint64(k[9:])), len(k) == tombstoneSize
}

// key is a bucket's key as a summary keeps it.
type key struct {
	bytes [keyLimit]byte
	size  uint8
	cut   bool // there was more
}

func makeKey(k []byte) key {
	var s key
	s.size = uint8(copy(s.bytes[:], k))
	s.cut = len(k) > keyLimit
	return s
}

func (k *key) slice() []byte { return k.bytes[:k.size] }

// ascending tells whether a < b can be. Of keys that were cut it asks only for what is known of them.
func ascending(a, b *key) bool {
	c := bytes.Compare(a.slice(), b.slice())
	return c < 0 || c == 0 && (a.cut || b.cut)
}

// notBelow tells whether a >= b can be.
func notBelow(a, b *key) bool {
	c := bytes.Compare(a.slice(), b.slice())
	return c >= 0 || a.cut && c == 0
}

const (
	keyRaw = iota
	keyCut
	keyRevision
	keyTombstone
)

// keyCoder writes keys one after another in few bytes: a revision as the difference to the one before. The zero value
// starts a run of keys, for writing and for reading alike.
type keyCoder struct{ main uint64 }

func (c *keyCoder) append(to []byte, k []byte) []byte {
	if isRevision(k) {
		main, sub := binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[9:])
		tag := byte(keyRevision)
		if len(k) == tombstoneSize {
			tag = keyTombstone
		}
		to = append(to, tag)
		to = binary.AppendVarint(to, int64(main-c.main))
		c.main = main
		return binary.AppendUvarint(to, sub)
	}
	if len(k) > keyLimit {
		return append(append(to, keyCut), k[:keyLimit]...)
	}
	return append(append(to, keyRaw, byte(len(k))), k...)
}

// read takes the next key off the front of r.
func (c *keyCoder) read(r *packed) key {
	var k key
	switch tag := r.byte(); tag {
	case keyRaw:
		k.size = uint8(copy(k.bytes[:], r.bytes(int(r.byte()))))
	case keyCut:
		k.size = uint8(copy(k.bytes[:], r.bytes(keyLimit)))
		k.cut = true
	default:
		c.main += uint64(r.varint())
		binary.BigEndian.PutUint64(k.bytes[:], c.main)
		k.bytes[8] = '_'
		binary.BigEndian.PutUint64(k.bytes[9:], r.uvarint())
		k.size = revisionSize
		if tag == keyTombstone {
			k.bytes[revisionSize] = tombstoneMark
			k.size = tombstoneSize
		}
	}
	return k
}
