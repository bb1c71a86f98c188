package repository

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
)

// only gives the one snapshot of a cluster as it is read.
func (w *world) only(t *testing.T, r *Repository, cluster string) Read {
	t.Helper()
	reads, strange, err := r.Snapshots(t.Context(), cluster)
	must(t, err)
	if len(reads) != 1 || len(strange) > 0 {
		t.Fatalf("snapshots %+v, strange %q", reads, strange)
	}
	return reads[0]
}

// TestRoles: a key signs what it may sign, and nothing else.
func TestRoles(t *testing.T) {
	w := newWorld(t, None)
	m := w.add(t, "prod", backend(t, 0))
	other, err := OpenWriter(t.TempDir())
	must(t, err)
	must(t, w.Enroll(t.Context(), w.root, other.Public(), RoleVerify, "verifier"))
	read := w.only(t, w.Repository, "prod")

	// A verifier verifies, and neither backs up nor prunes nor pins.
	v, err := w.RecordVerification(t.Context(), other, read, Verification{Started: time.Now(), Level: LevelChecksum, Passed: true})
	must(t, err)
	if err := w.MayPrune(t.Context(), other); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("prune: %v", err)
	}
	if _, err := w.Remove(t.Context(), other, []Victim{{Read: read}}); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("remove: %v", err)
	}
	if err := w.SetPin(t.Context(), other, m.Point(), true, ""); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("pin: %v", err)
	}
	forged := m
	forged.ID = newID(time.Now().Add(time.Hour))
	forged.Signer, forged.Object.Name = other.Public().Fingerprint(), dataName("prod", forged.ID, false)
	text, err := sign(forged, other.key)
	must(t, err)
	w.replace(t, forged.Point().manifestName(), text)
	if _, err := w.again(t).Manifest(t.Context(), forged.Point()); !errors.Is(err, ErrForged) {
		t.Errorf("a manifest of a verifier: %v", err)
	}
	w.replace(t, forged.Point().manifestName(), nil)

	// Its enrolment does not serve under the name of another role, nor its verification under another name.
	w.replace(t, signerName(other.Public().Fingerprint(), RolePrune), w.read(t, signerName(other.Public().Fingerprint(), RoleVerify)))
	if err := w.again(t).MayPrune(t.Context(), other); !errors.Is(err, ErrForged) {
		t.Errorf("a renamed enrolment: %v", err)
	}
	moved := strings.Replace(v.name(), "checksum-passed", "drill-passed", 1)
	w.replace(t, moved, w.read(t, v.name()))
	reads, _, err := w.Verifications(t.Context(), "prod", nil)
	must(t, err)
	if proof := ProofOf(read, reads); len(reads) != 2 || proof.Standing != StandingVerified {
		t.Errorf("a renamed verification: %+v", proof)
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t, None)
	m := w.add(t, "prod", backend(t, 0))
	read := w.only(t, w.Repository, "prod")
	_, err := w.RecordVerification(t.Context(), w.writer, read, Verification{Started: time.Now(), Level: LevelChecksum, Passed: true})
	must(t, err)
	must(t, w.SetPin(t.Context(), w.writer, m.Point(), true, "why"))
	key := w.writer.Public().Fingerprint()

	// Rubbish in the place of a revocation keeps nobody from reading.
	w.replace(t, revocationName(key), []byte("rubbish"))
	must(t, w.only(t, w.again(t), "prod").Err)
	w.replace(t, revocationName(key), nil)

	if _, err := w.Revoke(t.Context(), w.writer.key, key, false); err == nil {
		t.Error("revoked without the root key")
	}
	accepted, err := w.Revoke(t.Context(), w.root, key, false)
	must(t, err)
	if accepted != 3 {
		t.Errorf("%d objects stay believed, want the manifest, the verification and the pin", accepted)
	}
	if _, err := w.Revoke(t.Context(), w.root, key, false); !errors.Is(err, ErrRevoked) {
		t.Errorf("again: %v", err)
	}
	// A thief of the key signs on, with whatever date.
	thief := w.again(t)
	forged, err := w.tryAdd(t.Context(), "prod", m.Timeline, backend(t, 1))
	must(t, err) // the writer's own check is that of backup
	if _, err := thief.Manifest(t.Context(), forged.Point()); !errors.Is(err, ErrForged) {
		t.Errorf("signed after the revocation: %v", err)
	}
	if _, err := thief.Enrolled(t.Context(), key, RoleBackup); !errors.Is(err, ErrRevoked) {
		t.Errorf("enrolled: %v", err)
	}
	if _, err := thief.Manifest(t.Context(), m.Point()); err != nil {
		t.Errorf("signed before: %v", err)
	}
	pins, err := thief.PinsOf(t.Context(), "prod")
	must(t, err)
	if pin := pins[m.ID]; pin.Err != nil || !pin.Pin.Pinned {
		t.Errorf("pin %+v", pin)
	}
	if err := w.Enroll(t.Context(), w.root, w.writer.Public(), RoleBackup, "again"); !errors.Is(err, ErrRevoked) {
		t.Errorf("enrolled again: %v", err)
	}
	// It turns out that the thief had the key for long.
	_, err = w.Revoke(t.Context(), w.root, key, true)
	must(t, err)
	if _, err := w.again(t).Manifest(t.Context(), m.Point()); !errors.Is(err, ErrForged) {
		t.Errorf("signed before, and rejected: %v", err)
	}
	if _, err := w.Revoke(t.Context(), w.root, key, true); !errors.Is(err, ErrRevoked) {
		t.Errorf("rejected again: %v", err)
	}

	all := newWorld(t, None)
	m = all.add(t, "prod", backend(t, 0))
	_, err = all.Revoke(t.Context(), all.root, all.writer.Public().Fingerprint(), true)
	must(t, err)
	if _, err := all.again(t).Manifest(t.Context(), m.Point()); !errors.Is(err, ErrForged) {
		t.Errorf("all rejected: %v", err)
	}
}

