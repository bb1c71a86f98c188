package docs_test

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks follows every link that stays in the repository, to the heading if it names one.
func TestLinks(t *testing.T) {
	for _, document := range documents(t) {
		lines, found := readDocument(t, document)
		for i, line := range prose(lines, found) {
			for _, match := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(match[1], "://") {
					continue
				}
				if problem := follow(t, document, match[1]); problem != "" {
					t.Errorf("%s:%d: link to %q: %s", document, i+1, match[1], problem)
				}
			}
		}
	}
}

func follow(t *testing.T, document, target string) (problem string) {
	file, anchor, _ := strings.Cut(target, "#")
	at := document
	if file != "" {
		at = path.Join(path.Dir(document), file)
	}
	if _, err := os.Stat(filepath.Join(root, at)); err != nil {
		return "there is no such file"
	}
	if anchor == "" {
		return ""
	}
	lines, found := readDocument(t, at)
	if !headings(prose(lines, found))[anchor] {
		return "there is no such heading"
	}
	return ""
}

var (
	inline      = regexp.MustCompile("`([^`]+)`")
	ourCommand  = regexp.MustCompile(`^(?:holdfast|juju) ([a-z][a-z-]*)`)
	longFlag    = regexp.MustCompile(`(?:^|\s)(--[a-z][a-z-]*)`)
	makeCommand = regexp.MustCompile(`^make ([a-z]+)`)
)

// checkNamedCommands sees to it that the commands and flags that the text names exist.
func checkNamedCommands(t *testing.T, holdfast string) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	helps := map[string]string{}
	help := func(command string) string {
		if _, known := helps[command]; !known {
			out, err := exec.Command(holdfast, command, "--help").CombinedOutput()
			if err != nil {
				out = nil
			}
			helps[command] = string(out)
		}
		return helps[command]
	}
	for _, document := range documents(t) {
		lines, found := readDocument(t, document)
		for i, line := range prose(lines, found) {
			for _, match := range inline.FindAllStringSubmatch(line, -1) {
				if target := makeCommand.FindStringSubmatch(match[1]); target != nil && !strings.Contains(string(makefile), "\n"+target[1]+":") {
					t.Errorf("%s:%d: %q: the Makefile has no such target", document, i+1, match[1])
				}
				command := ourCommand.FindStringSubmatch(match[1])
				if command == nil {
					continue
				}
				text := help(command[1])
				if text == "" {
					t.Errorf("%s:%d: %q: there is no such command", document, i+1, match[1])
				}
				for _, flag := range longFlag.FindAllStringSubmatch(match[1], -1) {
					if !strings.Contains(text, flag[1]) {
						t.Errorf("%s:%d: %q: the command has no flag %s", document, i+1, match[1], flag[1])
					}
				}
			}
		}
	}
}
