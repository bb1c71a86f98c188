package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Revocation is the root key's word that nothing more is to be believed of a key, in any role.
type Revocation struct {
	Format     string      `json:"format"`
	Repository string      `json:"repository"`
	Key        Fingerprint `json:"key"`
	Revoked    time.Time   `json:"revoked"`
	// Accepted are the sha256 of the objects of that key that are believed all the same, sorted.
	Accepted []string `json:"accepted"`
}

// ErrRevoked means that a key may not sign any more.
var ErrRevoked = errors.New("key was revoked")

// accepts tells whether an object of the revoked key is believed.
func (v Revocation) accepts(sum string) bool {
	_, found := slices.BinarySearch(v.Accepted, sum)
	return found
}

// Revoke ends what a key may do. What it has signed until now, and is in the repository, stays believed, unless reject is
// set. It gives how many objects that are. What the key signs from now on, whatever date it gives it, is not believed. A key
// that was revoked can be rejected later.
func (r *Repository) Revoke(ctx context.Context, root Key, f Fingerprint, reject bool) (accepted int, err error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("revoke signer %s: %w", f.Short(), err) }
	if err := r.checkRoot(root); err != nil {
		return fail(err)
	}
	earlier, err := r.revocation(ctx, f)
	if err != nil {
		return fail(err)
	}
	if earlier != nil && (!reject || len(earlier.Accepted) == 0) {
		return fail(fmt.Errorf("%w already, on %s", ErrRevoked, earlier.Revoked.Format(personStamp)))
	}
	v := Revocation{
		Format: revocationFormat, Repository: r.document.Repository, Key: f,
		Revoked: time.Now().UTC().Truncate(time.Second), Accepted: []string{},
	}
	name := rejectionName(f)
	if !reject {
		name = revocationName(f)
		if v.Accepted, err = r.signedBy(ctx, f); err != nil {
			return fail(err)
		}
	}
	signed, err := signUpTo(v, root, mostRevocation)
	if err != nil {
		return fail(err)
	}
	if _, err := store.PutBytes(ctx, r.store, name, signed, store.PutOptions{}); err != nil {
		return fail(err)
	}
	r.signers.mu.Lock()
	defer r.signers.mu.Unlock()
	r.signers.known = nil
	return len(v.Accepted), nil
}

// signedBy gives the sha256 of all manifests, verifications, pins and records of removals that a key signed, and of what it
// said of archives but leases, sorted. One that only could not be read is an error: left out, it would never be believed again.
func (r *Repository) signedBy(ctx context.Context, f Fingerprint) ([]string, error) {
	sums := []string{}
	clusters, err := r.Clusters(ctx)
	if err != nil {
		return nil, err
	}
	for _, cluster := range clusters {
		reads, _, err := r.Snapshots(ctx, cluster)
		if err != nil {
			return nil, err
		}
		for _, read := range reads {
			if err := r.snapshotKnownBad(ctx, read); err != nil {
				return nil, err
			}
			if read.Err == nil && read.Manifest.Signer == f {
				sums = append(sums, read.SHA256)
			}
		}
		archived, err := r.archivedBy(ctx, cluster, f)
		if err != nil {
			return nil, err
		}
		sums = append(sums, archived...)
		verifications, _, err := r.Verifications(ctx, cluster, nil)
		if err != nil {
			return nil, err
		}
		for _, v := range verifications {
			if unread(v.Err) {
				return nil, v.Err
			}
			if v.Err == nil && v.Verification.Signer == f {
				sums = append(sums, v.SHA256)
			}
		}
		pins, err := r.PinsOf(ctx, cluster)
		if err != nil {
			return nil, err
		}
		for _, pin := range pins {
			if unread(pin.Err) {
				return nil, pin.Err
			}
			if pin.Err == nil && pin.Pin.Signer == f {
				sums = append(sums, pin.SHA256)
			}
		}
	}
	removals, err := r.Removals(ctx)
	if err != nil {
		return nil, err
	}
	for _, removal := range removals {
		if unread(removal.Err) {
			return nil, removal.Err
		}
		if removal.Err == nil && removal.Removal.Signer == f {
			sums = append(sums, removal.SHA256)
		}
	}
	slices.Sort(sums)
	return sums, nil
}

