package juju

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
)

// NoOperations is what goes to stderr when operations lists none.
const NoOperations = "no matching operations"

const (
	// tableTimeFormat is the form of times in the table of operations.
	tableTimeFormat = "2006-01-02T15:04:05"
	// maxTaskIDs is how many ids of tasks the table shows of one operation.
	maxTaskIDs = 5
)

// operationRecord is one operation as show-operation prints it. The order of the fields is the order of the output.
type operationRecord struct {
	Summary string                `yaml:"summary" json:"summary"`
	Status  string                `yaml:"status" json:"status"`
	Action  actionRecord          `yaml:"action" json:"action"`
	Timing  timingRecord          `yaml:"timing" json:"timing"`
	Tasks   map[string]taskRecord `yaml:"tasks" json:"tasks"`
}

type actionRecord struct {
	Name       string         `yaml:"name" json:"name"`
	Parameters map[string]any `yaml:"parameters" json:"parameters"`
}

type timingRecord struct {
	Enqueued  string `yaml:"enqueued,omitempty" json:"enqueued,omitempty"`
	Started   string `yaml:"started,omitempty" json:"started,omitempty"`
	Completed string `yaml:"completed,omitempty" json:"completed,omitempty"`
}

type taskRecord struct {
	Host    string         `yaml:"host" json:"host"`
	Status  string         `yaml:"status" json:"status"`
	Timing  timingRecord   `yaml:"timing" json:"timing"`
	Log     []string       `yaml:"log,omitempty" json:"log,omitempty"`
	Message string         `yaml:"message,omitempty" json:"message,omitempty"`
	Results map[string]any `yaml:"results,omitempty" json:"results,omitempty"`
}

func newTimingRecord(enqueued, started, completed time.Time, zone *time.Location) timingRecord {
	show := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return stamp(t, zone)
	}
	return timingRecord{Enqueued: show(enqueued), Started: show(started), Completed: show(completed)}
}

func newOperationRecord(o Operation, zone *time.Location) operationRecord {
	params := o.Tasks[0].Params
	if params == nil {
		params = map[string]any{}
	}
	tasks := map[string]taskRecord{}
	for _, t := range o.Tasks {
		tasks[taskID(Juju3, t)] = taskRecord{
			Host:    t.Unit.String(),
			Status:  string(t.Status),
			Timing:  newTimingRecord(t.Enqueued, t.Started, t.Completed, zone),
			Log:     logLines(t, zone),
			Message: t.Message,
			Results: results(Juju3, t),
		}
	}
	return operationRecord{
		Summary: o.Summary(),
		Status:  string(o.Status),
		Action:  actionRecord{Name: o.Tasks[0].Action, Parameters: params},
		Timing:  newTimingRecord(o.Enqueued, o.Started, o.Completed, zone),
		Tasks:   tasks,
	}
}

// WriteOperation writes what show-operation prints. The format is YAML or JSON; no zone means UTC.
func WriteOperation(w io.Writer, f Format, o Operation, zone *time.Location) error {
	return encode(w, f, newOperationRecord(o, zone))
}

// WriteOperations writes what operations prints: a table in Plain form, else every operation by number. An empty page
// is for the caller to tell, with NoOperations. No zone means UTC.
func WriteOperations(w io.Writer, f Format, page OperationPage, zone *time.Location) error {
	if f != Plain {
		records := map[string]operationRecord{}
		for _, o := range page.Operations {
			records[strconv.Itoa(o.Number)] = newOperationRecord(o, zone)
		}
		return encode(w, f, records)
	}
	if page.More {
		last := page.First + len(page.Operations) - 1
		_, err := fmt.Fprintf(w, "Displaying operation results %d to %d.\n"+
			"Run the command again with --offset=%d --limit=%d to see the next batch.\n\n",
			page.First, last, last, page.Limit)
		if err != nil {
			return err
		}
	}
	t := table{header: []string{"ID", "Status", "Started", "Finished", "Task IDs", "Summary"}, right: []int{0}}
	for _, o := range page.Operations {
		t.add(strconv.Itoa(o.Number), string(o.Status), tableTime(o.Started, zone), tableTime(o.Completed, zone),
			taskIDs(o.Tasks), o.Summary())
	}
	return t.write(w)
}

func tableTime(t time.Time, zone *time.Location) string {
	if t.IsZero() {
		return ""
	}
	return inZone(t, zone).Format(tableTimeFormat)
}

// taskIDs lists the first few ids, "2,3,4,5,6...".
func taskIDs(tasks []action.Task) string {
	ids := make([]string, 0, maxTaskIDs)
	for _, t := range tasks[:min(len(tasks), maxTaskIDs)] {
		ids = append(ids, taskID(Juju3, t))
	}
	list := strings.Join(ids, ",")
	if len(tasks) > maxTaskIDs {
		list += "..."
	}
	return list
}
