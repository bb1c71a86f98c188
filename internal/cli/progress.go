package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// quiet is how long something may take before progress is shown.
const quiet = 2 * time.Second

// progress tells a person at a terminal, on one line, what a wait is for. Without a terminal it is silent.
type progress struct {
	out     io.Writer
	what    string
	started time.Time
	shown   bool
}

func (a *app) progress(what string) *progress {
	p := &progress{what: what, started: time.Now()}
	if terminal(a.Stderr) {
		p.out = a.Stderr
	}
	return p
}

const clearLine = "\r\x1b[K"

func (p *progress) say(detail string) {
	if p.out == nil || time.Since(p.started) < quiet {
		return
	}
	p.shown = true
	const width = 100 // longer lines would wrap and could not be cleared
	line := fmt.Sprintf("%s (%ds): %s", p.what, int(time.Since(p.started).Seconds()), detail)
	if len(line) > width {
		line = line[:width] + "…"
	}
	fmt.Fprint(p.out, clearLine, line)
}

func (p *progress) done() {
	if p.shown {
		fmt.Fprint(p.out, clearLine)
	}
}

// bytesProgress shows a transfer of size bytes, -1 when that is not known, at a terminal and only if it lasts. The caller
// writes the bytes to it, or as many, and closes it.
func (a *app) bytesProgress(what string, size int64) io.WriteCloser {
	if !terminal(a.Stderr) {
		return nopCloser{io.Discard}
	}
	started := time.Now()
	bar := progressbar.NewOptions64(size,
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWriter(delayed{out: a.Stderr, from: started.Add(quiet)}),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetWidth(20),
	)
	return bar
}

// delayed drops what is written before a moment.
type delayed struct {
	out  io.Writer
	from time.Time
}

func (d delayed) Write(p []byte) (int, error) {
	if time.Now().Before(d.from) {
		return len(p), nil
	}
	return d.out.Write(p)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
