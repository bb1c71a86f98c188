package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// TestPassOver: each part is left out from then on, and a folder that is gone does not fill the screen.
func TestPassOver(t *testing.T) {
	var out bytes.Buffer
	a := &app{Environment: Environment{Stderr: &out}}
	var r resolved
	var parts []*chain.PartError
	for i := range history.Revision(mostPassed + 90) {
		parts = append(parts, chain.OfSegment(repository.Segment{Cluster: "prod", First: i + 1, Last: i + 1}, errors.New("gone")))
	}
	a.passOver(&r, chain.OfSnapshot(repository.Manifest{ID: repository.ID{Random: "00000001"}}, errors.New("bad")))
	a.passOver(&r, parts...)
	if len(r.broken.segments) != len(parts) || !r.broken.segments[parts[50].Segment] || !r.broken.snapshots[repository.ID{Random: "00000001"}] {
		t.Errorf("left out are %d segments, %v", len(r.broken.segments), r.broken.snapshots)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1+mostPassed+1 || lines[len(lines)-1] != "passed over: 90 parts more, the last is segment 100-100: gone" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}
