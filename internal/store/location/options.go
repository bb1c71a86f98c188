package location

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// concern is what an option is about.
type concern int

const (
	// ofPlace are options that tell two places apart, as a server does.
	ofPlace concern = iota
	// ofMachine are those that only this machine is about.
	ofMachine
	// ofFile are those of them that name a file, by an absolute path: a relative one would be another for each agent.
	ofFile
)

// option is one that an address may have.
type option struct {
	name  string
	value *string // "" when it is not given
	about concern
}

// Names of options that several schemes have.
const (
	optEndpoint    = "endpoint"
	optCAFile      = "ca-file"
	optCredentials = "credentials-file"
)

// readOptions reads what follows the ? of an address. Its errors show no values.
func readOptions(u *url.URL, form string, options []option) error {
	given, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Opaque != "" {
		return errors.New("want " + form)
	}
	var names []string
	for _, o := range options {
		names = append(names, o.name)
		values, is := given[o.name]
		delete(given, o.name)
		switch {
		case !is:
			continue
		case len(values) > 1 || values[0] == "":
			return fmt.Errorf("option %q must be given once, with a value", o.name)
		case o.about == ofFile && !filepath.IsAbs(values[0]):
			return fmt.Errorf("option %q must be an absolute path", o.name)
		}
		*o.value = values[0]
	}
	slices.Sort(names)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		return fmt.Errorf("option %q is not known; known are %s", name, strings.Join(names, ", "))
	}
	return nil
}

// forget empties the options that are about this machine only.
func forget(options []option) {
	for _, o := range options {
		if o.about != ofPlace {
			*o.value = ""
		}
	}
}

// format writes an address. Its path is below a slash; "" is none.
func format(u url.URL, path string, options []option) string {
	query := url.Values{}
	for _, o := range options {
		if *o.value != "" {
			query.Set(o.name, *o.value)
		}
	}
	// Colons and slashes need no escape there, and people read this.
	u.RawQuery = strings.NewReplacer("%3A", ":", "%2F", "/").Replace(query.Encode())
	if path != "" {
		u.Path = "/" + path
	}
	return u.String()
}
