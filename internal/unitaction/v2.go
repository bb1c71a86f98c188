package unitaction

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/uuid"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/member"
)

// The v2 store lives in etcd's memory. On disk it is the last raft snapshot and the log after it, which etcd's own tool
// reads while etcd goes on writing. So a backup is an attempt, and only the check tells whether it holds everything that
// etcd had confirmed when the action began.
const (
	// v2Attempts bounds the attempts. etcd moves its files once in 64 MB of log, so two in a row are rare already.
	v2Attempts = 5
	// v2Pause grows with each attempt.
	v2Pause = 200 * time.Millisecond
	// v2Pads is how many entries an attempt puts behind the marker at first; each further attempt doubles it.
	v2Pads = 16
)

// errUnsettled means that the files of etcd changed while they were read, or may have. Another attempt may do.
var errUnsettled = errors.New("the log of etcd moved during the backup")

// v2Source is what a backup of the v2 store is made from.
type v2Source struct {
	status member.Status
	tool   v2Tool
}

// saveV2 saves the keys of the v2 store into a new archive file in folder, which is relative to the root.
func (a *snapshotAction) saveV2(ctx context.Context, call *action.Call, folder string) (archive, error) {
	client, err := a.dial()
	if err != nil {
		return archive{}, err
	}
	defer client.Close()
	var source v2Source
	if source.status, err = a.status(ctx, client); err != nil {
		return archive{}, err
	}
	if source.tool, err = a.findV2Tool(ctx, source.status.Version); err != nil {
		return archive{}, err
	}
	if err := a.checkV2Served(ctx, source.status.Version); err != nil {
		return archive{}, err
	}
	if err := a.checkV2Space(); err != nil {
		return archive{}, err
	}
	for attempt := 1; ; attempt++ {
		made, err := a.attemptV2(ctx, call, folder, source, v2Pads<<(attempt-1))
		if err == nil || !errors.Is(err, errUnsettled) || attempt == v2Attempts || ctx.Err() != nil {
			return made, err
		}
		call.Logf("attempt %d of %d: %v", attempt, v2Attempts, err)
		if err := waitUntil(ctx, time.Now().Add(time.Duration(attempt)*v2Pause)); err != nil {
			return archive{}, err
		}
	}
}

// checkV2Served refuses an etcd that has the store and does not let anybody use it, or keeps the keys somewhere else.
func (u *Unit) checkV2Served(ctx context.Context, version string) error {
	for _, arg := range u.Record.EtcdArgs {
		if strings.HasPrefix(strings.TrimLeft(arg, "-"), "experimental-enable-v2v3") {
			return fmt.Errorf("etcd %s keeps its v2 keys in the v3 store (%s): save keys-version=v3", version, arg)
		}
	}
	err := u.liveV2().served(ctx)
	if errors.Is(err, errNoV2API) {
		return fmt.Errorf("etcd %s has no v2 store in use: %w", version, err)
	}
	return err
}