func TestSetRecipients(t *testing.T) {
	w := newWorld(t, Age)
	first := w.add(t, "prod", backend(t, 0))
	text, added, err := seal.GenerateIdentity(seal.X25519)
	must(t, err)
	identity, err := seal.ReadIdentities(writeFile(t, text))
	must(t, err)
	change := func(root Key, to ...string) error {
		return w.SetRecipients(t.Context(), root, func([]string) ([]string, error) { return to, nil })
	}
	_, hybrid, err := seal.GenerateIdentity(seal.Hybrid)
	must(t, err)
	for name, err := range map[string]error{
		"not the root key": change(w.writer.key, added.String()), "nobody": change(w.root),
		"a mixture": change(w.root, added.String(), hybrid.String()), "no recipient": change(w.root, "age1"),
	} {
		if err == nil {
			t.Errorf("%s: passes", name)
		}
	}
	must(t, change(w.root, append(slices.Clone(w.document.Recipients), added.String())...))
	both := w.add(t, "prod", backend(t, 1))
	must(t, change(w.root, added.String()))
	r := w.again(t)
	now, err := r.Recipients(t.Context())
	must(t, err)
	if !slices.Equal(now, []string{added.String()}) {
		t.Errorf("recipients %q", now)
	}
	last := w.add(t, "test", backend(t, 0))
	for _, tt := range []struct {
		m        Manifest
		old, new bool
	}{{first, true, false}, {both, true, true}, {last, false, true}} {
		for _, try := range []struct {
			identities []seal.Identity
			want       bool
		}{{w.identity, tt.old}, {identity, tt.new}} {
			_, _, err := r.Fetch(t.Context(), tt.m, try.identities, new(bytes.Buffer), nil)
			if (err == nil) != try.want {
				t.Errorf("snapshot for %q: %v, want it read %v", tt.m.Object.Recipients, err, try.want)
			}
		}
	}
	// What the root key did not sign is not followed.
	w.replace(t, recipientsName(3), w.read(t, recipientsName(2)))
	if _, err := r.Recipients(t.Context()); !errors.Is(err, ErrForged) {
		t.Errorf("an old change again: %v", err)
	}
	if _, err := w.tryAdd(t.Context(), "prod", "", backend(t, 0)); !errors.Is(err, ErrForged) {
		t.Errorf("backup with forged recipients: %v", err)
	}
}

