package replay

import (
	"encoding/binary"

	"github.com/holdfast-project/holdfast/internal/history"
)

const (
	revisionSize = 17 // main revision, '_', sub revision: the key of a record in the key bucket
	tombstoneEnd = 't'

	tagKey     = 1<<3 | 2
	tagCreate  = 2 << 3
	tagMod     = 3 << 3
	tagVersion = 4 << 3
	tagValue   = 5<<3 | 2
	tagLease   = 6 << 3
)

// appendKey appends the key that a record has in the key bucket.
func appendKey(to []byte, p place) []byte {
	to = binary.BigEndian.AppendUint64(to, uint64(p.main))
	to = append(to, '_')
	to = binary.BigEndian.AppendUint64(to, uint64(p.sub))
	if p.tombstone() {
		to = append(to, tombstoneEnd)
	}
	return to
}

// appendRevision appends a revision as etcd keeps it in the meta bucket.
func appendRevision(to []byte, revision history.Revision) []byte {
	return appendKey(to, place{main: int64(revision)})
}

// appendKeyValue appends the message mvccpb.KeyValue of an event, byte for byte as etcd stores it: fields ascending, those
// that are zero left out. A delete has only its key.
func appendKeyValue(to []byte, e history.Event) []byte {
	to = appendBytes(to, tagKey, e.Key)
	if e.Tombstone {
		return to
	}
	to = appendNumber(to, tagCreate, int64(e.CreateRevision))
	to = appendNumber(to, tagMod, int64(e.Revision))
	to = appendNumber(to, tagVersion, e.Version)
	to = appendBytes(to, tagValue, e.Value)
	return appendNumber(to, tagLease, e.Lease)
}

func appendBytes(to []byte, tag byte, b []byte) []byte {
	if len(b) == 0 {
		return to
	}
	to = binary.AppendUvarint(append(to, tag), uint64(len(b)))
	return append(to, b...)
}

func appendNumber(to []byte, tag byte, n int64) []byte {
	if n == 0 {
		return to
	}
	return binary.AppendUvarint(append(to, tag), uint64(n))
}
