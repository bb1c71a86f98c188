package action

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// Status is the state of a task.
type Status string

// The states of a task; the package doc draws how they follow each other.
const (
	Pending   Status = "pending"
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
	Aborting  Status = "aborting"
	Aborted   Status = "aborted"
)

// ParseStatus reads the name of a status.
func ParseStatus(s string) (Status, error) {
	switch status := Status(s); status {
	case Pending, Running, Completed, Failed, Cancelled, Aborting, Aborted:
		return status, nil
	}
	return "", fmt.Errorf("parse task status %q: want pending, running, completed, failed, cancelled, aborting or aborted", s)
}

// Terminal tells whether the status is final.
func (s Status) Terminal() bool {
	switch s {
	case Completed, Failed, Cancelled, Aborted:
		return true
	}
	return false
}

// UnmarshalText reads a status and refuses unknown ones.
func (s *Status) UnmarshalText(text []byte) error {
	parsed, err := ParseStatus(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// Task is one run of an action on one unit. Its JSON is both the form in the API and the one in the journal. All times
// are UTC, in milliseconds, zero when the moment did not come; those that did keep Enqueued <= Started <= Completed,
// also when the clock was set back between them.
type Task struct {
	// ID is a UUID, made by the runner.
	ID string `json:"id"`
	// Key is the caller's idempotency key, "" for none.
	Key string `json:"key,omitempty"`
	// Number and Operation are the small numbers that the operator's model gave the task and the operation it belongs
	// to; 0 means none.
	Number    int `json:"number,omitempty"`
	Operation int `json:"operation,omitempty"`
	// Unit is the unit that the task is for.
	Unit unit.Name `json:"unit"`
	// Action and Params say what to do; defaults are in Params.
	Action string `json:"action"`
	Params Params `json:"params,omitempty"`
	// Program is the name that the caller's program was called by.
	Program string `json:"program,omitempty"`
	Status  Status `json:"status"`
	// Message says why a task failed or was aborted.
	Message string `json:"message,omitempty"`
	// Results are there once the task is finished, also when it failed.
	Results Results    `json:"results,omitempty"`
	Log     []LogEntry `json:"log,omitempty"`

	Enqueued  time.Time `json:"enqueued"`
	Started   time.Time `json:"started,omitzero"`
	Completed time.Time `json:"completed,omitzero"`
}

// LogEntry is one line that an action logged.
type LogEntry struct {
	Time    time.Time `json:"time"`
	Message string    `json:"message"`
}

// Limits of a task, so that no action can make a record that the journal cannot hold.
const (
	maxLogLines = 1000
	maxLogBytes = 4 << 10
	maxMessage  = 8 << 10
	maxKey      = 256
)

// clone gives a copy that shares nothing that anyone changes.
func (t Task) clone() Task {
	t.Params = t.Params.clone()
	t.Results = t.Results.clone()
	t.Log = slices.Clone(t.Log)
	return t
}

// fit gives the task cut down to what one line of the journal holds: first the oldest half of the log goes, again and
// again, then the results. Enqueue has seen to it that the rest fits.
func (t Task) fit() Task {
	size := t.size()
	for ; size > maxLine && len(t.Log) > 0; size = t.size() {
		t.Log = t.Log[(len(t.Log)+1)/2:]
	}
	if size > maxLine {
		t.Results = nil
		t.Status = Failed
		t.Message = fmt.Sprintf("results of %d bytes are over the limit of %d", size, maxLine)
	}
	return t
}

// size is the length of the task's line in the journal, in bytes.
func (t Task) size() int {
	text, err := json.Marshal(t)
	if err != nil {
		panic(err) // Nothing that Check and Set let in is without a JSON form.
	}
	return lineOverhead + len(text)
}

// shorten gives text as valid UTF-8 of at most limit bytes. The mark for bad bytes is one byte, so nothing grows.
func shorten(text string, limit int) string {
	text = text[:min(len(text), limit)]
	return strings.ToValidUTF8(text, "?")
}

// later gives the later of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
