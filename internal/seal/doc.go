// Package seal is the envelope of one stored object: a stream is compressed in independent zstd frames and encrypted with
// age on the way in, and decrypted, decompressed and checked on the way out. Both directions run on several cores and in
// constant memory.
//
// It sits between whoever has the plain bytes (a snapshot on its way into a repository, a reader of one) and the store.
// Writer seals and Reader unseals a stream; ReaderAt reads parts of an object. Stock tools read it too: age -d, zstd -d.
//
// The layout, numbers little-endian, sizes in bytes; docs/formats/sealed-object.md says more:
//
//	object   age header and pieces of 64 KiB around the zstd stream, or the zstd stream alone
//	stream   frames, then the index
//	frame    4 magic FD2FB528 | 1 descriptor: single segment, checksum | 1, 2, 4 or 8 size of the content | blocks
//	         4 low half of the xxh64 of the content
//	block    3 bits: 0 last | 1-2 kind | 3-23 size | its bytes
//	index    4 magic 184D2A5E | 4 size of what follows | an entry for each frame
//	         4 number of frames | 1 descriptor: 80 | 4 magic 8F92EAB1
//	entry    4 size of the frame | 4 size of its content | 4 the frame's last 4 bytes
//
// Frames and index are the "zstd seekable format"; all other zstd tools skip the index. A frame has 1 byte to 16 MiB of
// content and is a single segment with checksum; an object without content has no frame. Readers accept nothing else.
//
// Each type says whether it is safe for concurrent use. Every byte that comes from a source is hostile until it is
// checked: it gives an error, never a panic, and no size is believed before it was compared with a limit.
//
// Not promised: where an object is from. Anybody can encrypt to a public key, and an object that is not encrypted has
// only checksums. Whoever cares keeps a signed sha256 of the object, as package repository does. The length of an object
// shows how long its content is and how well it compresses. Nothing is retried, and nothing is erased from memory.
package seal
