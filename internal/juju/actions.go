package juju

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/holdfast-project/holdfast/internal/action"
)

// ActionsOptions are the flags of list-actions and actions.
type ActionsOptions struct {
	// Schema asks for the whole schema of every action.
	Schema bool
	// Format is Tabular, YAML or JSON; empty means Tabular, or YAML with Schema.
	Format Format
}

// Validate says whether the flags go together. The error is a *UsageError.
func (o ActionsOptions) Validate() error {
	if o.Format != "" {
		if _, err := ParseFormat(string(o.Format), Tabular, YAML, JSON); err != nil {
			return err
		}
	}
	if o.Schema && o.Format == Tabular {
		return usagef("full schema not compatible with tabular output")
	}
	return nil
}

// WriteActions writes the actions of an application: a table of names and descriptions in natural order, the same as a
// map, or their schemas. The caller has said o.Validate. For no actions at all see NoActions.
func WriteActions(w io.Writer, specs []action.Spec, o ActionsOptions) error {
	if o.Schema {
		schemas := map[string]any{}
		for _, s := range specs {
			schemas[s.Name] = s.Schema()
		}
		if o.Format == "" {
			o.Format = YAML
		}
		return encode(w, o.Format, schemas)
	}
	if o.Format == YAML || o.Format == JSON {
		descriptions := map[string]any{}
		for _, s := range specs {
			descriptions[s.Name] = describe(s)
		}
		return encode(w, o.Format, descriptions)
	}
	sorted := slices.SortedFunc(slices.Values(specs), func(a, b action.Spec) int {
		return compareNatural(a.Name, b.Name)
	})
	t := table{header: []string{"Action", "Description"}}
	for _, s := range sorted {
		t.add(s.Name, describe(s))
	}
	return t.write(w)
}

// NoActions is what goes to stderr when an application has no actions.
func NoActions(application string) string {
	return fmt.Sprintf("No actions defined for %s.", application)
}

// describe gives a description of one line.
func describe(s action.Spec) string {
	if line := strings.Join(strings.Fields(s.Description), " "); line != "" {
		return line
	}
	return "No description"
}
