package docs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rewrite runs the blocks of a document and puts what they print now in their place. In a command, an id or a name that no
// output showed stands for the last one of its kind: so new blocks are written with made-up ones and no output.
func rewrite(t *testing.T, s *session, path string, lines []string, consoles []block) {
	c := newComparer()
	var out []string
	end := 0
	for _, b := range consoles {
		steps, err := b.steps()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, lines[end:b.first]...)
		for _, one := range steps {
			command, err := c.command(one.command)
			if err != nil {
				t.Fatalf("%s:%d: %v", path, one.line, err)
			}
			printed, err := s.run(command)
			if deploys.MatchString(command) {
				s.settle(t)
			}
			if err != nil {
				t.Errorf("%s:%d: $ %s\n%v; it said:\n%s", path, one.line, command, err, printed)
			}
			c.pair(one.output, printed)
			out = append(out, prompt+strings.ReplaceAll(command, "\n", "\n"+carryOn))
			if printed != "" {
				out = append(out, strings.Split(strings.TrimSuffix(printed, "\n"), "\n")...)
			}
		}
		end = b.first + len(b.lines)
	}
	out = append(out, lines[end:]...)
	if err := os.WriteFile(filepath.Join(root, path), []byte(strings.Join(out, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// pair binds the variables of an output of the document to those of the run, kind by kind in their order, and remembers
// the last one of each kind for those that the document shows only later.
func (c *comparer) pair(shown, run string) {
	_, want := c.split(shown)
	_, got := c.split(run)
	for _, v := range c.variables {
		if !v.bound {
			continue
		}
		other := func(t token) bool { return t.name != v.name }
		old, now := slices.DeleteFunc(slices.Clone(want), other), slices.DeleteFunc(slices.Clone(got), other)
		for i := range min(len(old), len(now)) {
			if c.run[old[i].text] == "" {
				c.run[old[i].text] = now[i].text
			}
		}
		for _, one := range now {
			c.run[one.text] = one.text
			c.last[v.name] = one.text
		}
	}
}
