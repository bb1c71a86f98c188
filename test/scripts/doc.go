// Package scripts runs Holdfast as a person does: the static binary, typed commands, real etcd servers. Each *.txtar file
// is a script of one command or one flow, with the exit codes, both streams and the files that are left.
//
// A script has a Holdfast home of its own, which is gone with all its processes when the script ends, however it ends. A
// process that outlives "holdfast destroy" fails the test. The commands that scripts have beside those of testscript are
// listed in commands_test.go. To run one script: go test ./test/scripts -run 'TestScripts/^scp$'
//
// Not promised: anything about a machine whose kernel forbids mount namespaces; two scripts need a small disk.
package scripts
