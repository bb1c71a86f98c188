package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// Outcome is what Recover found to do.
type Outcome int

const (
	// Nothing was under way.
	Nothing Outcome = iota
	// Discarded means that work folders were removed and nothing else was done: no switch was pending. They are those of
	// a stage that was not switched to or, if the process died in the last moment of Commit, of one that was.
	Discarded
	// RolledBack means that a switch was undone: the old data is in place.
	RolledBack
	// Finished means that a committed switch was tidied up after: the new data is in place.
	Finished
)

// String gives the outcome as a clause for people.
func (o Outcome) String() string {
	switch o {
	case Nothing:
		return "nothing was under way"
	case Discarded:
		return "left-overs were removed"
	case RolledBack:
		return "the old data was put back"
	case Finished:
		return "the restored data is in place"
	default:
		return fmt.Sprintf("Outcome(%d)", int(o))
	}
}

// Commit ends a switch: the new data stays, and so does the old under its kept name.
func (d Dir) Commit() error {
	plan, found, err := d.readIntent()
	if err == nil && (!found || plan.State != switching) {
		err = errors.New("no switch is pending")
	}
	if err == nil {
		plan.State = committed
		err = d.writeIntent(plan)
	}
	if err == nil {
		err = d.removeWork()
	}
	if err != nil {
		return fmt.Errorf("commit switch of data dir %q: %w", d.data, err)
	}
	return nil
}

// Recover ends whatever a restore left unfinished, whether it failed or the process died at any point of Stage, Switch,
// Commit or Recover. A switch that was not committed is undone: the old data goes back to its place, exactly the files
// that were there, and then the new data is removed, with what etcd may have written into it; the archive that it came
// from is still there, and a failed attempt must not fill the disk. Otherwise only the work folders are removed.
//
// No etcd may run on the data dir when a switch is pending: the error is ErrInUse and nothing is changed. When Recover
// cannot tell old from new, it changes nothing and says so. It can be repeated.
func (d Dir) Recover() (Outcome, error) {
	outcome, err := d.recover()
	if err != nil {
		return outcome, fmt.Errorf("recover data dir %q: %w", d.data, err)
	}
	return outcome, nil
}

func (d Dir) recover() (Outcome, error) {
	plan, found, err := d.readIntent()
	if err != nil {
		return Nothing, err
	}
	if !found {
		had, err := inode(d.work())
		if err == nil && had == 0 && d.wal != "" {
			had, err = inode(d.walWork())
		}
		if err != nil || had == 0 {
			return Nothing, err
		}
		return Discarded, d.removeWork()
	}
	d.wal = plan.WAL // As it was, should the unit's record have changed meanwhile.
	if plan.State == committed {
		return Finished, d.removeWork()
	}
	if err := d.checkUnused(); err != nil {
		return Nothing, err
	}
	if err := d.undo(plan); err != nil {
		return Nothing, err
	}
	if err := d.dropIntent(); err != nil {
		return Nothing, err
	}
	return RolledBack, d.removeWork()
}

// undo puts the old data back. Every step looks at where things are now, so it starts again from any point.
func (d Dir) undo(plan intent) error {
	from, err := d.findOld(plan)
	if err != nil {
		return err
	}
	if plan.WAL != "" {
		if err := d.undoWAL(plan); err != nil {
			return err
		}
	}
	live, err := inode(d.live())
	if err != nil {
		return err
	}
	if plan.Old == 0 {
		if live == plan.New {
			return durable.Rename(d.live(), d.stageMember())
		}
		return nil
	}
	kept := filepath.Join(d.data, plan.Kept)
	if from != d.live() {
		if err := d.putBack(from, kept, live != 0); err != nil {
			return err
		}
	}
	// An exchange has left the new folder under the name of the old. Anything else there is not ours to remove.
	if id, err := inode(kept); err != nil || id != plan.New {
		return err
	}
	if err := os.RemoveAll(kept); err != nil {
		return err
	}
	return durable.SyncDir(d.data)
}

// findOld gives the path where the old folder is now, after it has made sure that all old files can be found.
func (d Dir) findOld(plan intent) (string, error) {
	if plan.WAL != "" {
		here, err := inodes(d.wal)
		if err != nil {
			return "", err
		}
		away, err := inodes(d.keptWAL(plan))
		if err != nil {
			return "", err
		}
		for _, id := range plan.OldWAL {
			if !slices.Contains(here, id) && !slices.Contains(away, id) {
				return "", fmt.Errorf("an old WAL file is neither in %q nor in %q; nothing is changed", d.wal, d.keptWAL(plan))
			}
		}
	}
	if plan.Old == 0 {
		return "", nil
	}
	places := []string{d.live(), filepath.Join(d.data, plan.Kept), d.stageMember()}
	for _, place := range places {
		if id, err := inode(place); err != nil || id == plan.Old {
			return place, err
		}
	}
	return "", fmt.Errorf("the old data is at none of %q; nothing is changed", places)
}

// putBack moves the old folder from where it is to its place; occupied tells that another one is there.
func (d Dir) putBack(from, kept string, occupied bool) error {
	if !occupied {
		return durable.Rename(from, d.live())
	}
	parking := d.stageMember()
	if from == parking {
		parking = kept
	}
	if err := exchange(from, d.live(), parking); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(d.data), durable.SyncDir(d.work()))
}

// undoWAL moves what is not old out of a separate WAL dir, and what is old back in.
func (d Dir) undoWAL(plan intent) error {
	old := func(id uint64) bool { return slices.Contains(plan.OldWAL, id) }
	if err := moveFiles(d.wal, d.walWork(), func(id uint64) bool { return !old(id) }); err != nil {
		return err
	}
	if err := moveFiles(d.keptWAL(plan), d.wal, old); err != nil {
		return err
	}
	if err := os.Remove(d.keptWAL(plan)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(d.wal)
}
