package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// voice is what a person sees of the demo. It has colours at a terminal only, and keeps to ASCII, which every terminal
// can show.
type voice struct {
	out    io.Writer
	colour bool
	// proven are the checks that have passed, for the summary.
	proven []string
	// err is the first error of out.
	err error
}

func newVoice(out io.Writer) *voice {
	file, ok := out.(*os.File)
	plain := os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	return &voice{out: out, colour: ok && !plain && term.IsTerminal(int(file.Fd()))}
}

const (
	bold  = "1"
	green = "1;32"
)

func (v *voice) paint(colour, text string) string {
	if !v.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// Write passes on the output of a command. It never fails: a command must not end because nobody reads on, least of all
// one that cleans up.
func (v *voice) Write(p []byte) (int, error) {
	if _, err := v.out.Write(p); v.err == nil {
		v.err = err
	}
	return len(p), nil
}

func (v *voice) line(text string) { fmt.Fprintln(v, text) }

// title begins a step.
func (v *voice) title(text string) { v.line("\n" + v.paint(bold, "== "+text)) }

// say tells what comes, a sentence or two to a line.
func (v *voice) say(lines ...string) { v.line(strings.Join(lines, "\n")) }

// command shows what is typed.
func (v *voice) command(line string) { v.line("\n" + v.paint(bold, "$ "+line)) }

// check ends a check: the statement is proven when there is no problem.
func (v *voice) check(problem, statement string, args ...any) error {
	statement = fmt.Sprintf(statement, args...)
	if problem != "" {
		return fmt.Errorf("check %q: %s", statement, problem)
	}
	v.proven = append(v.proven, statement)
	v.line("  " + v.paint(green, "ok") + "  " + statement)
	return nil
}
