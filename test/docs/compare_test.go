package docs_test

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// variable is a kind of text that differs from run to run.
type variable struct {
	name    string
	pattern string
	// bound variables stand for one thing throughout a document: where it shows the same text twice, a run has the same
	// text twice. Commands are run with the text of the run.
	bound bool
}

// variables are all that may differ between a document and a run. The first pattern that fits counts.
func variables() []variable {
	const date, clock = `\d{4}-\d\d-\d\d`, `\d\d:\d\d:\d\d`
	return []variable{
		{"archive", `etcd-(?:snapshot|data)-` + date + `-\d\d\.\d\d\.\d\d`, true},
		{"kept", `before-restore-[0-9a-f]{8}-\d{8}-\d{6}`, true},
		{"removed", `removed/[a-z-]+-\d+-\d{8}-\d{6}`, true},
		{"uuid", `\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`, true},
		{"sha256", `\b[0-9a-f]{64}\b`, true},
		{"time", date + `[ T]` + clock + `(?:\.\d+)?(?: \+0000 UTC|Z(?:-[0-9a-f]{8})?)?`, false}, // with the digits of a snapshot's id
		{"clock", `\b` + clock + `\b`, false},
		{"address", `\b127\.0\.0\.1:\d+\b`, false},
		{"port", `\b\d{5}/tcp\b`, false},
		{"member", `"?\b[0-9a-f]{12,16}\b"?`, false}, // and cluster ids; YAML quotes those that look like numbers
		{"process", `"(?:pid|start-time|started)": ?\d+|\bpid=\d+`, false},
		{"bytes", `"(?:size|backend-size)": ?\d+|\b\d+(?:\.\d)? k?B\b`, false},
		{"du", `\bsize: \d+(?:\.\d)?K`, false},
		{"checksum", `(?m:^)[0-9a-f]{8} `, false}, // of a line of the journal
		{"duration", `\bduration=\S+`, false},
	}
}

// comparer compares what a document shows with what a run printed, and keeps what bound variables stand for.
type comparer struct {
	variables []variable
	any       *regexp.Regexp
	unitLine  *regexp.Regexp
	// run has the text of the run for each text of the document, shown the reverse.
	run, shown map[string]string
	// last has the run's last text of each kind of variable, while documents are rewritten.
	last map[string]string
}

func newComparer() *comparer {
	c := &comparer{
		variables: variables(), run: map[string]string{}, shown: map[string]string{}, last: map[string]string{},
		unitLine: regexp.MustCompile(`(?m)^(?:Unit|[a-z][a-z-]*/\d+\*?) .*$`),
	}
	var alternatives []string
	for _, v := range c.variables {
		alternatives = append(alternatives, "("+v.pattern+")")
	}
	c.any = regexp.MustCompile(strings.Join(alternatives, "|"))
	return c
}

// token is a variable's text in some output.
type token struct {
	variable
	text string
}

// split gives text with the names of the variables in the place of their texts, and these.
func (c *comparer) split(text string) (plain string, tokens []token) {
	text = c.unitLine.ReplaceAllStringFunc(text, withoutLeader)
	var b strings.Builder
	end := 0
	for _, at := range c.any.FindAllStringSubmatchIndex(text, -1) {
		for i, v := range c.variables {
			if start := at[2+2*i]; start >= 0 {
				tokens = append(tokens, token{v, text[start:at[3+2*i]]})
				fmt.Fprintf(&b, "%s<%s>", text[end:start], v.name)
			}
		}
		end = at[1]
	}
	b.WriteString(text[end:])
	return b.String(), tokens
}

// withoutLeader takes the star from a line of the table of units. Which unit leads is chance, and the columns are as wide as
// their longest cell with it.
func withoutLeader(line string) string {
	cells := strings.Fields(line)
	cells[0] = strings.TrimSuffix(cells[0], "*")
	return strings.Join(cells, " ")
}

// compare tells how the output of a run differs from what the document shows.
func (c *comparer) compare(shown, run string) error {
	wantPlain, want := c.split(shown)
	gotPlain, got := c.split(run)
	if wantPlain != gotPlain {
		return fmt.Errorf("output differs (-document +run):\n%s", cmp.Diff(strings.Split(wantPlain, "\n"), strings.Split(gotPlain, "\n")))
	}
	for i := range want {
		if !want[i].bound {
			continue
		}
		if known, bound := c.run[want[i].text]; bound && known != got[i].text {
			return fmt.Errorf("%s %s stood for %s before, and here for %s", want[i].name, want[i].text, known, got[i].text)
		}
		// Two archives of one second have one name in a run, and perhaps two in the document; the other way round is seen above.
		if known, bound := c.shown[got[i].text]; bound && known != want[i].text && want[i].name != "archive" {
			return fmt.Errorf("the document shows %s and %s for what is one %s", known, want[i].text, want[i].name)
		}
		c.run[want[i].text], c.shown[got[i].text] = got[i].text, want[i].text
	}
	return nil
}

// command gives a command of the document as it is to be run: with the run's own ids and file names.
func (c *comparer) command(shown string) (string, error) {
	var failed error
	replaced := c.any.ReplaceAllStringFunc(shown, func(text string) string {
		_, tokens := c.split(text)
		if len(tokens) == 0 || !tokens[0].bound {
			return text
		}
		known, bound := c.run[text]
		if !bound {
			known, bound = c.last[tokens[0].name]
			c.run[text] = known
		}
		if !bound {
			failed = fmt.Errorf("the command uses %s %s, which no output showed", tokens[0].name, text)
			return text
		}
		return known
	})
	return replaced, failed
}
