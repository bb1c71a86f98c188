package juju

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// leaderWord stands for the number of the leading unit in "etcd/leader".
const leaderWord = "leader"

// UnitRef is a unit as people write it: by its name, "etcd/0", or as the leader of its application, "etcd/leader".
type UnitRef struct {
	// Unit is the unit; of a leader only Unit.Application counts.
	Unit unit.Name
	// Leader asks for whichever unit leads the application when the command runs.
	Leader bool
}

// ParseUnitRef reads "etcd/0" or "etcd/leader".
func ParseUnitRef(s string) (UnitRef, error) {
	application, number, _ := strings.Cut(s, "/")
	if number == leaderWord && unit.ValidApplication(application) {
		return UnitRef{Unit: unit.Name{Application: application}, Leader: true}, nil
	}
	name, err := unit.ParseName(s)
	if err != nil {
		return UnitRef{}, err
	}
	return UnitRef{Unit: name}, nil
}

// String gives what ParseUnitRef read.
func (r UnitRef) String() string {
	if r.Leader {
		return r.Unit.Application + "/" + leaderWord
	}
	return r.Unit.String()
}

// Resolve turns references into names, in the order given. It asks leader for each "etcd/leader"; leader reports false
// when it cannot tell. A unit that is meant twice, once by name and once as the leader, is there once: results are kept
// by unit.
func Resolve(refs []UnitRef, leader func(application string) (unit.Name, bool)) ([]unit.Name, error) {
	names := make([]unit.Name, 0, len(refs))
	for _, ref := range refs {
		name := ref.Unit
		if ref.Leader {
			found, ok := leader(ref.Unit.Application)
			if !ok {
				return nil, fmt.Errorf("could not determine leader for %q", ref.Unit.Application)
			}
			name = found
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// ErrNotDefined is the error for an action that the unit does not have, in Juju's words.
func ErrNotDefined(name string, on unit.Name) error {
	return fmt.Errorf("action %q not defined on unit %q", name, on)
}
