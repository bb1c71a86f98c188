// Package unit names the units that Holdfast manages and holds the record of each: where its agent listens and how
// the etcd member beside it is run.
//
// It is pure: no input, no output. Records are plain values; whoever reads one owns the copy.
package unit

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Name is the name of a unit: an application and a number that is never used again, written "etcd/0".
type Name struct {
	Application string
	Number      int
}

// applicationPattern is Juju's rule for application names.
var applicationPattern = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]*[a-z][a-z0-9]*)*$`)

// ValidApplication tells whether s can name an application.
func ValidApplication(s string) bool { return applicationPattern.MatchString(s) }

// ParseName reads "etcd/0". The number has no sign and no leading zero.
func ParseName(s string) (Name, error) {
	application, number, found := strings.Cut(s, "/")
	n, err := strconv.Atoi(number)
	if !found || err != nil || n < 0 || strconv.Itoa(n) != number || !ValidApplication(application) {
		return Name{}, fmt.Errorf("parse unit name %q: want APPLICATION/NUMBER, for example etcd/0", s)
	}
	return Name{Application: application, Number: n}, nil
}

// IsZero tells whether n names no unit.
func (n Name) IsZero() bool { return n == Name{} }

// String gives "etcd/0".
func (n Name) String() string { return n.Application + "/" + strconv.Itoa(n.Number) }

// Tag gives "unit-etcd-0", the form that results are keyed by.
func (n Name) Tag() string { return "unit-" + n.Dir() }

// Dir gives "etcd-0", the name of the unit's folder and of its etcd member.
func (n Name) Dir() string { return n.Application + "-" + strconv.Itoa(n.Number) }

// Compare orders by application, then by number.
func (n Name) Compare(other Name) int {
	return cmp.Or(cmp.Compare(n.Application, other.Application), cmp.Compare(n.Number, other.Number))
}

// MarshalText makes a Name a plain string in JSON and YAML.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (n *Name) UnmarshalText(text []byte) error {
	parsed, err := ParseName(string(text))
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}
