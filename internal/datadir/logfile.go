package datadir

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap/snappb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// raftSnapshotSuffix ends the names of etcd's raft snapshots, which hold the v2 store.
const raftSnapshotSuffix = ".snap"

// CheckLogFile reads a WAL file or a raft snapshot of etcd, whichever its name says, and checks it by its own checksums.
// It gives the index up to which the file says that raft entries are committed. visit, which may be nil, gets each entry
// of a WAL file in order; the data is valid until it returns. size is the length of the file in bytes. A raft snapshot is
// held in memory. The error is ErrDamaged for what etcd could not use, also for a WAL file whose last record is cut off:
// etcd itself leaves such a file after a crash, but no tool that copies it does.
func CheckLogFile(name string, r io.Reader, size int64, visit func(index uint64, data []byte)) (committed uint64, err error) {
	switch path.Ext(name) {
	case segmentSuffix:
		committed, err = checkWALFile(name, r, size, visit)
	case raftSnapshotSuffix:
		committed, err = checkRaftSnapshot(r)
	default:
		return 0, fmt.Errorf("check %q: it is neither a WAL file nor a raft snapshot", name)
	}
	if err != nil {
		return 0, fmt.Errorf("check %q: %w", name, err)
	}
	return committed, nil
}

// checkWALFile walks over the records of one file. The checksum at its head goes on from the file before it, which is
// taken as it is.
func checkWALFile(name string, r io.Reader, size int64, visit func(index uint64, data []byte)) (committed uint64, err error) {
	content := &counted{Reader: r}
	decoder := wal.NewDecoder(streamed{content, fileFacts{path.Base(name), size}})
	var record walpb.Record
	var state raftpb.HardState
	var entry raftpb.Entry
	records := 0
	for err = decoder.Decode(&record); err == nil; err = decoder.Decode(&record) {
		records++
		switch record.GetType() {
		case wal.CrcType:
			if sum := decoder.LastCRC(); sum != 0 && record.Validate(sum) != nil {
				return 0, fmt.Errorf("%w: it has a wrong checksum", ErrDamaged)
			}
			decoder.UpdateCRC(record.GetCrc())
		case wal.StateType:
			if err := proto.Unmarshal(record.GetData(), &state); err != nil {
				return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
			}
		case wal.EntryType:
			if err := proto.Unmarshal(record.GetData(), &entry); err != nil {
				return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			if visit != nil {
				visit(entry.GetIndex(), entry.GetData())
			}
		}
	}
	if content.err != nil {
		return 0, content.err
	}
	if !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if records == 0 {
		return 0, fmt.Errorf("%w: it has no records", ErrDamaged)
	}
	// What follows the last record is preallocated space.
	if _, err := io.Copy(io.Discard, content); err != nil {
		return 0, err
	}
	if content.n != size {
		return 0, fmt.Errorf("%w: it has %d bytes instead of %d", ErrDamaged, content.n, size)
	}
	return state.GetCommit(), nil
}

func checkRaftSnapshot(r io.Reader) (index uint64, err error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	var outer snappb.Snapshot
	if err := proto.Unmarshal(data, &outer); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if len(outer.GetData()) == 0 || crc32.Checksum(outer.GetData(), crc32.MakeTable(crc32.Castagnoli)) != outer.GetCrc() {
		return 0, fmt.Errorf("%w: it has a wrong checksum", ErrDamaged)
	}
	var inner raftpb.Snapshot
	if err := proto.Unmarshal(outer.GetData(), &inner); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return inner.GetMetadata().GetIndex(), nil
}

// counted counts what is read, and remembers why its reader failed, because etcd's decoder takes some failures for an end.
type counted struct {
	io.Reader
	n   int64
	err error
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// streamed is a file for etcd's decoder that is read from a stream.
type streamed struct {
	io.Reader
	facts fileFacts
}

// FileInfo gives what the decoder asks for: the name for its errors, and the size that no record can exceed.
func (s streamed) FileInfo() (fs.FileInfo, error) { return s.facts, nil }

var _ fileutil.FileReader = streamed{}

type fileFacts struct {
	name string
	size int64
}

func (f fileFacts) Name() string       { return strings.ToValidUTF8(f.name, "?") }
func (f fileFacts) Size() int64        { return f.size }
func (f fileFacts) Mode() fs.FileMode  { return fileMode }
func (f fileFacts) ModTime() time.Time { return time.Time{} }
func (f fileFacts) IsDir() bool        { return false }
func (f fileFacts) Sys() any           { return nil }
