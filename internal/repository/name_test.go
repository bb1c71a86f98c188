package repository

import (
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	at := time.Date(2026, 11, 25, 17, 1, 2, 999, time.UTC)
	id := ID{Time: at.Truncate(time.Second), Random: "1f3a9c20"}
	p := Point{Cluster: "prod-eu1", Timeline: "0123456789abcdef", First: 12, Last: 3_456_789, ID: id}
	const want = "clusters/prod-eu1/manifests/0123456789abcdef/snapshot-00000000000000000012-00000000000003456789-20261125T170102Z-1f3a9c20.json"
	if got := p.manifestName(); got != want {
		t.Errorf("name\n%s, want\n%s", got, want)
	}
	if got, err := parsePoint(want); err != nil || got != p {
		t.Errorf("parse: %+v, %v", got, err)
	}
	if id.Short() != "2026-11-25T17:01:02Z" || id.Long() != "2026-11-25T17:01:02Z-1f3a9c20" {
		t.Errorf("for people %q and %q", id.Short(), id.Long())
	}
	for _, text := range []string{id.Short(), id.Long(), id.String()} {
		if !id.matches(text) {
			t.Errorf("%q does not name it", text)
		}
	}
	if id.matches("2026-11-25T17:01:02Z-1f3a9c21") || id.matches("") || id.matches("2026") {
		t.Error("another text names it")
	}
	for _, name := range []string{
		"", "clusters/prod-eu1/manifests/", want + "x", "x" + want, want[:len(want)-5],
		"clusters/Prod/manifests/0123456789abcdef/snapshot-00000000000000000012-00000000000003456789-20261125T170102Z-1f3a9c20.json",
		"clusters/prod-eu1/manifests/0123456789ABCDEF/snapshot-00000000000000000012-00000000000003456789-20261125T170102Z-1f3a9c20.json",
		"clusters/prod-eu1/manifests/0123456789abcdef/segment-00000000000000000012-00000000000003456789-20261125T170102Z-1f3a9c20.json",
		"clusters/prod-eu1/manifests/0123456789abcdef/snapshot-12-3456789-20261125T170102Z-1f3a9c20.json",
		"clusters/prod-eu1/manifests/0123456789abcdef/snapshot-00000000000003456789-00000000000000000012-20261125T170102Z-1f3a9c20.json", // last before first
		"clusters/prod-eu1/manifests/0123456789abcdef/snapshot-00000000000000000000-00000000000003456789-20261125T170102Z-1f3a9c20.json",
		"clusters/prod-eu1/manifests/0123456789abcdef/snapshot-00000000000000000012-99999999999999999999-20261125T170102Z-1f3a9c20.json",
		"clusters/prod-eu1/manifests/0123456789abcdef/snapshot-00000000000000000012-00000000000003456789-20261325T170102Z-1f3a9c20.json",
		"clusters/../manifests/0123456789abcdef/snapshot-00000000000000000012-00000000000003456789-20261125T170102Z-1f3a9c20.json",
		"clusters/a/b/manifests/0123456789abcdef/snapshot-00000000000000000012-00000000000003456789-20261125T170102Z-1f3a9c20.json",
	} {
		if got, err := parsePoint(name); err == nil {
			t.Errorf("%q passes as %+v", name, got)
		}
	}
	for _, name := range []string{"", "-a", "a-", "A", "a/b", "..", "a..b", "a b", ".", "ä", "0123456789012345678901234567890123456789012345678901234567890123"} {
		if CheckCluster(name) == nil {
			t.Errorf("cluster %q passes", name)
		}
	}
	for _, name := range []string{"a", "0", "prod", "prod-eu1.example", "012345678901234567890123456789012345678901234567890123456789012"} {
		if err := CheckCluster(name); err != nil {
			t.Error(err)
		}
	}
}

// TestIDsSort: two snapshots of one second have an order.
func TestIDsSort(t *testing.T) {
	at := time.Date(2026, 11, 25, 17, 1, 2, 0, time.UTC)
	before := ID{}
	for _, part := range []time.Duration{0, 20 * time.Microsecond, time.Millisecond, 999_999_999, time.Second} {
		id := newID(at.Add(part))
		if parsed, err := parseID(id.String()); err != nil || parsed != id || id.compare(before) <= 0 {
			t.Errorf("after %s: %s is not after %s, or read as %s, %v", part, id, before, parsed, err)
		}
		before = id
	}
}

// TestOrder does not believe clocks within a timeline.
func TestOrder(t *testing.T) {
	at := func(second int) ID {
		return ID{Time: time.Date(2026, 11, 25, 0, 0, second, 0, time.UTC), Random: "00000000"}
	}
	points := []Point{
		{Timeline: "b", Last: 5, ID: at(50)},  // a later timeline
		{Timeline: "a", Last: 30, ID: at(20)}, // the clock went back before this one
		{Timeline: "a", Last: 10, ID: at(10)},
		{Timeline: "a", Last: 20, ID: at(40)},
		{Timeline: "b", Last: 7, ID: at(45)},
	}
	sortPoints(points)
	var got []int
	for _, p := range points {
		got = append(got, int(p.Last))
	}
	want := []int{10, 20, 30, 5, 7}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("order %v, want %v", got, want)
		}
	}
}
