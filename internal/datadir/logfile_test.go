package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// walFile is a WAL file of etcd's own code with entries 1 to n, committed up to the last but one.
func walFile(t *testing.T, n int) []byte {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wal")
	w, err := wal.Create(zap.NewNop(), dir, []byte("metadata"))
	if err != nil {
		t.Fatal(err)
	}
	term, committed := uint64(2), uint64(n-1)
	var entries []*raftpb.Entry
	for i := range n {
		index := uint64(i + 1)
		entries = append(entries, &raftpb.Entry{Term: &term, Index: &index, Data: fmt.Appendf(nil, "payload-%d", i+1)})
	}
	err = w.Save(&raftpb.HardState{Term: &term, Vote: &term, Commit: &committed}, entries)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(dir, "0000000000000000-0000000000000000.wal"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data := make([]byte, 8192) // with some of the preallocated space
	if _, err := io.ReadFull(file, data); err != nil {
		t.Fatal(err)
	}
	return data
}

func raftSnapshot(t *testing.T, index uint64) []byte {
	t.Helper()
	dir, term := t.TempDir(), uint64(2)
	err := snap.New(zap.NewNop(), dir).SaveSnap(&raftpb.Snapshot{
		Data: []byte("store"), Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{7}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%016x-%016x.snap", term, index)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func checkBytes(name string, data []byte, size int) (uint64, error) {
	return CheckLogFile(name, bytes.NewReader(data), int64(size), nil)
}

func TestCheckLogFile(t *testing.T) {
	data := walFile(t, 5)
	var got []string
	committed, err := CheckLogFile("member/wal/x.wal", bytes.NewReader(data), int64(len(data)), func(index uint64, data []byte) {
		got = append(got, fmt.Sprintf("%d %s", index, data))
	})
	want := "[1 payload-1 2 payload-2 3 payload-3 4 payload-4 5 payload-5]"
	if err != nil || committed != 4 || fmt.Sprint(got) != want {
		t.Errorf("WAL file: committed %d, entries %v, %v; want 4 and %s", committed, got, err, want)
	}
	raft := raftSnapshot(t, 9)
	if index, err := checkBytes("a.snap", raft, len(raft)); err != nil || index != 9 {
		t.Errorf("raft snapshot: index %d, %v; want 9", index, err)
	}
	if _, err := checkBytes("member/snap/db", raft, len(raft)); err == nil {
		t.Error("a backend is taken for a file of the log")
	}
}

func TestCheckLogFileSeesDamage(t *testing.T) {
	data := walFile(t, 5)
	used := bytes.LastIndex(data, []byte("payload-5")) + 64
	damaged := func(what, name string, data []byte, size int) {
		t.Helper()
		if _, err := checkBytes(name, data, size); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for cut := range used {
		damaged(fmt.Sprintf("WAL cut at %d", cut), "a.wal", data[:cut], len(data))
	}
	for i := 1; i <= 5; i++ {
		broken := bytes.Clone(data)
		broken[bytes.Index(data, fmt.Appendf(nil, "payload-%d", i))] ^= 4
		damaged(fmt.Sprintf("entry %d changed", i), "a.wal", broken, len(broken))
	}
	damaged("empty WAL", "a.wal", nil, 0)
	damaged("zeros for a WAL", "a.wal", make([]byte, 4096), 4096)
	raft := raftSnapshot(t, 9)
	for at := range raft {
		damaged(fmt.Sprintf("raft snapshot cut at %d", at), "a.snap", raft[:at], len(raft))
		const checksum = 6 // bytes, with bits in the last that mean nothing
		broken := bytes.Clone(raft)
		if broken[at] ^= 1 << (at % 8); at < checksum {
			broken[1] ^= 1
		}
		damaged(fmt.Sprintf("raft snapshot changed at %d", at), "a.snap", broken, len(raft))
	}
	// A disk that fails is no damage of the file.
	broken := errors.New("the disk is broken")
	if _, err := CheckLogFile("a.wal", &failsAfter{data[:used/2], broken}, int64(len(data)), nil); !errors.Is(err, broken) || errors.Is(err, ErrDamaged) {
		t.Errorf("reading fails: %v", err)
	}
}

// failsAfter gives its bytes and then an error.
type failsAfter struct {
	left []byte
	err  error
}

func (f *failsAfter) Read(p []byte) (int, error) {
	if len(f.left) == 0 {
		return 0, f.err
	}
	n := copy(p, f.left)
	f.left = f.left[n:]
	return n, nil
}
