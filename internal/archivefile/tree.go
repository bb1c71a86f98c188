package archivefile

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// WriteV2 packs the data dir in folder, whose "member" holds a v2 store, into w as an archive file: the WAL files first,
// then the raft snapshots, then snap/db. What etcd makes for the time being only, files named *.tmp, stays out; any other
// file that an archive cannot have is an error. The files must not change meanwhile.
//
//	./  ./member/  ./member/wal/  ./member/wal/SEQ-INDEX.wal  ./member/snap/  ./member/snap/TERM-INDEX.snap  ./member/snap/db
func WriteV2(w io.Writer, folder string, modified time.Time) error {
	// A WAL file is 64 MB of mostly zeros. Go's own compressor makes about as little of it as gzip does; the parallel one,
	// made for backends, makes up to seven times as much.
	compressor := gzip.NewWriter(w)
	if err := writeTree(tar.NewWriter(compressor), folder, modified.Truncate(time.Second)); err != nil {
		return err
	}
	if err := compressor.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

func writeTree(archive *tar.Writer, folder string, modified time.Time) error {
	files := 0
	for _, dir := range []string{".", "member", "member/wal", "member/snap"} {
		header := tar.Header{Typeflag: tar.TypeDir, Name: "./" + strings.TrimPrefix(dir+"/", "./"), Mode: 0o700, ModTime: modified, Format: tar.FormatGNU}
		if err := archive.WriteHeader(&header); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
		entries, err := os.ReadDir(filepath.Join(folder, dir))
		if err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
		for _, entry := range entries { // They are sorted by name.
			name := path.Join(dir, entry.Name())
			if slices.Contains([]string{"member", "member/wal", "member/snap"}, name) || path.Ext(name) == ".tmp" {
				continue
			}
			if !entry.Type().IsRegular() || !memberFile.MatchString(name) {
				return fmt.Errorf("write archive: unexpected entry %q", name)
			}
			if err := writeMemberFile(archive, folder, name, modified); err != nil {
				return fmt.Errorf("write archive: %w", err)
			}
			files++
		}
	}
	if files == 0 {
		return errors.New("write archive: the data dir is empty")
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

func writeMemberFile(archive *tar.Writer, folder, name string, modified time.Time) (err error) {
	file, err := os.Open(filepath.Join(folder, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header := tar.Header{
		Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o600, Size: info.Size(), ModTime: modified, Format: tar.FormatGNU,
	}
	if err := archive.WriteHeader(&header); err != nil {
		return err
	}
	// A file that has become shorter makes the next header fail, a longer one fails here.
	_, err = io.CopyBuffer(archive, file, make([]byte, 128<<10))
	return err
}
