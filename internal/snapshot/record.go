package snapshot

import (
	"encoding/binary"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Record is one put or delete as the key bucket has it.
type Record struct {
	// Revision and Sub are those of the write: Sub counts the writes of one transaction.
	Revision history.Revision
	Sub      int64
	// Tombstone marks a delete; it has a Key and nothing else.
	Tombstone bool
	// Key and Value belong to the reader and are overwritten after the call that gave them. Key is empty only in the
	// record that a restore with a raised revision writes.
	Key, Value     []byte
	CreateRevision history.Revision
	ModRevision    history.Revision
	// Version counts the puts since the key was created.
	Version int64
	// Lease is the lease that the key is attached to, or zero.
	Lease int64
	// Stored is the KeyValue message as it lies in the file, the reader's as Key and Value are. It is empty only where Key
	// is.
	Stored []byte
	// Offset is where Stored begins in the file, in bytes: len(Stored) bytes from there are the message, so that it can
	// be read again. It is -1 for a record inside the page of the root, as those of a backend with very few are.
	Offset int64
}

// ParseRecord reads one element of the key bucket again that Walk gave before: its key there and the message. The Record's
// slices are those of stored, and its Offset is -1. What is no record is an ErrCorrupt.
func ParseRecord(key, stored []byte) (Record, error) {
	rec, what := parseRecord(key, stored)
	if what != "" {
		return Record{}, &Corrupt{Page: -1, Bucket: bucketKey, What: what}
	}
	return rec, nil
}

// parseRecord reads one element of the key bucket. What is wrong with it is told as a clause.
func parseRecord(k, v []byte) (Record, string) {
	if !isRevision(k) {
		return Record{}, "a key is not a revision"
	}
	var r Record
	main, sub, tombstone := splitRevision(k)
	r.Revision, r.Sub, r.Tombstone, r.Stored, r.Offset = history.Revision(main), sub, tombstone, v, -1
	if !r.parseKeyValue(v) {
		return Record{}, "a value is no KeyValue message"
	}
	switch {
	case len(v) == 0:
		return r, ""
	case len(r.Key) == 0:
		return Record{}, "a record has no key"
	case !tombstone && r.ModRevision != r.Revision:
		return Record{}, "a record's mod revision is not its revision"
	}
	return r, ""
}

// maxField is protobuf's greatest field number.
const maxField = 1<<29 - 1

// parseKeyValue scans a protobuf message mvccpb.KeyValue: 1 key, 2 create revision, 3 mod revision, 4 version, 5 value,
// 6 lease. Fields that it does not know are skipped.
func (r *Record) parseKeyValue(b []byte) bool {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > maxField {
			return false
		}
		b = b[n:]
		var number uint64
		var data []byte
		switch tag & 7 {
		case 0:
			number, n = binary.Uvarint(b)
			if n <= 0 {
				return false
			}
			b = b[n:]
		case 1, 5:
			size := 8
			if tag&7 == 5 {
				size = 4
			}
			if len(b) < size {
				return false
			}
			b = b[size:]
		case 2:
			number, n = binary.Uvarint(b)
			if n <= 0 || number > uint64(len(b)-n) {
				return false
			}
			data = b[n : n+int(number)]
			b = b[n+int(number):]
		default:
			return false
		}
		switch tag {
		case 1<<3 | 2:
			r.Key = data
		case 2 << 3:
			r.CreateRevision = history.Revision(number)
		case 3 << 3:
			r.ModRevision = history.Revision(number)
		case 4 << 3:
			r.Version = int64(number)
		case 5<<3 | 2:
			r.Value = data
		case 6 << 3:
			r.Lease = int64(number)
		default:
			if tag>>3 <= 6 {
				return false // a known field of another type
			}
		}
	}
	return true
}
