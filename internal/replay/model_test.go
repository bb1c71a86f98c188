package replay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// line is the events of a cluster in the order in which they came about.
type line []history.Event

// at is what lives at a revision, by key.
func (l line) at(revision history.Revision) map[string]history.Event {
	live := map[string]history.Event{}
	for _, e := range l {
		if e.Revision > revision {
			break
		}
		if e.Tombstone {
			delete(live, string(e.Key))
		} else {
			live[string(e.Key)] = e
		}
	}
	return live
}

// segment gives the events of a range, as a segment would.
func (l line) segment(within history.Range, leases ...history.Lease) Segment {
	var events line
	for _, e := range l {
		if within.Contains(e.Revision) {
			events = append(events, e)
		}
	}
	slices.SortFunc(events, func(a, b history.Event) int {
		return cmp.Or(bytes.Compare(a.Key, b.Key), cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Sub, b.Sub))
	})
	return Segment{Range: within, Open: func(context.Context) (Events, error) {
		return &recorded{rest: events, leases: leases, end: io.EOF}, nil
	}}
}

// segments cuts a range at random.
func (l line) segments(rnd *rand.Rand, within history.Range, leases ...history.Lease) []Segment {
	var all []Segment
	for within.Len() > 0 {
		part := within
		part.Last = min(part.First+history.Revision(rnd.Int64N(1+int64(within.Len()/2))), within.Last)
		all = append(all, l.segment(part, leases...))
		within.First = part.Last + 1
	}
	return all
}

// recorded gives events, and spoils each when the next is asked for.
type recorded struct {
	rest   line
	leases []history.Lease
	end    error
	given  history.Event
	closed int
}

func (r *recorded) Next() (history.Event, error) {
	if r.closed > 0 {
		return history.Event{}, errors.New("it is closed")
	}
	for _, b := range [][]byte{r.given.Key, r.given.Value} {
		for i := range b {
			b[i] = 0xEE
		}
	}
	if len(r.rest) == 0 {
		return history.Event{}, r.end
	}
	r.given = r.rest[0]
	r.given.Key, r.given.Value = bytes.Clone(r.given.Key), bytes.Clone(r.given.Value)
	r.rest = r.rest[1:]
	return r.given, nil
}

func (r *recorded) Leases() []history.Lease { return r.leases }
func (r *recorded) Close() error            { r.closed++; return nil }

// made is a file that Backend has made.
type made struct {
	Base
	result Result
}

// replayed replays, and judges what came out as a stranger would: every page by snapshot's rules and by bbolt's.
func replayed(t *testing.T, base Base, segments []Segment, target history.Revision, history bool) made {
	t.Helper()
	work := t.TempDir()
	path := filepath.Join(t.TempDir(), "db")
	result, err := Backend(t.Context(), path, base, segments, Options{Target: target, KeepHistory: history, Work: work})
	must(t, err)
	checkEmpty(t, work)
	m := made{scanBase(t, path), result}
	want := snapshot.Info{
		Size: result.Size, PageSize: base.Info.PageSize, Pages: result.Size / int64(base.Info.PageSize), SHA256: m.Info.SHA256,
		Revision: target, CompactRevision: target, ScheduledCompactRevision: target, Records: result.Records,
		ConsistentIndex: base.Info.ConsistentIndex, Term: base.Info.Term, StorageVersion: base.Info.StorageVersion,
		Members: base.Info.Members, AuthEnabled: base.Info.AuthEnabled, Alarms: base.Info.Alarms, Leases: result.Leases,
	}
	if history {
		want.CompactRevision, want.ScheduledCompactRevision = base.Info.CompactRevision, base.Info.ScheduledCompactRevision
	}
	if got := fmt.Sprintf("%+v", m.Info); got != fmt.Sprintf("%+v", want) {
		t.Errorf("revision %d, history %v:\n got %s\nwant %+v", target, history, got, want)
	}
	return m
}

// content is what a file holds, by bucket and key, once bbolt has found it whole.
type content map[string]map[string]string

func (b Base) content(t *testing.T) content {
	t.Helper()
	db, err := bbolt.Open(b.File, 0, &bbolt.Options{ReadOnly: true})
	must(t, err)
	defer db.Close()
	all := content{}
	must(t, db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt finds the file broken: %v", err)
		}
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			elements := map[string]string{}
			all[string(name)] = elements
			return b.ForEach(func(k, v []byte) error {
				elements[string(k)] = string(v)
				return nil
			})
		})
	}))
	return all
}

// records renders the key bucket.
func (c content) records() []string {
	var all []string
	for k, v := range c["key"] {
		all = append(all, k+v)
	}
	slices.Sort(all)
	return all
}

// wantRecords are what must be in the key bucket: all after the base's compaction with what lived there, or what a compaction at
// the target leaves.
func (l line) wantRecords(floor, target history.Revision, keepHistory bool) []string {
	var all []string
	add := func(e history.Event) {
		p := place{main: int64(e.Revision), sub: uint32(e.Sub)}
		if e.Tombstone {
			p.at |= markTombstone
		}
		all = append(all, string(appendKeyValue(appendKey(nil, p), e)))
	}
	if !keepHistory {
		floor = target
	}
	for _, e := range slices.Collect(maps.Values(l.at(floor))) {
		add(e)
	}
	for _, e := range l {
		if e.Revision <= target && (e.Revision > floor || e.Revision == floor && e.Tombstone) {
			add(e)
		}
	}
	slices.Sort(all)
	return all
}
