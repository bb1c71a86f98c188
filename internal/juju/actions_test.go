package juju

import (
	"bytes"
	"testing"

	"github.com/holdfast-project/holdfast/internal/action"
)

func specs() []action.Spec {
	return []action.Spec{
		{Name: "step-10", Description: "The tenth\nstep."},
		{Name: "snapshot", Description: "Take a snapshot of the database.", Params: []action.Param{
			{Name: "target", Type: action.String, Default: "/home/ubuntu/etcd-snapshots", Description: "Folder to write to."},
			{Name: "max-rate", Type: action.String, Description: "Bytes of database per second."},
		}},
		{Name: "step-2"},
	}
}

func TestWriteActions(t *testing.T) {
	for _, test := range []struct {
		o    ActionsOptions
		want string
	}{
		{ActionsOptions{}, `Action    Description
snapshot  Take a snapshot of the database.
step-2    No description
step-10   The tenth step.
`},
		{ActionsOptions{Format: Tabular}, `Action    Description
snapshot  Take a snapshot of the database.
step-2    No description
step-10   The tenth step.
`},
		{ActionsOptions{Format: YAML}, `snapshot: Take a snapshot of the database.
step-2: No description
step-10: The tenth step.
`},
		{ActionsOptions{Schema: true}, `snapshot:
  additionalProperties: false
  description: Take a snapshot of the database.
  properties:
    max-rate:
      description: Bytes of database per second.
      type: string
    target:
      default: /home/ubuntu/etcd-snapshots
      description: Folder to write to.
      type: string
  title: snapshot
  type: object
step-2:
  additionalProperties: false
  description: ""
  properties: {}
  title: step-2
  type: object
step-10:
  additionalProperties: false
  description: |-
    The tenth
    step.
  properties: {}
  title: step-10
  type: object
`},
	} {
		if err := test.o.Validate(); err != nil {
			t.Fatal(err)
		}
		same(t, written(t, func(w *bytes.Buffer) error { return WriteActions(w, specs(), test.o) }), test.want)
	}
	same(t, NoActions("etcd"), "No actions defined for etcd.")
}

func TestActionsOptionsRefused(t *testing.T) {
	checkUsage(t, ActionsOptions{Schema: true, Format: Tabular}.Validate(), "full schema not compatible with tabular output")
	checkUsage(t, ActionsOptions{Format: "xml"}.Validate(), `invalid value "xml" for option --format: unknown format "xml"`)
}

func TestCompareNatural(t *testing.T) {
	ordered := []string{"", "2", "10", "a", "a-2", "a-02b", "a-10", "a-10-1", "ab", "b", "b00000000000000000000003"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := compareNatural(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("compareNatural(%q, %q) = %d", a, b, got)
			}
		}
	}
}
