// Package merge makes few large segments of the many small ones of an archive: those of an ended minute, hour and day become
// one each, with the same events and times.
//
// It is the part of package archive that a command line shares with the archiver. Plan is pure. Look reads what there is, and
// Run does one merge; both are safe for concurrent use, also on one repository by several processes: a merged segment is put
// if absent, and whoever comes second has worked in vain. Nothing is ever removed here.
//
// A Run takes up to mostMemory, 96 MiB, when its inputs do not compress; much less is usual. That is, of each open input:
//
//	3 * (frame + largest packed frame)    frames are 1 MiB of live segments, 128 KiB of minutes, 256 KiB of hours
//	64 KiB of plain bytes, and what the store buffers
//	4 bytes for each revision, and 2 to 4 for its time
//
// and of the output a frame or two. On the disk it takes the size of the sealed output, in a file without a name.
//
// Not promised: that a period becomes one segment. Its inputs may be too many, sealed to keys that are gone, or interrupted by
// a hole; then it becomes several, or stays as it is. Either way all of it can be restored.
package merge
