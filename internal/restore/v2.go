package restore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/datadir"
)

// V2Options of BuildV2.
type V2Options struct {
	// Folder holds the unpacked archive, "member" with all that is in it. It is only read.
	Folder string
	// Stage is where the data dir goes: its data folder is absent or empty, its WAL folder absent.
	Stage datadir.Stage
	// Name and PeerURL are those of the member that will serve the data.
	Name, PeerURL string
	// Found makes the data dir in the stage that of a cluster of one: it starts the etcd that will serve the data on it,
	// with --force-new-cluster, sets the member's peer URL, and has stopped that etcd when it returns. Only an etcd with
	// a v2 store can do that, because the store holds the membership too.
	Found func(context.Context, V2Result) error
}

// V2Result is what BuildV2 has made.
type V2Result struct {
	// ClusterID and MemberID are new, and random: two restores of one archive are two clusters.
	ClusterID, MemberID uint64
}

// BuildV2 makes a data dir in the stage from a backup of the v2 store, checks who is a member of it and makes it durable.
// The raft snapshot, the raft entries and the backend are those of the archive; the ids in the WAL are new, so that no
// member of an old cluster can join or be joined. On error nothing is left in the stage.
func BuildV2(ctx context.Context, opts V2Options) (result V2Result, err error) {
	check := Options{Name: opts.Name, Backend: backendOf(datadir.Stage{Data: opts.Folder}), Stage: opts.Stage}
	info, err := os.Stat(check.Backend)
	if err == nil {
		check.Source.Size = info.Size()
		err = check.check()
	}
	if err != nil {
		return V2Result{}, fmt.Errorf("build data dir: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("build data dir: %w", err), empty(opts.Stage))
		}
	}()
	if result, err = newIDs(); err != nil {
		return V2Result{}, err
	}
	for _, step := range []func() error{
		func() error { return runEtcd(func(log *zap.Logger) error { return layV2(log, opts, result) }) },
		func() error { return opts.Found(ctx, result) },
		func() error { return secure(opts.Stage) },
		func() error { return inspectV2(opts, result) },
	} {
		if ctx.Err() != nil {
			return V2Result{}, context.Cause(ctx)
		}
		if err := step(); err != nil {
			return V2Result{}, err
		}
	}
	return result, nil
}

// newIDs makes ids as etcd itself does, any but zero.
func newIDs() (V2Result, error) {
	var bytes [16]byte
	if _, err := rand.Read(bytes[:]); err != nil {
		return V2Result{}, err
	}
	return V2Result{
		ClusterID: max(binary.BigEndian.Uint64(bytes[:8]), 1), MemberID: max(binary.BigEndian.Uint64(bytes[8:]), 1),
	}, nil
}

// layV2 writes the files of the archive into the stage, the WAL with new ids.
func layV2(log *zap.Logger, opts V2Options, ids V2Result) (err error) {
	from, to := filepath.Join(opts.Folder, "member"), filepath.Join(opts.Stage.Data, "member")
	if err := os.MkdirAll(filepath.Join(to, "snap"), 0o700); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(from, "snap", "db"), filepath.Join(to, "snap", "db")); err != nil {
		return err
	}
	start, name, err := newestRaftSnapshot(log, filepath.Join(from, "snap"))
	if err != nil {
		return err
	}
	if name != "" {
		if err := copyFile(filepath.Join(from, "snap", name), filepath.Join(to, "snap", name)); err != nil {
			return err
		}
	}
	metadata, state, entries, err := readWAL(log, filepath.Join(from, "wal"), start)
	if err != nil {
		return err
	}
	metadata.ClusterID, metadata.NodeID = &ids.ClusterID, &ids.MemberID
	encoded, err := proto.Marshal(metadata)
	if err != nil {
		return err
	}
	folder := opts.Stage.WAL
	if folder == "" {
		folder = filepath.Join(to, "wal")
	}
	written, err := wal.Create(log, folder, encoded)
	if err != nil {
		return fmt.Errorf("write WAL: %w", err)
	}
	err = written.Save(state, entries)
	if err == nil && start.GetIndex() > 0 {
		err = written.SaveSnapshot(start)
	}
	if err = errors.Join(err, written.Close()); err != nil {
		return fmt.Errorf("write WAL: %w", err)
	}
	return nil
}

// newestRaftSnapshot gives the last raft snapshot in a folder, from which the entries of the WAL go on, and its file
// name; neither when there is none. A damaged one is an error: an older one would not do, because the backup tools drop
// the entries before the newest.
func newestRaftSnapshot(log *zap.Logger, folder string) (*walpb.Snapshot, string, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*.snap"))
	if err != nil || len(names) == 0 {
		return &walpb.Snapshot{Index: new(uint64), Term: new(uint64)}, "", err
	}
	newest := slices.Max(names) // The names have a fixed width: term, then index.
	found, err := snap.Read(log, newest)
	if err != nil {
		return nil, "", fmt.Errorf("read raft snapshot %q: %w", filepath.Base(newest), err)
	}
	of := found.GetMetadata()
	index, term := of.GetIndex(), of.GetTerm()
	return &walpb.Snapshot{Index: &index, Term: &term, ConfState: of.GetConfState()}, filepath.Base(newest), nil
}

// readWAL gives what the WAL of an archive holds after the raft snapshot at start.
func readWAL(log *zap.Logger, folder string, start *walpb.Snapshot) (*etcdserverpb.Metadata, *raftpb.HardState, []*raftpb.Entry, error) {
	fail := func(err error) (*etcdserverpb.Metadata, *raftpb.HardState, []*raftpb.Entry, error) {
		return nil, nil, nil, fmt.Errorf("read WAL: %w", err)
	}
	opened, err := wal.OpenForRead(log, folder, start)
	if err != nil {
		return fail(err)
	}
	defer opened.Close() // Only read from.
	data, state, entries, err := opened.ReadAll()
	if err != nil {
		return fail(err)
	}
	var metadata etcdserverpb.Metadata
	if err := proto.Unmarshal(data, &metadata); err != nil {
		return fail(err)
	}
	if state.GetCommit() < start.GetIndex() {
		return fail(fmt.Errorf("it is committed up to raft index %d, the raft snapshot is of %d", state.GetCommit(), start.GetIndex()))
	}
	return &metadata, state, entries, nil
}

// copyFile copies a file into a new one that only its owner can read. seal makes it durable.
func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() // Only read from.
	made, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = made.ReadFrom(source)
	return errors.Join(err, made.Close())
}

// inspectV2 reads who is a member of the new data dir, from the backend and the WAL together.
func inspectV2(opts V2Options, result V2Result) error {
	dir, err := datadir.At(opts.Stage.Data, opts.Stage.WAL)
	if err != nil {
		return err
	}
	members, err := dir.Members()
	if err != nil {
		return err
	}
	return Options{Name: opts.Name, PeerURL: opts.PeerURL}.onlyMembers(members, result.MemberID)
}
