package juju

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v2"
)

// errParamsNotMap is what Juju says of parameters that are not a map, or that have keys which are not strings.
var errParamsNotMap = errors.New("params must contain a YAML map with string keys")

// ParamOptions say how the parameters of a Request are read.
type ParamOptions struct {
	// File is the content of the file given with --params; nil when none was given.
	File []byte
	// StringArgs keeps the values of key=value arguments as they are written instead of reading them as YAML.
	StringArgs bool
	// Text names the parameters that the action declares as strings. What YAML would make of their key=value arguments
	// counts only when it is a string: max-rate=0 and source-version=3.10 would otherwise be numbers, the latter 3.1.
	Text []string
}

// Params gives the parameters of the request: those of the file, overridden and added to by the key=value arguments in
// their order. A later scalar replaces a map and a later map a scalar. The map is the caller's; it and all maps inside
// are map[string]any. Defaults are not filled in and nothing is checked against an action's schema.
//
// A value with nothing after the "=" is the empty string. (YAML would make it null, which no action takes.)
func (r Request) Params(o ParamOptions) (map[string]any, error) {
	params := map[string]any{}
	if o.File != nil {
		var err error
		if params, err = parseParamsFile(o.File); err != nil {
			return nil, err
		}
	}
	for _, arg := range r.args {
		value, err := arg.value(o)
		if err != nil {
			return nil, err
		}
		setPath(params, arg.path, value)
	}
	return params, nil
}

func (arg argument) value(o ParamOptions) (any, error) {
	if o.StringArgs || arg.text == "" {
		return arg.text, nil
	}
	value, err := parseValue([]byte(arg.text))
	if len(arg.path) == 1 && slices.Contains(o.Text, arg.path[0]) {
		if text, isText := value.(string); isText && err == nil {
			return text, nil
		}
		return arg.text, nil
	}
	if err != nil {
		return nil, fmt.Errorf("parse value of %q: %w", strings.Join(arg.path, "."), err)
	}
	return value, nil
}

func parseParamsFile(content []byte) (map[string]any, error) {
	value, err := parseValue(content)
	if err != nil {
		return nil, err
	}
	params, ok := value.(map[string]any)
	if !ok {
		return nil, errParamsNotMap
	}
	return params, nil
}

// parseValue reads one YAML document. A key that is there twice is an error.
func parseValue(text []byte) (any, error) {
	var raw any
	if err := yaml.UnmarshalStrict(text, &raw); err != nil {
		return nil, err
	}
	return withStringKeys(raw)
}

// withStringKeys turns the map[any]any that the YAML package makes into map[string]any, all the way down.
func withStringKeys(value any) (any, error) {
	switch v := value.(type) {
	case map[any]any:
		m := make(map[string]any, len(v))
		for key, inner := range v {
			name, ok := key.(string)
			if !ok {
				return nil, errParamsNotMap
			}
			converted, err := withStringKeys(inner)
			if err != nil {
				return nil, err
			}
			m[name] = converted
		}
		return m, nil
	case []any:
		list := make([]any, len(v))
		for i, inner := range v {
			converted, err := withStringKeys(inner)
			if err != nil {
				return nil, err
			}
			list[i] = converted
		}
		return list, nil
	default:
		return value, nil
	}
}

// setPath stores value under a path of keys and makes the maps on the way.
func setPath(m map[string]any, path []string, value any) {
	for _, key := range path[:len(path)-1] {
		inner, ok := m[key].(map[string]any)
		if !ok {
			inner = map[string]any{}
			m[key] = inner
		}
		m = inner
	}
	m[path[len(path)-1]] = value
}
