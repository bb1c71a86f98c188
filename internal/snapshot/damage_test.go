package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/holdfast-project/holdfast/internal/history"
)

// small is a coherent database with every page in use, big enough to have branch pages.
func small(t testing.TB) []byte {
	e := newEtcd(t)
	e.facts("3.6.0", 2, 5)
	e.users(12)
	for i := range 200 {
		e.put(fmt.Sprint("k", i), 60, 0)
	}
	e.put("big", 9000, 0)
	if err := e.b.Defrag(); err != nil {
		t.Fatal(err)
	}
	return e.snapshot()
}

// check scans and, when that finds nothing, reads every record.
func check(b []byte) (Info, map[string]string, error) {
	s, info, err := scan(b, 1<<20, nil)
	if err != nil {
		return info, nil, err
	}
	records, err := readRecords(b, s.Index())
	return info, records, err
}

// known fails for an error that belongs to no class or cannot be read by a person.
func known(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotBackend) && !errors.Is(err, ErrTrailer) {
		t.Fatalf("error without a class: %v", err)
	}
	if text := err.Error(); strings.Contains(text, "unknown fault") || strings.Contains(text, "nothing is wrong") {
		t.Fatalf("error without a text: %v", err)
	}
}

func TestCutsAreFound(t *testing.T) {
	for _, name := range []string{"tiny", "big values", "freelist on disk"} {
		db := databases()[name](t)
		rnd := newRand(t, 1)
		var cuts []int
		for n := 0; n < len(db); n += 4096 {
			// Every page of the small ones, some of the others.
			if len(db) < 200<<10 || n < 5*4096 || rnd.IntN(len(db)/4096) < 4 {
				cuts = append(cuts, n, n+1, n+16, n+rnd.IntN(4096))
			}
		}
		for _, n := range append(cuts, len(db)-4096, len(db)-1) {
			_, _, err := check(db[:n])
			if err == nil {
				t.Fatalf("%s: cut to %d of %d bytes and nothing is found", name, n, len(db))
			}
			known(t, err)
		}
	}
}

func TestFlippedBitsAreFoundOrHarmless(t *testing.T) {
	db := small(t)
	wantInfo, wantRecords, err := check(db)
	if err != nil {
		t.Fatal(err)
	}
	rnd := newRand(t, 2)
	free := freePages(t, db)
	found, harmless := 0, 0
	flip := func(at int, bit uint, mayPass bool) {
		db[at] ^= 1 << bit
		defer func() { db[at] ^= 1 << bit }()
		info, records, err := check(db)
		if err != nil {
			known(t, err)
			found++
			return
		}
		if !mayPass {
			t.Fatalf("bit %d of byte %d of page %d: nothing is found", bit, at%4096, at/4096)
		}
		harmless++
		info.SHA256 = wantInfo.SHA256
		if diff := cmp.Diff(wantInfo, info); diff != "" {
			t.Fatalf("bit %d of byte %d of page %d (-want +got):\n%s", bit, at%4096, at/4096, diff)
		}
		changed := len(wantRecords) - len(records)
		for k, v := range wantRecords {
			if records[k] != v {
				changed++
			}
		}
		if changed > 1 {
			t.Fatalf("bit %d of byte %d of page %d changes %d records", bit, at%4096, at/4096, changed)
		}
	}
	for page := 0; page < len(db)/4096; page++ {
		at := page * 4096
		h := parseHeader(db[at:])
		switch {
		case h.id != uint64(page) || free[page]:
			continue
		case h.flags == metaPage:
			// The other meta page is taken.
			for range 60 {
				flip(at+rnd.IntN(80), uint(rnd.IntN(8)), true)
			}
			continue
		}
		for bit := range 16 * 8 {
			flip(at+bit/8, uint(bit%8), false)
		}
		for range min(20, int(h.count)*20) {
			i, b := rnd.IntN(int(h.count)), rnd.IntN(16)
			// Nothing in the file tells where the last value of a page ends; bbolt cannot tell either.
			lastSize := h.flags == leafPage && i == int(h.count)-1 && b >= 12
			flip(at+i*16+16+b, uint(rnd.IntN(8)), lastSize)
		}
	}
	if found < 1000 || harmless == 0 {
		t.Errorf("%d flips found, %d harmless: the file is not what it should be", found, harmless)
	}
}

