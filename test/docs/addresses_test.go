package docs_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store/location"
)

// TestAddresses reads each address that the guide shows in a block, which must be in its one form, and compares the table
// of options with what an address may have.
func TestAddresses(t *testing.T) {
	const guide = "docs/guide/repository.md"
	_, found := readDocument(t, guide)
	seen := map[string]bool{}
	for _, b := range found {
		if b.language != "text" {
			continue
		}
		for _, line := range b.lines {
			at, err := location.Parse(line)
			if err != nil {
				t.Errorf("%s: %v", guide, err)
				continue
			}
			scheme, _, _ := strings.Cut(at.String(), ":")
			seen[scheme] = true
		}
	}
	knownOptions := regexp.MustCompile(`known are (.*)$`)
	table := rows(t, guide, "Where it can be")
	for _, row := range table {
		address := strings.ToLower(row[0])
		scheme, _, _ := strings.Cut(address, ":")
		if !seen[scheme] {
			t.Errorf("%s shows no address of %s", guide, scheme)
		}
		if _, err := location.Parse(address); err != nil {
			t.Errorf("%s: %s: %v", guide, row[0], err)
		}
		if row[1] == "none" {
			continue
		}
		mark := "?"
		if strings.Contains(address, "?") {
			mark = "&"
		}
		_, err := location.Parse(address + mark + "no-such-option=x")
		if err == nil {
			t.Errorf("%s: an option that is none passes", row[0])
			continue
		}
		if match := knownOptions.FindStringSubmatch(err.Error()); match == nil || match[1] != row[1] {
			t.Errorf("%s says of %s that its options are %s; %v", guide, row[0], row[1], err)
		}
	}
	_, err := location.Parse("none://")
	if err == nil || strings.Count(err.Error(), ",")+1 != len(table) {
		t.Errorf("%s has %d kinds of addresses; %v", guide, len(table), err)
	}
}
