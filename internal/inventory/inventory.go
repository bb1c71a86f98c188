// Package inventory is the list of what Holdfast manages from this machine: one model, its applications, their units and
// how each unit is reached. It is one YAML file, $HOLDFAST_HOME/inventory.yaml, that people may read and edit by hand.
//
// It sits under the commands that deploy, remove and call units. Inventory is a plain value for one goroutine; File is
// safe for concurrent use, also by several processes. Not promised: that comments in the file outlive a change.
package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// DefaultModel is the name of the model where nobody chose one.
const DefaultModel = "default"

// ErrNotFound means that the inventory has no such application or unit.
var ErrNotFound = errors.New("not found")

// Inventory is the content of the file.
type Inventory struct {
	Model string `yaml:"model"`
	// Retired is the next unit number of each application that was removed, so that one deployed later under the same
	// name goes on counting: a unit's name never means two units.
	Retired map[string]int `yaml:"retired,omitempty"`
	// Applications are by name.
	Applications map[string]*Application `yaml:"applications"`
}

// Application is a group of units: one etcd cluster.
type Application struct {
	// NextUnit is the number of the next unit; it only rises.
	NextUnit int `yaml:"next-unit"`
	// Units are by number.
	Units map[int]unit.Record `yaml:"units"`
}

// Names are the applications, sorted.
func (inv *Inventory) Names() []string { return slices.Sorted(maps.Keys(inv.Applications)) }

// Application gives an application, which is the inventory's own: a change in it is a change of the inventory.
func (inv *Inventory) Application(name string) (*Application, error) {
	app, ok := inv.Applications[name]
	if !ok {
		return nil, fmt.Errorf("application %q %w", name, ErrNotFound)
	}
	return app, nil
}

// Units are the units of an application, in the order of their numbers.
func (inv *Inventory) Units(application string) ([]unit.Name, error) {
	app, err := inv.Application(application)
	if err != nil {
		return nil, err
	}
	var names []unit.Name
	for _, number := range slices.Sorted(maps.Keys(app.Units)) {
		names = append(names, unit.Name{Application: application, Number: number})
	}
	return names, nil
}

// Unit gives a copy of a unit's record.
func (inv *Inventory) Unit(name unit.Name) (unit.Record, error) {
	app, ok := inv.Applications[name.Application]
	if ok {
		if record, ok := app.Units[name.Number]; ok {
			return record, nil
		}
	}
	return unit.Record{}, fmt.Errorf("unit %q %w", name.String(), ErrNotFound)
}

// AddApplication adds an application without units.
func (inv *Inventory) AddApplication(name string) (*Application, error) {
	if !unit.ValidApplication(name) {
		return nil, fmt.Errorf("add application %q: want lowercase letters, digits and single hyphens, a letter first", name)
	}
	if inv.Applications[name] != nil {
		return nil, fmt.Errorf("cannot add application %q: application already exists", name)
	}
	app := &Application{NextUnit: inv.Retired[name], Units: map[int]unit.Record{}}
	delete(inv.Retired, name)
	if inv.Applications == nil {
		inv.Applications = map[string]*Application{}
	}
	inv.Applications[name] = app
	return app, nil
}

// RemoveApplication removes an application with all its units.
func (inv *Inventory) RemoveApplication(name string) error {
	app, err := inv.Application(name)
	if err != nil {
		return err
	}
	if inv.Retired == nil {
		inv.Retired = map[string]int{}
	}
	inv.Retired[name] = app.NextUnit
	delete(inv.Applications, name)
	return nil
}

// AddUnit takes the next unit number of an application. The number is used up even if no record follows by SetUnit.
func (inv *Inventory) AddUnit(application string) (unit.Name, error) {
	app, err := inv.Application(application)
	if err != nil {
		return unit.Name{}, err
	}
	name := unit.Name{Application: application, Number: app.NextUnit}
	app.NextUnit++
	return name, nil
}

// SetUnit stores the record of a unit whose number AddUnit gave.
func (inv *Inventory) SetUnit(name unit.Name, record unit.Record) error {
	app, err := inv.Application(name.Application)
	if err != nil {
		return err
	}
	if name.Number < 0 || name.Number >= app.NextUnit {
		return fmt.Errorf("set unit %q: the next unit is number %d", name.String(), app.NextUnit)
	}
	if app.Units == nil {
		app.Units = map[int]unit.Record{}
	}
	app.Units[name.Number] = record
	return nil
}

// RemoveUnit removes a unit. Its number is not used again.
func (inv *Inventory) RemoveUnit(name unit.Name) error {
	if _, err := inv.Unit(name); err != nil {
		return err
	}
	delete(inv.Applications[name.Application].Units, name.Number)
	return nil
}

// Validate names every bad field, one line each, in the order of the file.
func (inv *Inventory) Validate() error {
	var bad []error
	if inv.Model == "" {
		bad = append(bad, errors.New("model: missing"))
	}
	for _, name := range slices.Sorted(maps.Keys(inv.Retired)) {
		switch {
		case !unit.ValidApplication(name) || inv.Retired[name] < 0:
			bad = append(bad, fmt.Errorf("retired.%s: want an application and its next unit number, got %d", name, inv.Retired[name]))
		case inv.Applications[name] != nil:
			bad = append(bad, fmt.Errorf("retired.%s: the application exists", name))
		}
	}
	agents := map[string]string{} // Which unit has an agent address, to find two that share one.
	for _, name := range inv.Names() {
		for _, err := range inv.Applications[name].check(name, agents) {
			bad = append(bad, fmt.Errorf("applications.%s%w", name, err))
		}
	}
	return errors.Join(bad...)
}

// check gives the bad fields of an application, each with its path below the application's name.
func (app *Application) check(name string, agents map[string]string) (bad []error) {
	if !unit.ValidApplication(name) {
		bad = append(bad, errors.New(": no application can have this name"))
	}
	if app == nil {
		return append(bad, errors.New(": empty"))
	}
	if app.NextUnit < 0 {
		bad = append(bad, fmt.Errorf(".next-unit: %d is negative", app.NextUnit))
	}
	members := map[string]int{}
	for _, number := range slices.Sorted(maps.Keys(app.Units)) {
		record, at := app.Units[number], fmt.Sprintf(".units.%d", number)
		if number < 0 || number >= app.NextUnit {
			bad = append(bad, fmt.Errorf("%s: want a number below next-unit, %d", at, app.NextUnit))
		}
		for _, err := range split(record.Validate()) {
			bad = append(bad, fmt.Errorf("%s.%w", at, err))
		}
		this := unit.Name{Application: name, Number: number}.String()
		if other, taken := agents[record.Agent]; taken {
			bad = append(bad, fmt.Errorf("%s.agent: %q is the agent of %s already", at, record.Agent, other))
		}
		agents[record.Agent] = cmp.Or(agents[record.Agent], this)
		if other, taken := members[record.Member]; taken {
			bad = append(bad, fmt.Errorf("%s.name: %q is the member of unit %d already", at, record.Member, other))
		}
		members[record.Member] = number
	}
	return bad
}

// split takes a joined error apart.
func split(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
