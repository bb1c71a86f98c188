package juju

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"gopkg.in/yaml.v2"

	"github.com/holdfast-project/holdfast/internal/action"
)

// Format is a form of output, the value of --format.
type Format string

const (
	// YAML is several lines, the keys of maps sorted, folded where a line would pass column 80.
	YAML Format = "yaml"
	// JSON is one line, the keys of maps sorted. Nothing is folded: it is the form for scripts.
	JSON Format = "json"
	// Plain is for people: results only, or a table.
	Plain Format = "plain"
	// Tabular is a table.
	Tabular Format = "tabular"
)

// ParseFormat reads the value of --format. The error is a *UsageError.
func ParseFormat(s string, allowed ...Format) (Format, error) {
	if !slices.Contains(allowed, Format(s)) {
		return "", usagef("invalid value %q for option --format: unknown format %q", s, s)
	}
	return Format(s), nil
}

// encode writes value as YAML or JSON, ended by exactly one newline.
func encode(w io.Writer, f Format, value any) error {
	var text []byte
	switch f {
	case YAML:
		var err error
		if text, err = yaml.Marshal(value); err != nil {
			return fmt.Errorf("encode yaml: %w", err)
		}
		text = append(bytes.TrimRight(text, "\n"), '\n')
	case JSON:
		var line bytes.Buffer
		encoder := json.NewEncoder(&line)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(value); err != nil {
			return fmt.Errorf("encode json: %w", err)
		}
		text = line.Bytes()
	default:
		return fmt.Errorf("encode result: format %q is neither yaml nor json", f)
	}
	_, err := w.Write(text)
	return err
}

// stamp gives a time as Juju shows it, "2018-09-26 18:04:04 +0000 UTC": whole seconds, the rest cut off.
func stamp(t time.Time, zone *time.Location) string {
	return inZone(t, zone).Truncate(time.Second).String()
}

// inZone moves t to a zone; no zone means UTC.
func inZone(t time.Time, zone *time.Location) time.Time {
	if zone == nil {
		zone = time.UTC
	}
	return t.In(zone)
}

// timing is the timing map of a task: the moments that have come, none when none has.
func timing(t action.Task, zone *time.Location) map[string]any {
	moments := map[string]any{}
	for name, at := range map[string]time.Time{
		"enqueued":  t.Enqueued,
		"started":   t.Started,
		"completed": t.Completed,
	} {
		if !at.IsZero() {
			moments[name] = stamp(at, zone)
		}
	}
	return moments
}
