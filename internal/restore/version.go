package restore

import (
	"fmt"
	"regexp"
	"strconv"
)

// Minor is a minor version of etcd, such as 3.5. What etcd keeps on disk changes with these only. Zero means "not known".
type Minor struct{ Major, Minor int }

// oldest is the oldest version that a restore can be for.
var oldest = Minor{Major: 3, Minor: 4}

var minorPattern = regexp.MustCompile(`^v?([0-9]{1,4})\.([0-9]{1,4})(\.[0-9]+)?([-+][0-9A-Za-z.+-]+)?$`)

// ParseMinor reads "3.5", "3.5.35", "v3.5.35" or "3.6.0-rc.1".
func ParseMinor(s string) (Minor, error) {
	match := minorPattern.FindStringSubmatch(s)
	if match == nil {
		return Minor{}, fmt.Errorf("parse etcd version %q: want one like 3.5 or 3.5.35", s)
	}
	major, _ := strconv.Atoi(match[1]) // The pattern allows nothing else.
	minor, _ := strconv.Atoi(match[2])
	return Minor{Major: major, Minor: minor}, nil
}

// IsZero tells whether the version is not known.
func (m Minor) IsZero() bool { return m == Minor{} }

// String gives "3.5".
func (m Minor) String() string {
	if m.IsZero() {
		return "unknown"
	}
	return fmt.Sprintf("%d.%d", m.Major, m.Minor)
}

// Compatible tells whether an etcd of the version target may open data that source has written. The note, when there is
// one, is to be shown: it says that the data will be upgraded. etcd itself does not always refuse what it cannot read, so
// everything that is not known to work is an error.
func Compatible(source, target Minor) (note string, err error) {
	switch {
	case source.IsZero():
		return "", fmt.Errorf("the etcd version that wrote the data is not known; give it as source-version=")
	case target.IsZero():
		return "", fmt.Errorf("the etcd version that is to open the data of etcd %s is not known", source)
	case source == target:
		return "", nil
	case source.Major != target.Major:
		return "", fmt.Errorf("data of etcd %s cannot be opened by etcd %s: another major version", source, target)
	case source.Minor > target.Minor:
		return "", fmt.Errorf("data of etcd %s cannot be opened by etcd %s: it is older", source, target)
	}
	return fmt.Sprintf("data of etcd %s will be opened by etcd %s and cannot go back", source, target), nil
}
