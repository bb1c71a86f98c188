package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// Stage is where the new data dir is laid down, on the file systems that it will live on.
type Stage struct {
	// Data is an empty folder. What is to become DATA-DIR/member goes to its subfolder "member".
	Data string
	// WAL is where the files of a separate WAL dir go. It does not exist yet. Empty: they go to Data/member/wal.
	WAL string
}

// Stage makes the work folders for a new data dir, empty, and the data dir itself if there is none. What an earlier stage
// left is removed. It does not touch the live data, which may be in use. The error is ErrPending when an earlier switch is
// unfinished. The caller ends a stage with Switch or Recover.
func (d Dir) Stage() (Stage, error) {
	if err := d.makeStage(); err != nil {
		return Stage{}, fmt.Errorf("stage in data dir %q: %w", d.data, err)
	}
	s := Stage{Data: d.work()}
	if d.wal != "" {
		s.WAL = d.stageWAL()
	}
	return s, nil
}

func (d Dir) makeStage() error {
	if pending, err := d.Pending(); err != nil || pending {
		return errors.Join(err, ErrPending)
	}
	if err := d.checkOneFileSystem(); err != nil {
		return err
	}
	if err := d.removeWork(); err != nil {
		return err
	}
	if err := durable.MkdirAll(d.work(), dirMode); err != nil {
		return err
	}
	if d.wal == "" {
		return nil
	}
	return durable.MkdirAll(d.walWork(), dirMode)
}

// checkOneFileSystem refuses early what the rename would refuse late.
func (d Dir) checkOneFileSystem() error {
	outer, err := os.Stat(d.data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	inner, err := os.Lstat(d.live())
	if err == nil && stat(inner).Dev != stat(outer).Dev {
		return fmt.Errorf("%q is a mount point and cannot be exchanged", d.live())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeWork removes the work folders with all that is in them.
func (d Dir) removeWork() error {
	folders := []string{d.work()}
	if d.wal != "" {
		folders = append(folders, d.walWork())
	}
	for _, folder := range folders {
		if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(folder)); err != nil {
			return err
		}
	}
	return nil
}

// adopt gives the stage the owner and the modes of the data that it replaces, so that the same etcd can open it.
func (d Dir) adopt() error {
	model, err := os.Stat(d.live())
	if errors.Is(err, fs.ErrNotExist) {
		model, err = os.Stat(d.data)
	}
	if err != nil {
		return err
	}
	owner := stat(model)
	err = filepath.WalkDir(d.stageMember(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fileMode
		if e.IsDir() {
			mode = dirMode
			inner, err := filepath.Rel(d.stageMember(), path)
			if err != nil {
				return err
			}
			if old, err := os.Stat(filepath.Join(d.live(), inner)); err == nil {
				mode = old.Mode().Perm()
			}
		}
		return own(path, owner.Uid, owner.Gid, mode)
	})
	if err != nil || d.wal == "" {
		return err
	}
	if model, err = os.Stat(d.wal); err != nil {
		return err
	}
	owner = stat(model)
	names, err := regularFiles(d.stageWAL())
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := own(filepath.Join(d.stageWAL(), name), owner.Uid, owner.Gid, fileMode); err != nil {
			return err
		}
	}
	return nil
}

// own makes path belong to a user and a group with a mode, durably.
func own(path string, uid, gid uint32, mode fs.FileMode) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if have := stat(info); have.Uid != uid || have.Gid != gid {
		if err := f.Chown(int(uid), int(gid)); err != nil {
			return err
		}
	}
	if info.Mode().Perm() != mode {
		if err := f.Chmod(mode); err != nil {
			return err
		}
	}
	return f.Sync()
}

// regularFiles names the files in a folder, sorted. An absent folder has none.
func regularFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, err
}