// freePages are those that bbolt says are free.
func freePages(t *testing.T, b []byte) map[int]bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	free := map[int]bool{}
	err = db.View(func(tx *bbolt.Tx) error {
		for i := range len(b) / 4096 {
			if p, err := tx.Page(i); err != nil {
				return err
			} else if p != nil && p.Type == "free" {
				free[i] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return free
}

// TestTornCopy copies the file of a store that is being written to, as one that copies the live file does: the first
// half, commits until the root has moved, the second half. Such a copy must be found broken, and what etcd gives out
// meanwhile must pass. Which pages a commit reuses is up to bbolt, and two halves can fit by chance: commits go on
// until they do not. Then the parts meet at other places, and most of those copies must be found broken too.
func TestTornCopy(t *testing.T) {
	e := newEtcd(t)
	e.facts("3.6.0", 3, 100)
	churn := func() {
		for i := range 1000 {
			e.put(fmt.Sprint("key-", i), 200, 0)
			if i%100 == 0 {
				e.b.ForceCommit()
			}
		}
		e.compact(e.rev - 700)
		e.b.ForceCommit()
	}
	read := func() []byte {
		b, err := os.ReadFile(e.path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for range 6 {
		churn() // so that there are free pages, and commits use them rather than the end of the file
	}
	first := read()
	old := liveMeta(t, first)
	if _, _, err := check(first); err != nil {
		t.Fatalf("the file while nobody writes: %v", err)
	}
	// judge tells whether a copy is found broken. When it is not, it must at least lack no revision.
	judge := func(cut int, second []byte) (broken bool) {
		torn := append(bytes.Clone(first[:cut*4096]), second[cut*4096:]...)
		s, info, err := scan(torn, 1<<20, nil)
		if err != nil {
			known(t, err)
			return true
		}
		got := map[history.Revision]bool{}
		if err := Walk(bytes.NewReader(torn), s.Index(), func(r Record) error {
			got[r.Revision] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		// A page out of the midst of a compaction has what it was asked for, and may lack any revision up to it.
		for rev := max(info.CompactRevision, info.ScheduledCompactRevision) + 1; rev <= info.Revision; rev++ {
			if !got[rev] {
				t.Fatalf("cut at page %d of %d: revision %v is missing, and nothing is found", cut, old.highWater, rev)
			}
		}
		return false
	}

	half := int(old.highWater) / 2
	var second []byte
	for round := 0; ; round++ {
		churn()
		meanwhile := withTrailer(e.snapshot())
		second = read()
		if _, _, err := check(meanwhile); err != nil {
			t.Fatalf("the snapshot taken meanwhile: %v", err)
		}
		if liveMeta(t, second).root != old.root && judge(half, second) {
			break
		}
		if round == 20 {
			t.Fatal("a copy of two halves is never found broken")
		}
	}
	broken := 0
	copies := 0
	for cut := 2; cut < int(old.highWater); cut += 3 {
		copies++
		if judge(cut, second) {
			broken++
		}
	}
	t.Logf("%d of %d copies are found broken", broken, copies)
	if broken < copies/3 {
		t.Errorf("only %d of %d copies are found broken", broken, copies)
	}
}

func liveMeta(t *testing.T, file []byte) meta {
	t.Helper()
	a, okA := parseMeta(file)
	b, okB := parseMeta(file[4096:])
	if !okA || !okB {
		t.Fatal("a meta page is not valid")
	}
	if b.txid > a.txid {
		return b
	}
	return a
}

// crafted is a database made by hand, page by page.
type crafted struct{ pages [][]byte }

func craft(n int) *crafted {
	c := &crafted{}
	for range n {
		c.pages = append(c.pages, make([]byte, 4096))
	}
	c.meta(2, noFreelist, uint64(n))
	return c
}

func (c *crafted) meta(root, freelist, highWater uint64) {
	for i := range 2 {
		c.header(i, metaPage, 0, 0)
		m := c.pages[i][16:80]
		binary.NativeEndian.PutUint32(m, magic)
		binary.NativeEndian.PutUint32(m[4:], version)
		binary.NativeEndian.PutUint32(m[8:], 4096)
		for j, v := range []uint64{root, 0, freelist, highWater, uint64(9 + i)} {
			binary.NativeEndian.PutUint64(m[16+8*j:], v)
		}
		sum := fnv.New64a()
		sum.Write(m[:56])
		binary.NativeEndian.PutUint64(m[56:], sum.Sum64())
	}
}

func (c *crafted) header(page int, flags, count uint16, overflow uint32) {
	b := c.pages[page]
	binary.NativeEndian.PutUint64(b, uint64(page))
	binary.NativeEndian.PutUint16(b[8:], flags)
	binary.NativeEndian.PutUint16(b[10:], count)
	binary.NativeEndian.PutUint32(b[12:], overflow)
}

// branch fills a branch page with one-letter keys.
func (c *crafted) branch(page int, children ...uint64) {
	c.header(page, branchPage, uint16(len(children)), 0)
	b := c.pages[page]
	for i, child := range children {
		at := 16 + i*16
		end := 16 + len(children)*16 + i
		binary.NativeEndian.PutUint32(b[at:], uint32(end-at))
		binary.NativeEndian.PutUint32(b[at+4:], 1)
		binary.NativeEndian.PutUint64(b[at+8:], child)
		b[end] = byte(i + 1)
	}
}

// leaf fills a leaf page; keys have 24 bytes. What does not fit into the first page is left out.
func (c *crafted) leaf(page int, overflow uint32, flags uint32, values ...[]byte) {
	c.header(page, leafPage, uint16(len(values)), overflow)
	b := c.pages[page]
	end := 16 + len(values)*16
	for i, v := range values {
		at := 16 + i*16
		binary.NativeEndian.PutUint32(b[at:], flags)
		binary.NativeEndian.PutUint32(b[at+4:], uint32(end-at))
		binary.NativeEndian.PutUint32(b[at+8:], 24)
		binary.NativeEndian.PutUint32(b[at+12:], uint32(len(v)))
		if end+24+len(v) <= len(b) {
			copy(b[end:], fmt.Sprintf("%024d", i))
			copy(b[end+24:], v)
		}
		end += 24 + len(v)
	}
}

func bucketAt(root uint64) []byte {
	return binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, root), 0)
}

func (c *crafted) bytes() []byte { return bytes.Join(c.pages, nil) }

func TestHostileFiles(t *testing.T) {
	buckets := func(roots ...uint64) (values [][]byte) {
		for _, r := range roots {
			values = append(values, bucketAt(r))
		}
		return values
	}
	cases := map[string]struct {
		want string
		make func(c *crafted)
	}{
		"fine":             {"", func(c *crafted) { c.leaf(2, 0, 1, buckets(3)...); c.leaf(3, 0, 0) }},
		"fine branch":      {"", func(c *crafted) { c.branch(2, 3); c.leaf(3, 0, 1, buckets(4)...); c.leaf(4, 0, 0) }},
		"root 0":           {"leads out of the file", func(c *crafted) { c.meta(0, noFreelist, 16) }},
		"root far away":    {"leads out of the file", func(c *crafted) { c.meta(1<<63, noFreelist, 16) }},
		"high water":       {"ends before its last page", func(c *crafted) { c.meta(2, noFreelist, 1<<60) }},
		"no high water":    {"ends before its last page", func(c *crafted) { c.meta(2, noFreelist, 0) }},
		"root is no page":  {"no tree page", func(c *crafted) {}},
		"overflow":         {"past the end of the file", func(c *crafted) { c.leaf(2, 20, 0, make([]byte, 84000)) }},
		"huge overflow":    {"longer than its content", func(c *crafted) { c.leaf(2, ^uint32(0), 1) }},
		"long for nothing": {"longer than its content", func(c *crafted) { c.leaf(2, 3, 1, buckets(9)...) }},
		"count":            {"more elements than fit", func(c *crafted) { c.header(2, leafPage, 65535, 0) }},
		"count, overflow":  {"more elements than fit", func(c *crafted) { c.header(2, leafPage, 65535, 8) }},
		"count lost": {"no elements", func(c *crafted) {
			c.leaf(2, 0, 1, buckets(9)...)
			c.header(2, leafPage, 0, 0)
		}},
		"empty branch":   {"no elements", func(c *crafted) { c.header(2, branchPage, 0, 0) }},
		"own child":      {"leads to itself", func(c *crafted) { c.branch(2, 2) }},
		"cycle":          {"two places", func(c *crafted) { c.branch(2, 3); c.branch(3, 4); c.branch(4, 2) }},
		"same bucket":    {"two places", func(c *crafted) { c.leaf(2, 0, 1, buckets(3, 3, 3, 3)...); c.leaf(3, 0, 0) }},
		"bucket is root": {"two places", func(c *crafted) { c.leaf(2, 0, 1, buckets(2)...) }},
		"not a bucket":   {"no bucket", func(c *crafted) { c.leaf(2, 0, 0, []byte("value")) }},
		"flags":          {"unknown flags", func(c *crafted) { c.leaf(2, 0, 3, buckets(3)...) }},
		"short bucket":   {"malformed", func(c *crafted) { c.leaf(2, 0, 1, []byte("short")) }},
		"long bucket":    {"malformed", func(c *crafted) { c.leaf(2, 0, 1, append(bucketAt(3), 1)) }},
		"empty inline":   {"malformed", func(c *crafted) { c.leaf(2, 0, 1, bucketAt(0)) }},
		"inline count": {"malformed", func(c *crafted) {
			c.leaf(2, 0, 1, append(bucketAt(0), 0, 0, 0, 0, 0, 0, 0, 0, leafPage, 0, 255, 255, 0, 0, 0, 0))
		}},
		"overlap": {"two places", func(c *crafted) {
			c.leaf(2, 0, 1, buckets(3, 4)...)
			c.leaf(3, 2, 0, make([]byte, 9000))
			c.leaf(4, 0, 0)
		}},
		"wide": {"too many elements outside", func(c *crafted) {
			values := make([][]byte, 30)
			for i := range values {
				values[i] = make([]byte, 1000)
			}
			c.leaf(2, 7, 0, values...)
		}},
		"out of order":        {"not ascending", func(c *crafted) { c.leaf(2, 0, 1, buckets(3, 4)...); c.pages[2][48+24+16+23] = '0' }},
		"free list misplaced": {"another kind of page", func(c *crafted) { c.meta(2, 3, 16) }},
		"free list outside":   {"outside of the file", func(c *crafted) { c.meta(2, 99, 16) }},
		"free list in meta":   {"outside of the file", func(c *crafted) { c.meta(2, 1, 16) }},
		"free list too long": {"longer than its pages", func(c *crafted) {
			c.meta(2, 3, 16)
			c.header(3, freelistPage, 0xFFFF, 0)
			binary.NativeEndian.PutUint64(c.pages[3][16:], 1<<62)
			for i := range 509 {
				binary.NativeEndian.PutUint64(c.pages[3][24+8*i:], uint64(i+1))
			}
		}},
		"free list order":    {"do not ascend", func(c *crafted) { c.meta(2, 3, 16); c.header(3, freelistPage, 9, 0) }},
		"free list overflow": {"past the end", func(c *crafted) { c.meta(2, 3, 16); c.header(3, freelistPage, 0, 99) }},
		"leaked pages": {"neither in use nor", func(c *crafted) {
			c.meta(2, 3, 16)
			c.header(3, freelistPage, 0, 0)
			c.leaf(2, 0, 1)
		}},
		"free and in use": {"in use and in the list", func(c *crafted) {
			c.meta(2, 3, 16)
			c.header(3, freelistPage, 1, 0)
			binary.NativeEndian.PutUint64(c.pages[3][16:], 2)
			c.leaf(2, 0, 1)
		}},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			c := craft(16)
			test.make(c)
			_, _, err := check(c.bytes())
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("want %q, got %v", test.want, err)
			}
			known(t, err)
		})
	}
}

func TestDeepTree(t *testing.T) {
	c := craft(300)
	for i := 2; i < 299; i++ {
		c.branch(i, uint64(i+1))
	}
	if _, _, err := check(c.bytes()); err == nil || !strings.Contains(err.Error(), "too deep") {
		t.Fatal(err)
	}
}

// TestHostileMemory gives what costs a scanner most and looks at what it holds.
func TestHostileMemory(t *testing.T) {
	t.Run("pages that wait", func(t *testing.T) {
		const n = 20000
		c := craft(4)
		long := make([]byte, 40<<20)
		s := NewScanner(Options{})
		c.meta(2, noFreelist, n)
		for i := range 2 {
			s.Write(c.pages[i])
		}
		for i := 2; i < n; i++ {
			clear(c.pages[3])
			c.leaf(3, n, 0, long, long[:2000], long[:2000])
			binary.NativeEndian.PutUint64(c.pages[3], uint64(i))
			if _, err := s.Write(c.pages[3]); err != nil {
				t.Fatal(err)
			}
			if s.waiting > pendingLimit || len(s.pendings)*4096 > pendingLimit {
				t.Fatalf("%d pages wait, %d bytes", len(s.pendings), s.waiting)
			}
		}
		_, err := s.Finish()
		known(t, err)
	})
	t.Run("branches", func(t *testing.T) {
		rnd := newRand(t, 1)
		c := craft(4)
		s := NewScanner(Options{})
		c.meta(2, noFreelist, 1<<20)
		for i := range 2 {
			s.Write(c.pages[i])
		}
		children := make([]uint64, 230)
		var err error
		page := 2
		for ; err == nil; page++ {
			for i := range children {
				children[i] = rnd.Uint64()
			}
			c.branch(3, children...)
			binary.NativeEndian.PutUint64(c.pages[3], uint64(page))
			_, err = s.Write(c.pages[3])
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "memory") {
			t.Fatal(err)
		}
		if got, limit := s.sum.arena.size(), summaryConstant+page*summaryPerPage+2*arenaBlock; got > limit {
			t.Errorf("%d bytes for %d pages, more than %d", got, page, limit)
		}
	})
	t.Run("buckets", func(t *testing.T) {
		// Each page has many buckets that all lead on to the next page.
		const n = 3000
		c := craft(n)
		for i := 2; i < n-1; i++ {
			values := make([][]byte, 60)
			for j := range values {
				values[j] = bucketAt(uint64(i + 1))
			}
			c.leaf(i, 0, 1, values...)
		}
		c.leaf(n-1, 0, 0)
		_, _, err := check(c.bytes())
		if err == nil {
			t.Fatal("nothing is found")
		}
		known(t, err)
	})
}

func TestGarbage(t *testing.T) {
	rnd := newRand(t, 9)
	valid := small(t)
	for range 150 {
		b := make([]byte, rnd.IntN(200<<10))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		if _, _, err := check(b); !errors.Is(err, ErrNotBackend) {
			t.Fatalf("%d random bytes: %v", len(b), err)
		}
		// Garbage behind valid metas, and a few valid pages in wrong places.
		mixed := bytes.Clone(valid)
		for range 1 + rnd.IntN(8) {
			from, to := 2+rnd.IntN(len(mixed)/4096-2), 2+rnd.IntN(len(mixed)/4096-2)
			copy(mixed[to*4096:(to+1)*4096], mixed[from*4096:])
			if rnd.IntN(2) == 0 {
				binary.NativeEndian.PutUint64(mixed[to*4096:], uint64(to))
			}
			mixed[8192+rnd.IntN(len(mixed)-8192)] ^= byte(rnd.Uint32())
		}
		if _, _, err := check(mixed); err != nil {
			known(t, err)
		}
	}
}

func TestNotBackend(t *testing.T) {
	valid := small(t)
	noMagic := bytes.Clone(valid)
	noMagic[16], noMagic[4096+16] = 0, 0
	for name, b := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "zeros": make([]byte, 1<<20), "gzip": append([]byte{0x1f, 0x8b}, make([]byte, 100<<10)...),
		"no magic": noMagic, "first page cut": valid[:79],
	} {
		s := NewScanner(Options{})
		_, werr := s.Write(b)
		if _, err := s.Finish(); !errors.Is(err, ErrNotBackend) {
			t.Errorf("%s: %v", name, err)
		}
		if len(b) > 70<<10 && werr == nil {
			t.Errorf("%s: the stream is not given up", name)
		}
	}
	// One meta page is enough, as it is for bbolt.
	for _, at := range []int{16, 4096 + 16} {
		one := bytes.Clone(valid)
		one[at] ^= 1
		info, records, err := check(one)
		if err != nil {
			t.Fatal(err)
		}
		if want := readOracle(t, one); info.Revision != want.info.Revision || !maps.Equal(records, want.records) {
			t.Errorf("with one meta page: revision %v, want %v", info.Revision, want.info.Revision)
		}
	}
}
