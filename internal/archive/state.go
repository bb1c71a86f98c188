package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// stateName is the file with the state, in the archiver's folder.
const stateName = "state.json"

// state is where the line stands that this archiver wrote. It is a memory, and not the truth: what is archived is what the
// repository holds. It is what allows to prove that a member continues the line.
type state struct {
	Timeline repository.Timeline `json:"timeline,omitempty"`
	Position position            `json:"position,omitzero"`
	// After is the timeline that this one took the place of; "" when it was the first, or when others began it.
	After repository.Timeline `json:"after,omitempty"`
	// Auth counts the changes of users and roles up to the last snapshot; 0 when that is not known.
	Auth uint64 `json:"auth-revision,omitempty"`
}

// position is a point of the line: everything up to Revision was read.
type position struct {
	Revision history.Revision `json:"revision"`
	// Mark is the sha256 of the events of that revision, in hexadecimal; "" when it was not seen, but in a snapshot.
	Mark string `json:"mark,omitempty"`
	// ClusterID and Term are those of the member that gave it.
	ClusterID string    `json:"cluster-id"`
	Term      uint64    `json:"raft-term"`
	Time      time.Time `json:"time"`
}

// errState means that the state is no longer what was written. Without it the archive goes on with a new snapshot.
var errState = errors.New("the state cannot be read, and counts for nothing")

// Began tells whether the archiver of a folder has ever stored anything.
func Began(dir string) bool {
	s, err := loadState(filepath.Join(dir, stateName))
	return err == nil && s.Timeline != ""
}

// loadState gives an empty state when there is none; an errState goes with an empty state, too.
func loadState(file string) (s state, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(&s)
	if err == nil && decoder.More() {
		err = errors.New("there is more behind it")
	}
	if err == nil && (s.Position.Revision < 0 || s.Timeline != "" && repository.CheckTimeline(string(s.Timeline)) != nil || s.Timeline == "" && s.Position != position{}) {
		err = errors.New("it is no place in any line")
	}
	if err != nil {
		return state{}, fmt.Errorf("%w: %q: %w", errState, file, err)
	}
	return s, nil
}

// saveState writes the state down.
func (a *archiver) saveState() error {
	a.mu.Lock()
	text, err := json.MarshalIndent(a.state, "", "  ")
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(a.Dir, stateName), append(text, '\n'), 0o600)
}

// markOf is what a revision is known again by: the sha256 of its events. Values go in with their length before them, so
// that no two lists of events give the same bytes.
func markOf(events []history.Event) string {
	sum := sha256.New()
	var numbers [57]byte
	for _, e := range events {
		n := binary.BigEndian.AppendUint64(numbers[:0], uint64(e.Revision))
		for _, v := range []int64{e.Sub, int64(len(e.Key)), int64(len(e.Value)), int64(e.CreateRevision), e.Version, e.Lease} {
			n = binary.BigEndian.AppendUint64(n, uint64(v))
		}
		kind := byte(0)
		if e.Tombstone {
			kind = 1
		}
		sum.Write(append(n, kind))
		sum.Write(e.Key)
		sum.Write(e.Value)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
