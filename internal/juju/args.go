package juju

import (
	"slices"
	"strings"

	"github.com/holdfast-project/holdfast/internal/action"
)

// Request is what run-action and run are asked for: an action on units, with parameters.
type Request struct {
	// Units are the units in the order given, each once, at least one.
	Units []UnitRef
	// Action is the name of the action, well formed but perhaps unknown to the units.
	Action string

	args []argument
}

// argument is one key.key=value of the command line.
type argument struct {
	path []string
	text string
}

// ParseRequest reads the words that stay of a run-action or run command line when its flags are taken out: units, then
// the action, then key=value parameters. Every error is a *UsageError.
//
// Words are told apart by their form alone, as Juju does. So a duration that is not glued to the flag, "--wait 10s",
// is read as one more parameter and is refused for having no "=".
func ParseRequest(d Dialect, words []string) (Request, error) {
	var r Request
	rest := words
	for r.Action == "" && len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		ref, err := ParseUnitRef(word)
		switch {
		case err == nil && slices.Contains(r.Units, ref):
			return Request{}, usagef("unit %q specified twice", word)
		case err == nil:
			r.Units = append(r.Units, ref)
		case action.ValidName(word):
			r.Action = word
		default:
			return Request{}, usagef("invalid unit or action name %q", word)
		}
	}
	if len(r.Units) == 0 {
		return Request{}, usagef("no unit specified")
	}
	if r.Action == "" {
		return Request{}, usagef("no action specified")
	}
	if d == Juju3 && slices.ContainsFunc(r.Units, func(ref UnitRef) bool {
		return ref.Unit.Application != r.Units[0].Unit.Application
	}) {
		return Request{}, usagef("all units must be of the same application")
	}
	for _, word := range rest {
		arg, err := parseArgument(d, word)
		if err != nil {
			return Request{}, err
		}
		r.args = append(r.args, arg)
	}
	return r, nil
}

// parseArgument reads one key.key=value. Only the first "=" divides; the value may hold more.
func parseArgument(d Dialect, word string) (argument, error) {
	keys, text, found := strings.Cut(word, "=")
	if !found {
		form := "key...=value"
		if d == Juju3 {
			form = "key.key.key...=value"
		}
		return argument{}, usagef("argument %q must be of the form %s", word, form)
	}
	path := strings.Split(keys, ".")
	for _, key := range path {
		if !action.ValidName(key) {
			return argument{}, usagef("key %q must start and end with lowercase alphanumeric, "+
				"and contain only lowercase alphanumeric and hyphens", key)
		}
	}
	return argument{path: path, text: text}, nil
}
