package snapshot

import (
	"bytes"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"google.golang.org/protobuf/proto"
)

func TestParseRecordAgreesWithProtobuf(t *testing.T) {
	rnd := newRand(t, 4)
	for range 3000 {
		rev := int64(rnd.Uint64N(1 << (1 + rnd.UintN(62))))
		want := &mvccpb.KeyValue{Key: make([]byte, 1+rnd.IntN(300)), CreateRevision: int64(rnd.Uint64()), ModRevision: rev,
			Version: int64(rnd.Uint64() >> rnd.UintN(64)), Lease: int64(rnd.Uint64() >> rnd.UintN(64)), Value: make([]byte, rnd.IntN(300))}
		b, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		k := mvcc.RevToBytes(mvcc.Revision{Main: rev, Sub: 3}, mvcc.NewRevBytes())
		got, what := parseRecord(k, b)
		if what != "" {
			t.Fatal(what)
		}
		if int64(got.Revision) != rev || got.Sub != 3 || got.Tombstone || !bytes.Equal(got.Key, want.Key) || !bytes.Equal(got.Value, want.Value) ||
			int64(got.CreateRevision) != want.CreateRevision || int64(got.ModRevision) != rev || got.Version != want.Version || got.Lease != want.Lease {
			t.Fatalf("want %v, got %+v", want, got)
		}
		// Cut or changed, it is refused or still a message; it never reads past its end.
		b = b[:rnd.IntN(len(b))]
		if len(b) > 0 {
			b[rnd.IntN(len(b))] ^= byte(rnd.Uint32())
		}
		if _, what := parseRecord(k, slices.Clip(b)); what == "" && len(b) > 0 && proto.Unmarshal(b, &mvccpb.KeyValue{}) != nil {
			t.Fatalf("protobuf refuses %x", b)
		}
	}
}

func TestParseRecordRefuses(t *testing.T) {
	good, value := record(5, 1, "k", []byte("v"))
	for name, test := range map[string]struct{ k, v []byte }{
		"short key":         {good[:16], value},
		"long key":          {append(bytes.Clone(good), 'x'), value},
		"no separator":      {bytes.Replace(good, []byte("_"), []byte("-"), 1), value},
		"negative":          {append([]byte{0x80}, good[1:]...), value},
		"other revision":    {mvcc.RevToBytes(mvcc.Revision{Main: 6}, mvcc.NewRevBytes()), value},
		"no key":            {good, []byte{3 << 3, 5}},
		"field 0":           {good, append(bytes.Clone(value), 0)},
		"endless varint":    {good, append(bytes.Clone(value), bytes.Repeat([]byte{0xff}, 20)...)},
		"huge length":       {good, []byte{5<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}},
		"group":             {good, append(bytes.Clone(value), 9<<3|3)},
		"value as a number": {good, append(bytes.Clone(value), 5<<3, 1)},
	} {
		if _, what := parseRecord(test.k, test.v); what == "" {
			t.Errorf("%s is taken", name)
		}
	}
	if r, what := parseRecord(append(bytes.Clone(good), 't'), []byte{1<<3 | 2, 1, 'k'}); what != "" || !r.Tombstone {
		t.Errorf("a tombstone: %+v %s", r, what)
	}
}

func TestKeysComeBack(t *testing.T) {
	rnd := newRand(t, 6)
	var keys [][]byte
	for range 500 {
		k := make([]byte, 1+rnd.IntN(40))
		for i := range k {
			k[i] = byte(rnd.Uint32())
		}
		if rnd.IntN(2) == 0 {
			k = mvcc.RevToBytes(mvcc.Revision{Main: int64(rnd.Uint64() >> 1), Sub: int64(rnd.Uint64() >> (1 + rnd.UintN(60)))}, mvcc.NewRevBytes())
			if rnd.IntN(2) == 0 {
				k = append(k, 't')
			}
		}
		keys = append(keys, k)
	}
	var b []byte
	var w, r keyCoder
	for _, k := range keys {
		b = w.append(b, k)
	}
	p := packed(b)
	for _, k := range keys {
		got := r.read(&p)
		if want := makeKey(k); got != want {
			t.Fatalf("%x came back as %x", k, got.slice())
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	for i := range keys[1:] {
		a, b := makeKey(keys[i]), makeKey(keys[i+1])
		if !ascending(&a, &b) || !notBelow(&b, &a) || ascending(&b, &a) && !a.cut {
			t.Fatalf("%x and %x", keys[i], keys[i+1])
		}
	}
}

func TestArena(t *testing.T) {
	rnd := newRand(t, 8)
	a := newArena()
	want := map[ref][]byte{}
	for range 5000 {
		b := make([]byte, rnd.IntN(300))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		want[a.put(b)] = bytes.Clone(b)
		r := a.intern(b)
		if again := a.intern(b); again != r {
			t.Fatal("an equal piece is kept twice")
		}
	}
	for r, b := range want {
		if r == 0 || !bytes.Equal(a.get(r), b) {
			t.Fatalf("piece %d came back as %x, want %x", r, a.get(r), b)
		}
	}
}
