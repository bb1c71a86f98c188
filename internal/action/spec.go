package action

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
)

// ParamType is the JSON Schema type of a parameter.
type ParamType string

// The types that a parameter can have. A Go value of each after Check: string, bool, int64, float64.
const (
	String  ParamType = "string"
	Boolean ParamType = "boolean"
	Integer ParamType = "integer"
	Number  ParamType = "number"
)

// Spec is what people see of an action: its name and the parameters it takes.
type Spec struct {
	Name        string
	Description string
	Params      []Param
}

// Param is one parameter.
type Param struct {
	Name string
	Type ParamType
	// Default is the value when none is given; nil means that the parameter is then left out.
	Default     any
	Description string
}

// namePattern is Juju's rule for names of actions and keys.
var namePattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`)

// ValidName tells whether s can name an action, a parameter or one part of a result's key. "juju" and names that start
// with "juju-" are reserved.
func ValidName(s string) bool {
	return namePattern.MatchString(s) && s != "juju" && !strings.HasPrefix(s, "juju-")
}

// Check tells whether the given parameters fit the action and gives them with the defaults of those not given. Values
// are what YAML or JSON parsing makes of them: string, bool, integers, floats. Undeclared parameters are refused. The
// error is a *ParamsError that names every problem in a fixed order. given is not changed or kept.
func (s Spec) Check(given map[string]any) (Params, error) {
	checked := make(Params, len(s.Params))
	var undeclared, misfits []string
	for _, name := range slices.Sorted(maps.Keys(given)) {
		i := slices.IndexFunc(s.Params, func(p Param) bool { return p.Name == name })
		if i < 0 {
			undeclared = append(undeclared,
				fmt.Sprintf("(root) : additional property %q is not allowed, given %s", name, showValue(given)))
			continue
		}
		value, fits := convert(given[name], s.Params[i].Type)
		if !fits {
			misfits = append(misfits,
				fmt.Sprintf("(root).%s : must be of type %s, given %s", name, s.Params[i].Type, showValue(given[name])))
			continue
		}
		checked[name] = value
	}
	if problems := slices.Concat(undeclared, misfits); len(problems) > 0 {
		return nil, &ParamsError{Problems: problems}
	}
	for _, p := range s.Params {
		if _, found := checked[p.Name]; found || p.Default == nil {
			continue
		}
		value, fits := convert(p.Default, p.Type)
		if !fits {
			return nil, fmt.Errorf("default of parameter %q of action %q is not of type %s", p.Name, s.Name, p.Type)
		}
		checked[p.Name] = value
	}
	return checked, nil
}

// Schema gives the JSON Schema of the parameters, in the shape that Juju prints. The caller owns it.
func (s Spec) Schema() map[string]any {
	properties := make(map[string]any, len(s.Params))
	for _, p := range s.Params {
		property := map[string]any{"type": string(p.Type), "description": p.Description}
		if p.Default != nil {
			property["default"] = p.Default
		}
		properties[p.Name] = property
	}
	return map[string]any{
		"title":                s.Name,
		"description":          s.Description,
		"type":                 "object",
		"properties":           properties,
		"additionalProperties": false,
	}
}

// validate finds mistakes in the definition itself.
func (s Spec) validate() error {
	if !ValidName(s.Name) {
		return fmt.Errorf("action %q: not a valid name", s.Name)
	}
	seen := map[string]bool{}
	for _, p := range s.Params {
		switch {
		case !ValidName(p.Name):
			return fmt.Errorf("action %q: parameter %q: not a valid name", s.Name, p.Name)
		case seen[p.Name]:
			return fmt.Errorf("action %q: parameter %q is declared twice", s.Name, p.Name)
		case !slices.Contains([]ParamType{String, Boolean, Integer, Number}, p.Type):
			return fmt.Errorf("action %q: parameter %q: unknown type %q", s.Name, p.Name, p.Type)
		}
		seen[p.Name] = true
	}
	_, err := s.Check(nil)
	return err
}

// convert gives value as the Go type that stands for t, and whether it is of that type at all. As in JSON Schema, 3.0
// is an integer and "3" is not.
func convert(value any, t ParamType) (converted any, fits bool) {
	switch t {
	case String:
		converted, fits = value.(string)
	case Boolean:
		converted, fits = value.(bool)
	case Integer:
		converted, fits = toInteger(value)
	case Number:
		converted, fits = toNumber(value)
	}
	return converted, fits
}

// toInteger keeps every bit of an integer: revisions do not fit a float64.
func toInteger(value any) (int64, bool) {
	switch v := value.(type) {
	case int:
		return int64(v), true
	case int64:
		return v, true
	case uint64:
		return int64(v), v <= math.MaxInt64
	case float64:
		// -2^63 is a float64, 2^63-1 is not: the limit above is 2^63, excluded.
		return int64(v), v == math.Trunc(v) && v >= math.MinInt64 && v < -math.MinInt64
	}
	return 0, false
}

// toNumber refuses what JSON cannot say.
func toNumber(value any) (float64, bool) {
	switch v := value.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	}
	return 0, false
}

// showValue gives a value as JSON, or as Go shows it where JSON has no form for it.
func showValue(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}
