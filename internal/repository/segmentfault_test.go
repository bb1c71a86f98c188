package repository

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
)

func newFaults(w *world) *faultstore.Store { return faultstore.New(w.store) }

// failOpen fails each read of an object.
func failOpen(name string) faultstore.Fault {
	return faultstore.Fault{On: faultstore.Open, Name: name, Do: faultstore.Fail, Times: -1}
}

// TestPublishUnderFaults: whichever call goes wrong and how, nothing half shows, and the same segment tried again is published
// once, by the same manifest.
func TestPublishUnderFaults(t *testing.T) {
	f := newFaulty(t)
	var draft sealed
	first := history.Revision(1)
	prepare := func() {
		first += 10
		draft = f.seal(t, SegmentLive, first, first+9, plainOf(first, first+9))
		// An hour and more ago, so that it looks for merged ones as well.
		draft.Started, draft.Completed = draft.Started.Add(-LiveAtLeast), draft.Completed.Add(-LiveAtLeast)
	}
	failed := 0
	f.each(t, prepare, func(r *Repository) error {
		_, err := draft.put(t.Context(), r, f.writer)
		return err
	}, func(what string, err error) {
		if err != nil {
			failed++
			if _, taken := errors.AsType[*Taken](err); taken {
				t.Errorf("%s: it is told that it came second: %v", what, err)
			}
		}
		// It tries until it knows.
		published, again := draft.put(t.Context(), f.through(false), f.writer)
		if taken, is := errors.AsType[*Taken](again); is && taken.Winner.Plain == draft.Plain && taken.Winner.Signer == f.writer.Public().Fingerprint() {
			t.Errorf("%s: the same try gave another manifest", what)
		}
		if again != nil {
			t.Fatalf("%s, again: %v", what, again)
		}
		read := f.again(t).Segment(t.Context(), draft.Point())
		must(t, read.Err)
		if diff := cmp.Diff(read.Segment, published); diff != "" {
			t.Errorf("%s: (-stored +told)\n%s", what, diff)
		}
		content, openErr := f.open(t, read.Segment)
		must(t, openErr)
		if string(content) != string(plainOf(draft.First, draft.Last)) {
			t.Errorf("%s: other content", what)
		}
	})
	if failed == 0 {
		t.Error("nothing failed")
	}
	f.sound(t, "at last")
	unclaimed, err := f.Unclaimed(t.Context(), "prod")
	must(t, err)
	if len(unclaimed) > 0 {
		t.Errorf("%d objects are left by tries whose answers were lost", len(unclaimed))
	}
}

// TestOpenSegmentUnderFaults: a store that fails or gives less is an error before io.EOF.
func TestOpenSegmentUnderFaults(t *testing.T) {
	f := newFaulty(t)
	s := f.live(t, 5, 9)
	var got []byte
	f.each(t, func() {}, func(r *Repository) error {
		points, _, err := r.SegmentPoints(t.Context(), "prod", line)
		if err != nil {
			return err
		}
		reads, err := r.SegmentsOf(t.Context(), points)
		if err != nil {
			return err
		}
		got = nil
		w := *f.world
		w.Repository = r
		for _, read := range reads {
			if read.Err != nil {
				return read.Err
			}
			if got, err = w.open(t, read.Segment); err != nil {
				return err
			}
		}
		// These are for the number of calls, and must not say anything false either.
		if _, err := r.LastSegment(t.Context(), "prod", line); err != nil {
			return err
		}
		unclaimed, err := r.Unclaimed(t.Context(), "prod")
		if err == nil && len(unclaimed) > 0 {
			err = fmt.Errorf("unclaimed %+v", unclaimed)
			t.Error(err)
		}
		return err
	}, func(what string, err error) {
		if err == nil && string(got) != string(plainOf(s.First, s.Last)) {
			t.Errorf("%s: no error, and %d bytes", what, len(got))
		}
	})
}

// TestRemoveSegmentsUnderFaults: whichever call of a removal goes wrong and how, nothing that is shown lacks its data, and the
// next removal and reclaim end the work.
func TestRemoveSegmentsUnderFaults(t *testing.T) {
	f := newFaulty(t)
	var victims []SegmentVictim
	first := history.Revision(1)
	prepare := func() {
		victims = nil
		for range 2 {
			s := f.put(t, f.seal(t, SegmentMinute, first, first, plainOf(first, first)))
			victims = append(victims, SegmentVictim{f.Segment(t.Context(), s.Point()), "old"})
			first++
		}
	}
	f.each(t, prepare, func(r *Repository) error {
		_, err := r.RemoveSegments(t.Context(), f.writer, victims)
		return err
	}, func(what string, err error) {
		reads := f.segments(t)
		if err == nil && len(reads) > 0 {
			t.Errorf("%s: done, and %d are left", what, len(reads))
		}
		for _, read := range reads {
			must(t, read.Err)
			if _, err := f.open(t, read.Segment); err != nil {
				t.Errorf("%s: shown and not whole: %v", what, err)
			}
		}
		_, err = f.again(t).RemoveSegments(t.Context(), f.writer, victims)
		must(t, err)
		unclaimed, err := f.Unclaimed(t.Context(), "prod")
		must(t, err)
		_, err = f.Reclaim(t.Context(), f.writer, "prod", unclaimed)
		must(t, err)
		for _, name := range f.names(t) {
			if part := clusterFolder + "prod" + segmentPart; len(name) > len(part) && name[:len(part)] == part {
				t.Errorf("%s: %q is left", what, name)
			}
		}
		f.sound(t, what)
	})
}

// TestRevokeArchiverUnderFaults: what could not be read when a key is revoked is not rejected for ever; nothing is revoked then.
func TestRevokeArchiverUnderFaults(t *testing.T) {
	f := newFaulty(t)
	s := f.live(t, 5, 9)
	gap, err := f.PutGap(t.Context(), f.writer, Gap{Cluster: "prod", Timeline: line, First: 1, Last: 4, Noticed: time.Now(), Reason: "why"})
	must(t, err)
	hashes, err := f.PutHashes(t.Context(), f.writer, Hashes{Cluster: "prod", Timeline: line, Revision: 9, Taken: time.Now(), Members: []MemberHash{{MemberID: "1", Hash: 7}}, Equal: true})
	must(t, err)
	key := f.writer.Public().Fingerprint()
	for _, name := range []string{s.Point().manifestName(), gap.name(), hashes.name()} {
		for _, fault := range []faultstore.Fault{failOpen(name), {On: faultstore.Open, Name: name, Do: faultstore.Short, At: 50, Times: -1}} {
			f.faults.Add(fault)
			if _, err := f.through(false).Revoke(t.Context(), f.root, key, false); err == nil {
				t.Fatalf("%s is read badly, and the key is revoked", name)
			}
			f.faults.Clear()
		}
	}
	accepted, err := f.through(false).Revoke(t.Context(), f.root, key, false)
	must(t, err)
	if accepted != 3 {
		t.Errorf("%d objects stay believed, want 3", accepted)
	}
}
