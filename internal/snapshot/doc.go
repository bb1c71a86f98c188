// Package snapshot reads an etcd backend file (a bbolt database) as data: is it whole, which revision does it hold,
// what is in it.
//
// It sits between whoever has the bytes (a Maintenance.Snapshot stream, "./db" in an archive file) and whoever must
// judge them. A Scanner takes the bytes once, in order, and keeps a small summary of each page; Finish then walks the
// trees over the summaries. Walk and ReadContents read the same bytes a second time and give the records. Nothing is
// mapped into memory, nothing is written, and hostile bytes give an error, never a panic: memory is bounded by the
// size of the input (see DESIGN.md).
//
// The layout, numbers in the byte order of the machine that wrote them, which must be that of this one:
//
//	file     page 0 and 1 (meta), tree pages, free pages, [32 bytes: sha256 of all before, etcd's trailer]
//	page     0 id u64 | 8 flags u16 | 10 count u16 | 12 overflow u32 | 16 elements, keys and values
//	meta     16 magic u32 | 20 version u32 | 24 page size u32 | 28 flags u32 | 32 root u64 | 40 sequence u64
//	         48 freelist u64 | 56 high-water mark u64 | 64 txid u64 | 72 fnv-1a of bytes 16 to 72, u64
//	branch   0 position u32 | 4 key size u32 | 8 child page u64
//	leaf     0 flags u32 (1 is a bucket) | 4 position u32 | 8 key size u32 | 12 value size u32
//	bucket   0 root u64 | 8 sequence u64 | 16 a leaf page, when root is 0 ("inline")
//
// A position counts from the start of its own element. A page with overflow n goes on for n more pages.
//
// A Scanner belongs to one goroutine; the Index that it gives may be shared by many. Not promised: that a bit flipped
// inside a value is found in a file without a trailer, or that a page which was replaced by another from the same
// place is, when it fits and no revision is missing; bbolt keeps nothing that would tell.
package snapshot
