package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Removal is the word of a pruning key that snapshots or segments were removed on purpose. Without it their manifests are
// missing.
type Removal struct {
	Format     string    `json:"format"`
	Repository string    `json:"repository"`
	ID         ID        `json:"id"`
	Snapshots  []Removed `json:"snapshots"`
	// Segments are runs of segments.
	Segments []RemovedSegments `json:"segments,omitempty"`
	Signer   Fingerprint       `json:"signer"`
}

// Removed is one snapshot of a Removal.
type Removed struct {
	// Manifest is the name of its manifest, SHA256 that of the manifest.
	Manifest string `json:"manifest"`
	SHA256   string `json:"sha256"`
	// Signer and Sequence are its place in the numbering.
	Signer   Fingerprint `json:"signer"`
	Sequence int64       `json:"sequence"`
	// Reason is why it was not kept.
	Reason string `json:"reason"`
}

// Point is what the name of the manifest says.
func (r Removed) Point() (Point, error) { return parsePoint(r.Manifest) }

// mostRemoved bounds the snapshots or runs of segments of one Removal, so that it stays below mostSigned.
const mostRemoved = 1000

func removalName(id ID) string { return removalsFolder + id.String() + ".json" }

// RemovalRead is one Removal that was fetched, or why it could not be believed.
type RemovalRead struct {
	Name    string
	Removal Removal
	SHA256  string
	Err     error
}

// Removals fetches all records of removals.
func (r *Repository) Removals(ctx context.Context) ([]RemovalRead, error) {
	var reads []RemovalRead
	for object, err := range r.store.List(ctx, removalsFolder, "") {
		if err != nil {
			return nil, fmt.Errorf("list removals: %w", err)
		}
		reads = append(reads, RemovalRead{Name: object.Name})
	}
	var group errgroup.Group
	group.SetLimit(fetchesAtOnce)
	for i := range reads {
		group.Go(func() error {
			reads[i].load(ctx, r)
			return nil
		})
	}
	_ = group.Wait() // no error comes out of it
	return reads, context.Cause(ctx)
}

func (read *RemovalRead) load(ctx context.Context, r *Repository) {
	signed, err := r.readSigned(ctx, read.Name)
	if err == nil {
		read.SHA256 = sumOf(signed)
		var by Fingerprint
		by, err = r.openSigned(ctx, signed, RolePrune, removalFormat, &read.Removal)
		if v := read.Removal; err == nil && (v.Signer != by || v.Repository != r.document.Repository || removalName(v.ID) != read.Name) {
			err = fmt.Errorf("%w: it does not belong there", ErrForged)
		}
	}
	if err != nil {
		read.Err = fmt.Errorf("record of a removal %q: %w", read.Name, err)
	}
}

// Victim is a snapshot that is to be removed, and why.
type Victim struct {
	Read   Read
	Reason string
}

// ErrNoDelete means that nothing can be deleted in a store, whoever asks.
var ErrNoDelete = errors.New("this store does not let objects be deleted")

// Outcome is what became of a Victim.
type Outcome struct {
	// Locked is the lock that holds the snapshot, which stays whole; nil when it is gone.
	Locked *store.Locked
}

// Remove removes snapshots: first it says so, signed, then go the manifests, and then what they named. Whatever ends it in
// between, no snapshot is shown whose data is gone. The outcomes are those of the first victims, in their order; all of them
// when there is no error.
func (r *Repository) Remove(ctx context.Context, w *Writer, victims []Victim) (outcomes []Outcome, err error) {
	deleter, can := r.store.(store.Deleter)
	if !can {
		return nil, ErrNoDelete
	}
	if err := r.MayPrune(ctx, w); err != nil {
		return nil, err
	}
	for some := range slices.Chunk(victims, mostRemoved) {
		if err := r.recordRemoval(ctx, w, some); err != nil {
			return outcomes, err
		}
		for _, victim := range some {
			outcome, err := r.removeOne(ctx, deleter, victim.Read)
			if err != nil {
				return outcomes, fmt.Errorf("remove snapshot %s: %w", victim.Read.Point.ID.Long(), err)
			}
			outcomes = append(outcomes, outcome)
		}
	}
	return outcomes, nil
}

// MayPrune tells whether a writer may remove and pin: ErrNotEnrolled or ErrRevoked when not.
func (r *Repository) MayPrune(ctx context.Context, w *Writer) error {
	if _, err := r.Enrolled(ctx, w.key.Public().Fingerprint(), RolePrune); err != nil {
		return fmt.Errorf("signing key of this host: %w", err)
	}
	return nil
}

func (r *Repository) recordRemoval(ctx context.Context, w *Writer, victims []Victim) error {
	v := Removal{Format: removalFormat, Repository: r.document.Repository, ID: newID(time.Now()), Signer: w.key.Public().Fingerprint()}
	for _, victim := range victims {
		read := victim.Read
		if read.Err != nil {
			return fmt.Errorf("record removal: %w", read.Err)
		}
		v.Snapshots = append(v.Snapshots, Removed{
			Manifest: read.Point.manifestName(), SHA256: read.SHA256, Signer: read.Manifest.Signer, Sequence: read.Manifest.Sequence, Reason: victim.Reason,
		})
	}
	return r.putRemoval(ctx, w, v)
}

