package datadir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// intentVersion is the version of the intent file that this program writes and reads.
const intentVersion = 1

// intentState says which data is to be served.
type intentState string

const (
	switching intentState = "switching" // The old, until the caller has seen the new one healthy.
	committed intentState = "committed" // The new.
)

// intent is the record of a switch: enough to undo it from any point. Files and folders are known by their inode, which a
// rename keeps, because during the switch the same name stands for the old and for the new in turn.
type intent struct {
	Version int         `json:"version"`
	State   intentState `json:"state"`
	// Kept is the name of the kept data in the data dir, and in a separate WAL dir.
	Kept string `json:"kept"`
	// Old and New are the inodes of the folders "member". Old is 0 when there was none.
	Old uint64 `json:"old"`
	New uint64 `json:"new"`
	// WAL is the separate WAL dir, if any, and OldWAL the inodes of the files in it.
	WAL    string   `json:"wal,omitempty"`
	OldWAL []uint64 `json:"old-wal,omitempty"`
}

func (d Dir) intentPath() string { return filepath.Join(d.work(), "switch.json") }

// writeIntent makes the intent durable.
func (d Dir) writeIntent(i intent) error {
	data, err := json.Marshal(i)
	if err != nil {
		return err
	}
	return durable.WriteFile(d.intentPath(), append(data, '\n'), fileMode)
}

// readIntent gives the intent of a switch that is under way, or found=false.
func (d Dir) readIntent() (i intent, found bool, err error) {
	data, err := os.ReadFile(d.intentPath())
	if errors.Is(err, fs.ErrNotExist) {
		return intent{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &i)
	}
	if err == nil && (i.Version != intentVersion || (i.State != switching && i.State != committed)) {
		err = fmt.Errorf("version %d, state %q: written by another version of this program", i.Version, i.State)
	}
	if err != nil {
		return intent{}, false, fmt.Errorf("read intent %q: %w", d.intentPath(), err)
	}
	return i, true, nil
}

// dropIntent removes the intent durably, before what it points at is removed.
func (d Dir) dropIntent() error {
	if err := os.Remove(d.intentPath()); err != nil {
		return err
	}
	return durable.SyncDir(d.work())
}

// Pending tells whether a switch is neither committed nor rolled back. Then etcd must be stopped, if it runs, and Recover
// called before anything else.
func (d Dir) Pending() (bool, error) {
	i, found, err := d.readIntent()
	return found && i.State == switching, err
}
