// Package file is a store in a folder of a file system, local or mounted: an object is a file of its name.
//
// An object is written to a temporary file beside it, synced, and published by a link, which fails when the name is taken,
// also for several processes and machines; then its folder is synced, and those above it that are new. Folders are 0700 and
// files 0600. All access goes through os.Root, so that no name and no symbolic link leads out of the folder. A Store is
// safe for concurrent use.
//
// A sync that fails is an error, and what it was for is taken away again: a second sync of the same bytes would say that
// all is well, and not know. A process that is killed in the middle leaves a temporary file, which no listing shows and
// Sweep removes.
//
// Not promised: anything on a file system without hard links; a lock against deleting (RetainUntil is ErrUnsupported); that
// empty folders go away.
package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
	// temporary begins the names of files on their way. No object has a name with a dot in front.
	temporary = ".part-"
	// copyBytes is how much is read at once from content: enough for few system calls, and little beside a step of
	// durable.Stepwise.
	copyBytes = 256 << 10
)

// Store keeps objects in a folder.
type Store struct {
	root *os.Root
	// dir is where the folder was when it was opened.
	dir string
	// sync is (*os.File).Sync, but in tests of what happens when it fails.
	sync func(*os.File) error
	// buffers are for copying: most objects are much smaller than one.
	buffers sync.Pool

	mu sync.Mutex
	// durable are the folders whose names are known to be on the disk, so that not every Put syncs all those above it.
	durable map[string]bool
}

// Create is Open that makes the folder when it is missing.
func Create(dir string) (*Store, error) {
	if err := durable.MkdirAll(dir, dirMode); err != nil {
		return nil, classified(err)
	}
	return Open(dir)
}

// Open opens the store in a folder. One that is missing is store.ErrNotFound: a disk that is not mounted must not become
// an empty store. The caller closes it, or lets it end with the process.
func Open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open folder of the store: %w", classified(err))
	}
	// The working directory may be another one later.
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &Store{
		root: root, dir: dir, sync: (*os.File).Sync, durable: map[string]bool{".": true},
		buffers: sync.Pool{New: func() any { return new([copyBytes]byte) }},
	}, nil
}

// Close lets go of the folder.
func (s *Store) Close() error { return s.root.Close() }

// Put makes an object. See store.Store.
func (s *Store) Put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (store.Object, error) {
	object, err := s.put(ctx, name, content, opts)
	if err != nil {
		return store.Object{}, fmt.Errorf("put object %q: %w", name, classified(err))
	}
	return object, nil
}

func (s *Store) put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (object store.Object, err error) {
	if err := store.CheckName(name); err != nil {
		return object, err
	}
	if !opts.RetainUntil.IsZero() {
		return object, fmt.Errorf("lock it: %w", store.ErrUnsupported)
	}
	// A writer that is late need not write anything; the link decides.
	if _, err := s.root.Lstat(name); err == nil {
		return object, s.taken(name)
	}
	folder := path.Dir(name)
	part := path.Join(folder, temporary+rand.Text())
	file, err := s.create(folder, part)
	if err != nil {
		return object, err
	}
	defer func() {
		if gone := s.root.Remove(part); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	if err := s.write(ctx, file, content); err != nil {
		return object, err
	}
	if err := s.inPlace(); err != nil {
		return object, err
	}
	if err := s.root.Link(part, name); errors.Is(err, fs.ErrExist) {
		return object, s.taken(name)
	} else if err != nil {
		return object, err
	}
	if err := s.syncFolder(folder); err != nil {
		return object, errors.Join(err, s.root.Remove(name))
	}
	return s.stat(name)
}

// inPlace refuses to go on when the folder was moved, another one was put in its place, or its disk was taken away: what is
// written then, nobody finds where it is looked for. It passes when the folder is back.
func (s *Store) inPlace() error {
	own, err := s.root.Stat(".")
	if err != nil {
		return err
	}
	there, err := os.Stat(s.dir)
	if err == nil && os.SameFile(own, there) {
		return nil
	}
	return fmt.Errorf("the folder %q is no longer the one that was opened: it was moved, or its disk was taken away: %w", s.dir, syscall.ESTALE)
}

// taken is the error for a name that is there already. Its writer may not have come to the sync of the folder yet, and who
// hears that an object exists builds on it.
func (s *Store) taken(name string) error {
	info, err := s.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		return store.ErrExists
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return store.Mark(errors.New("something that is no object is in its place"), store.ErrFinal)
	}
	if err := s.syncFolder(path.Dir(name)); err != nil {
		return err
	}
	return store.ErrExists
}

// create makes an empty file, and the folder that it is in.
func (s *Store) create(folder, name string) (*os.File, error) {
	for try := 1; ; try++ {
		if err := s.makeFolder(folder); err != nil {
			return nil, err
		}
		file, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
		if try > 1 || !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
		s.forgetFolders() // somebody has removed the folder since
	}
}

// write fills a new file with content, closes it, and has it on the disk on return.
func (s *Store) write(ctx context.Context, file *os.File, content io.Reader) (err error) {
	defer func() { err = errors.Join(err, file.Close()) }()
	buffer := s.buffers.Get().(*[copyBytes]byte)
	defer s.buffers.Put(buffer)
	// In steps, as the disk may be the one that an etcd syncs to.
	if _, err := io.CopyBuffer(durable.NewStepwise(file), reader{ctx, content}, buffer[:]); err != nil {
		return err
	}
	return s.sync(file)
}

// reader ends with its context, and hides other methods of what it reads from.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read its content: %w", err)
	}
	return n, err
}

// makeFolder makes a folder and those above it, durably.
func (s *Store) makeFolder(folder string) error {
	s.mu.Lock()
	known := s.durable[folder]
	s.mu.Unlock()
	if known {
		return nil
	}
	parent := path.Dir(folder)
	if err := s.makeFolder(parent); err != nil {
		return err
	}
	// One that is there may be so new that its maker has not synced its name yet.
	if err := s.root.Mkdir(folder, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.syncFolder(parent); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable[folder] = true
	return nil
}

func (s *Store) forgetFolders() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = map[string]bool{".": true}
}

func (s *Store) syncFolder(folder string) (err error) {
	dir, err := s.root.Open(folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return s.sync(dir)
}

// isTemporary tells whether a file is on its way, or was left behind on it.
func isTemporary(name string) bool { return strings.HasPrefix(name, temporary) }
