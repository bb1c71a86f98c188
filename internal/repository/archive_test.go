package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/store"
)

// TestArchiveNames: what names are read, they are made so; nothing else is taken for one.
func TestArchiveNames(t *testing.T) {
	const in = "clusters/prod-eu1/archive/0123456789abcdef/"
	const largest = "09223372036854775807"
	id, err := parseID("20261125T170102Z-1f3a9c20")
	must(t, err)
	at := func(level int, first, last history.Revision) SegmentPoint {
		return SegmentPoint{Cluster: "prod-eu1", Timeline: line, Level: level, First: first, Last: last}
	}
	points := map[string]SegmentPoint{
		in + "0/00000000000000000012.json":                      at(SegmentLive, 12, 0),
		in + "0/" + largest + ".json":                           at(SegmentLive, 1<<63-1, 0),
		in + "1/00000000000000000012-00000000000000000012.json": at(SegmentMinute, 12, 12),
		in + "3/00000000000000000012-" + largest + ".json":      at(SegmentDay, 12, 1<<63-1),
	}
	for name, want := range points {
		if got, err := parseSegmentPoint(name); err != nil || got != want || want.manifestName() != name {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
	data := map[string]segmentData{
		"clusters/prod-eu1/segments/0123456789abcdef/00000000000000000012-0123456789abcdef.zst.age": {"prod-eu1", line, 12, "0123456789abcdef", true},
		"clusters/prod-eu1/segments/0123456789abcdef/" + largest + "-0123456789abcdef.zst":          {"prod-eu1", line, 1<<63 - 1, "0123456789abcdef", false},
	}
	for name, want := range data {
		if got, err := parseSegmentData(name); err != nil || got != want || want.name() != name {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
	gap, hashes, lease := in+"gaps/00000000000000000003-00000000000000000004-1f3a9c20.json", in+"hashes/00000000000000000003-1f3a9c20.json", in+"leases/20261125T170102Z-1f3a9c20.json"
	if g, err := parseGap(gap); err != nil || g.name() != gap || g != (Gap{Cluster: "prod-eu1", Timeline: line, First: 3, Last: 4, ID: "1f3a9c20"}) {
		t.Errorf("gap %+v, %v", g, err)
	}
	if h, err := parseHashes(hashes); err != nil || h.name() != hashes || h.Revision != 3 || h.ID != "1f3a9c20" {
		t.Errorf("hashes %+v, %v", h, err)
	}
	if l, err := parseLease(lease); err != nil || l.name() != lease || l.ID != id {
		t.Errorf("lease %+v, %v", l, err)
	}

	good := []string{gap, hashes, lease}
	for name := range points {
		good = append(good, name)
	}
	for name := range data {
		good = append(good, name)
	}
	parsers := map[string]func(string) error{
		"point":  func(name string) error { _, err := parseSegmentPoint(name); return err },
		"data":   func(name string) error { _, err := parseSegmentData(name); return err },
		"gap":    func(name string) error { _, err := parseGap(name); return err },
		"hashes": func(name string) error { _, err := parseHashes(name); return err },
		"lease":  func(name string) error { _, err := parseLease(name); return err },
	}
	var hostile []string
	for _, name := range good {
		understood := 0
		for _, parse := range parsers {
			if parse(name) == nil {
				understood++
			}
		}
		if understood != 1 {
			t.Errorf("%q is understood as %d things", name, understood)
		}
		hostile = append(hostile, name+"x", "x"+name, name+"/", "/"+name, name[:len(name)-1], name+".json", name+".zst",
			strings.ToUpper(name), strings.Replace(name, "0123456789abcdef/", "0123456789ABCDEF/", 1),
			strings.Replace(name, "0123456789abcdef/", "", 1), strings.Replace(name, "0123456789abcdef/", "../", 1),
			strings.Replace(name, "prod-eu1", "..", 1), strings.Replace(name, "prod-eu1", "a/b", 1), strings.Replace(name, "prod-eu1", "", 1),
			strings.Replace(name, "prod-eu1/", "prod-eu1//", 1), strings.Replace(name, "-1f3a9c20", "", 1), strings.Replace(name, "1f3a9c20", "1F3a9c20", 1),
			strings.Replace(name, "/0000", "/+000", 1), strings.Replace(name, "/0000", "/-000", 1), strings.Replace(name, "/0000", "/", 1),
			strings.Replace(name, "/0000000000000000000", "/9999999999999999999", 1), strings.Replace(name, "20261125", "20261325", 1))
	}
	hostile = append(hostile, "", in, in+"0/", in+"0/.json", in+"0/00000000000000000000.json", in+"0/00000000000000000012-00000000000000000013.json",
		in+"1/00000000000000000012.json", in+"1/00000000000000000012-.json", in+"1/00000000000000000012-00000000000000000011.json",
		in+"4/00000000000000000012-00000000000000000012.json", in+"-1/00000000000000000012-00000000000000000012.json", in+"00/00000000000000000012.json",
		in+"+1/00000000000000000012-00000000000000000012.json", in+"0/0/00000000000000000012.json", in+"1/00000000000000000012-00000000000000000012-.json",
		in+"0/٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠١٢.json", in+"gaps/00000000000000000004-00000000000000000003-1f3a9c20.json", in+"gaps/x/00000000000000000003-00000000000000000004-1f3a9c20.json",
		"clusters/prod-eu1/segments/0123456789abcdef/00000000000000000012-0123456789abcde.zst", "clusters/prod-eu1/segments/0123456789abcdef/00000000000000000012.zst")
	for _, name := range hostile {
		if slices.Contains(good, name) {
			continue // what was to be replaced is not in it
		}
		for what, parse := range parsers {
			if parse(name) == nil {
				t.Errorf("%q passes as %s", name, what)
			}
		}
	}
}

// FuzzArchiveNames gives readers whatever a store might.
func FuzzArchiveNames(f *testing.F) {
	f.Add("clusters/a/archive/0123456789abcdef/1/00000000000000000012-00000000000000000012.json")
	f.Add("clusters/a/segments/0123456789abcdef/00000000000000000012-0123456789abcdef.zst.age")
	f.Add("clusters/a/archive/0123456789abcdef/gaps/00000000000000000003-00000000000000000004-1f3a9c20.json")
	f.Add("clusters/a/archive/0123456789abcdef/leases/20261125T170102Z-1f3a9c20.json")
	f.Fuzz(func(t *testing.T, name string) {
		if p, err := parseSegmentPoint(name); err == nil && p.manifestName() != name {
			t.Errorf("%q is read as %+v", name, p)
		}
		if d, err := parseSegmentData(name); err == nil && d.name() != name {
			t.Errorf("%q is read as %+v", name, d)
		}
		if g, err := parseGap(name); err == nil && g.name() != name {
			t.Errorf("%q is read as %+v", name, g)
		}
		if h, err := parseHashes(name); err == nil && h.name() != name {
			t.Errorf("%q is read as %+v", name, h)
		}
		if l, err := parseLease(name); err == nil && l.name() != name {
			t.Errorf("%q is read as %+v", name, l)
		}
	})
}

// TestSegmentPointsOrder, with several timelines and with what does not belong there.
func TestSegmentPointsOrder(t *testing.T) {
	w := newWorld(t, None)
	const other Timeline = "0123456789abcdf0"
	var want []SegmentPoint
	for _, timeline := range []Timeline{line, other} {
		for level := SegmentLive; level <= SegmentDay; level++ {
			for _, first := range []history.Revision{1, 5, 1000} {
				p := SegmentPoint{Cluster: "prod", Timeline: timeline, Level: level, First: first}
				if level != SegmentLive {
					p.Last = first + 1
				}
				want = append(want, p)
			}
		}
	}
	for _, i := range []int{5, 3, 20, 0, 1, 2, 4, 6, 7, 23, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22} {
		w.replace(t, want[i].manifestName(), []byte("x"))
	}
	w.replace(t, "clusters/prod-x/archive/0123456789abcdef/0/00000000000000000001.json", []byte("x"))
	w.replace(t, "clusters/prod/archive/0123456789abcdef/leases/20261125T170102Z-1f3a9c20.json", []byte("x"))
	odd := []string{"clusters/prod/archive/0123456789abcdef/0/1.json", "clusters/prod/archive/0123456789abcdef/00/00000000000000000001.json"}
	for _, name := range append(odd, "clusters/prod/archive/rubbish/0/00000000000000000001.json", "clusters/prod/archive/0123456789abcdef/4/x.json") {
		w.replace(t, name, []byte("x"))
	}
	points, strange, err := w.SegmentPoints(t.Context(), "prod", "")
	must(t, err)
	if diff := cmp.Diff(want, points); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(slices.Clone(odd), "clusters/prod/archive/rubbish/"), strange); diff != "" {
		t.Errorf("strange (-want +got):\n%s", diff)
	}
	points, strange, err = w.SegmentPoints(t.Context(), "prod", other)
	must(t, err)
	if diff := cmp.Diff(want[12:], points); diff != "" || len(strange) > 0 {
		t.Errorf("one timeline, strange %q (-want +got):\n%s", strange, diff)
	}
	for _, bad := range []struct {
		cluster string
		t       Timeline
	}{{"", ""}, {"a/b", ""}, {"prod", "x"}, {"prod", "../clusters"}} {
		if _, _, err := w.SegmentPoints(t.Context(), bad.cluster, bad.t); err == nil {
			t.Errorf("%+v passes", bad)
		}
	}
	result, _, err := w.Check(t.Context(), nil)
	must(t, err)
	for _, name := range append(odd, "clusters/prod/archive/rubbish/0/00000000000000000001.json", "clusters/prod/archive/0123456789abcdef/4/x.json") {
		if !contains(result.Problems, fmt.Sprintf("%q", name)) {
			t.Errorf("check does not tell of %q", name)
		}
	}
	if result.Segments != len(want)+1 || result.Clusters != 2 {
		t.Errorf("check %+v", result)
	}
}

// TestClustersBesideFiles: a file hides no cluster.
func TestClustersBesideFiles(t *testing.T) {
	w := newWorld(t, None)
	w.live(t, 1, 1)
	for _, name := range []string{"clusters/a", "clusters/a-b/data/x", "clusters/Z/data/x"} {
		w.replace(t, name, []byte("x"))
	}
	got, err := w.Clusters(t.Context())
	must(t, err)
	if diff := cmp.Diff([]string{"a-b", "prod"}, got); diff != "" {
		t.Errorf("clusters (-want +got):\n%s", diff)
	}
}

// TestArchiveBesideSnapshots: neither is taken for the other.
func TestArchiveBesideSnapshots(t *testing.T) {
	w := newWorld(t, Age)
	m := w.add(t, "prod", backend(t, 0))
	w.live(t, 5, 9)
	second, err := w.tryAdd(t.Context(), "prod", m.Timeline, backend(t, 1))
	must(t, err)
	if second.Sequence != 2 {
		t.Errorf("a segment counts in the numbering: %d", second.Sequence)
	}
	points, strange, err := w.Points(t.Context(), "prod")
	must(t, err)
	if len(points) != 2 || len(strange) > 0 {
		t.Errorf("points %+v, strange %q", points, strange)
	}
	timelines, err := w.Timelines(t.Context(), "prod")
	must(t, err)
	if diff := cmp.Diff([]Timeline{m.Timeline, line}, timelines); diff != "" {
		t.Errorf("timelines (-want +got):\n%s", diff)
	}
	must(t, removeHead(w))
	third, err := w.tryAdd(t.Context(), "prod", m.Timeline, backend(t, 1))
	must(t, err)
	result, _, err := w.Check(t.Context(), nil)
	must(t, err)
	if third.Sequence != 3 || result.Snapshots != 3 || result.Segments != 1 || len(result.Problems) > 0 || result.Unclaimed > 0 {
		t.Errorf("number %d, check %+v", third.Sequence, result)
	}
}

func TestLastSegment(t *testing.T) {
	w := newWorld(t, None)
	want := func(what string, last history.Revision) {
		t.Helper()
		s, err := w.LastSegment(t.Context(), "prod", line)
		must(t, err)
		if s == nil && last != 0 || s != nil && s.Last != last {
			t.Errorf("%s: %+v, want %d", what, s, last)
		}
	}
	want("nothing", 0)
	w.live(t, 5, 9)
	want("one", 9)
	w.live(t, 10, 20)
	want("two", 20)
	merged := w.put(t, w.seal(t, SegmentMinute, 5, 20, []byte("m")))
	want("both merged", 20)
	w.live(t, 21, 30)
	want("one is not merged", 30)
	w.put(t, w.seal(t, SegmentHour, 5, 40, []byte("m")))
	want("only merged there", 40)
	w.replace(t, SegmentPoint{Cluster: "prod", Timeline: line, Level: SegmentDay, First: 1, Last: 99}.manifestName(), []byte("rubbish"))
	w.replace(t, SegmentPoint{Cluster: "prod", Timeline: line, First: 99}.manifestName(), w.read(t, merged.Point().manifestName()))
	want("rubbish behind it", 40)

	// What could not be read may be the last one.
	f := &faulty{world: w}
	f.faults = newFaults(w)
	f.faults.Add(failOpen(SegmentPoint{Cluster: "prod", Timeline: line, First: 99}.manifestName()))
	if s, err := f.through(false).LastSegment(t.Context(), "prod", line); err == nil {
		t.Errorf("unread: %+v", s)
	}
	// Names alone decide what is fetched, and listings may lag.
	counting := &countingStore{Store: w.store}
	r, err := Open(t.Context(), counting, w.Root())
	must(t, err)
	w.replace(t, SegmentPoint{Cluster: "prod", Timeline: line, Level: SegmentDay, First: 1, Last: 99}.manifestName(), nil)
	w.replace(t, SegmentPoint{Cluster: "prod", Timeline: line, First: 99}.manifestName(), nil)
	w.live(t, 41, 45)
	w.live(t, 46, 50)
	_, err = r.LastSegment(t.Context(), "prod", line)
	must(t, err)
	if n := counting.opened.Load(); n != 2 {
		t.Errorf("%d objects are opened, want the last and what might follow", n)
	}
	lagging := newFaults(w)
	lagging.DelayListing(9)
	slow := &Repository{store: lagging, document: w.document}
	_, err = w.seal(t, SegmentLive, 51, 60, []byte("x")).put(t.Context(), slow, w.writer)
	must(t, err)
	if s, err := slow.LastSegment(t.Context(), "prod", line); err != nil || s == nil || s.Last != 60 {
		t.Errorf("with a slow listing: %+v, %v", s, err)
	}
}

// TestManySegments: 10,000 of them are listed from names alone, fast.
func TestManySegments(t *testing.T) {
	w := newWorld(t, None)
	const n = 10_000
	for i := range history.Revision(n) {
		_, err := store.PutBytes(t.Context(), w.store, SegmentPoint{Cluster: "prod", Timeline: line, First: 1 + 3*i}.manifestName(), []byte("x"), store.PutOptions{})
		must(t, err)
	}
	listing := &listingStore{Store: w.store}
	r := &Repository{store: listing, document: w.document}
	began := time.Now()
	points, strange, err := r.SegmentPoints(t.Context(), "prod", "")
	must(t, err)
	took := time.Since(began)
	t.Logf("%d segments in %s", n, took)
	if len(points) != n || len(strange) > 0 || listing.lists > 4 {
		t.Errorf("%d points, %d strange, %d listings", len(points), len(strange), listing.lists)
	}
	if took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// listingStore counts listings, and has nothing to open.
type listingStore struct {
	store.Store
	lists int
}

func (s *listingStore) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	s.lists++
	return s.Store.List(ctx, prefix, after)
}

// TestSegmentCache: manifests of segments are read once.
func TestSegmentCache(t *testing.T) {
	w := newWorld(t, None)
	for i := range history.Revision(20) {
		w.live(t, 1+i, 1+i)
	}
	counting := &countingStore{Store: w.store}
	dir := filepath.Join(t.TempDir(), "cache")
	for round, want := range []int64{20, 0} {
		counting.opened.Store(0)
		plain, err := Open(t.Context(), counting, w.Root())
		must(t, err)
		r := plain.WithCache(Cache{Dir: dir})
		points, _, err := r.SegmentPoints(t.Context(), "prod", line)
		must(t, err)
		reads, err := r.SegmentsOf(t.Context(), points)
		must(t, err)
		for _, read := range reads {
			must(t, read.Err)
		}
		if got := counting.opened.Load(); got != want {
			t.Errorf("round %d: opened %d, want %d", round, got, want)
		}
	}
}

// TestUnclaimedSegments: data goes only when no manifest names it, and it is known that none does.
func TestUnclaimedSegments(t *testing.T) {
	w := newWorld(t, None)
	live := w.live(t, 5, 9)
	merged := w.put(t, w.seal(t, SegmentMinute, 5, 9, []byte("m")))
	w.live(t, 10, 12)
	names := func() []string {
		t.Helper()
		list, err := w.Unclaimed(t.Context(), "prod")
		must(t, err)
		var names []string
		for _, object := range list {
			if !object.Segment || object.Size < 1 || object.Age < 0 || object.Age > time.Minute {
				t.Errorf("unclaimed %+v", object)
			}
			names = append(names, object.Name)
		}
		result, _, err := w.Check(t.Context(), nil)
		must(t, err)
		if result.Unclaimed != len(names) {
			t.Errorf("check tells of %d unclaimed, there are %q", result.Unclaimed, names)
		}
		return names
	}
	want := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, names()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	want("all is named")
	lost := w.seal(t, SegmentLive, 5, 8, []byte("second"))
	_, err := lost.put(t.Context(), w.Repository, w.writer)
	if _, is := errors.AsType[*Taken](err); !is {
		t.Fatalf("second: %v", err)
	}
	alone := w.seal(t, SegmentLive, 20, 29, []byte("cut off"))
	_, err = w.PutSegmentData(t.Context(), alone.Object, bytes.NewReader(alone.bytes), time.Time{})
	must(t, err)
	want("a loser and one that was cut off", lost.Object.Name, alone.Object.Name)

	// A manifest that cannot be believed may be that of any data at its place.
	kept := w.read(t, live.Point().manifestName())
	w.replace(t, live.Point().manifestName(), []byte("rubbish"))
	want("a damaged manifest", alone.Object.Name)
	f := &faulty{world: w, faults: newFaults(w)}
	w.replace(t, live.Point().manifestName(), kept)
	f.faults.Add(failOpen(merged.Point().manifestName()))
	list, err := f.through(false).Unclaimed(t.Context(), "prod")
	must(t, err)
	if len(list) != 1 || list[0].Name != alone.Object.Name {
		t.Errorf("an unread manifest: %+v", list)
	}

	// A manifest that came meanwhile saves its data.
	list, err = w.Unclaimed(t.Context(), "prod")
	must(t, err)
	_, err = w.PublishSegment(t.Context(), w.writer, alone.Segment)
	must(t, err)
	freed, err := w.Reclaim(t.Context(), w.writer, "prod", list)
	must(t, err)
	if freed != lost.Object.Size {
		t.Errorf("freed %d bytes, want %d", freed, lost.Object.Size)
	}
	want("after it was reclaimed")
	for _, read := range w.segments(t) {
		must(t, read.Err)
		if _, err := w.open(t, read.Segment); err != nil {
			t.Errorf("%s: %v", read.Point, err)
		}
	}
	strange := "clusters/prod/segments/0123456789abcdef/x.zst"
	w.replace(t, strange, []byte("x"))
	want("a strange name", strange)
	result, _, err := w.Check(t.Context(), nil)
	must(t, err)
	if !contains(result.Problems, strange) {
		t.Errorf("check says %q", result.Problems)
	}
}

func TestRemoveSegments(t *testing.T) {
	w := newWorld(t, None)
	var victims []SegmentVictim
	past := func(s sealed) Segment {
		s.Started, s.Completed = s.Started.Add(-3*LiveAtLeast), s.Completed.Add(-3*LiveAtLeast)
		return w.put(t, s)
	}
	for _, first := range []history.Revision{1, 3, 5, 9, 11} { // a hole before 9
		s := past(w.seal(t, SegmentLive, first, first+1, plainOf(first, first+1)))
		victims = append(victims, SegmentVictim{w.Segment(t.Context(), s.Point()), "merged"})
	}
	w.put(t, w.seal(t, SegmentMinute, 1, 6, []byte("m")))
	slices.Reverse(victims)

	other, err := OpenWriter(t.TempDir())
	must(t, err)
	must(t, w.Enroll(t.Context(), w.root, other.Public(), RoleBackup, "archiver"))
	if _, err := w.RemoveSegments(t.Context(), other, victims); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("by an archiver: %v", err)
	}
	if _, err := w.RemoveSegments(t.Context(), w.writer, []SegmentVictim{{SegmentRead{Err: ErrForged}, "x"}}); !errors.Is(err, ErrForged) {
		t.Errorf("one that was not read: %v", err)
	}
	// Whatever ends it, nothing is shown whose data is gone.
	for after := range 12 {
		w.Repository.store = &failingDeletes{Store: w.store, Deleter: w.store, left: after}
		_, err := w.RemoveSegments(t.Context(), w.writer, victims[:1])
		w.Repository.store = w.store
		for _, read := range w.segments(t) {
			must(t, read.Err)
			if _, err := w.open(t, read.Segment); err != nil {
				t.Errorf("after %d deletes: shown and gone: %v", after, err)
			}
		}
		if err == nil {
			break
		}
	}
	outcomes, err := w.RemoveSegments(t.Context(), w.writer, victims) // the first is gone already
	must(t, err)
	for i, outcome := range outcomes {
		if !outcome.Gone || outcome.Locked != nil {
			t.Errorf("outcome %d: %+v", i, outcome)
		}
	}
	if reads := w.segments(t); len(outcomes) != 5 || len(reads) != 1 || reads[0].Point.Level != SegmentMinute {
		t.Errorf("%d outcomes, left %+v", len(outcomes), reads)
	}
	removals, err := w.Removals(t.Context())
	must(t, err)
	last := removals[len(removals)-1]
	must(t, last.Err)
	want := []RemovedSegments{
		{Cluster: "prod", Timeline: line, First: 1, Last: 6, Count: 3, Reason: "merged"},
		{Cluster: "prod", Timeline: line, First: 9, Last: 12, Count: 2, Reason: "merged"},
	}
	if diff := cmp.Diff(want, last.Removal.Segments); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	result, _, err := w.Check(t.Context(), nil)
	must(t, err)
	if len(result.Problems) > 0 || result.Segments != 1 || result.Unclaimed > 0 || result.Removed != 0 {
		t.Errorf("check %+v", result)
	}
	w.Repository.store = struct{ store.Store }{w.store}
	if _, err := w.RemoveSegments(t.Context(), w.writer, victims); !errors.Is(err, ErrNoDelete) {
		t.Errorf("a store that deletes nothing: %v", err)
	}
}
