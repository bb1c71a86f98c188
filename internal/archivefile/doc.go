// Package archivefile is the file that the snapshot action makes and the restore action takes: a gzipped tar with
// exactly "./" and "./db", or for the v2 store "./" and "./member/…".
//
// Beside an archive lies a SideFile that says more about it.
//
// Write and Walk are streaming and keep no state between calls; a Reader, which Walk is made of, belongs to one goroutine.
// What they read is hostile until shown otherwise: every name, type and size is checked before anything is handed on, and
// nothing is ever written by this package. It does not judge whether ./db is a sound backend; the snapshot package does.
package archivefile
