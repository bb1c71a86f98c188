package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// A file that arrives is written under a temporary name beside the final one. Which names these are is kept in the state
// folder, so that what a crash leaves is found again, wherever in the unit it is:
//
//	state/uploads/UUID    the path of the temporary file, inside the root
//
// The record is durable before the file is made, and goes after it.
const (
	partPrefix = ".holdfast-"
	partSuffix = ".part"
)

func (a *Agent) uploadsFolder() string { return filepath.Join(a.config.StateDir, "uploads") }

// upload makes the file relative from content, durably. On an error there is no file, or the old one.
func (a *Agent) upload(relative string, content io.Reader, overwrite bool) (err error) {
	folder := path.Dir(relative)
	if err := a.makeFolder(folder); err != nil {
		return err
	}
	id := uuid.NewString()
	part, record := path.Join(folder, partPrefix+id+partSuffix), filepath.Join(a.uploadsFolder(), id)
	if err := durable.WriteFile(record, []byte(part), 0o600); err != nil {
		return err
	}
	defer func() {
		gone := a.root.Remove(part)
		if errors.Is(gone, fs.ErrNotExist) {
			gone = nil
		}
		if gone == nil {
			gone = os.Remove(record)
		}
		err = errors.Join(err, gone)
	}()
	if err := a.writePart(part, content); err != nil {
		return err
	}
	publish := a.root.Link // unlike a rename it fails when the name is taken
	if overwrite {
		publish = a.root.Rename
	}
	if err := publish(part, relative); err != nil {
		return err
	}
	return a.syncFolder(folder)
}

func (a *Agent) writePart(part string, content io.Reader) (err error) {
	out, err := a.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.CopyBuffer(durable.NewStepwise(out), content, make([]byte, 256<<10)); err != nil {
		return err
	}
	return out.Sync()
}

// clearUploads removes what uploads that a crash cut off have left.
func (a *Agent) clearUploads() error {
	if err := durable.MkdirAll(a.uploadsFolder(), 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(a.uploadsFolder())
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	for _, entry := range entries {
		record := filepath.Join(a.uploadsFolder(), entry.Name())
		part, err := os.ReadFile(record)
		if err != nil {
			return fmt.Errorf("read record of upload: %w", err)
		}
		// Only what can be a file of ours: the record itself may be what was cut off.
		if base := path.Base(string(part)); strings.HasPrefix(base, partPrefix) && strings.HasSuffix(base, partSuffix) {
			if err := a.root.Remove(string(part)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove unfinished upload: %w", err)
			}
		}
		if err := os.Remove(record); err != nil {
			return fmt.Errorf("remove record of upload: %w", err)
		}
	}
	return nil
}

// makeFolder makes a folder of the unit and its parents, durably. A folder that is there keeps its mode.
func (a *Agent) makeFolder(relative string) error {
	if info, err := a.root.Stat(relative); err == nil && info.IsDir() {
		return nil
	}
	if err := a.root.MkdirAll(relative, 0o700); err != nil {
		return err
	}
	for ; relative != "."; relative = path.Dir(relative) {
		if err := a.syncFolder(path.Dir(relative)); err != nil {
			return err
		}
	}
	return nil
}

// syncFolder makes the names in a folder of the unit durable.
func (a *Agent) syncFolder(relative string) (err error) {
	dir, err := a.root.Open(relative)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}
