package docs_test

import (
	"fmt"
	"regexp"
	"strings"
)

// block is one fenced block of a document.
type block struct {
	language string
	// first is the index of the first line inside the fences, in the lines of the document.
	first int
	lines []string
}

// blocks finds the fenced blocks of a document. A fence that is not closed is an error.
func blocks(lines []string) ([]block, error) {
	var found []block
	var open *block
	for i, line := range lines {
		fence, isFence := strings.CutPrefix(strings.TrimLeft(line, " "), "```")
		switch {
		case isFence && open == nil:
			open = &block{language: fence, first: i + 1}
		case isFence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.lines = append(open.lines, line)
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the fence is not closed", open.first)
	}
	return found, nil
}

// step is one command of a console block with what it prints.
type step struct {
	// line is the number of the command's line in the document, from 1.
	line    int
	command string
	output  string
}

const (
	prompt  = "$ "
	carryOn = "> "
)

// steps takes a console block apart.
func (b block) steps() ([]step, error) {
	var found []step
	inCommand := false
	for i, line := range b.lines {
		command, isCommand := strings.CutPrefix(line, prompt)
		more, goesOn := strings.CutPrefix(line, carryOn)
		switch {
		case isCommand:
			found = append(found, step{line: b.first + i + 1, command: command})
			inCommand = true
		case len(found) == 0:
			return nil, fmt.Errorf("line %d: output without a command: want a line that starts with %q", b.first+i+1, prompt)
		case goesOn && inCommand:
			found[len(found)-1].command += "\n" + more
		default:
			found[len(found)-1].output += line + "\n"
			inCommand = false
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("line %d: the block has no command", b.first)
	}
	return found, nil
}

// prose gives the lines of a document outside of fenced blocks.
func prose(lines []string, found []block) []string {
	outside := make([]string, len(lines))
	copy(outside, lines)
	for _, b := range found {
		for i := range b.lines {
			outside[b.first+i] = ""
		}
		outside[b.first-1], outside[b.first+len(b.lines)] = "", ""
	}
	return outside
}

// headings gives the anchors that the headings of a document have on a web page.
func headings(outside []string) map[string]bool {
	dropped := regexp.MustCompile("[^a-z0-9 _-]")
	anchors := map[string]bool{}
	for _, line := range outside {
		if title, isHeading := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); isHeading && strings.HasPrefix(line, "#") {
			anchor := dropped.ReplaceAllString(strings.ToLower(title), "")
			anchors[strings.ReplaceAll(anchor, " ", "-")] = true
		}
	}
	return anchors
}
