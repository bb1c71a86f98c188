package segment

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
)

// makeFixtures writes fixtures that are not there yet. Those that are there are never written again: they stand for what
// is in somebody's repository.
var makeFixtures = flag.Bool("make-fixtures", false, "write the fixtures that are missing in testdata")

// fixtures are segments of format v1, with the sha256 that they have for ever.
var fixtures = []struct {
	name, sha256 string
	content      func(testing.TB) line
}{
	{"v1-small", "ebc7c52c127f03f3668ac80f1670307b859aeaedb396fe26b992d4bd68302517", func(testing.TB) line { return small() }},
	{"v1-one", "92880aa09af4608e7c54c2b3d09beeb686811e7a3f0d850074c625b103ded9b3", func(testing.TB) line {
		return line{batches: []batch{{[]history.Event{{Revision: 1, Key: []byte{0}, Tombstone: true}}, day, day}}}
	}},
	{"v1-wide", "747fe8522bd2210fedbed0ee94a46c0d65b0680089bcdd22a799ab22ebd913c7", wide},
}

// wide has long keys and values, long transactions, and numbers of every length. It uses no random numbers, so that it
// is the same with every release of Go.
func wide(testing.TB) line {
	l := line{leases: []history.Lease{{ID: -1 << 62, TTL: 1}, {ID: 3}, {ID: 1 << 62, TTL: 1 << 40}}}
	const first = 1 << 40
	for i := range 40 {
		revision := history.Revision(first + i)
		var events []history.Event
		for sub := range 1 + i%3*i*4 {
			e := history.Event{Revision: revision, Sub: int64(sub), Key: bytes.Repeat([]byte{byte(i % 5), 0xff, '\n'}, 1+sub%50)}
			e.Key = append(e.Key, byte(sub), byte(sub>>8))
			if sub%7 == 3 {
				e.Tombstone = true
			} else {
				e.CreateRevision, e.Version = revision>>(sub%41), int64(1+i<<(sub%50))
				e.Value = bytes.Repeat(e.Key, sub%4)
			}
			if !e.Tombstone && sub%11 < 3 {
				e.Lease = l.leases[sub%11].ID
			}
			events = append(events, e)
		}
		at := day.Add(time.Duration(i*i*i*i) * time.Millisecond)
		l.batches = append(l.batches, batch{events, at.Add(-time.Duration(i%4) * time.Hour), at})
	}
	return l
}

func TestFixtures(t *testing.T) {
	for _, f := range fixtures {
		name := filepath.Join("testdata", f.name+".seg")
		l := f.content(t)
		want, _ := encoded(t, builder(t, l.batches), l.leases)
		if _, err := os.Stat(name); os.IsNotExist(err) && *makeFixtures {
			must(t, os.WriteFile(name, want, 0o600))
		}
		segment, err := os.ReadFile(name)
		must(t, err)
		if sum := sha256.Sum256(segment); hex.EncodeToString(sum[:]) != f.sha256 {
			t.Errorf("%s has sha256 %x: fixtures are never written again", name, sum)
		}
		events, s := decoded(t, segment)
		equalEvents(t, sortedEvents(l.events()), events)
		checkTimes(t, l, s.Head)
		// As long as v1 is what is written.
		if !bytes.Equal(want, segment) {
			t.Errorf("%s: its content is now written as other bytes", name)
		}
	}
}
