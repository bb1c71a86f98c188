package juju

import (
	"io"

	"github.com/holdfast-project/holdfast/internal/action"
)

// WriteQueued writes what run-action prints when it does not wait: the id of the one task, or, of several, each unit's
// id and name by unit tag. The format is YAML or JSON.
func WriteQueued(w io.Writer, f Format, tasks []action.Task) error {
	if len(tasks) == 1 {
		return encode(w, f, map[string]any{"Action queued with id": tasks[0].ID})
	}
	queued := map[string]any{}
	for _, t := range tasks {
		queued[t.Unit.Tag()] = map[string]any{"id": t.ID, "unit": t.Unit.String()}
	}
	return encode(w, f, queued)
}

// WriteRunAction writes what run-action --wait prints: every task by unit tag, finished or not, times in UTC. It shows
// no log: the page's dialect has none. The format is YAML or JSON.
func WriteRunAction(w io.Writer, f Format, tasks []action.Task) error {
	shown := map[string]any{}
	for _, t := range tasks {
		shown[t.Unit.Tag()] = record(Legacy, t, nil)
	}
	return encode(w, f, shown)
}

// WriteActionOutput writes what show-action-output prints: the task of WriteRunAction without its unit tag.
func WriteActionOutput(w io.Writer, f Format, t action.Task) error {
	return encode(w, f, record(Legacy, t, nil))
}

// statusTimeFormat is the form of "completed at"; always UTC, as in Juju.
const statusTimeFormat = "2006-01-02 15:04:05"

// actionStatus is one entry of the list that show-action-status, cancel-action and cancel-task print.
type actionStatus struct {
	Action      string `yaml:"action" json:"action"`
	CompletedAt string `yaml:"completed at" json:"completed at"`
	ID          string `yaml:"id" json:"id"`
	Status      string `yaml:"status" json:"status"`
	Unit        string `yaml:"unit" json:"unit"`
}

// WriteActionStatus writes the list that show-action-status, cancel-action and, with ids of Juju3, cancel-task print.
// The format is YAML or JSON.
func WriteActionStatus(w io.Writer, d Dialect, f Format, tasks []action.Task) error {
	list := make([]actionStatus, len(tasks))
	for i, t := range tasks {
		completed := "n/a"
		if !t.Completed.IsZero() {
			completed = t.Completed.UTC().Format(statusTimeFormat)
		}
		list[i] = actionStatus{
			Action:      t.Action,
			CompletedAt: completed,
			ID:          taskID(d, t),
			Status:      string(t.Status),
			Unit:        t.Unit.String(),
		}
	}
	return encode(w, f, map[string]any{"actions": list})
}
