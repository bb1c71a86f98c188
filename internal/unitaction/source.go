package unitaction

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// source is the archive that a restore is from.
type source struct {
	// name is what people know it by, open opens it.
	name string
	open func() (*os.File, error)
	// wantSHA256 is the sum it must have, "" when nobody said.
	wantSHA256 string

	// What unpack has found.
	kind    archivefile.Kind
	sha256  string
	version string // of the etcd that wrote it, "" when nothing tells
	backend string // path of the unpacked backend
	info    snapshot.Info
	keys    int64

	// Of a v2 archive: the folder that it is unpacked into, and the bytes in it.
	folder   string
	unpacked int64
}

// remove removes what was unpacked, which holds every secret of a cluster.
func (s *source) remove() error {
	if s.folder != "" {
		return os.RemoveAll(s.folder)
	}
	if s.backend == "" {
		return nil
	}
	if err := os.Remove(s.backend); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// resolveSource finds the archive: the file that path= names on the unit, or the newest attached one.
func (u *Unit) resolveSource(call *action.Call) (source, error) {
	want := strings.ToLower(call.Params.String("sha256"))
	if sum, err := hex.DecodeString(want); want != "" && (err != nil || len(sum) != sha256.Size) {
		return source{}, fmt.Errorf("sha256 must be 64 hexadecimal digits, given %q", want)
	}
	if given := call.Params.String("path"); given != "" {
		return u.fileSource(given, want)
	}
	file, attached, err := u.Resources.Path(resourceSnapshot)
	if errors.Is(err, fs.ErrNotExist) {
		//lint:ignore ST1005 people search for these words, which the charm says
		return source{}, fmt.Errorf("Missing snapshot: attach one with attach-resource %s snapshot=FILE, or give path=/PATH/ON/UNIT", u.Name.Application)
	}
	if err != nil {
		return source{}, err
	}
	return source{name: "the attached snapshot", wantSHA256: cmp.Or(want, attached), open: func() (*os.File, error) { return os.Open(file) }}, nil
}

// resourceSnapshot is the name of the resource that restore takes.
const resourceSnapshot = "snapshot"

// fileSource is an archive on the unit, with what its side files say.
func (u *Unit) fileSource(given, want string) (source, error) {
	relative, err := inRoot("path", given)
	if err != nil {
		return source{}, fmt.Errorf("%w: %s", err, u.whereArchives())
	}
	s := source{name: given, wantSHA256: want, open: func() (*os.File, error) { return u.Root.Open(relative) }}
	info, err := u.Root.Stat(relative)
	if errors.Is(err, fs.ErrNotExist) {
		return source{}, fmt.Errorf("restore refused: no archive %q on unit %s: %s", given, u.Name, u.whereArchives())
	}
	if err != nil {
		return source{}, fmt.Errorf("find archive: %w", err)
	}
	if info.IsDir() {
		return source{}, fmt.Errorf("restore refused: %q on unit %s is a folder; path is that of an archive file in it", given, u.Name)
	}
	if !info.Mode().IsRegular() {
		return source{}, fmt.Errorf("restore refused: %q on unit %s is not a regular file", given, u.Name)
	}
	side, found, err := archivefile.ReadSideFile(given, func() ([]byte, error) { return u.Root.ReadFile(relative + archivefile.SideSuffix) })
	if err != nil {
		return source{}, err
	}
	if found && (want == "" || want == side.SHA256) { // else it is about another archive
		s.wantSHA256, s.version = side.SHA256, side.EtcdVersion
	}
	return s, nil
}

// whereArchives helps who took a path of the unit for one of a machine.
func (u *Unit) whereArchives() string {
	return fmt.Sprintf("a path is one inside the unit's root %s; scp FILE %s: brings a file to %s, attach-resource %s snapshot=FILE needs no path",
		u.Record.Root, u.Name, config.DefaultFiles, u.Name.Application)
}

// unpack reads the archive once: it is summed, its names are checked, its backend is checked page by page, its other files
// by their own checksums, and all is written to the scratch folder, if there is room for that and for the data dir.
func (u *Unit) unpack(ctx context.Context, s *source) error {
	file, err := s.open()
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	defer file.Close()
	if err := durable.MkdirAll(u.Scratch, 0o700); err != nil {
		return err
	}
	sum := sha256.New()
	reader := io.TeeReader(contextReader{ctx, file}, sum)
	scanner := snapshot.NewScanner(snapshot.Options{})
	kind, walkErr := archivefile.Walk(reader, archivefile.MostContent, func(e archivefile.Entry, content io.Reader) error {
		if !e.Backend() {
			return u.unpackMember(s, e, content, scanner)
		}
		return u.unpackBackend(s, e, io.TeeReader(content, scanner))
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// The whole file belongs to its sum, whatever the archive says; that the sum is wrong explains the most.
	if _, err := io.Copy(io.Discard, reader); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	s.sha256 = hex.EncodeToString(sum.Sum(nil))
	if s.wantSHA256 != "" && s.sha256 != s.wantSHA256 {
		return fmt.Errorf("sha256 of the archive: expected %s, actual %s", s.wantSHA256, s.sha256)
	}
	if walkErr != nil {
		return walkErr
	}
	if s.backend == "" {
		return fmt.Errorf("read archive: it holds no ./%s", v2Backend)
	}
	s.kind = kind
	info, err := scanner.Finish()
	if err != nil {
		return fmt.Errorf("check the database in the archive: %w", err)
	}
	s.info = info
	if s.version == "" {
		s.version, _ = snapshot.SourceVersion(info)
	}
	if kind == archivefile.Bare {
		u.Logger.Warn("the file is no archive but a plain database", "unit", u.Name.String(), "object", s.name)
	}
	if kind == archivefile.V2 {
		return nil // Its keys are counted by the etcd that can read them.
	}
	return s.count(scanner.Index())
}

// unpackBackend writes the backend to a scratch file that only the agent can read.
func (u *Unit) unpackBackend(s *source, e archivefile.Entry, content io.Reader) error {
	if err := u.checkSpace(max(e.Size, 0)); err != nil {
		return err
	}
	s.backend = filepath.Join(u.Scratch, "backend")
	return unpackFile(s.backend, content)
}

// unpackFile writes a file of an archive that only the agent can read.
func unpackFile(target string, content io.Reader) (err error) {
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("unpack archive: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.CopyBuffer(out, content, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("unpack archive: %w", err)
	}
	return nil
}

// checkSpace refuses before anything is written when the disks have no room: the scratch folder for the backend, the data
// dir for what restore builds from it.
func (u *Unit) checkSpace(backend int64) error {
	data, wal := restore.SpaceNeeded(backend)
	dir, err := datadir.At(u.Record.DataDir, u.Record.WALDir)
	if err != nil {
		return err
	}
	freeData, freeWAL, shared, err := dir.Free()
	if err != nil {
		return err
	}
	if shared {
		data, wal = data+wal, 0
	}
	freeScratch, sameDisk, err := freeBeside(u.Scratch, u.Record.DataDir)
	if err != nil {
		return err
	}
	scratch := backend
	if sameDisk {
		data, scratch = data+scratch, 0
	}
	for _, need := range []struct {
		where      string
		need, free int64
	}{{u.Record.DataDir, data, freeData}, {u.Record.WALDir, wal, freeWAL}, {u.Scratch, scratch, freeScratch}} {
		if need.need > need.free {
			return fmt.Errorf("no space left for the restore: %q needs %s, %s are free", u.inUnit(need.where),
				humanize.Bytes(uint64(need.need)), humanize.Bytes(uint64(need.free)))
		}
	}
	return nil
}

// freeBeside gives the free bytes of a folder's file system, and whether another folder is on the same one.
func freeBeside(folder, other string) (free int64, same bool, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(folder, &stat); err != nil {
		return 0, false, fmt.Errorf("ask for free space of %q: %w", folder, err)
	}
	var here, there unix.Stat_t
	if err := unix.Stat(folder, &here); err != nil {
		return 0, false, fmt.Errorf("ask for the file system of %q: %w", folder, err)
	}
	if err := unix.Stat(other, &there); err != nil {
		return 0, false, fmt.Errorf("ask for the file system of %q: %w", other, err)
	}
	return int64(stat.Bavail) * stat.Bsize, here.Dev == there.Dev, nil
}

// count reads the unpacked backend for the number of its live keys.
func (s *source) count(index *snapshot.Index) (err error) {
	file, err := os.Open(s.backend)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	contents, err := snapshot.ReadContents(file, index)
	s.keys = contents.Keys
	return err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