// archivedBy gives the sha256 of what a key signed in the archive of a cluster: segments, gaps, hashes and drills.
func (r *Repository) archivedBy(ctx context.Context, cluster string, f Fingerprint) (sums []string, err error) {
	points, _, err := r.SegmentPoints(ctx, cluster, "")
	if err != nil {
		return nil, err
	}
	segments, err := r.SegmentsOf(ctx, points)
	if err != nil {
		return nil, err
	}
	add := func(name, sum string, by Fingerprint, err error, open func([]byte) error) error {
		if err := r.knownBad(ctx, name, err, open); err != nil {
			return err
		}
		if err == nil && by == f {
			sums = append(sums, sum)
		}
		return nil
	}
	for _, read := range segments {
		err := add(read.Point.manifestName(), read.SHA256, read.Segment.Signer, read.Err, func(signed []byte) error {
			_, err := r.openSegmentManifest(ctx, signed, read.Point)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	timelines, err := r.Timelines(ctx, cluster)
	if err != nil {
		return nil, err
	}
	for _, t := range timelines {
		gaps, _, err := r.Gaps(ctx, cluster, t)
		if err != nil {
			return nil, err
		}
		for _, read := range gaps {
			err := add(read.Name, read.SHA256, read.Note.Signer, read.Err, func(signed []byte) error {
				_, err := openNote[Gap](ctx, r, signed, read.Name)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		hashes, _, err := r.Hashes(ctx, cluster, t, 0)
		if err != nil {
			return nil, err
		}
		for _, read := range hashes {
			err := add(read.Name, read.SHA256, read.Note.Signer, read.Err, func(signed []byte) error {
				_, err := openNote[Hashes](ctx, r, signed, read.Name)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		drills, _, err := r.Drills(ctx, cluster, t)
		if err != nil {
			return nil, err
		}
		for _, read := range drills {
			err := add(read.Name, read.SHA256, read.Note.Signer, read.Err, func(signed []byte) error {
				_, err := openNote[Drill](ctx, r, signed, read.Name)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return sums, nil
}

// unread tells whether an object only could not be read, and may well be right.
func unread(err error) bool { return err != nil && !errors.Is(err, ErrForged) }

// revocation gives what the root key said of the end of a key, nil when nothing. That all of it is rejected counts before what
// was accepted once. What only claims to be a revocation is not one: it must not keep anybody from reading.
func (r *Repository) revocation(ctx context.Context, f Fingerprint) (*Revocation, error) {
	for _, name := range []string{rejectionName(f), revocationName(f)} {
		v, err := r.readRevocation(ctx, name, f)
		switch {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, ErrForged):
		case err != nil:
			return nil, fmt.Errorf("look whether signer %s was revoked: %w", f.Short(), err)
		default:
			return v, nil
		}
	}
	return nil, nil
}

func (r *Repository) readRevocation(ctx context.Context, name string, f Fingerprint) (*Revocation, error) {
	signed, err := readUpTo(ctx, r.store, name, mostRevocation)
	if err != nil {
		return nil, err
	}
	var v Revocation
	if err := r.openRootSigned(signed, revocationFormat, &v); err != nil {
		return nil, err
	}
	if v.Repository != r.document.Repository || v.Key != f || !slices.IsSorted(v.Accepted) || name == rejectionName(f) && len(v.Accepted) > 0 {
		return nil, fmt.Errorf("%w: it is about key %s of repository %q", ErrForged, v.Key.Short(), v.Repository)
	}
	return &v, nil
}
