package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// place is where Fresh works, and how what it made gets its name.
type place struct {
	// dir is the data dir, behind all symbolic links when it exists.
	dir    string
	exists bool
	// work is the hidden folder, on the file system of the data dir: in it when it exists, as it may be a mount point, which
	// nothing can be renamed onto; else beside it.
	work string
	// beside is where work is when there is no data dir. A restore that was cut off before somebody made the folder left it.
	beside string
}

// workName is the hidden folder in a data dir.
const workName = ".restoring"

// placeOf looks at where a data dir shall be and refuses what cannot become one.
func placeOf(dataDir string) (place, error) {
	dataDir = filepath.Clean(dataDir)
	parent := filepath.Dir(dataDir)
	beside := filepath.Join(parent, "."+filepath.Base(dataDir)+workName)
	p := place{dir: dataDir, work: beside, beside: beside}
	if _, err := os.Lstat(dataDir); errors.Is(err, fs.ErrNotExist) {
		info, err := os.Stat(parent)
		if err != nil {
			return place{}, err
		}
		if !info.IsDir() {
			return place{}, fmt.Errorf("%q is no folder", parent)
		}
		return p, writable(parent)
	} else if err != nil {
		return place{}, err
	}
	var err error
	if p.dir, err = filepath.EvalSymlinks(dataDir); errors.Is(err, fs.ErrNotExist) {
		return place{}, fmt.Errorf("it is a symbolic link to what does not exist: %w", err)
	} else if err != nil {
		return place{}, err
	}
	p.exists, p.work = true, filepath.Join(p.dir, workName)
	if err := p.empty(); err != nil {
		return place{}, err
	}
	if err := writable(p.dir); err != nil {
		return place{}, err
	}
	return p, p.owned()
}

// writable tells why names cannot be put into a folder.
func writable(dir string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "write into", Path: dir, Err: err}
	}
	return nil
}

// owned refuses a folder whose mode we may not set.
func (p place) owned() error {
	info, err := os.Stat(p.dir)
	if err != nil {
		return err
	}
	stat, is := info.Sys().(*syscall.Stat_t)
	if me := os.Geteuid(); is && me != 0 && int(stat.Uid) != me && info.Mode().Perm() != 0o700 {
		return fmt.Errorf("the folder belongs to user %d and has mode %04o: want 0700, which only its owner and root can set", stat.Uid, info.Mode().Perm())
	}
	return nil
}

// empty refuses a folder that holds something. What a restore of ours left that was cut off is nothing, nor is what mkfs puts
// into each new file system.
func (p place) empty() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && (e.Name() == workName && ownedBy(e, os.Geteuid()) || e.Name() == "lost+found" && ownedBy(e, 0)) {
			continue
		}
		return fmt.Errorf("%w: the folder holds %q", ErrTargetInUse, e.Name())
	}
	return nil
}

func ownedBy(e fs.DirEntry, user int) bool {
	info, err := e.Info()
	if err != nil {
		return false
	}
	stat, is := info.Sys().(*syscall.Stat_t)
	return is && int(stat.Uid) == user
}

// room refuses where there is not that much space, in bytes. What a restore left that was cut off goes before the next one.
func (p place) room(need int64) error {
	on := p.dir
	if !p.exists {
		on = filepath.Dir(p.dir)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(on, &stat); err != nil {
		return fmt.Errorf("ask for free space of %q: %w", on, err)
	}
	if free := int64(stat.Bavail)*stat.Bsize + taken(p.work); need > free {
		return fmt.Errorf("no space left for the restore: it needs %s, %s are free", humanize.Bytes(uint64(need)), humanize.Bytes(uint64(free)))
	}
	return nil
}

// taken is about how much space a folder takes, in bytes; 0 when it is not there or cannot be read.
func taken(dir string) (all int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // it does not count
		}
		if info, err := e.Info(); err == nil {
			if stat, is := info.Sys().(*syscall.Stat_t); is {
				all += stat.Blocks * 512 // the unit of st_blocks
			}
		}
		return nil
	})
	return all
}

