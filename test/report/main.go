// Command report reads the output of `go test -json` and prints what a person wants to see of it: a line for each
// package, everything that a failed test said, and at the end the count. It exits 1 when a test failed and when one
// was skipped, as a test here that lacks something fails and says what gets it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a package that does not build
	Test       string
	Output     string
}

// report counts tests and keeps the output of those that are not known to be good yet.
type report struct {
	out                     io.Writer
	output                  map[string]*strings.Builder
	passed, failed, skipped int
	// broken counts packages that failed outside of any test: they did not build, or ended early.
	broken       int
	failedWithin map[string]bool
}

func main() {
	r := &report{out: os.Stdout, output: map[string]*strings.Builder{}, failedWithin: map[string]bool{}}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintf(os.Stderr, "report: %v\n", err)
		os.Exit(1)
	}
	if !r.finish() {
		os.Exit(1)
	}
}

// read consumes a whole run. Lines that are no JSON, such as those of a broken build, go through as they are.
func (r *report) read(in io.Reader) error {
	for b := bufio.NewReader(in); ; {
		line, err := b.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
				r.add(e)
			} else {
				fmt.Fprint(r.out, line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test output: %w", err)
		}
	}
}

func (r *report) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if e.Test == "" && isSummary(e.Output) {
			fmt.Fprint(r.out, e.Output)
			return
		}
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "pass", "skip", "fail":
		r.end(e, key)
	}
}

// isSummary tells the line that ends a package. Packages without tests have no news.
func isSummary(line string) bool {
	return strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "FAIL\t")
}

func (r *report) end(e event, key string) {
	switch {
	case e.Test != "" && e.Action == "pass":
		r.passed++
	case e.Test != "" && e.Action == "skip":
		r.skipped++
		r.show(key)
	case e.Test != "":
		r.failed++
		r.failedWithin[e.Package] = true
		r.show(key)
	case e.Action == "fail":
		r.show(key)
		// A test that was running when its process died is never said to have failed: show what it said.
		for open := range r.output {
			if strings.HasPrefix(open, e.Package+" ") {
				r.show(open)
			}
		}
		if !r.failedWithin[e.Package] {
			r.broken++
		}
	}
	delete(r.output, key)
}

func (r *report) show(key string) {
	if text := r.output[key]; text != nil {
		fmt.Fprint(r.out, text.String())
		delete(r.output, key)
	}
}

// finish prints the count and tells whether all is well.
func (r *report) finish() bool {
	if r.skipped > 0 {
		fmt.Fprintf(r.out, "%d tests were skipped; here a test that lacks something fails\n", r.skipped)
	}
	if r.broken > 0 {
		fmt.Fprintf(r.out, "%d packages did not build or ended early\n", r.broken)
	}
	if r.passed == 0 {
		fmt.Fprintln(r.out, "no test ran")
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed+r.broken, r.skipped)
	return r.failed+r.broken+r.skipped == 0 && r.passed > 0
}
