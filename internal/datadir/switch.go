package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// Kept says where the old data is after a switch, as absolute paths.
type Kept struct {
	// Member is the old folder "member". Empty when there was none.
	Member string
	// WAL is the folder with the files of a separate WAL dir. Empty when there were none.
	WAL string
}

// Switch puts the stage in the place of the live data, with the owner and modes of that, and keeps the old data under
// KeptName(stamp). No etcd may run on the data dir. When it returns nil the new data is in place, durably, and the switch
// is pending: Commit ends it, Recover undoes it. When it returns an error the old data is in place, or the error says that
// putting it back failed.
func (d Dir) Switch(stamp string) (Kept, error) {
	kept, err := d.doSwitch(stamp)
	if err != nil {
		return Kept{}, fmt.Errorf("switch data dir %q: %w", d.data, err)
	}
	return kept, nil
}

func (d Dir) doSwitch(stamp string) (Kept, error) {
	plan, err := d.prepare(stamp)
	if err != nil {
		return Kept{}, err
	}
	if err := d.adopt(); err != nil {
		return Kept{}, err
	}
	if err := d.writeIntent(plan); err != nil {
		// It may be there all the same.
		_, undo := d.recover()
		return Kept{}, errors.Join(err, undo)
	}
	if err := d.carryOut(plan); err != nil {
		_, undo := d.recover()
		return Kept{}, errors.Join(err, undo)
	}
	var kept Kept
	if plan.Old != 0 {
		kept.Member = filepath.Join(d.data, plan.Kept)
	}
	if len(plan.OldWAL) > 0 {
		kept.WAL = d.keptWAL(plan)
	}
	return kept, nil
}

// prepare refuses what can be refused and writes nothing.
func (d Dir) prepare(stamp string) (intent, error) {
	plan := intent{Version: intentVersion, State: switching, WAL: d.wal}
	var err error
	if plan.Kept, err = KeptName(stamp); err != nil {
		return plan, err
	}
	if _, found, err := d.readIntent(); err != nil || found {
		return plan, errors.Join(err, ErrPending)
	}
	if err := d.checkUnused(); err != nil {
		return plan, err
	}
	if _, err := os.Stat(filepath.Join(d.stageMember(), "snap", "db")); err != nil {
		return plan, fmt.Errorf("the stage is not complete: %w", err)
	}
	if plan.New, err = inode(d.stageMember()); err != nil {
		return plan, err
	}
	if plan.Old, err = inode(d.live()); err != nil {
		return plan, err
	}
	taken := []string{filepath.Join(d.data, plan.Kept)}
	stagedWAL := filepath.Join(d.stageMember(), "wal")
	if d.wal != "" {
		stagedWAL = d.stageWAL()
		taken = append(taken, d.keptWAL(plan))
		if plan.OldWAL, err = inodes(d.wal); err != nil {
			return plan, err
		}
	}
	for _, path := range taken {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return plan, errors.Join(err, fmt.Errorf("keep old data: %q: %w", path, fs.ErrExist))
		}
	}
	segments, err := walSegments(stagedWAL)
	if err == nil && len(segments) == 0 {
		err = fmt.Errorf("the stage is not complete: no WAL in %q", stagedWAL)
	}
	return plan, err
}

// carryOut does the renames of a switch. The exchange of the member folders comes last but one: what counts is the data
// that etcd finds there.
func (d Dir) carryOut(plan intent) error {
	if plan.WAL != "" {
		if err := d.switchWAL(plan); err != nil {
			return err
		}
	}
	kept := filepath.Join(d.data, plan.Kept)
	if plan.Old == 0 {
		return durable.Rename(d.stageMember(), d.live())
	}
	if err := exchange(d.stageMember(), d.live(), kept); err != nil {
		return err
	}
	if err := errors.Join(durable.SyncDir(d.data), durable.SyncDir(d.work())); err != nil {
		return err
	}
	switch at, err := inode(d.stageMember()); {
	case err != nil:
		return err
	case at == 0: // It is under its name already.
		return nil
	}
	return durable.Rename(d.stageMember(), kept)
}

// exchange puts the folder next, which exists, in the place of live, which exists too. What was at live is then at next,
// or at parking where the file system cannot exchange; parking does not exist. It syncs nothing.
func exchange(next, live, parking string) error {
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, live, unix.RENAME_EXCHANGE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.ENOTSUP) {
		if err != nil {
			return fmt.Errorf("exchange %q and %q: %w", next, live, err)
		}
		return nil
	}
	if err := durable.Rename(live, parking); err != nil {
		return err
	}
	return durable.Rename(next, live)
}

// keptWAL is the folder in a separate WAL dir for its old files.
func (d Dir) keptWAL(plan intent) string { return filepath.Join(d.wal, plan.Kept) }

// switchWAL moves the files of a separate WAL dir away and those of the stage in.
func (d Dir) switchWAL(plan intent) error {
	if len(plan.OldWAL) > 0 {
		if err := durable.MkdirAll(d.keptWAL(plan), dirMode); err != nil {
			return err
		}
		model, err := os.Stat(d.wal)
		if err != nil {
			return err
		}
		if err := own(d.keptWAL(plan), stat(model).Uid, stat(model).Gid, dirMode); err != nil {
			return err
		}
		if err := moveFiles(d.wal, d.keptWAL(plan), func(uint64) bool { return true }); err != nil {
			return err
		}
	}
	return moveFiles(d.stageWAL(), d.wal, func(uint64) bool { return true })
}

// moveFiles moves those regular files of a folder to another that which accepts by their inode, durably.
func moveFiles(from, to string, which func(inode uint64) bool) error {
	names, err := regularFiles(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		id, err := inode(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if !which(id) {
			continue
		}
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil // The folder may be absent.
	}
	return errors.Join(durable.SyncDir(to), durable.SyncDir(from))
}

// inodes lists the inodes of the regular files in a folder. An absent folder has none.
func inodes(dir string) ([]uint64, error) {
	names, err := regularFiles(dir)
	if err != nil {
		return nil, err
	}
	var list []uint64
	for _, name := range names {
		id, err := inode(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		list = append(list, id)
	}
	return list, nil
}
