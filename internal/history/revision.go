// Package history holds the values that the rest of Holdfast talks in when it speaks of the life of a keyspace.
//
// It is pure: no input, no output, no clock. Its values are safe to copy and to use from several goroutines.
package history

import "strconv"

// Revision is an etcd main revision: a counter that each write transaction of a cluster raises by one.
// Kubernetes shows it as the resource version. Zero means "none".
type Revision int64

// IsZero tells whether r stands for "no revision".
func (r Revision) IsZero() bool { return r == 0 }

// String gives the decimal form that etcdctl and Kubernetes print.
func (r Revision) String() string { return strconv.FormatInt(int64(r), 10) }
