// Package datadir is the data dir of one etcd member on this machine's disk, while no etcd runs on it: who is a member
// according to it, and how a new one takes its place.
//
// It sits below restore, which fills a Stage, and below the restore action, which stops etcd, calls Switch, starts etcd
// and calls Commit or Recover. During a restore a data dir looks like this:
//
//	DATA-DIR/member/                      what etcd serves
//	DATA-DIR/holdfast-restore/            work folder: exists only while a restore is under way
//	DATA-DIR/holdfast-restore/member/     the stage, and later what is to be thrown away
//	DATA-DIR/holdfast-restore/switch.json the intent; as long as it says "switching", Recover puts the old data back
//	DATA-DIR/member.before-restore-STAMP/ the old data; kept for good, deleting it is for people
//
// What is exchanged is the folder "member", not the data dir itself. etcd keeps nothing else there, a data dir that is a
// mount point or a symbolic link could not be renamed, and its owner and mode stay as they are. etcd, from 3.4 to 3.7,
// names every other entry of its data dir in a warning when it starts and otherwise ignores it; embed does not look. The
// exchange is one renameat2(RENAME_EXCHANGE), so at no moment is the data dir without a "member"; where the file system
// cannot do that it is two renames.
//
// A separate WAL dir is often a mount point of its own, so its files are moved one by one between three folders of the
// same shape inside it. etcd ignores folders there. Between the first of these renames and the last, the data dir and
// the WAL dir do not fit together: nobody but the caller may start etcd between Switch and its return, or before Recover
// after a crash.
//
// A Dir is a plain value. Its methods are not safe for concurrent use, neither in one process nor between several: the
// caller holds the unit's lock. Nothing here protects against someone else who changes the data dir at the same time,
// except that a running etcd is noticed by its lock on the backend.
package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// What a data dir can be found to be, besides sound and unused.
var (
	// ErrInUse means that a running etcd holds the data dir.
	ErrInUse = errors.New("an etcd is running on it")
	// ErrDamaged means that the data dir is there and cannot be read.
	ErrDamaged = errors.New("it is damaged")
	// ErrPending means that an earlier switch was neither committed nor rolled back: Recover first.
	ErrPending = errors.New("an earlier restore is unfinished")
)

const (
	memberName = "member"
	workName   = "holdfast-restore"
	keptInfix  = ".before-restore-"
	// The two below are the modes of etcd's own folders and files.
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// Dir names a data dir.
type Dir struct {
	data string
	wal  string // Empty when the WAL is in data/member/wal.
}

// At gives the Dir with etcd's --data-dir and --wal-dir, absolute paths both. An empty wal, or one that is the default
// place in the data dir, means that there is no separate WAL dir. Neither has to exist.
func At(data, wal string) (Dir, error) {
	d := Dir{data: filepath.Clean(data)}
	if !filepath.IsAbs(data) {
		return Dir{}, fmt.Errorf("data dir %q is not an absolute path", data)
	}
	if wal == "" {
		return d, nil
	}
	if !filepath.IsAbs(wal) {
		return Dir{}, fmt.Errorf("WAL dir %q is not an absolute path", wal)
	}
	d.wal = filepath.Clean(wal)
	if d.wal == filepath.Join(d.live(), "wal") {
		d.wal = ""
		return d, nil
	}
	if d.wal == d.data || strings.HasPrefix(d.wal+"/", d.live()+"/") || strings.HasPrefix(d.wal+"/", d.work()+"/") {
		return Dir{}, fmt.Errorf("WAL dir %q is in the way of the data dir %q", wal, data)
	}
	return d, nil
}

func (d Dir) live() string        { return filepath.Join(d.data, memberName) }
func (d Dir) work() string        { return filepath.Join(d.data, workName) }
func (d Dir) stageMember() string { return filepath.Join(d.work(), memberName) }
func (d Dir) backend() string     { return filepath.Join(d.live(), "snap", "db") }

// walWork is the work folder of a separate WAL dir.
func (d Dir) walWork() string  { return filepath.Join(d.wal, workName) }
func (d Dir) stageWAL() string { return filepath.Join(d.walWork(), "wal") }

// walDir is where the live WAL is.
func (d Dir) walDir() string {
	if d.wal != "" {
		return d.wal
	}
	return filepath.Join(d.live(), "wal")
}

var stampPattern = regexp.MustCompile(`^([0-9A-Za-z][0-9A-Za-z._-]*)?[0-9]$`)

// KeptName is the name, inside the data dir, under which Switch keeps the old data. stamp tells restores apart, as the
// time of the task does; it ends in a digit, because etcd deletes by the end of a name.
func KeptName(stamp string) (string, error) {
	if !stampPattern.MatchString(stamp) {
		return "", fmt.Errorf("name kept data: bad stamp %q", stamp)
	}
	return memberName + keptInfix + stamp, nil
}

// IsKept tells whether an entry of a data dir has a name as of KeptName: it is old data that a restore has replaced.
func IsKept(name string) bool { return strings.HasPrefix(name, memberName+keptInfix) }

// Free is the space that an ordinary user can still fill, in bytes, on the file systems of the data dir and of the WAL
// dir. Without a separate WAL dir, or with both on one file system, the two are the same space, and shared is true.
func (d Dir) Free() (data, wal int64, shared bool, err error) {
	data, device, err := free(d.data)
	if err != nil || d.wal == "" {
		return data, data, true, err
	}
	wal, walDevice, err := free(d.wal)
	return data, wal, device == walDevice, err
}

// free looks at path or, when it does not exist yet, at the nearest folder above it.
func free(path string) (bytes int64, device uint64, err error) {
	var info syscall.Stat_t
	for err = syscall.Stat(path, &info); errors.Is(err, fs.ErrNotExist) && path != "/"; err = syscall.Stat(path, &info) {
		path = filepath.Dir(path)
	}
	var space syscall.Statfs_t
	if err == nil {
		err = syscall.Statfs(path, &space)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("measure free space of %q: %w", path, err)
	}
	return int64(space.Bavail) * space.Bsize, info.Dev, nil
}

// checkUnused returns ErrInUse when an etcd has the backend open.
func (d Dir) checkUnused() (err error) {
	f, err := os.Open(d.backend())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// The lock goes with the file; it is only a question.
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("data dir %q: %w", d.data, ErrInUse)
	}
	return err
}

// inode identifies the file or folder at path while it is renamed about; 0 means that nothing is there. A symbolic link
// is not followed.
func inode(path string) (uint64, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return stat(info).Ino, nil
}

func stat(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }
