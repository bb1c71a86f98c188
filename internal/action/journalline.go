package action

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// A journal is lines of text. Each is
//
//	8 bytes   CRC-32C of the JSON, lower-case hexadecimal
//	1 byte    space
//	n bytes   one JSON object, no newline in it
//	1 byte    newline
//
// The first line's object is a header, every other is a Task, whole, as it was after one change. The last line of a
// task is its state; tasks are in the order of their first lines.
const lineOverhead = 8 + 1 + 1

// maxLine bounds a line of the journal, in bytes, newline included. It is far above what a task takes and small enough
// to hold in memory while the journal is read.
const maxLine = 1 << 20

// header names the format. Readers refuse versions that they do not know; fields of Task may be added within one.
type header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Unit    unit.Name `json:"unit"`
}

func newHeader(u unit.Name) header {
	return header{Format: "holdfast task journal", Version: 1, Unit: u}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(text []byte) []byte { return fmt.Appendf(nil, "%08x", crc32.Checksum(text, castagnoli)) }

// encodeLine gives the line of a header or a task.
func encodeLine(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	if size := lineOverhead + len(text); size > maxLine {
		return nil, fmt.Errorf("line of %d bytes is over the limit of %d", size, maxLine)
	}
	line := append(checksum(text), ' ')
	line = append(line, text...)
	return append(line, '\n'), nil
}

// errBadLine means that a line is not what was written: torn or damaged.
var errBadLine = errors.New("checksum mismatch")

// checkLine gives the JSON of a line. It shares the line's memory.
func checkLine(line []byte) ([]byte, error) {
	if len(line) < lineOverhead || line[8] != ' ' || line[len(line)-1] != '\n' {
		return nil, errBadLine
	}
	text := line[9 : len(line)-1]
	if !bytes.Equal(checksum(text), line[:8]) {
		return nil, errBadLine
	}
	return text, nil
}

// beginsWithRecord tells whether a bad line is a good one with something else where its newline was. No torn write
// looks like that: it is a record that had been acknowledged.
func beginsWithRecord(line []byte) bool {
	if len(line) < lineOverhead {
		return false
	}
	var text json.RawMessage
	if json.NewDecoder(bytes.NewReader(line[9:])).Decode(&text) != nil {
		return false
	}
	return bytes.Equal(checksum(text), line[:8]) && len(line) > 9+len(text)
}

// content is what a journal holds.
type content struct {
	tasks []Task
	// lines are the good ones, header included; size is their length in bytes.
	lines int
	size  int64
	// torn is the length of the bad end that follows them, in bytes.
	torn int64
}

// readContent reads a journal to its end. A bad last line is what an append leaves that was cut off, and is only
// measured. Any other bad line is a *DamageError without a path.
func readContent(r io.Reader, want header) (content, error) {
	var c content
	index := map[string]int{}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine+1)
	scanner.Split(splitLines)
	for scanner.Scan() {
		line := scanner.Bytes()
		text, err := checkLine(line)
		if err != nil {
			torn := int64(len(line))
			if beginsWithRecord(line) || scanner.Scan() || scanner.Err() != nil {
				return content{}, &DamageError{Line: c.lines + 1, Reason: err.Error()}
			}
			c.torn = torn
			return c, nil
		}
		c.lines++
		c.size += int64(len(line))
		if c.lines == 1 {
			err = checkHeader(text, want)
		} else {
			err = c.add(text, index)
		}
		if err != nil {
			return content{}, &DamageError{Line: c.lines, Reason: err.Error()}
		}
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		return content{}, &DamageError{Line: c.lines + 1, Reason: fmt.Sprintf("over the limit of %d bytes", maxLine)}
	} else if err != nil {
		return content{}, fmt.Errorf("read journal: %w", err)
	}
	return c, nil
}

func (c *content) add(text []byte, index map[string]int) error {
	var t Task
	if err := json.Unmarshal(text, &t); err != nil {
		return err
	}
	if t.ID == "" || t.Status == "" {
		return errors.New("task without id or status")
	}
	if i, known := index[t.ID]; known {
		c.tasks[i] = t
		return nil
	}
	index[t.ID] = len(c.tasks)
	c.tasks = append(c.tasks, t)
	return nil
}

func checkHeader(text []byte, want header) error {
	var got header
	if err := json.Unmarshal(text, &got); err != nil {
		return err
	}
	switch {
	case got.Format != want.Format:
		return fmt.Errorf("format is %q, want %q", got.Format, want.Format)
	case got.Version != want.Version:
		return fmt.Errorf("version is %d, this program reads %d", got.Version, want.Version)
	case got.Unit != want.Unit:
		return fmt.Errorf("journal is of unit %q, want %q", got.Unit, want.Unit)
	}
	return nil
}

// splitLines is bufio.ScanLines with the newlines kept, so that a last line without one is seen as such.
func splitLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