func TestProofOf(t *testing.T) {
	snapshot := Read{SHA256: "m"}
	snapshot.Point.ID = newID(time.Now())
	start := time.Now()
	made := func(minute int, level Level, passed, compared bool) VerificationRead {
		v := Verification{Started: start.Add(time.Duration(minute) * time.Minute), Snapshot: snapshot.Point.ID, Manifest: "m", Level: level, Passed: passed, Compared: compared}
		return VerificationRead{Verification: v}
	}
	forged := made(9, LevelDrill, true, true)
	forged.Err = ErrForged
	another := made(9, LevelDrill, true, true)
	another.Verification.Manifest = "other"
	for name, tt := range map[string]struct {
		reads    []VerificationRead
		standing Standing
		level    Level
	}{
		"never":                         {nil, StandingStored, ""},
		"not believed":                  {[]VerificationRead{forged, another}, StandingStored, ""},
		"ciphertext":                    {[]VerificationRead{made(1, LevelCiphertext, true, false)}, StandingStored, LevelCiphertext},
		"checksum":                      {[]VerificationRead{made(1, LevelChecksum, true, false)}, StandingVerified, LevelChecksum},
		"a drill that compared nothing": {[]VerificationRead{made(1, LevelDrill, true, false)}, StandingVerified, LevelDrill},
		"a drill":                       {[]VerificationRead{made(1, LevelDrill, true, true)}, StandingProven, LevelDrill},
		"a weaker one later":            {[]VerificationRead{made(2, LevelChecksum, true, false), made(1, LevelDrill, true, true)}, StandingProven, LevelDrill},
		"a failure later":               {[]VerificationRead{made(2, LevelCiphertext, false, false), made(1, LevelDrill, true, true)}, StandingBad, LevelCiphertext},
		"a failure, then as deep":       {[]VerificationRead{made(1, LevelChecksum, false, false), made(2, LevelReplay, true, true)}, StandingVerified, LevelReplay},
		"a failure, then less deep":     {[]VerificationRead{made(1, LevelReplay, false, false), made(2, LevelChecksum, true, false)}, StandingBad, LevelReplay},
	} {
		proof := ProofOf(snapshot, tt.reads)
		if proof.Standing != tt.standing || proof.Level != tt.level {
			t.Errorf("%s: %+v, want %s by %q", name, proof, tt.standing, tt.level)
		}
	}
}

func TestRemove(t *testing.T) {
	w := newWorld(t, Age)
	first := w.add(t, "prod", backend(t, 0))
	_, err := w.tryAdd(t.Context(), "prod", first.Timeline, backend(t, 1))
	must(t, err)
	third, err := w.tryAdd(t.Context(), "prod", first.Timeline, backend(t, 1))
	must(t, err)
	reads, _, err := w.Snapshots(t.Context(), "prod")
	must(t, err)
	_, err = w.RecordVerification(t.Context(), w.writer, reads[0], Verification{Started: time.Now(), Level: LevelChecksum, Passed: true})
	must(t, err)
	must(t, w.SetPin(t.Context(), w.writer, first.Point(), true, "a while"))
	must(t, w.SetPin(t.Context(), w.writer, first.Point(), false, "no more"))
	outcomes, err := w.Remove(t.Context(), w.writer, []Victim{{reads[0], "old"}, {reads[1], "old"}})
	must(t, err)
	if len(outcomes) != 2 || outcomes[0].Locked != nil || outcomes[1].Locked != nil {
		t.Errorf("outcomes %+v", outcomes)
	}
	if names := w.names(t); contains(names, first.ID.String()) {
		t.Errorf("left of what was removed: %q", names)
	}
	result, _, err := w.Check(t.Context(), nil)
	must(t, err)
	if len(result.Problems) > 0 || result.Removed != 2 || result.Snapshots != 1 {
		t.Errorf("check %+v", result)
	}
	// The numbering goes on where it was, also when this host forgot it.
	must(t, removeHead(w))
	fourth, err := w.tryAdd(t.Context(), "prod", first.Timeline, backend(t, 1))
	must(t, err)
	if fourth.Sequence != third.Sequence+1 {
		t.Errorf("sequence %d after %d", fourth.Sequence, third.Sequence)
	}
	reads, _, err = w.Snapshots(t.Context(), "prod")
	must(t, err)
	_, err = w.Remove(t.Context(), w.writer, []Victim{{reads[0], "old"}, {reads[1], "old"}})
	must(t, err)
	must(t, removeHead(w))
	fifth, err := w.tryAdd(t.Context(), "prod", first.Timeline, backend(t, 1))
	must(t, err)
	if fifth.Sequence != fourth.Sequence+1 {
		t.Errorf("sequence %d after %d, all of whose manifests are pruned", fifth.Sequence, fourth.Sequence)
	}

	// Without its record a removal is a hole.
	for _, name := range w.names(t) {
		if strings.HasPrefix(name, removalsFolder) {
			w.replace(t, name, nil)
		}
	}
	if result, _, err = w.Check(t.Context(), nil); err != nil || len(result.Problems) != 1 || !strings.Contains(result.Problems[0], "missing") {
		t.Errorf("without the records: %+v, %v", result, err)
	}
}

