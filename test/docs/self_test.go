package docs_test

import (
	"slices"
	"strings"
	"testing"
)

const (
	idA = "3d6a505e-07d7-4697-8471-60156f87b1b4"
	idB = "8f43919a-8336-44f8-b1b0-41d47779e79a"
	idC = "8338dcad-8e9a-4e43-87e1-e1706df42976"
)

// TestCompare: what may differ does, everything else is found.
func TestCompare(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	tests := []struct {
		name, shown, run, problem string
	}{
		{"same", "a\n", "a\n", ""},
		{"other word", "a\n", "b\n", "output differs"},
		{"missing line", "a\nb\n", "a\n", "output differs"},
		{"no output", "", "a\n", "output differs"},
		{"other id", "id: " + idA, "id: " + idB, ""},
		{"no id", "id: " + idA, "id: none", "output differs"},
		{"one id twice", idA + " " + idA, idB + " " + idC, "stood for"},
		{"two ids are one", idA + " " + idB, idC + " " + idC, "what is one uuid"},
		{"sum cut", sum, sum[:63], "output differs"},
		{"other time", "at: 2018-09-26 18:04:04 +0000 UTC", "at: 2026-11-22 17:44:14 +0000 UTC", ""},
		{"time in another form", "at: 2018-09-26 18:04:04 +0000 UTC", "at: 2026-11-22T17:44:14Z", ""},
		{"other port", "https://127.0.0.1:2379", "https://127.0.0.1:20537", ""},
		{"other host", "https://127.0.0.1:2379", "https://127.0.0.2:2379", "output differs"},
		{"quoted cluster id", "cluster-id: f07b755a538069eb", `cluster-id: "2074991090314620"`, ""},
		{"other revision", `revision: "1000000005"`, `revision: "1000000006"`, "output differs"},
		{"other leader", "etcd/0   active\netcd/1*  active\n", "etcd/0*  active\netcd/1   active\n", ""},
		{"no leader known", "Unit     Agent\netcd/0   idle\netcd/1*  idle\n", "Unit    Agent\netcd/0  idle\netcd/1  idle\n", ""},
		{"other unit", "etcd/0   active\n", "etcd/2   active\n", "output differs"},
		{"other size", "size: 4.0K", "size: 68K", ""},
		{"other version", "etcd 3.7.3", "etcd 3.7.4", "output differs"},
	}
	for _, test := range tests {
		err := newComparer().compare(test.shown, test.run)
		if test.problem == "" && err != nil || test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.problem)
		}
	}
}

// TestCommand: commands are run with the names of the run.
func TestCommand(t *testing.T) {
	c := newComparer()
	if err := c.compare("id: "+idA+"\n", "id: "+idB+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.command("show " + idA); got != "show "+idB || err != nil {
		t.Errorf("command is %q, %v", got, err)
	}
	if got, err := c.command("show " + idC); err == nil {
		t.Errorf("command with an id that nothing showed is %q, want an error", got)
	}
}

// TestCheckBlock: a block that is not run cannot show a command.
func TestCheckBlock(t *testing.T) {
	const fence = "```"
	tests := []struct {
		text, problem string
	}{
		{"console\n$ holdfast status", ""},
		{"bash\nholdfast status", "not run"},
		{"\nholdfast status", "no language"},
		{"text\nholdfast status", "looks like a command"},
		{"text\n  $ ls", "looks like a command"},
		{"text\nunit -> agent", ""},
		{`json` + "\n" + `{"a": 1}`, ""},
		{`json` + "\n" + `holdfast status`, "invalid"},
	}
	for _, test := range tests {
		found, err := blocks(strings.Split("x\n"+fence+test.text+"\n"+fence+"\ny", "\n"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%q: %d blocks, %v", test.text, len(found), err)
		}
		err = checkBlock("docs/x.md", found[0])
		if test.problem == "" && err != nil || test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
			t.Errorf("%q: %v, want %q", test.text, err, test.problem)
		}
	}
	if _, err := blocks([]string{fence + "console", "$ ls"}); err == nil {
		t.Error("an open fence is no error")
	}
}

func TestSteps(t *testing.T) {
	got, err := block{first: 10, lines: []string{"$ a |", "> b", "out", "> no command", "$ c"}}.steps()
	want := []step{{11, "a |\nb", "out\n> no command\n"}, {15, "c", ""}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("steps are %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range [][]string{nil, {"out", "$ a"}} {
		if _, err := (block{lines: bad}).steps(); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}
