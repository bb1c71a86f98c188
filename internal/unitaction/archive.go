package unitaction

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// archive is an archive file that is complete under its final name.
type archive struct {
	path      string // inside the unit
	sha256    string // of the file as read back from the disk
	size      int64
	allocated int64 // bytes of disk blocks, what du counts

	etcdVersion, apiVersion string
	clusterID, memberID     member.ID
	backend                 snapshot.Info // not of a v2 archive
	keys                    int64         // of a v2 archive
}

// An archive is named after the second of its end, in UTC.
const (
	archiveStamp  = "2006-01-02-15.04.05"
	archiveSuffix = ".tar.gz"
)

// archiveWriter writes an archive under a temporary name that only its owner can read.
type archiveWriter struct {
	unit   *Unit
	folder string
	part   string
	file   *os.File
	steps  *durable.Stepwise
	sum    hash.Hash
	size   int64
	most   int64 // bytes that go into the archive, 0 when that is not known
}

func (u *Unit) createArchive(folder string, call *action.Call) (*archiveWriter, error) {
	if err := u.makeFolder(folder); err != nil {
		return nil, err
	}
	part := partName(folder, call)
	file, err := u.Root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create archive: %w", err)
	}
	return &archiveWriter{unit: u, folder: folder, part: part, file: file, steps: durable.NewStepwise(file), sum: sha256.New()}, nil
}

func (w *archiveWriter) Write(p []byte) (int, error) {
	n, err := w.steps.Write(p)
	w.sum.Write(p[:n])
	w.size += int64(n)
	return n, w.explain(err)
}

// explain says of a full disk how full, by the name that the folder has on the unit.
func (w *archiveWriter) explain(err error) error {
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	needs := ""
	if w.most > 0 {
		needs = fmt.Sprintf(" needs up to %s", humanize.Bytes(uint64(w.most)))
	}
	return fmt.Errorf("%q on the unit%s: %w", "/"+strings.TrimPrefix(w.folder, "."), needs, unix.ENOSPC)
}

// publish makes the archive durable and gives it its final name: the time of day, in the first second that is free.
// Nothing that exists is replaced.
func (w *archiveWriter) publish(ctx context.Context, prefix string) (archive, error) {
	if err := w.explain(errors.Join(w.file.Sync(), w.file.Close())); err != nil {
		return archive{}, fmt.Errorf("write archive: %w", err)
	}
	sum, allocated, err := w.readBack()
	if err != nil {
		return archive{}, err
	}
	for stamp := time.Now().UTC(); ; stamp = stamp.Add(time.Second) {
		if err := waitUntil(ctx, stamp); err != nil { // a taken second is waited out, so that the name stays true
			return archive{}, err
		}
		name := path.Join(w.folder, prefix+stamp.Format(archiveStamp)+archiveSuffix)
		if err := w.unit.Root.Link(w.part, name); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return archive{}, fmt.Errorf("publish archive: %w", err)
		}
		if err := errors.Join(w.unit.Root.Remove(w.part), w.unit.syncFolder(w.folder)); err != nil {
			return archive{}, fmt.Errorf("publish archive: %w", err)
		}
		return archive{path: "/" + name, sha256: sum, size: w.size, allocated: allocated}, nil
	}
}

// waitUntil waits for a moment, or gives the cause why it was not to come.
func waitUntil(ctx context.Context, moment time.Time) error {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// readBack hashes the file as the disk gives it and compares that with what was written.
func (w *archiveWriter) readBack() (sum string, allocated int64, err error) {
	file, err := w.unit.Root.Open(w.part)
	if err != nil {
		return "", 0, fmt.Errorf("read archive back: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return "", 0, fmt.Errorf("read archive back: %w", err)
	}
	again := sha256.New()
	if _, err := io.Copy(again, file); err != nil {
		return "", 0, fmt.Errorf("read archive back: %w", err)
	}
	got, want := hex.EncodeToString(again.Sum(nil)), hex.EncodeToString(w.sum.Sum(nil))
	if got != want {
		return "", 0, fmt.Errorf("read archive back: the disk gives sha256 %s, written was %s", got, want)
	}
	allocated = info.Size()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		allocated = stat.Blocks * 512
	}
	return got, allocated, nil
}

// discard removes the unfinished file. After publish it does nothing.
func (w *archiveWriter) discard() {
	w.file.Close()
	if err := w.unit.removeLeftover(w.part); err != nil {
		w.unit.Logger.Warn("remove unfinished archive", "unit", w.unit.Name.String(), "err", err)
	}
}

// writeSideFiles adds <archive>.sha256, in the form that "sha256sum -c" reads, and <archive>.json.
func (u *Unit) writeSideFiles(call *action.Call, made archive, started time.Time) error {
	side := archivefile.SideFile{
		Format: archivefile.SideFormat, Archive: path.Base(made.path), SHA256: made.sha256, Size: made.size,
		Unit: call.Unit.String(), Task: call.TaskID, KeysVersion: call.Params.String("keys-version"),
		EtcdVersion: made.etcdVersion, StorageVersion: made.backend.StorageVersion,
		ClusterID: made.clusterID.String(), MemberID: made.memberID.String(),
		Revision: int64(made.backend.Revision), CompactRevision: int64(made.backend.CompactRevision),
		Records: int64(made.backend.Records), BackendSize: made.backend.Size, V2Keys: made.keys,
		Started: started.UTC().Truncate(time.Millisecond), Completed: time.Now().UTC().Truncate(time.Millisecond),
	}
	if made.backend.Size > 0 {
		side.BackendSHA256 = hex.EncodeToString(made.backend.SHA256[:])
	}
	encoded, err := json.MarshalIndent(side, "", "  ")
	if err != nil {
		return fmt.Errorf("encode side file: %w", err)
	}
	base, part := path.Base(made.path), partName("", call)
	return errors.Join(
		u.replaceFile(made.path+archivefile.SumSuffix, part+archivefile.SumSuffix, fmt.Appendf(nil, "%s  %s\n", made.sha256, base)),
		u.replaceFile(made.path+archivefile.SideSuffix, part+archivefile.SideSuffix, append(encoded, '\n')),
	)
}

// saveBackendFile archives the backend file of an etcd that does not run. What only its WAL holds is not in it. The error is
// datadir.ErrInUse when an etcd has the file open, whether it answers or not: a copy would be torn.
func (u *Unit) saveBackendFile(ctx context.Context, call *action.Call, folder, prefix string) (archive, error) {
	file, err := os.Open(filepath.Join(u.Record.DataDir, "member", "snap", "db"))
	if err != nil {
		return archive{}, err
	}
	defer file.Close()
	// etcd locks the file for itself alone before it writes to it, so this lock keeps one from starting meanwhile.
	switch err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return archive{}, fmt.Errorf("copy %q: %w", file.Name(), datadir.ErrInUse)
	case err != nil:
		return archive{}, fmt.Errorf("lock %q: %w", file.Name(), err)
	}
	info, err := file.Stat()
	if err != nil {
		return archive{}, err
	}
	out, err := u.createArchive(folder, call)
	if err != nil {
		return archive{}, err
	}
	defer out.discard()
	out.most = info.Size()
	if err := archivefile.Write(out, contextReader{ctx, file}, info.Size(), info.ModTime()); err != nil {
		return archive{}, err
	}
	return out.publish(ctx, prefix)
}
