package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/seal"
)

const (
	// mostUnpacked and unpackedFloor bound what is unpacked of data that nobody vouches for: so many times its stored size,
	// and so many bytes in any case. What a cluster writes does not come near it; a few bytes that unpack to gigabytes do.
	mostUnpacked  = 256
	unpackedFloor = 16 << 20
)

// LostID is how a person names data of a segment without a manifest: the timeline, the first revision and the random digits of
// its name, such as "0123456789abcdef/2-fedcba9876543210". It is "" of an object that is not named as the data of a segment.
func LostID(object string) string {
	d, err := parseSegmentData(object)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s/%d-%s", d.timeline, d.first, d.random)
}

// MeasureSegment reads data that no manifest names as that of a segment, down to its plain bytes, and gives what of a manifest
// follows from that: Cluster, Timeline, First, Plain and Object, so that OpenSegment reads it. What is in it is not looked at.
// As recipients those of the identities are told that open it; who else can is not known.
//
// Errors that are about the data are an ErrDamaged, or as of OpenSegment: mostly it is of an upload that was cut off. observe,
// which may be nil, is given the stored bytes as they are read.
func (r *Repository) MeasureSegment(ctx context.Context, cluster string, object Unclaimed, identities []seal.Identity, observe io.Writer) (s Segment, err error) {
	fail := func(err error) (Segment, error) { return Segment{}, fmt.Errorf("object %q: %w", object.Name, err) }
	d, err := parseSegmentData(object.Name)
	if err != nil || d.cluster != cluster {
		return fail(fmt.Errorf("%w: it is not named as the data of a segment", ErrDamaged))
	}
	if d.encrypted != (r.document.Encryption == Age) {
		return fail(fmt.Errorf("%w: the encryption of the repository is %q, and that of the object another one", ErrDamaged, r.document.Encryption))
	}
	s = Segment{Cluster: cluster, Timeline: d.timeline, First: d.first, Object: Object{Name: object.Name, Encryption: r.document.Encryption}}
	if d.encrypted {
		if s.Object.Recipients, err = r.openers(ctx, object.Name, identities); err != nil {
			return fail(err)
		}
	} else {
		identities = nil
	}
	body, err := r.store.Open(ctx, object.Name, 0, -1)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	stored := &counted{Reader: observed(body, observe), sum: sha256.New()}
	plain, err := measure(stored, identities, unpackedFloor+mostUnpacked*max(object.Size, 0))
	if err == nil {
		_, err = io.Copy(io.Discard, stored)
	}
	if err != nil {
		return fail(err)
	}
	s.Plain = plain
	s.Object.Size, s.Object.SHA256 = stored.n, hex.EncodeToString(stored.sum.Sum(nil))
	return s, nil
}

// measure unseals an object to its end, as long as it has no more than most bytes.
func measure(src io.Reader, identities []seal.Identity, most int64) (p Plain, err error) {
	unsealed, err := seal.NewReader(src, seal.ReaderOptions{Identities: identities, PlainSize: -1})
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, unsealed.Close()) }()
	sum := sha256.New()
	if p.Size, err = io.Copy(sum, io.LimitReader(unsealed, most+1)); err != nil {
		return p, err
	}
	if p.Size > most {
		return p, fmt.Errorf("%w: it unpacks to more than %d bytes", ErrDamaged, most)
	}
	p.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return p, nil
}

// openers gives the ids of those keys that open an object, in their order. None is seal.ErrNoIdentity.
func (r *Repository) openers(ctx context.Context, object string, identities []seal.Identity) (ids []string, err error) {
	none := seal.ErrNoIdentity
	for _, identity := range identities {
		err := r.opens(ctx, object, identity)
		switch id := identity.Recipient().KeyID(); {
		case errors.Is(err, seal.ErrNoIdentity):
			none = err
		case err != nil:
			return nil, err
		case !slices.Contains(ids, id):
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil, none
	}
	return ids, nil
}

// opens is nil when a key opens an object, as its start tells.
func (r *Repository) opens(ctx context.Context, object string, identity seal.Identity) (err error) {
	body, err := r.store.Open(ctx, object, 0, -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	plain, err := seal.NewReader(body, seal.ReaderOptions{Identities: []seal.Identity{identity}, Concurrency: 1, PlainSize: -1})
	if err != nil {
		return err
	}
	return plain.Close()
}

// AdoptSegment gives data of a segment a manifest again, at the place of a live segment: there it is whatever it was before, as
// nothing in it tells. Where it is from, the term and the session are not known. The place may be taken: then it is as with
// PublishSegment, a *Taken or an ErrForged. All that the data tells is the caller's to fill in and to check; nothing proves who
// made it, as anybody who can write into the store can encrypt to a public key.
func (r *Repository) AdoptSegment(ctx context.Context, w *Writer, s Segment) (Segment, error) {
	s.Level, s.Inputs, s.Source, s.Term, s.Session, s.RetainUntil = SegmentLive, 0, Source{Adopted: true}, 0, "", time.Time{}
	s.Completed = time.Now()
	// It was begun when the first revision came, by the clock of that time.
	if s.Started = s.FirstTime; s.Started.After(s.Completed) {
		s.Started = s.Completed
	}
	s, err := r.PublishSegment(ctx, w, s)
	if err != nil {
		return s, err
	}
	// Whoever reclaimed it meanwhile did not see the manifest.
	return s, r.checkListed(ctx, s.Object)
}
