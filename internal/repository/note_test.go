package repository

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
)

func TestNotes(t *testing.T) {
	w := newWorld(t, None)
	now := time.Now()
	gap, err := w.PutGap(t.Context(), w.writer, Gap{Cluster: "prod", Timeline: line, First: 10, Last: 19, Noticed: now, Reason: "compacted past us"})
	must(t, err)
	_, err = w.PutGap(t.Context(), w.writer, Gap{Cluster: "prod", Timeline: line, First: 10, Last: 19, Noticed: now, Reason: "noticed again"})
	must(t, err)
	members := []MemberHash{{MemberID: "a1", Name: "etcd-0", Hash: 7, CompactRevision: 3}, {MemberID: "a2", Name: "etcd-1", Hash: 8, CompactRevision: 3}, {MemberID: "a3", Missing: "it did not answer"}}
	var hashes []Hashes
	for i := range 5 {
		h, err := w.PutHashes(t.Context(), w.writer, Hashes{
			Cluster: "prod", Timeline: line, Revision: history.Revision(100 + i), Taken: now, Members: members, Suspects: []string{"a1", "a2"},
		})
		must(t, err)
		hashes = append(hashes, h)
	}
	session := NewSession()
	var leases []Lease
	for i := range 5 {
		l, err := w.PutLease(t.Context(), w.writer, Lease{Cluster: "prod", Timeline: line, Session: session, Revision: history.Revision(10 * i), Release: i == 4})
		must(t, err)
		if i > 0 && l.ID.compare(leases[i-1].ID) < 0 {
			t.Errorf("lease %s is before %s", l.ID, leases[i-1].ID)
		}
		leases = append(leases, l)
	}

	r := w.again(t)
	gaps, strange, err := r.Gaps(t.Context(), "prod", line)
	must(t, err)
	if len(gaps) != 2 || gaps[0].Err != nil || gaps[0].Note != gap && gaps[1].Note != gap || len(strange) > 0 {
		t.Errorf("gaps %+v, strange %q", gaps, strange)
	}
	readHashes, _, err := r.Hashes(t.Context(), "prod", line, 2)
	must(t, err)
	if diff := cmp.Diff(hashes[3:], notesIn(t, readHashes)); diff != "" {
		t.Errorf("newest hashes (-want +got):\n%s", diff)
	}
	if all, _, err := r.Hashes(t.Context(), "prod", line, 0); err != nil || len(all) != 5 {
		t.Errorf("all hashes: %d, %v", len(all), err)
	}
	readLeases, _, err := r.Leases(t.Context(), "prod", line, ID{}, 3)
	must(t, err)
	if got := notesIn(t, readLeases); len(got) != 3 || got[2].Session != session {
		t.Errorf("newest leases %+v", got)
	}
	if first, err := r.FirstLease(t.Context(), "prod", line); err != nil || first == nil || first.Note.ID != leases[1].ID {
		t.Errorf("first lease %+v, %v", first, err)
	}
	if first, err := r.FirstLease(t.Context(), "other", line); err != nil || first != nil {
		t.Errorf("first lease of another cluster %+v, %v", first, err)
	}
	newest := readLeases[2].Note.ID
	if later, _, err := r.Leases(t.Context(), "prod", line, newest, 0); err != nil || len(later) != 0 {
		t.Errorf("after the newest: %+v, %v", later, err)
	}
	result, _, err := r.Check(t.Context(), nil)
	must(t, err)
	if len(result.Problems) > 0 {
		t.Errorf("check says %q", result.Problems)
	}

	// Renamed, moved and foreign ones are found, and strange names told.
	moved := gap
	moved.Last = 99
	w.replace(t, moved.name(), w.read(t, gap.name()))
	other := hashes[0]
	other.Timeline = "0123456789abcdee"
	w.replace(t, other.name(), w.read(t, hashes[0].name()))
	w.replace(t, archiveFolder("prod", line)+gapsFolder+"x.json", []byte("x"))
	gaps, strange, err = r.Gaps(t.Context(), "prod", line)
	must(t, err)
	if len(gaps) != 3 || !errors.Is(gaps[2].Err, ErrForged) || len(strange) != 1 {
		t.Errorf("gaps %+v, strange %q", gaps, strange)
	}
	if moved, _, err := r.Hashes(t.Context(), "prod", other.Timeline, 0); err != nil || len(moved) != 1 || !errors.Is(moved[0].Err, ErrForged) {
		t.Errorf("moved hashes %+v, %v", moved, err)
	}
	result, _, err = r.Check(t.Context(), nil)
	must(t, err)
	if len(result.Problems) != 3 {
		t.Errorf("check says %q", result.Problems)
	}
}

func notesIn[N any](t *testing.T, reads []NoteRead[N]) (list []N) {
	t.Helper()
	for _, read := range reads {
		must(t, read.Err)
		list = append(list, read.Note)
	}
	return list
}

