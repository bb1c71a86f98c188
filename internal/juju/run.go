package juju

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
)

// WriteRunStarted writes what run says on stderr before it waits: the operation and its tasks. The tasks are those of
// one operation, at least one.
func WriteRunStarted(w io.Writer, tasks []action.Task) error {
	var text strings.Builder
	fmt.Fprintf(&text, "Running operation %d with %s\n", tasks[0].Operation, count(len(tasks), "task"))
	for _, t := range tasks {
		fmt.Fprintf(&text, "  - task %s on %s\n", taskID(Juju3, t), t.Unit.Tag())
	}
	text.WriteByte('\n')
	_, err := io.WriteString(w, text.String())
	return err
}

// WriteWaiting writes what run says on stderr when it begins to wait for a task.
func WriteWaiting(w io.Writer, t action.Task) error {
	_, err := fmt.Fprintf(w, "Waiting for task %s...\n", taskID(Juju3, t))
	return err
}

// WriteLogLine writes one line of a task's log as people follow it on stderr, "15:04:05 text". No zone means UTC.
func WriteLogLine(w io.Writer, entry action.LogEntry, zone *time.Location) error {
	_, err := fmt.Fprintf(w, "%s %s\n", inZone(entry.Time, zone).Format("15:04:05"), entry.Message)
	return err
}

// WriteScheduled writes what run --background says: on talk how to follow the tasks, with program as the command to
// use, and on out, of several tasks, their ids by unit. The tasks are those of one operation, at least one.
func WriteScheduled(out, talk io.Writer, program string, tasks []action.Task) error {
	operation := tasks[0].Operation
	with, task := fmt.Sprintf("%d tasks", len(tasks)), "<id>"
	if len(tasks) == 1 {
		task = taskID(Juju3, tasks[0])
		with = "task " + task
	}
	if _, err := fmt.Fprintf(talk, "Scheduled operation %d with %s\n", operation, with); err != nil {
		return err
	}
	if len(tasks) > 1 {
		ids := map[string]any{}
		for _, t := range tasks {
			ids[t.Unit.String()] = map[string]any{"id": taskID(Juju3, t)}
		}
		if err := encode(out, YAML, ids); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(talk, "Check operation status with '%s show-operation %d'\n"+
		"Check task status with '%s show-task %s'\n", program, operation, program, task)
	return err
}

// WriteRun writes what run prints on stdout of the tasks that ended: in Plain form the results of a single one alone,
// else everything by unit name. It writes nothing when there are none. No zone means UTC.
func WriteRun(w io.Writer, f Format, tasks []action.Task, zone *time.Location) error {
	if len(tasks) == 0 {
		return nil
	}
	if f == Plain {
		return writePlain(w, tasks)
	}
	shown := map[string]any{}
	for _, t := range tasks {
		shown[t.Unit.String()] = record(Juju3, t, zone)
	}
	return encode(w, f, shown)
}

// WriteTask writes what show-task prints. No zone means UTC.
func WriteTask(w io.Writer, f Format, t action.Task, zone *time.Location) error {
	if f == Plain {
		return writePlain(w, []action.Task{t})
	}
	return encode(w, f, record(Juju3, t, zone))
}

// plainTask is one of several tasks in Plain form.
type plainTask struct {
	ID      string `yaml:"id"`
	Message string `yaml:"message,omitempty"`
	Output  string `yaml:"output"`
	Status  string `yaml:"status"`
}

// writePlain writes the results of one task as YAML and a blank line, after a line that says so if it did not
// complete. Several tasks make a map by unit name with that YAML as text inside.
func writePlain(w io.Writer, tasks []action.Task) error {
	shown := map[string]plainTask{}
	for _, t := range tasks {
		output, err := plainOutput(t)
		if err != nil {
			return err
		}
		if len(tasks) == 1 {
			if t.Message != "" && t.Status != action.Completed {
				output = fmt.Sprintf("Action id %s %s: %s\n%s", taskID(Juju3, t), t.Status, t.Message, output)
			}
			_, err := io.WriteString(w, output+"\n")
			return err
		}
		shown[t.Unit.String()] = plainTask{
			ID: taskID(Juju3, t), Message: t.Message, Output: output, Status: string(t.Status),
		}
	}
	return encode(w, YAML, shown)
}

// plainOutput is a task's results as YAML, or its status in words when it has none.
func plainOutput(t action.Task) (string, error) {
	r := results(Juju3, t)
	if len(r) == 0 {
		return fmt.Sprintf("Task %s %s\n", taskID(Juju3, t), t.Status), nil
	}
	var text strings.Builder
	err := encode(&text, YAML, r)
	return text.String(), err
}

// count gives "1 task" or "2 tasks".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
