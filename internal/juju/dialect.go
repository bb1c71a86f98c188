package juju

import "fmt"

// Dialect is a vintage of Juju's command line.
type Dialect int

const (
	// Legacy is Juju 2.3 to 2.6, the dialect of the backups page: tasks are known by UUID, results by unit tag.
	Legacy Dialect = iota
	// Juju3 is Juju 3: tasks and operations are known by small numbers, results by unit name.
	Juju3
)

// UsageError says that the command line itself is wrong: nothing was asked of any agent, and the exit code is 2. Every
// other error of this package is one of the run, exit code 1.
type UsageError struct {
	// Text is the whole message, in Juju's words where Juju has some.
	Text string
}

// Error gives the message as it is printed after "ERROR ".
func (e *UsageError) Error() string { return e.Text }

func usagef(format string, args ...any) error {
	return &UsageError{Text: fmt.Sprintf(format, args...)}
}