// TestHeads: who remembers the last manifests sees that they are gone.
func TestHeads(t *testing.T) {
	w := newWorld(t, None)
	first := w.add(t, "prod", backend(t, 0))
	last, err := w.tryAdd(t.Context(), "prod", first.Timeline, backend(t, 1))
	must(t, err)
	_, heads, err := w.Check(t.Context(), nil)
	must(t, err)
	own := w.writer.Public().Fingerprint()
	if heads[own] != w.writer.Head(w.Repository) || heads[own].Sequence != 2 {
		t.Errorf("heads %+v, the writer's own %+v", heads, w.writer.Head(w.Repository))
	}
	folder := TrustFolder{Dir: t.TempDir()}
	must(t, folder.Remember("id", Heads{}, heads))
	must(t, folder.Remember("id", heads, Heads{own: {Sequence: 1}})) // never back
	seen, err := folder.Heads("id")
	must(t, err)
	w.replace(t, last.Point().manifestName(), nil)
	if result, _, err := w.Check(t.Context(), nil); err != nil || len(result.Problems) > 0 {
		t.Errorf("who never saw it: %+v, %v", result, err)
	}
	if result, _, err := w.Check(t.Context(), seen); err != nil || len(result.Problems) != 1 || !strings.Contains(result.Problems[0], "was there, and is missing") {
		t.Errorf("who remembers: %+v, %v", result, err)
	}
	w.replace(t, first.Point().manifestName(), nil)
	if result, _, err := w.Check(t.Context(), seen); err != nil || len(result.Problems) != 1 || !strings.Contains(result.Problems[0], "up to 2 were there") {
		t.Errorf("all gone: %+v, %v", result, err)
	}
}

// TestRemoveIsCutOff: whatever ends it, no snapshot is shown whose data is gone.
func TestRemoveIsCutOff(t *testing.T) {
	w := newWorld(t, None)
	w.add(t, "prod", backend(t, 0))
	w.add(t, "prod", backend(t, 1))
	reads, _, err := w.Snapshots(t.Context(), "prod")
	must(t, err)
	for after := range 4 {
		w.Repository.store = &failingDeletes{Store: w.store, Deleter: w.store, left: after}
		_, err = w.Remove(t.Context(), w.writer, []Victim{{reads[0], "old"}})
		w.Repository.store = w.store
		shown, _, listErr := w.Snapshots(t.Context(), "prod")
		must(t, listErr)
		for _, read := range shown {
			if err := w.CheckListed(t.Context(), read.Manifest); err != nil {
				t.Errorf("after %d deletes: shown and gone: %v", after, err)
			}
		}
		if err == nil {
			break
		}
	}
	unclaimed, err := w.Unclaimed(t.Context(), "prod")
	must(t, err)
	freed, err := w.Reclaim(t.Context(), w.writer, "prod", unclaimed)
	must(t, err)
	if result, _, err := w.Check(t.Context(), nil); err != nil || len(result.Problems) > 0 || result.Unclaimed > 0 || result.Snapshots != 1 {
		t.Errorf("reclaimed %d bytes of %v; check %+v, %v", freed, unclaimed, result, err)
	}
}

// failingDeletes fails after some deletes.
type failingDeletes struct {
	store.Store
	store.Deleter
	left int
}

func (f *failingDeletes) Delete(ctx context.Context, name string) error {
	if f.left == 0 {
		return errors.New("cut off")
	}
	f.left--
	return f.Deleter.Delete(ctx, name)
}

// removeHead makes this host forget how far it has counted.
func removeHead(w *world) error { return os.Remove(w.writer.headFile(w.Repository)) }
