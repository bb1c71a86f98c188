// Package foreign opens backup files that other tools made and gives the etcd backend in them as a stream.
//
// It is the first step of an import: Open says what the file is, the snapshot package checks the stream, and a repository
// takes it. docs/formats/imports.md has the list of forms.
//
//	file --> source (remembers errors of the disk) --> gzip, zlib, lzw, zip --> tar --> limit --> File.Read
//
// What a file is, is told by its bytes alone, down to the first page of the backend: an Open without an error means that
// there is one. Names, of the file and of what is in it, and a file of metadata beside it only add when and where the
// backup was taken; nothing is ever written, so that no name can do harm. Everything read is hostile: memory is bounded,
// whatever the file claims, and the content by archivefile.MostContent.
//
// A File belongs to one goroutine. Not promised: that the backend is sound, which the snapshot package tells at the end of
// the stream, and that times and names of nodes are true, which are hearsay.
package foreign