// begin makes the work folder ours alone and empties it. end removes it.
func (p place) begin() (end func() error, err error) {
	if p.exists {
		if _, err := os.Lstat(p.beside); err == nil {
			end, err := enter(p.beside)
			if err != nil {
				return nil, err
			}
			if err := end(); err != nil {
				return nil, err
			}
		}
	}
	return enter(p.work)
}

// enter takes the lock of a work folder, which is made when it is missing, and empties it.
func enter(work string) (leave func() error, err error) {
	if info, err := os.Lstat(work); err == nil {
		if !info.IsDir() {
			return nil, fmt.Errorf("%w: %q is no folder", ErrTargetInUse, work)
		}
		// Whose it is could put anything in the place of what is made there.
		if stat, is := info.Sys().(*syscall.Stat_t); is && int(stat.Uid) != os.Geteuid() {
			return nil, fmt.Errorf("%w: %q, where the restore would work, belongs to user %d; remove it", ErrTargetInUse, work, stat.Uid)
		}
	}
	if err := durable.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	lock := filepath.Join(work, "lock")
	release, err := durable.TryLock(lock)
	if errors.Is(err, durable.ErrLocked) || errors.Is(err, fs.ErrNotExist) { // it ends just now
		return nil, fmt.Errorf("%w: another restore is on its way", ErrTargetInUse)
	}
	if err != nil {
		return nil, err
	}
	if err := clearWork(work); err != nil {
		return nil, errors.Join(err, release())
	}
	return func() error {
		err := clearWork(work)
		if err == nil {
			// The lock goes last: whoever comes before that finds it held, and who comes after it makes one of his own.
			err = os.Remove(lock)
		}
		if err == nil {
			if err = os.Remove(work); errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, fs.ErrNotExist) {
				err = nil // the next one is there already
			}
		}
		return errors.Join(err, release(), durable.SyncDir(filepath.Dir(work)))
	}, nil
}

// clearWork removes all of a work folder but its lock.
func clearWork(work string) error {
	entries, err := os.ReadDir(work)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(work, e.Name())))
		}
	}
	return err
}

// publish gives a data dir that is whole its name, by one rename: all of it, or "member" where the folder exists.
func (p place) publish(data string) error {
	from, to := data, p.dir
	if p.exists {
		// Others may have put something there meanwhile. What comes between this look and the rename stays, beside the data.
		if err := p.empty(); err != nil {
			return err
		}
		if err := private(p.dir); err != nil {
			return err
		}
		from, to = filepath.Join(data, "member"), filepath.Join(p.dir, "member")
		if err := likeOwner(from, p.dir); err != nil {
			return fmt.Errorf("give what was restored to the owner of the data dir: %w", err)
		}
	}
	// The kernel's rename takes the place of an empty folder, which os.Rename refuses, and never that of a full one.
	if err := unix.Rename(from, to); errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: something was put there meanwhile", ErrTargetInUse)
	} else if err != nil {
		return fmt.Errorf("give the data dir its name: %w", err)
	}
	return durable.SyncDir(filepath.Dir(to))
}

// likeOwner gives a folder and all in it to the owner and group of another one, where we are root and they are not ours: etcd
// mostly runs as a user of its own, whose folder it is.
func likeOwner(tree, dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, is := info.Sys().(*syscall.Stat_t)
	if !is || os.Geteuid() != 0 || int(stat.Uid) == os.Geteuid() && int(stat.Gid) == os.Getegid() {
		return nil
	}
	return filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		err = file.Chown(int(stat.Uid), int(stat.Gid))
		if err == nil {
			err = file.Sync()
		}
		return errors.Join(err, file.Close())
	})
}

// private gives a folder the mode that etcd wants. Its owner stays.
func private(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() == 0o700 {
		return err
	}
	return os.Chmod(dir, 0o700)
}