// attemptV2 makes a backup, packs it, starts an etcd on it, and publishes the archive when all that went well.
func (u *Unit) attemptV2(ctx context.Context, call *action.Call, folder string, source v2Source, pads int) (made archive, err error) {
	work, err := u.makeV2Folder()
	if err != nil {
		return archive{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	marker := v2Marker + uuid.NewString()
	if err := settleLog(ctx, u.liveV2(), marker, pads); err != nil {
		return archive{}, fmt.Errorf("settle the log of etcd: %w", err)
	}
	backup := filepath.Join(work, "backup")
	if err := source.tool.backUp(ctx, u.Record.DataDir, u.Record.WALDir, backup); err != nil {
		return archive{}, fmt.Errorf("%w: %w", errUnsettled, err)
	}
	if err := checkV2Backup(backup, marker); err != nil {
		return archive{}, fmt.Errorf("%w: %w", errUnsettled, err)
	}
	out, err := u.createArchive(folder, call)
	if err != nil {
		return archive{}, err
	}
	defer out.discard()
	if err := archivefile.WriteV2(out, backup, time.Now()); err != nil {
		return archive{}, err
	}
	// Only now, because an etcd writes where it runs.
	keys, err := u.readV2Backup(ctx, work, backup)
	if err != nil {
		return archive{}, fmt.Errorf("%w: %w", errUnsettled, err)
	}
	if keys == unknownKeys {
		call.Logf("an etcd was started on the backup; its v2 store asks for a login, so its keys are not counted")
	} else {
		call.Logf("an etcd was started on the backup and serves %d keys", keys)
	}
	if made, err = out.publish(ctx, archivePrefix); err != nil {
		return archive{}, err
	}
	made.etcdVersion, made.apiVersion, made.keys = source.status.Version, "2", max(keys, 0)
	made.clusterID, made.memberID = source.status.ClusterID, source.status.MemberID
	return made, nil
}

// makeV2Folder makes the scratch folder of a v2 backup, empty.
func (u *Unit) makeV2Folder() (string, error) {
	work := filepath.Join(u.Scratch, "v2")
	if err := os.RemoveAll(work); err != nil {
		return "", err
	}
	return work, durable.MkdirAll(work, 0o700)
}

// settleLog puts a marker into the log of etcd, behind everything that etcd has confirmed to anybody, and pads behind it.
// The pads are needed because etcd writes down how far it has committed only with the entry that comes next, and because
// the tool of 3.4 is wrong by the v3 entries that are not committed yet when it reads: it leaves out as many v2 entries at
// the end of the log. These are then pads.
func settleLog(ctx context.Context, store v2API, marker string, pads int) error {
	if err := store.confirm(ctx, marker); err != nil {
		return err
	}
	for range pads {
		if err := store.confirm(ctx, v2Pad); err != nil {
			return err
		}
	}
	return nil
}

// Names of keys in the v2 store that nobody has; those with "_" are not listed in any case.
const (
	v2Marker = "_holdfast-marker-"
	v2Pad    = "_holdfast-pad"
)

// checkV2Backup reads every file of the raft log in a backup and wants the marker in it, committed.
func checkV2Backup(backup, marker string) error {
	var committed, at uint64
	err := walkLogFiles(backup, func(name string) error {
		index, err := checkLogFile(backup, name, func(index uint64, data []byte) {
			if bytes.Contains(data, []byte(marker)) {
				at = index
			}
		})
		committed = max(committed, index)
		return err
	})
	if err != nil {
		return err
	}
	if at == 0 || at > committed {
		return errors.New("the backup does not reach up to where it was asked for")
	}
	return nil
}

// walkLogFiles visits the WAL files and raft snapshots of a data dir.
func walkLogFiles(dataDir string, visit func(name string) error) error {
	for _, pattern := range []string{"member/wal/*.wal", "member/snap/*.snap"} {
		names, err := fs.Glob(os.DirFS(dataDir), pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := visit(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkLogFile(dataDir, name string, visit func(index uint64, data []byte)) (committed uint64, err error) {
	file, err := os.Open(filepath.Join(dataDir, name))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return datadir.CheckLogFile(name, file, info.Size(), visit)
}

// readV2Backup starts the unit's own etcd on a backup and counts the keys that it serves.
func (u *Unit) readV2Backup(ctx context.Context, work, backup string) (keys int64, err error) {
	etcd, err := u.startScratchEtcd(ctx, filepath.Join(work, "run"), backup, "")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, etcd.Stop()) }()
	return countV2Keys(ctx, etcd)
}

// walFileSize is what etcd preallocates for one WAL file, in bytes.
const walFileSize = 64_000_000

// checkV2Space refuses before anything is written when the disk, which is often etcd's own, has no room for a backup of
// the log and for an etcd that is started on it.
func (u *Unit) checkV2Space() error {
	if err := durable.MkdirAll(u.Scratch, 0o700); err != nil {
		return err
	}
	log := filepath.Join(u.Record.DataDir, "member", "wal")
	if u.Record.WALDir != "" {
		log = u.Record.WALDir
	}
	need := int64(3 * walFileSize)
	for _, folder := range []string{log, filepath.Join(u.Record.DataDir, "member", "snap")} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return fmt.Errorf("measure the log of etcd: %w", err)
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) || err == nil && entry.Name() == "db" {
				continue // etcd removes what it needs no more; the v3 keys are not copied
			}
			if err != nil {
				return fmt.Errorf("measure the log of etcd: %w", err)
			}
			need += info.Size()
		}
	}
	free, _, err := freeBeside(u.Scratch, u.Record.DataDir)
	if err != nil {
		return err
	}
	if need > free {
		return fmt.Errorf("no space left for the backup: %q needs %s, %s are free", u.Scratch, humanize.Bytes(uint64(need)), humanize.Bytes(uint64(free)))
	}
	return nil
}