func (r *Repository) putRemoval(ctx context.Context, w *Writer, v Removal) error {
	signed, err := sign(v, w.key)
	if err != nil {
		return fmt.Errorf("record removal: %w", err)
	}
	if _, err := store.PutBytes(ctx, r.store, removalName(v.ID), signed, store.PutOptions{}); err != nil {
		return fmt.Errorf("record removal: %w", err)
	}
	return nil
}

// removeOne removes one snapshot, or gives the lock that holds it, before anything of it is gone.
func (r *Repository) removeOne(ctx context.Context, deleter store.Deleter, read Read) (Outcome, error) {
	err := deleter.Delete(ctx, read.Point.manifestName())
	if locked, is := errors.AsType[store.Locked](err); is {
		return Outcome{Locked: &locked}, nil
	}
	if err != nil {
		return Outcome{}, err
	}
	// Without its manifest what a lock holds is data that nobody claims, and goes with the next prune that may.
	if err := deleteUnlocked(ctx, deleter, read.Manifest.Object.Name); err != nil {
		return Outcome{}, err
	}
	for _, part := range []string{verificationPart, pinPart} {
		for object, err := range r.store.List(ctx, clusterFolder+read.Point.Cluster+part+read.Point.ID.String()+"/", "") {
			if err == nil {
				err = deleteUnlocked(ctx, deleter, object.Name)
			}
			if err != nil {
				return Outcome{}, err
			}
		}
	}
	return Outcome{}, nil
}

// deleteUnlocked deletes an object unless a lock holds it.
func deleteUnlocked(ctx context.Context, deleter store.Deleter, name string) error {
	err := deleter.Delete(ctx, name)
	if _, is := errors.AsType[store.Locked](err); is {
		return nil
	}
	return err
}

// Unclaimed are data objects that no manifest names: of backups or archivers that were cut off, of removals that were, of
// archivers that came second, or of what is on its way.
type Unclaimed struct {
	Name string
	Size int64
	// Age is since the younger of when its backup began, by its name, and when the store got it.
	Age time.Duration
	// Segment tells that it is among the segments, and cannot be a snapshot.
	Segment bool
}

// Unclaimed lists the data objects of a cluster that no manifest names. A manifest that cannot be believed claims too: what
// is its data may be needed to find out what happened.
func (r *Repository) Unclaimed(ctx context.Context, cluster string) ([]Unclaimed, error) {
	// The data first: what comes meanwhile is then on neither list.
	var objects []store.Object
	for object, err := range r.store.List(ctx, clusterFolder+cluster+dataPart, "") {
		if err != nil {
			return nil, fmt.Errorf("list data of %q: %w", cluster, err)
		}
		objects = append(objects, object)
	}
	points, _, err := r.Points(ctx, cluster)
	if err != nil {
		return nil, err
	}
	claimed := map[string]bool{}
	for _, p := range points {
		for _, encrypted := range []bool{true, false} {
			claimed[dataName(cluster, p.ID, encrypted)] = true
		}
	}
	var list []Unclaimed
	now := time.Now()
	for _, object := range objects {
		if claimed[object.Name] {
			continue
		}
		age := now.Sub(object.Modified)
		if id, err := parseDataName(object.Name, cluster); err == nil {
			age = min(age, now.Sub(id.Time))
		}
		list = append(list, Unclaimed{Name: object.Name, Size: object.Size, Age: age})
	}
	segments, err := r.unclaimedSegments(ctx, cluster)
	return append(list, segments...), err
}

// parseDataName reads the id from the name of a data object.
func parseDataName(name, cluster string) (ID, error) {
	text := strings.TrimPrefix(name, clusterFolder+cluster+dataPart)
	text = strings.TrimSuffix(strings.TrimSuffix(text, ".age"), ".zst")
	return parseID(text)
}

// Reclaim deletes unclaimed data, and what else killed backups left in the store that is older than grace. It gives the
// bytes of the objects that are gone; those that a lock holds stay. No manifest may have come for any of them meanwhile,
// which is looked at once more.
func (r *Repository) Reclaim(ctx context.Context, w *Writer, cluster string, objects []Unclaimed) (freed int64, err error) {
	deleter, can := r.store.(store.Deleter)
	if !can {
		return 0, ErrNoDelete
	}
	if err := r.MayPrune(ctx, w); err != nil {
		return 0, err
	}
	still, err := r.Unclaimed(ctx, cluster)
	if err != nil {
		return 0, err
	}
	unclaimed := map[string]bool{}
	for _, object := range still {
		unclaimed[object.Name] = true
	}
	for _, object := range objects {
		if !unclaimed[object.Name] {
			continue
		}
		err := deleter.Delete(ctx, object.Name)
		if _, is := errors.AsType[store.Locked](err); is {
			continue
		}
		if err != nil {
			return freed, fmt.Errorf("reclaim %q: %w", object.Name, err)
		}
		freed += object.Size
	}
	return freed, nil
}

// Sweep removes what killed uploads have left in the store, where it shows in no listing, and tells how many. A store that
// leaves nothing has 0.
func (r *Repository) Sweep(ctx context.Context, olderThan time.Duration) (int, error) {
	sweeper, can := r.store.(store.Sweeper)
	if !can {
		return 0, nil
	}
	return sweeper.Sweep(ctx, olderThan)
}
