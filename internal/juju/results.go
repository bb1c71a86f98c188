package juju

import (
	"maps"
	"strconv"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
)

// taskID is the id that a dialect knows a task by. A task without a number goes by its UUID everywhere.
func taskID(d Dialect, t action.Task) string {
	if d == Juju3 && t.Number != 0 {
		return strconv.Itoa(t.Number)
	}
	return t.ID
}

// results gives a task's results under the keys of a dialect. The map is not to be changed.
//
// Actions answer under the keys of today. Where the page's actions used another key, this table says so: health
// answered under result-map.message.
func results(d Dialect, t action.Task) map[string]any {
	if d != Legacy || t.Action != "health" {
		return t.Results
	}
	output, ok := t.Results["output"]
	if !ok {
		return t.Results
	}
	old := maps.Clone(t.Results)
	delete(old, "output")
	old["result-map"] = map[string]any{"message": output}
	return old
}

// record is everything that a dialect shows of one task, empty parts left out. The log is shown by Juju3 only: the
// page's dialect has exactly the keys of the page.
func record(d Dialect, t action.Task, zone *time.Location) map[string]any {
	shown := map[string]any{
		"id":     taskID(d, t),
		"status": string(t.Status),
		"unit":   t.Unit.String(),
	}
	if t.Message != "" {
		shown["message"] = t.Message
	}
	if r := results(d, t); len(r) > 0 {
		shown["results"] = r
	}
	if moments := timing(t, zone); len(moments) > 0 {
		shown["timing"] = moments
	}
	if d == Juju3 && len(t.Log) > 0 {
		shown["log"] = logLines(t, zone)
	}
	return shown
}

func logLines(t action.Task, zone *time.Location) []string {
	lines := make([]string, len(t.Log))
	for i, entry := range t.Log {
		lines[i] = stamp(entry.Time, zone) + " " + entry.Message
	}
	return lines
}
