package segment

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/history"
)

// TestExampleOfTheDocument reads the bytes that docs/formats/segment.md shows.
func TestExampleOfTheDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/formats/segment.md")
	must(t, err)
	_, example, found := strings.Cut(string(text), "## An example")
	_, example, foundToo := strings.Cut(example, "```text\n")
	example, _, _ = strings.Cut(example, "```")
	if !found || !foundToo {
		t.Fatal("the document has no example")
	}
	var segment []byte
	for line := range strings.Lines(example) {
		digits, _, _ := strings.Cut(line, "   ")
		b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		must(t, err)
		segment = append(segment, b...)
	}
	segment = resum(append(segment, make([]byte, 32)...))
	events := []history.Event{
		{Revision: 9, Key: []byte("k"), CreateRevision: 9, Version: 1, Lease: 7, Value: []byte("val")},
		{Revision: 10, Key: []byte("k"), Tombstone: true},
	}
	got, _ := decoded(t, segment)
	equalEvents(t, events, got)
	b := builder(t, []batch{{events, fromMillis(1000), fromMillis(1005)}})
	if want, _ := encoded(t, b, []history.Lease{{ID: 7, TTL: 60}}); !bytes.Equal(want, segment) {
		t.Errorf("it would be written as\n%x, the document has\n%x", want, segment)
	}
}
