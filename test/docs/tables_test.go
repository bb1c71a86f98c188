package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/api"
)

// rows gives the cells of the table below a heading of a document, without its header. Backquotes are dropped.
func rows(t *testing.T, document, heading string) [][]string {
	t.Helper()
	lines, _ := readDocument(t, document)
	start := slices.IndexFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, "#") && strings.TrimLeft(line, "# ") == heading
	})
	if start < 0 {
		t.Fatalf("%s has no heading %q", document, heading)
	}
	var found [][]string
	for _, line := range lines[start+1:] {
		if !strings.HasPrefix(line, "|") {
			if len(found) > 0 {
				break
			}
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "| "), " | ") {
			cells = append(cells, strings.ReplaceAll(strings.TrimSpace(cell), "`", ""))
		}
		found = append(found, cells)
	}
	if len(found) < 3 {
		t.Fatalf("%s: no table below %q", document, heading)
	}
	return found[2:]
}

func readSource(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestLevelsTable compares the picture of the import levels with the rule that the tests of the tree hold.
func TestLevelsTable(t *testing.T) {
	source := readSource(t, "levels_test.go")
	_, table, _ := strings.Cut(source, "var levels = [][]string{\n")
	table, _, _ = strings.Cut(table, "\n}")
	var want []string
	for line := range strings.SplitSeq(table, "\n") {
		want = append(want, strings.NewReplacer(`"`, "", "{", "", "},", "", "\t", "").Replace(line))
	}
	if len(want) < 3 {
		t.Fatalf("no levels found in levels_test.go: %q", table)
	}
	var got []string
	for _, row := range rows(t, "ARCHITECTURE.md", "Packages and levels") {
		got = append([]string{row[1]}, got...)
	}
	if diff := cmp.Diff(append(want, "cmd/holdfast"), got); diff != "" {
		t.Errorf("levels in ARCHITECTURE.md (-levels_test.go +document):\n%s", diff)
	}
}

// TestRoutesTable compares the routes that the document lists with those that the agent serves.
func TestRoutesTable(t *testing.T) {
	paths := map[string]string{
		"PathUnit": api.PathUnit, "PathActions": api.PathActions, "PathTasks": api.PathTasks, "PathTask": api.PathTask,
		"PathCancel": api.PathCancel, "PathFiles": api.PathFiles, "PathResource": api.PathResource,
	}
	roles := map[string]string{"everybody": "operator, agent, reader", "operators": "operator"}
	entry := regexp.MustCompile(`\{http\.Method(\w+), api\.(\w+), (\w+), `)
	var want []string
	for _, match := range entry.FindAllStringSubmatch(readSource(t, "internal/agent/routes.go"), -1) {
		want = append(want, strings.ToUpper(match[1])+" "+paths[match[2]]+": "+roles[match[3]])
	}
	var got []string
	for _, row := range rows(t, "docs/contracts/agent-api.md", "Routes") {
		got = append(got, row[0]+" "+row[1]+": "+row[2])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes in agent-api.md (-internal/agent/routes.go +document):\n%s", diff)
	}
}

// TestFieldsAreTold: every field of a file or an answer is in the document that describes it.
func TestFieldsAreTold(t *testing.T) {
	tests := []struct{ source, structure, document string }{
		{"internal/archivefile/side.go", "SideFile", "docs/formats/archive-file.md"},
		{"internal/datadir/intent.go", "intent", "docs/formats/data-dir-switch.md"},
		{"internal/inventory/inventory.go", "Inventory", "docs/formats/inventory.md"},
		{"internal/unit/record.go", "Record", "docs/formats/inventory.md"},
		{"internal/config/config.go", "Agent", "docs/formats/agent-config.md"},
		{"internal/config/machine.go", "Repository", "docs/formats/machine-config.md"},
		{"internal/config/machine.go", "Archive", "docs/formats/machine-config.md"},
		{"internal/cli/verify.go", "finding", "docs/contracts/verify.md"},
		{"internal/repository/document.go", "Document", "docs/formats/repository.md"},
		{"internal/repository/signer.go", "Enrolment", "docs/formats/repository.md"},
		{"internal/repository/manifest.go", "Manifest", "docs/formats/repository.md"},
		{"internal/repository/manifest.go", "Source", "docs/formats/repository.md"},
		{"internal/repository/manifest.go", "Content", "docs/formats/repository.md"},
		{"internal/repository/manifest.go", "Object", "docs/formats/repository.md"},
		{"internal/repository/manifest.go", "HashKV", "docs/formats/repository.md"},
		{"internal/repository/manifest.go", "File", "docs/formats/repository.md"},
		{"internal/repository/manifest.go", "Copied", "docs/formats/repository.md"},
		{"internal/repository/revoke.go", "Revocation", "docs/formats/repository.md"},
		{"internal/repository/recipients.go", "Recipients", "docs/formats/repository.md"},
		{"internal/repository/verification.go", "Verification", "docs/formats/repository.md"},
		{"internal/repository/pin.go", "Pin", "docs/formats/repository.md"},
		{"internal/repository/removal.go", "Removal", "docs/formats/repository.md"},
		{"internal/repository/removal.go", "Removed", "docs/formats/repository.md"},
		{"internal/repository/segmentremoval.go", "RemovedSegments", "docs/formats/repository.md"},
		{"internal/repository/segment.go", "Segment", "docs/formats/repository.md"},
		{"internal/repository/segment.go", "Plain", "docs/formats/repository.md"},
		{"internal/repository/note.go", "Gap", "docs/formats/repository.md"},
		{"internal/repository/note.go", "Hashes", "docs/formats/repository.md"},
		{"internal/repository/note.go", "MemberHash", "docs/formats/repository.md"},
		{"internal/repository/note.go", "Lease", "docs/formats/repository.md"},
		{"internal/repository/drill.go", "Drill", "docs/formats/repository.md"},
		{"internal/repository/check.go", "CheckResult", "docs/contracts/repository.md"},
		{"internal/cli/list.go", "listed", "docs/contracts/repository.md"},
		{"internal/cli/coverage.go", "listedArchive", "docs/contracts/repository.md"},
		{"internal/cli/coverage.go", "listedWindow", "docs/contracts/repository.md"},
		{"internal/cli/coverage.go", "listedHole", "docs/contracts/repository.md"},
		{"internal/cli/coverage.go", "listedRange", "docs/contracts/repository.md"},
		{"internal/cli/coverage.go", "listedArchiver", "docs/contracts/repository.md"},
		{"internal/cli/coverage.go", "listedHashes", "docs/contracts/repository.md"},
		{"internal/cli/archive.go", "archiveLine", "docs/contracts/repository.md"},
		{"internal/cli/target.go", "momentPlan", "docs/contracts/repository.md"},
		{"internal/cli/verifyarchive.go", "verifiedArchive", "docs/contracts/repository.md"},
		{"internal/cli/verifymoment.go", "verifiedMoment", "docs/contracts/repository.md"},
		{"internal/cli/verifyrepo.go", "verified", "docs/contracts/repository.md"},
		{"internal/cli/verifyrepo.go", "verifiedResource", "docs/contracts/repository.md"},
		{"internal/cli/recover.go", "exported", "docs/contracts/repository.md"},
		{"internal/cli/recover.go", "restored", "docs/contracts/repository.md"},
		{"internal/cli/prune.go", "pruned", "docs/contracts/repository.md"},
		{"internal/cli/prune.go", "pruneResult", "docs/contracts/repository.md"},
		{"internal/cli/prunearchive.go", "prunedSegments", "docs/contracts/repository.md"},
		{"internal/cli/merge.go", "merged", "docs/contracts/repository.md"},
		{"internal/cli/repo.go", "signerInfo", "docs/contracts/repository.md"},
		{"internal/cli/repo.go", "repositoryInfo", "docs/contracts/repository.md"},
		{"internal/cli/transfer.go", "transferEvent", "docs/contracts/repository.md"},
		{"internal/action/task.go", "Task", "docs/contracts/agent-api.md"},
		{"internal/api/wire.go", "Unit", "docs/contracts/agent-api.md"},
		{"internal/api/wire.go", "Etcd", "docs/contracts/agent-api.md"},
		{"internal/api/wire.go", "Resource", "docs/contracts/agent-api.md"},
		{"internal/api/wire.go", "Archive", "docs/contracts/agent-api.md"},
		{"internal/api/wire.go", "ArchiveSnapshot", "docs/contracts/agent-api.md"},
	}
	tag := regexp.MustCompile("`(?:json|yaml):\"([a-z0-9_-]+)")
	for _, test := range tests {
		_, body, _ := strings.Cut(readSource(t, test.source), "\ntype "+test.structure+" struct {\n")
		body, _, _ = strings.Cut(body, "\n}")
		fields := tag.FindAllStringSubmatch(body, -1)
		if len(fields) < 2 {
			t.Errorf("%s: no fields found of %s", test.source, test.structure)
		}
		document := readSource(t, test.document)
		for _, field := range fields {
			if !regexp.MustCompile("[`\".]" + field[1] + "[`\".]").MatchString(document) {
				t.Errorf("%s does not tell of %q of %s", test.document, field[1], test.structure)
			}
		}
	}
}

// TestArchiveEventsAreTold: each event of archive --output json is in the document, and no other.
func TestArchiveEventsAreTold(t *testing.T) {
	var want []string
	for _, match := range regexp.MustCompile(`\bset\("([a-z-]+)"`).FindAllStringSubmatch(readSource(t, "internal/cli/archive.go"), -1) {
		want = append(want, match[1])
	}
	_, table, _ := strings.Cut(readSource(t, "docs/contracts/repository.md"), "| `event` of `archive` | |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var got []string
	for line := range strings.SplitSeq(table, "\n") {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		for name := range strings.SplitSeq(cell, ", ") {
			got = append(got, strings.Trim(name, "`"))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	want = slices.Compact(want)
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 5 {
		t.Errorf("events of archive (-internal/cli/archive.go +document):\n%s", diff)
	}
}

// TestNoFieldIsToldTwice: a second row about a field contradicts the first sooner or later.
func TestNoFieldIsToldTwice(t *testing.T) {
	header := regexp.MustCompile(`^\| (?:field|key|parameter) \|`)
	for _, path := range documents(t) {
		lines, _ := readDocument(t, path)
		told, inTable := map[string]bool{}, false
		for i, line := range lines {
			if header.MatchString(line) {
				told, inTable = map[string]bool{}, true
			}
			inTable = inTable && strings.HasPrefix(line, "|")
			if !inTable {
				continue
			}
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
			if told[cell] {
				t.Errorf("%s:%d: a second row about %s", path, i+1, cell)
			}
			told[cell] = true
		}
	}
}

// TestExitCodesTable compares the exit codes of the document with those of the command line.
func TestExitCodesTable(t *testing.T) {
	want := []string{"0"}
	code := regexp.MustCompile(`(?m)^\texit[A-Z]\w* += (\d+)$`)
	for _, match := range code.FindAllStringSubmatch(readSource(t, "internal/cli/exit.go"), -1) {
		want = append(want, match[1])
	}
	var got []string
	for _, row := range rows(t, "docs/contracts/exit-codes.md", "Exit codes") {
		got = append(got, row[0])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("codes in exit-codes.md (-internal/cli/exit.go +document):\n%s", diff)
	}
}

// TestChangelog checks the form of each entry.
func TestChangelog(t *testing.T) {
	entries, err := filepath.Glob(filepath.Join(root, "changelog/unreleased/*.md"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("no entries, %v", err)
	}
	form := regexp.MustCompile(`^kind: (enhancement|bugfix|change|security)\ncommand: .+\nbefore: (.+\n(?:  .+\n)*)now: (.+\n(?:  .+\n)*)$`)
	for _, entry := range entries {
		text, err := os.ReadFile(entry)
		if err != nil {
			t.Fatal(err)
		}
		if !form.Match(text) {
			t.Errorf("%s is not of the form kind, command, before, now", filepath.Base(entry))
		}
	}
}

// TestPageShape holds our page to the shape of the one that it is a version of.
func TestPageShape(t *testing.T) {
	lines, found := readDocument(t, "docs/guide/backups.md")
	var got []string
	for _, line := range prose(lines, found) {
		if strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "## ") {
			got = append(got, line)
		}
	}
	want := []string{"# Backups", "## Creating an **etcd** snapshot", "## Restoring a snapshot"}
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("headings are %q, want them to start with %q", got, want)
	}
}
