// Package etcdproc knows etcd as a program: the server inside this binary, the command line of a unit's server, whichever
// etcd that is, and the version of a server program.
//
// It is the only package that imports etcd's server. Nothing here starts a process that stays: the service package does,
// with the arguments from here. All functions but Main are safe for concurrent use.
package etcdproc

import (
	"os"
	"slices"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

// Main makes this process the etcd server, with etcd's own arguments unchanged; etcd itself ends the process when the
// server ends. It is called from the main goroutine, and nothing else runs in the process then.
func Main(args []string) {
	// Parts of etcd's program read the process's arguments themselves.
	os.Args = slices.Concat([]string{"etcd"}, args)
	etcdmain.Main(os.Args)
}

// Version is the version of the server inside this program, such as "3.7.3".
func Version() string { return version.Version }
