// Package juju speaks the dialects of the backups page: it reads the words of Juju's commands and writes results in
// the shapes that Juju gave them. There are two dialects over the same tasks: Legacy, the one that the page was
// written in (Juju 2.3 to 2.6: run-action, show-action-output, ...), and Juju3 (run, operations, show-task, ...).
//
// It sits between the command line, which owns flags, files and the agents' API, and package action, whose tasks it
// shows. Everything here is a pure function of its arguments or writes to the io.Writer it is given; all of it is safe
// for concurrent use.
//
// Shapes and messages were made from Juju's documentation and behaviour; no Juju controller is involved. What Juju does
// and this package deliberately does not is said at the function: a failed task exits 1, and an abbreviated id never
// stands for several tasks.
package juju
