package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/holdfast-project/holdfast/internal/config"
)

// cleanPath gives the path of a request without dots and links to the parent. A path without a leading slash is inside the
// login folder, as scp has it.
func cleanPath(given string) (string, error) {
	if given == "" || strings.ContainsRune(given, 0) {
		return "", badRequest("path %q is no file's", given)
	}
	if !path.IsAbs(given) {
		given = path.Join(config.DefaultFiles, given)
	}
	return path.Clean(given), nil
}

// served tells whether a clean path is below one of the folders that the file API serves.
func (a *Agent) served(file string) bool {
	for _, folder := range a.config.ServedFolders() {
		if strings.HasPrefix(file, strings.TrimSuffix(path.Clean(folder), "/")+"/") {
			return true
		}
	}
	return false
}

// made tells whether a clean path is a file that one of the unit's own actions made, or a side file of it. Those can be
// fetched wherever they are; what else is in their folder is not for callers.
func (a *Agent) made(file string) bool {
	for _, task := range a.runner.Tasks() {
		for _, key := range []string{"snapshot.path", "backup.path"} {
			if archive, found := task.Results.Get(key); found && (file == archive || file == archive+".sha256" || file == archive+".json") {
				return true
			}
		}
	}
	return false
}

func (a *Agent) notServed(file string) error {
	return refusal{http.StatusForbidden, fmt.Errorf("open %q: unit %q does not serve that folder; it serves %s",
		file, a.config.Unit, strings.Join(a.shownFolders(), ", "))}
}

// shownFolders are the served folders without those that are inside of another.
func (a *Agent) shownFolders() []string {
	var shown []string
	for _, folder := range a.config.ServedFolders() {
		if folder = path.Clean(folder); !a.served(folder) && !slices.Contains(shown, folder) {
			shown = append(shown, folder)
		}
	}
	return shown
}

// fileError tells the caller about a file by the name that it asked for, and finds the status.
func (a *Agent) fileError(file string, err error) error {
	status := http.StatusInternalServerError
	errno, isErrno := errors.AsType[syscall.Errno](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		status = http.StatusNotFound
	case errors.Is(err, fs.ErrExist):
		status = http.StatusConflict
	case errors.Is(err, fs.ErrPermission):
		status = http.StatusForbidden
	case errno == syscall.ENOTDIR, errno == syscall.EISDIR, errno == syscall.ELOOP, errno == syscall.ENAMETOOLONG, errno == syscall.ENXIO:
		status = http.StatusBadRequest
	case errno == syscall.ENOSPC, errno == syscall.EDQUOT:
		status = http.StatusInsufficientStorage
	}
	if inner, is := errors.AsType[*fs.PathError](err); is && !isErrno {
		status, err = http.StatusForbidden, inner.Err // os.Root's own refusal: a link leads out of the unit
	}
	if isErrno {
		err = errno // without the names that the file has inside of the agent
	}
	return refusal{status, fmt.Errorf("open %q on unit %q: %w", file, a.config.Unit, err)}
}

// getFile sends a regular file. os.Root keeps links from leading out of the unit.
func (a *Agent) getFile(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := cleanPath(r.URL.Query().Get("path"))
	if err != nil {
		return nil, err
	}
	if !a.served(name) && !a.made(name) {
		return nil, a.notServed(name)
	}
	// A named pipe would otherwise keep the open waiting for a writer.
	file, err := a.root.OpenFile(strings.TrimPrefix(name, "/"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, a.fileError(name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, a.fileError(name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, badRequest("open %q on unit %q: not a regular file", name, a.config.Unit)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	// A short copy breaks off the answer before its announced length, which the caller sees.
	if _, err := io.CopyN(a.moving(w), file, info.Size()); err != nil {
		a.log.Warn("send file", "object", name, "err", err)
	}
	return nil, nil
}

// putFile makes a file from the body: complete and durable, or not at all.
func (a *Agent) putFile(w http.ResponseWriter, r *http.Request) (any, error) {
	query := r.URL.Query()
	name, err := cleanPath(query.Get("path"))
	if err != nil {
		return nil, err
	}
	if !a.served(name) {
		return nil, a.notServed(name)
	}
	overwrite := query.Get("overwrite")
	if overwrite != "" && overwrite != "true" && overwrite != "false" {
		return nil, badRequest("overwrite is %q, want true or false", overwrite)
	}
	// This is asked again when the file gets its name. But nobody should send gigabytes first.
	info, err := a.root.Lstat(strings.TrimPrefix(name, "/"))
	switch {
	case err == nil && info.IsDir():
		return nil, badRequest("write %q on unit %q: it is a folder", name, a.config.Unit)
	case err == nil && overwrite != "true":
		return nil, a.fileError(name, syscall.EEXIST)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, a.fileError(name, err)
	}
	if err := a.upload(strings.TrimPrefix(name, "/"), a.body(w, r), overwrite == "true"); err != nil {
		if _, refused := errors.AsType[refusal](err); refused {
			return nil, err
		}
		return nil, a.fileError(name, err)
	}
	return struct{}{}, nil
}
