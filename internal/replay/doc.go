// Package replay makes the backend file of exactly one revision, from the backend file of an earlier or later one and the
// events between. No etcd runs, and no client speaks to one.
//
// It sits between whoever has the parts of a chain (a snapshot on the local disk that snapshot.Scanner has found whole, and
// segments that can be read event by event) and restore, which makes a data dir of what comes out. It knows neither
// repository nor segments: it takes small interfaces, and reads each part once.
//
// # How
//
// The segments are read from the newest to the oldest. As each is sorted by key, the last event of a key that is not after
// the target decides what the key is; whatever is older does not count any more. What lives is encoded as etcd would have
// stored it and appended to a spill file. Then the base is walked, and of the keys that nothing has decided the last
// record is found; it stays where it is. All places are then sorted by revision, and the records are written in that
// order into the pages of a new bbolt file. At last it gets the other buckets of the base.
//
//	segments, newest first --> decided keys --> spill file --.
//	base, in the order of pages --> the other keys ----------+--> places, sorted --> pages of "key" --> other buckets
//
// The result is what a compaction at the target leaves: the put that each live key has, and the deletes of the target's own
// revision, which a watch from there must still see. It is marked compacted there. With KeepHistory it is every record
// from the base's compact revision to the target instead, with the HashKV that the cluster had.
//
// # Memory
//
// No values are held. A key that was seen takes a slot in a table, of 20 bytes and one of control: 24 to 48 bytes, as the
// table is between 7/8 and 7/16 full. A record that will be written, or may be, takes 24 bytes. So a decided key takes at most
// 48 bytes, a live one at most 72. Beside that there are some buffers of together about 8 MiB and the largest record.
//
// Keys are told apart by 128 bits of a SHA-256 that a random prefix of 256 bits was put before, so that nobody can make two keys
// meet on purpose. By chance, two of n do with n²/2^129: for ten million keys, once in 10^24 replays.
//
// # Disk
//
// The spill file has what the segments add to the state at the target, and the result all of it. Both are there at once, beside
// the base: so at most twice the size of the result is needed. They are written one after the other, and read once.
//
// Backend runs in one goroutine and several may run at once. Not promised: that the events are those of the cluster. That none
// is missing, and that the bytes are what was stored, is for whoever gives them to check. And what the log does not hold is
// as it was in the base: users and roles, alarms, members, and leases that nobody could be asked about.
package replay
