package unitaction

import (
	"io"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-project/holdfast/internal/action"
)

// progressStep is the pause between two lines about a transfer in a task's log. A short one gets none.
const progressStep = 2 * time.Second

// transferProgress tells in a task's log how far a transfer is.
type transferProgress struct {
	call    *action.Call
	size    int64
	sofar   int64
	started time.Time
	next    time.Time
}

func newProgress(call *action.Call, size int64) *transferProgress {
	now := time.Now()
	return &transferProgress{call: call, size: size, started: now, next: now.Add(progressStep)}
}

func (p *transferProgress) add(n int) {
	p.sofar += int64(n)
	now := time.Now()
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(progressStep)
	rate := float64(p.sofar) / now.Sub(p.started).Seconds()
	left := time.Duration(float64(p.size-p.sofar) / rate * float64(time.Second)).Round(time.Second)
	p.call.Logf("%s of %s, %s/s, %s left", humanize.Bytes(uint64(p.sofar)), humanize.Bytes(uint64(p.size)), humanize.Bytes(uint64(rate)), left)
}

// progressReader tells of what passes through it.
type progressReader struct {
	io.Reader
	progress *transferProgress
}

func (r progressReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.progress.add(n)
	return n, err
}
