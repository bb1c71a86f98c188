package unitaction

import (
	"encoding/json"
	"strings"
)

// plainLog puts the lines of an etcd's log that are JSON into words, for an error that people read. Others stay.
func plainLog(lines string) string {
	var said []string
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(line, "\n")
		var entry struct {
			Level   string `json:"level"`
			Message string `json:"msg"`
			Error   string `json:"error"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Message != "" {
			line = entry.Level + ": " + entry.Message
			if entry.Error != "" {
				line += ": " + entry.Error
			}
		}
		said = append(said, line)
	}
	return strings.Join(said, "\n")
}
