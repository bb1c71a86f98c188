package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
)

// plainStep is the pause between two lines about a transfer where no terminal is.
const plainStep = 10 * time.Second

// transfer tells how far a long transfer is: a bar at a terminal, a line now and then elsewhere, events with --output json,
// nothing with --quiet. It is safe for concurrent use.
type transfer struct {
	what  string
	out   io.Writer
	json  bool
	quiet bool

	mu      sync.Mutex
	bar     *progressbar.ProgressBar
	started time.Time
	said    time.Time
	sofar   int64
	ended   bool
}

func (a *app) transferProgress(what string, f *repoFlags) *transfer {
	t := &transfer{what: what, out: a.Stderr, json: f.output == "json", quiet: f.quiet, started: time.Now(), said: time.Now()}
	if terminal(a.Stderr) && !t.json && !t.quiet {
		t.bar = progressbar.NewOptions64(-1, progressbar.OptionSetDescription(what),
			progressbar.OptionSetWriter(delayed{out: a.Stderr, from: t.started.Add(quiet)}), progressbar.OptionShowBytes(true),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(20))
	}
	return t
}

// transferEvent is one line of --output json on the standard error.
type transferEvent struct {
	Event   string `json:"event"` // "note" or "progress"
	Message string `json:"message,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"`
	Of      int64  `json:"of,omitempty"`
}

// say tells of something that happened.
func (t *transfer) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	switch {
	case t.quiet:
	case t.json:
		_ = json.NewEncoder(t.out).Encode(transferEvent{Event: "note", Message: text}) // talk that is lost harms nothing
	default:
		if t.bar != nil {
			_ = t.bar.Clear()
		}
		fmt.Fprintln(t.out, text)
	}
}

// moved tells that n bytes of all are done.
func (t *transfer) moved(n, all int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sofar = n
	now := time.Now()
	switch {
	case t.quiet || t.ended:
		return
	case t.bar != nil:
		if t.bar.GetMax64() != all {
			t.bar.ChangeMax64(all)
		}
		_ = t.bar.Set64(n)
		return
	case t.json && now.Sub(t.said) >= time.Second:
		_ = json.NewEncoder(t.out).Encode(transferEvent{Event: "progress", Bytes: n, Of: all})
	case !t.json && now.Sub(t.said) >= plainStep:
		rate := float64(n) / now.Sub(t.started).Seconds()
		left := time.Duration(float64(all-n) / rate * float64(time.Second)).Round(time.Second)
		fmt.Fprintf(t.out, "%s: %s of %s, %s/s, %s left\n", t.what, humanize.Bytes(uint64(n)), humanize.Bytes(uint64(all)), humanize.Bytes(uint64(rate)), left)
	default:
		return
	}
	t.said = now
}

// counter gives a writer that counts what is written to it as moved.
func (t *transfer) counter(all int64) io.Writer { return &transferCounter{t: t, all: all} }

type transferCounter struct {
	t      *transfer
	n, all int64
}

func (c *transferCounter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	c.t.moved(c.n, c.all)
	return len(p), nil
}

// close takes the bar away. It may be called twice.
func (t *transfer) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bar != nil && !t.ended {
		_ = t.bar.Clear()
		_ = t.bar.Exit()
	}
	t.ended = true
}
