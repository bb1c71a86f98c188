// Package docs_test keeps the documents true: every command that they show is run and its output compared, every link
// leads somewhere, and the tables that repeat what the code says say the same.
//
// A document is one session of a shell in a home of its own, from its first console block to its last. After a wanted
// change of an output, this rewrites the blocks:
//
//	go test ./test/docs -run TestDocuments -update
package docs_test

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v2"
)

// root is the folder of the repository.
const root = "../.."

// documents lists all documents, by their path in the repository. Those of other tools are not ours.
func documents(t *testing.T) []string {
	t.Helper()
	found := []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			found = append(found, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func readDocument(t *testing.T, path string) ([]string, []block) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	found, err := blocks(lines)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return lines, found
}

var update = flag.Bool("update", false, "rewrite the output in the documents as it is now")

// TestDocuments runs every command of every document.
func TestDocuments(t *testing.T) {
	holdfast := program(t)
	t.Run("named commands", func(t *testing.T) {
		t.Parallel()
		checkNamedCommands(t, holdfast)
	})
	for _, path := range longestFirst(t) {
		lines, found := readDocument(t, path)
		consoles := consolesOf(found)
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := newSession(t, holdfast, path != "README.md")
			if *update {
				rewrite(t, s, path, lines, consoles)
				return
			}
			replay(t, s, path, consoles)
		})
	}
}

func consolesOf(found []block) []block {
	return slices.DeleteFunc(slices.Clone(found), func(b block) bool { return b.language != "console" })
}

// longestFirst lists the documents with commands, those with the most first, so that none is left to run alone at the end.
func longestFirst(t *testing.T) []string {
	t.Helper()
	count := map[string]int{}
	for _, path := range documents(t) {
		if _, found := readDocument(t, path); len(consolesOf(found)) > 0 {
			count[path] = len(consolesOf(found))
		}
	}
	return slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b))
	})
}

// replay runs the blocks in order and stops at the first that differs: what follows builds on it.
func replay(t *testing.T, s *session, path string, consoles []block) {
	c := newComparer()
	for _, b := range consoles {
		steps, err := b.steps()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, one := range steps {
			command, err := c.command(one.command)
			if err != nil {
				t.Fatalf("%s:%d: %v", path, one.line, err)
			}
			out, err := s.run(command)
			if deploys.MatchString(command) {
				s.settle(t)
			}
			if err != nil {
				t.Fatalf("%s:%d: $ %s\n%v; it said:\n%s", path, one.line, command, err, out)
			}
			if err := c.compare(one.output, out); err != nil {
				t.Fatalf("%s:%d: $ %s\n%v", path, one.line, command, err)
			}
		}
	}
}

// commandLine is what a line looks like that asks to be typed into a shell.
var commandLine = regexp.MustCompile(`^\s*(\$ |# |sudo |holdfast |juju |etcdctl |etcdutl |make |git |go |sha256sum |tar |curl |export |eval )`)

// TestBlocks sees to it that no command hides in a block that is not run.
func TestBlocks(t *testing.T) {
	for _, path := range documents(t) {
		_, found := readDocument(t, path)
		for _, b := range found {
			if err := checkBlock(path, b); err != nil {
				t.Errorf("%s:%d: %v", path, b.first, err)
			}
		}
	}
}

func checkBlock(path string, b block) error {
	text := strings.Join(b.lines, "\n")
	switch b.language {
	case "console":
		return nil
	case "json":
		var any any
		return json.Unmarshal([]byte(text), &any)
	case "yaml":
		var any any
		return yaml.Unmarshal([]byte(text), &any)
	case "text":
	case "":
		if path == "CONTRIBUTING.md" {
			break // it is for people who change the code, and shows no commands in blocks
		}
		return fmt.Errorf("the block has no language: console is run, text, json and yaml are not")
	default:
		return fmt.Errorf("blocks of %q are not run: commands go into a console block", b.language)
	}
	for _, line := range b.lines {
		if commandLine.MatchString(line) {
			return fmt.Errorf("%q looks like a command, and the block is not run: make it a console block", line)
		}
	}
	return nil
}
