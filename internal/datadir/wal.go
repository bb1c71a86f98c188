package datadir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// segmentSuffix ends the names of etcd's WAL files.
const segmentSuffix = ".wal"

// walSegment is one file of etcd's WAL.
type walSegment struct {
	path string
	// first is the raft index of the first entry that the file can hold.
	first uint64
}

// walSegments lists the files of a WAL in order. An absent WAL has none.
func walSegments(dir string) ([]walSegment, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var segments []walSegment
	for _, e := range entries { // They are sorted, and the names have a fixed width.
		if !strings.HasSuffix(e.Name(), segmentSuffix) || e.IsDir() {
			continue
		}
		var number, first uint64
		if _, err := fmt.Sscanf(e.Name(), "%016x-%016x.wal", &number, &first); err != nil {
			return nil, fmt.Errorf("%w: WAL file %q has no proper name", ErrDamaged, e.Name())
		}
		segments = append(segments, walSegment{path: filepath.Join(dir, e.Name()), first: first})
	}
	return segments, nil
}

// change is a change of membership in the WAL.
type change struct {
	index     uint64
	committed bool
	kind      raftpb.ConfChangeType
	member    Member
	promote   bool
}

// apply carries the change out on members.
func (c change) apply(members map[uint64]Member) {
	known, isKnown := members[c.member.ID]
	switch {
	case c.kind == raftpb.ConfChangeRemoveNode:
		if c.committed {
			delete(members, c.member.ID)
		}
	case c.promote && isKnown:
		known.Learner = false
		members[known.ID] = known
	case c.kind == raftpb.ConfChangeUpdateNode && isKnown:
		known.PeerURLs = c.member.PeerURLs
		members[known.ID] = known
	case !isKnown:
		members[c.member.ID] = c.member
	}
}

// readChanges gives the changes of membership after the raft index applied, in order. Of several entries with one index
// the last one in the file holds, as in raft. It reads one record at a time.
func readChanges(segments []walSegment, applied uint64) (changes []change, err error) {
	for len(segments) > 1 && segments[1].first <= applied {
		segments = segments[1:]
	}
	if len(segments) > 0 && segments[0].first > applied+1 {
		return nil, fmt.Errorf("%w: the backend ends at raft index %d, the WAL begins at %d", ErrDamaged, applied, segments[0].first)
	}
	var readers []fileutil.FileReader
	for _, s := range segments {
		f, err := os.Open(s.path)
		if err != nil {
			return nil, err
		}
		defer f.Close() // Only read from.
		readers = append(readers, fileutil.NewFileReader(f))
	}
	var state raftpb.HardState
	var record walpb.Record
	decoder := wal.NewDecoder(readers...)
	for err = decoder.Decode(&record); err == nil; err = decoder.Decode(&record) {
		switch record.GetType() {
		case wal.CrcType:
			if sum := decoder.LastCRC(); sum != 0 && record.Validate(sum) != nil {
				return nil, fmt.Errorf("%w: the WAL has a wrong checksum", ErrDamaged)
			}
			decoder.UpdateCRC(record.GetCrc())
		case wal.StateType:
			err = proto.Unmarshal(record.GetData(), &state)
		case wal.EntryType:
			changes, err = addEntry(changes, record.GetData(), applied)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: decode WAL record: %w", ErrDamaged, err)
		}
	}
	// A write that was cut off by a crash ends the WAL; nothing after it was acknowledged.
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: read WAL: %w", ErrDamaged, err)
	}
	for i := range changes {
		changes[i].committed = changes[i].index <= state.GetCommit()
	}
	return changes, nil
}

// addEntry takes one raft entry into account.
func addEntry(changes []change, data []byte, applied uint64) ([]change, error) {
	var entry raftpb.Entry
	if err := proto.Unmarshal(data, &entry); err != nil {
		return nil, err
	}
	// An entry replaces those that an earlier leader left at its index and above.
	for len(changes) > 0 && changes[len(changes)-1].index >= entry.GetIndex() {
		changes = changes[:len(changes)-1]
	}
	if entry.GetType() != raftpb.EntryConfChange || entry.GetIndex() <= applied {
		return changes, nil
	}
	var cc raftpb.ConfChange
	if err := proto.Unmarshal(entry.GetData(), &cc); err != nil {
		return nil, err
	}
	c := change{index: entry.GetIndex(), kind: cc.GetType()}
	if len(cc.GetContext()) > 0 {
		var context struct {
			Member
			Promote bool `json:"isPromote"`
		}
		if err := json.Unmarshal(cc.GetContext(), &context); err != nil {
			return nil, err
		}
		c.member, c.promote = context.Member, context.Promote
	}
	c.member.ID = cc.GetNodeId()
	return append(changes, c), nil
}