// TestNotesRefuse what says nothing, or too much, or what does not follow.
func TestNotesRefuse(t *testing.T) {
	w := newWorld(t, None)
	before := w.names(t)
	for what, change := range map[string]func(*Gap){
		"a cluster": func(g *Gap) { g.Cluster = "a/b" }, "a timeline": func(g *Gap) { g.Timeline = "x" }, "no revision": func(g *Gap) { g.First = 0 },
		"disorder": func(g *Gap) { g.Last = 1 }, "no reason": func(g *Gap) { g.Reason = "" }, "no time": func(g *Gap) { g.Noticed = time.Time{} },
		"a long reason": func(g *Gap) { g.Reason = strings.Repeat("x", mostReason+1) },
	} {
		g := Gap{Cluster: "prod", Timeline: line, First: 2, Last: 3, Noticed: time.Now(), Reason: "why"}
		change(&g)
		if _, err := w.PutGap(t.Context(), w.writer, g); err == nil {
			t.Errorf("gap with %s passes", what)
		}
	}
	for what, change := range map[string]func(*Hashes){
		"no revision": func(h *Hashes) { h.Revision = 0 }, "no members": func(h *Hashes) { h.Members = nil },
		"many members": func(h *Hashes) { h.Members = make([]MemberHash, mostMembers+1) },
		"one twice":    func(h *Hashes) { h.Members[1].MemberID = "1" }, "no id": func(h *Hashes) { h.Members[0].MemberID = "" },
		"a long name":       func(h *Hashes) { h.Members[0].Name = strings.Repeat("x", mostWord+1) },
		"different hashes":  func(h *Hashes) { h.Members[1].Hash = 8 },
		"a suspect of none": func(h *Hashes) { h.Suspects = []string{"1"} },
		"no suspects":       func(h *Hashes) { h.Members[1].Hash, h.Equal = 8, false },
		"a stranger":        func(h *Hashes) { h.Members[1].Hash, h.Equal, h.Suspects = 8, false, []string{"3"} },
		"equal, it says no": func(h *Hashes) { h.Equal, h.Suspects = false, []string{"1"} },
	} {
		h := Hashes{Cluster: "prod", Timeline: line, Revision: 3, Taken: time.Now(), Members: []MemberHash{{MemberID: "1", Hash: 7}, {MemberID: "2", Hash: 7}}, Equal: true}
		change(&h)
		if _, err := w.PutHashes(t.Context(), w.writer, h); err == nil {
			t.Errorf("hashes with %s pass", what)
		}
	}
	if _, err := w.PutLease(t.Context(), w.writer, Lease{Cluster: "prod", Timeline: line, Session: "host-1"}); err == nil {
		t.Error("a lease without a session passes")
	}
	stranger, err := OpenWriter(t.TempDir())
	must(t, err)
	if _, err := w.PutLease(t.Context(), stranger, Lease{Cluster: "prod", Timeline: line, Session: NewSession()}); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("a stranger: %v", err)
	}
	if diff := cmp.Diff(before, w.names(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	// Hashes that cannot be compared do not differ.
	_, err = w.PutHashes(t.Context(), w.writer, Hashes{Cluster: "prod", Timeline: line, Revision: 3, Taken: time.Now(), Members: []MemberHash{{MemberID: "1", Hash: 7}, {MemberID: "2", Hash: 8, CompactRevision: 2}}, Equal: true})
	must(t, err)
}

func TestRemoveLeases(t *testing.T) {
	w := newWorld(t, None)
	at := func(age time.Duration) string {
		return Lease{Cluster: "prod", Timeline: line, ID: newID(time.Now().Add(-age))}.name()
	}
	w.live(t, 1, 1)
	kept := []string{at(49 * time.Hour), at(time.Minute)}
	for _, name := range append(kept, at(50*time.Hour), at(60*time.Hour), at(70*time.Hour)) {
		w.replace(t, name, []byte("x"))
	}
	removed, err := w.RemoveLeases(t.Context(), w.writer, "prod", 48*time.Hour)
	must(t, err)
	var left []string
	for _, name := range w.names(t) {
		if strings.Contains(name, leasesFolder) {
			left = append(left, name)
		}
	}
	if diff := cmp.Diff(kept, left); diff != "" || removed != 3 {
		t.Errorf("%d removed (-want +left):\n%s", removed, diff)
	}
}

// TestOnlyLeases: a name under which an archiver has only begun is no cluster.
func TestOnlyLeases(t *testing.T) {
	w := newWorld(t, None)
	for _, cluster := range []string{"prod", "prdo"} {
		for range 3 {
			_, err := w.PutLease(t.Context(), w.writer, Lease{Cluster: cluster, Timeline: "0123456789abcdef", Session: NewSession()})
			must(t, err)
		}
	}
	_, err := w.PutLease(t.Context(), w.writer, Lease{Cluster: "prdo", Timeline: "1123456789abcdef", Session: NewSession()})
	must(t, err)
	clusters, err := w.Clusters(t.Context())
	if err != nil || len(clusters) > 0 {
		t.Errorf("clusters %q, %v", clusters, err)
	}
	w.add(t, "prod", backend(t, 0))
	_, err = w.PutGap(t.Context(), w.writer, Gap{Cluster: "prdo", Timeline: "1123456789abcdef", First: 2, Last: 3, Noticed: time.Now(), Reason: "test"})
	must(t, err)
	if clusters, err := w.Clusters(t.Context()); err != nil || len(clusters) != 2 {
		t.Errorf("clusters %q, %v", clusters, err)
	}
}

// TestLeasesFrom gives the first ones from a second on.
func TestLeasesFrom(t *testing.T) {
	w := newWorld(t, None)
	began := time.Now()
	for i := range 4 {
		_, err := w.PutLease(t.Context(), w.writer, Lease{Cluster: "prod", Timeline: line, Session: NewSession(), Revision: history.Revision(i + 1)})
		must(t, err)
	}
	reads, err := w.LeasesFrom(t.Context(), "prod", line, began, 3)
	must(t, err)
	if got := notesIn(t, reads); len(got) != 3 || got[0].Revision != 1 || got[2].Revision != 3 {
		t.Errorf("from then on %+v", got)
	}
	reads, err = w.LeasesFrom(t.Context(), "prod", line, time.Now().Add(time.Second), 3)
	if err != nil || len(reads) > 0 {
		t.Errorf("from later on %+v, %v", reads, err)
	}
	if _, err := w.LeasesFrom(t.Context(), "prod", "x", began, 3); err == nil {
		t.Error("a timeline passes")
	}
}
