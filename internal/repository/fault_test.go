package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
)

// faulty is a world behind a store that fails on purpose.
type faulty struct {
	*world
	faults *faultstore.Store
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	f := &faulty{world: newWorld(t, None)}
	f.faults = faultstore.New(f.world.store)
	return f
}

// through opens the repository behind the faults, as the program does: with retries, or without.
func (f *faulty) through(retry bool) *Repository {
	var s store.Store = f.faults
	if retry {
		s = store.Retry(s, store.RetryOptions{Sleep: func(context.Context, time.Duration) error { return nil }})
	}
	return &Repository{store: s, document: f.document}
}

// sound wants everything that is shown to be whole, and the numbering without a flaw. It gives how many snapshots there are.
func (f *faulty) sound(t *testing.T, what string) int {
	t.Helper()
	f.faults.Clear()
	r := f.again(t)
	reads, strange, err := r.Snapshots(t.Context(), "prod")
	must(t, err)
	if len(strange) > 0 {
		t.Errorf("%s: strange %q", what, strange)
	}
	for _, read := range reads {
		if read.Err != nil {
			t.Errorf("%s: %v", what, read.Err)
			continue
		}
		if _, _, err := r.Fetch(t.Context(), read.Manifest, nil, new(bytes.Buffer), nil); err != nil {
			t.Errorf("%s: shown and not whole: %v", what, err)
		}
	}
	result, _, err := r.Check(t.Context(), nil)
	must(t, err)
	if len(result.Problems) > 0 {
		t.Errorf("%s: problems %q", what, result.Problems)
	}
	return len(reads)
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// kindsOf are the ways in which a call can go wrong; some damage only what passes through it.
func kindsOf(op faultstore.Op, retry bool) map[string]faultstore.Fault {
	kinds := map[string]faultstore.Fault{
		"fails for good": {Do: faultstore.Fail, Err: store.Mark(errors.New("disk full"), store.ErrFinal)},
		"is cut":         {Do: faultstore.Cut, At: 100}, "loses its answer": {Do: faultstore.Lose},
	}
	if retry {
		kinds["fails three times"] = faultstore.Fault{Do: faultstore.Fail, Times: 3}
	} else {
		kinds["fails on and on"] = faultstore.Fault{Do: faultstore.Fail, Times: -1}
		kinds["is cut at once"] = faultstore.Fault{Do: faultstore.Cut}
	}
	if op == faultstore.Open {
		kinds["is short"] = faultstore.Fault{Do: faultstore.Short, At: 100}
	}
	return kinds
}

// each runs do with each call of each operation failing in each way.
func (f *faulty) each(t *testing.T, prepare func(), do func(r *Repository) error, check func(what string, err error)) {
	t.Helper()
	faults := 0
	for _, retry := range []bool{false, true} {
		for _, op := range []faultstore.Op{faultstore.Put, faultstore.Open, faultstore.Stat, faultstore.List, faultstore.Delete} {
			prepare()
			before := f.faults.Calls(op)
			must(t, do(f.through(retry)))
			calls := f.faults.Calls(op) - before
			for skip := range calls {
				for name, fault := range kindsOf(op, retry) {
					prepare()
					what := fmt.Sprintf("%s number %d %s, retries %t", op, skip+1, name, retry)
					fault.On, fault.Skip = op, skip
					f.faults.Add(fault)
					err := do(f.through(retry))
					f.faults.Clear()
					check(what, err)
					faults++
				}
			}
		}
	}
	if faults < 50 {
		t.Errorf("only %d faults", faults)
	}
	t.Logf("%d faults", faults)
}

// TestBackupUnderFaults: whichever call of a backup goes wrong and how, no half snapshot shows, and the next one works.
func TestBackupUnderFaults(t *testing.T) {
	f := newFaulty(t)
	content := backend(t, 0)
	there, failed := 0, 0
	backup := func(r *Repository) error {
		w := *f.world
		w.Repository = r
		_, err := w.tryAdd(t.Context(), "prod", "0123456789abcdef", content)
		return err
	}
	prepare := func() {
		// A host that forgets how far it has counted looks for it; that can go wrong as well.
		must(t, ignoreMissing(removeHead(f.world)))
		there = f.sound(t, "before")
	}
	f.each(t, prepare, backup, func(what string, err error) {
		now := f.sound(t, what)
		switch {
		case err == nil && now != there+1:
			t.Errorf("%s: done, and %d snapshots, were %d", what, now, there)
		case err != nil && now != there && now != there+1: // an answer may have been lost for good
			t.Errorf("%s: %v, and %d snapshots, were %d", what, err, now, there)
		}
		if err != nil {
			failed++
			must(t, backup(f.through(false)))
		}
		if now > 12 { // few enough for a fast check
			f.world = newWorld(t, None)
			f.faults = faultstore.New(f.world.store)
		}
	})
	if failed == 0 {
		t.Error("no backup failed")
	}
}

// TestRemoveUnderFaults: whichever call of a removal goes wrong and how, nothing that is shown lacks its data, nothing is
// missed, and the next removal ends the work.
func TestRemoveUnderFaults(t *testing.T) {
	f := newFaulty(t)
	var victims []Victim
	prepare := func() {
		for f.sound(t, "before") < 3 {
			_, err := f.tryAdd(t.Context(), "prod", "0123456789abcdef", backend(t, 0))
			must(t, err)
		}
		reads, _, err := f.Snapshots(t.Context(), "prod")
		must(t, err)
		_, err = f.RecordVerification(t.Context(), f.writer, reads[0], Verification{Started: time.Now(), Level: LevelChecksum, Passed: true})
		must(t, err)
		victims = []Victim{{reads[0], "old"}, {reads[1], "old"}}
	}
	remove := func(r *Repository) error {
		outcomes, err := r.Remove(t.Context(), f.writer, victims)
		if err == nil && len(outcomes) != len(victims) {
			err = fmt.Errorf("%d outcomes", len(outcomes))
		}
		return err
	}
	f.each(t, prepare, remove, func(what string, err error) {
		if now := f.sound(t, what); now < 1 || err == nil && now != 1 {
			t.Errorf("%s: %v, and %d snapshots", what, err, now)
		}
		reads, _, listErr := f.Snapshots(t.Context(), "prod")
		must(t, listErr)
		victims = nil
		for _, read := range reads[:len(reads)-1] {
			victims = append(victims, Victim{read, "old"})
		}
		must(t, remove(f.again(t)))
		if now := f.sound(t, what+", again"); now != 1 {
			t.Errorf("%s, again: %d snapshots", what, now)
		}
	})
}

// TestListUnderFaults: a list that cannot be trusted is an error, and never a shorter list.
func TestListUnderFaults(t *testing.T) {
	f := newFaulty(t)
	for range 3 {
		_, err := f.tryAdd(t.Context(), "prod", "0123456789abcdef", backend(t, 0))
		must(t, err)
	}
	var good int
	list := func(r *Repository) error {
		reads, _, err := r.Snapshots(t.Context(), "prod")
		good = 0
		for _, read := range reads {
			if read.Err == nil {
				good++
			} else {
				err = errors.Join(err, read.Err)
			}
		}
		return err
	}
	f.each(t, func() {}, list, func(what string, err error) {
		if err == nil && good != 3 {
			t.Errorf("%s: no error, and %d snapshots of 3", what, good)
		}
	})
}

// TestSlowListing: a store whose listings lag behind loses no snapshot and doubles no number.
func TestSlowListing(t *testing.T) {
	f := newFaulty(t)
	f.faults.DelayListing(3)
	for i := range 4 {
		w := *f.world
		w.Repository = f.through(true)
		m, err := w.tryAdd(t.Context(), "prod", "0123456789abcdef", backend(t, 0))
		must(t, err)
		if m.Sequence != int64(i+1) {
			t.Errorf("manifest %d has number %d", i+1, m.Sequence)
		}
		if _, err := f.through(false).Manifest(t.Context(), m.Point()); err != nil {
			t.Errorf("manifest %d: %v", i+1, err)
		}
	}
	f.faults.DelayListing(0)
	if n := f.sound(t, "later"); n != 4 {
		t.Errorf("%d snapshots", n)
	}
}

// TestNoDeleteNeeded: all but pruning works for who may neither delete nor overwrite.
func TestNoDeleteNeeded(t *testing.T) {
	f := newFaulty(t)
	w := *f.world
	w.Repository = &Repository{store: struct{ store.Store }{f.faults}, document: f.document}
	m, err := w.tryAdd(t.Context(), "prod", "", backend(t, 0))
	must(t, err)
	reads, _, err := w.Snapshots(t.Context(), "prod")
	must(t, err)
	_, _, err = w.Fetch(t.Context(), m, nil, new(bytes.Buffer), nil)
	must(t, err)
	_, err = w.RecordVerification(t.Context(), w.writer, reads[0], Verification{Started: time.Now(), Level: LevelChecksum, Passed: true})
	must(t, err)
	_, _, err = w.Check(t.Context(), nil)
	must(t, err)
	if _, err := w.Remove(t.Context(), w.writer, []Victim{{reads[0], "old"}}); !errors.Is(err, ErrNoDelete) {
		t.Errorf("remove: %v", err)
	}
	if n := f.faults.Calls(faultstore.Delete); n != 0 {
		t.Errorf("%d deletes", n)
	}
}

// TestPinUnderFaults: a store that does not answer is an error, and no number that is taken.
func TestPinUnderFaults(t *testing.T) {
	f := newFaulty(t)
	m, err := f.tryAdd(t.Context(), "prod", "", backend(t, 0))
	must(t, err)
	f.faults.Add(faultstore.Fault{On: faultstore.Open, Name: "clusters/prod/pins/", Do: faultstore.Fail, Times: -1})
	if err := f.through(false).SetPin(t.Context(), f.writer, m.Point(), true, ""); !errors.Is(err, faultstore.ErrInjected) {
		t.Errorf("pin: %v", err)
	}
	f.faults.Clear()
	must(t, f.through(false).SetPin(t.Context(), f.writer, m.Point(), true, "why"))
}

// TestRevokeUnderFaults: what could not be read when a key is revoked is not rejected for ever; nothing is revoked then.
func TestRevokeUnderFaults(t *testing.T) {
	f := newFaulty(t)
	m, err := f.tryAdd(t.Context(), "prod", "", backend(t, 0))
	must(t, err)
	reads, _, err := f.Snapshots(t.Context(), "prod")
	must(t, err)
	_, err = f.RecordVerification(t.Context(), f.writer, reads[0], Verification{Started: time.Now(), Level: LevelChecksum, Passed: true})
	must(t, err)
	must(t, f.SetPin(t.Context(), f.writer, m.Point(), true, "why"))
	key := f.writer.Public().Fingerprint()
	for _, name := range []string{"clusters/prod/manifests/", "clusters/prod/verifications/", "clusters/prod/pins/"} {
		f.faults.Add(faultstore.Fault{On: faultstore.Open, Name: name, Do: faultstore.Fail})
		if _, err := f.through(false).Revoke(t.Context(), f.root, key, false); !errors.Is(err, faultstore.ErrInjected) {
			t.Errorf("%s cannot be read: %v", name, err)
		}
		f.faults.Clear()
	}
	accepted, err := f.through(false).Revoke(t.Context(), f.root, key, false)
	must(t, err)
	if accepted != 3 {
		t.Errorf("%d objects stay believed, want 3", accepted)
	}
}
