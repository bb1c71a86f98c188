// Package segment is the plain file format of a segment: all events of a closed range of revisions, sorted by key, with
// the times at which the revisions came about and the leases that keys were attached to.
//
// It sits between whoever has events (an archiver, a merge) and whoever seals and stores bytes: a Builder collects whole
// revisions and writes them to any io.Writer, a Reader gives the events back from any io.Reader, Merge makes one segment
// of adjacent ones. Compression, encryption and names are the business of others. The order is made for compression:
// versions of one object stand side by side.
//
// The layout; "n" is a varint as of protobuf in its shortest form, other numbers are little-endian, sizes in bytes.
// docs/formats/segment.md says more:
//
//	segment  head | events | footer
//	head     8 magic "hf-seg\n" 01 | n First | n Last - First | n number of events
//	         n leases, then each: n ID - ID of the one before, the first as zigzag of its ID | n TTL in seconds
//	         n spans, then each: n (revisions - 1) * 2 + inexact | n From - From of the one before | [n To - From]
//	event    1 flags | [n bytes shared with the key before | n other bytes | those bytes]
//	         n revision, counted from First, or from the one before of the same key | [n sub - 1]
//	         [n revision - create revision | n version - 1] | [n index of the lease] | [n size of the value | the value]
//	flags    1 tombstone | 2 same key | 4 has a sub | 8 has a lease | 10 first version | 20 next version
//	footer   8 number of events | 8 bytes of keys | 8 bytes of values | 32 sha256 of all before it
//
// The form is canonical: the same events, times and leases always make the same bytes, and a Reader accepts no others.
// So a merge of segments has the bytes that one Builder would have made of all their revisions.
//
// Each type belongs to one goroutine at a time. Every byte that comes from a source is hostile until it is checked: it
// gives an error, never a panic, and memory is bounded by the bytes that came, and by the size that somebody vouched for.
//
// Not promised: where a segment is from. Its sha256 finds damage; whoever cares keeps a signed sha256 of the object, as
// package repository does. That create revisions and versions of a key fit those of its other events is not checked
// either: they are what the cluster gave. Nothing is erased from memory.
package segment
