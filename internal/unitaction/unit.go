// Package unitaction is what a Holdfast unit can do: the actions of the backups page, one file each.
//
// It joins the lower packages into flows and belongs to no front end: the agent runs these actions from its journal, and
// "holdfast local-action" runs the same ones on the host. A Unit may be used by one action at a time, which the runner
// sees to. Only restore touches the member's data, and only after everything that can refuse has been asked.
package unitaction

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// statusTimeout bounds a question to the unit's own member.
const statusTimeout = 10 * time.Second

// Service stops and starts the unit's etcd.
type Service interface {
	// Hold stops the server and keeps it stopped. On return its process is gone.
	Hold(ctx context.Context) error
	// Release lets the server start again, at once. Whether it serves is for the caller to find out.
	Release()
	// LogTail gives the last lines of the server's log, for people.
	LogTail(lines int) string
}

// Resources are the files that were attached to the unit.
type Resources interface {
	// Path gives the newest revision of a resource on the host, and the sha256 that it had when it was attached. The error
	// is fs.ErrNotExist when none was.
	Path(name string) (file, sha256 string, err error)
}

// Unit is the unit that the actions work on. Every field is required unless it says otherwise.
type Unit struct {
	Name   unit.Name
	Record unit.Record
	// Root is the folder that the paths in parameters and results are inside of.
	Root *os.Root
	// TLS is the client identity for the unit's member; nil for plain http.
	TLS       *tls.Config
	Service   Service
	Resources Resources
	// ServerVersion gives the version of the etcd that the unit runs, asked of the program itself.
	ServerVersion func(ctx context.Context) (string, error)
	// Scratch is a folder of the host for what is needed for a while: unpacked backends, which hold every secret. It is made
	// when needed, and emptied by RecoverData.
	Scratch string
	// ApplicationUnits lists the units of the application in the operator's inventory. Nil where there is none.
	ApplicationUnits func() ([]unit.Name, error)
	// Vault opens where the backups of the unit's cluster go, anew for each action. Nil where there is nowhere.
	Vault  func(ctx context.Context) (Vault, error)
	Logger *slog.Logger

	// recovered is what RecoverData found.
	recovered datadir.Outcome
}

// Actions lists what the unit can do, in the order that people see.
func (u *Unit) Actions() []action.Action {
	return []action.Action{
		&alarmDisarm{u}, &alarmList{u}, &compact{u}, &createBackup{u}, &defrag{u}, &health{u}, &listBackups{u},
		&clientCredentials{u}, &restoreAction{u}, &snapshotAction{u},
	}
}

// dial connects to the unit's own member. The caller closes the client.
func (u *Unit) dial() (*member.Client, error) {
	return member.Dial(u.Record.ClientURLs[0], u.TLS)
}

// inRoot turns an absolute path of a parameter into one for u.Root, and refuses any other.
func inRoot(param, value string) (string, error) {
	if !path.IsAbs(value) {
		return "", fmt.Errorf("%s must be an absolute path, given %q", param, value)
	}
	if relative := strings.TrimPrefix(path.Clean(value), "/"); relative != "" {
		return relative, nil
	}
	return ".", nil
}

// makeFolder makes a folder for secrets and its parents inside the root. A folder that is there keeps its mode.
func (u *Unit) makeFolder(relative string) error {
	if err := u.Root.MkdirAll(relative, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for dir := relative; ; dir = path.Dir(dir) {
		if err := u.syncFolder(dir); err != nil {
			return err
		}
		if dir == "." {
			return nil
		}
	}
}

// syncFolder makes the names in a folder durable.
func (u *Unit) syncFolder(relative string) (err error) {
	folder, err := u.Root.Open(relative)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	return folder.Sync()
}

// removeLeftover removes a file of ours that may not be there.
func (u *Unit) removeLeftover(relative string) error {
	if err := u.Root.Remove(relative); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
