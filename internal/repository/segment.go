package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
	"unique"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Segment says what one stored segment is: all events of the revisions First to Last. Like a Manifest it holds no keys and
// values of the cluster and is readable without any key. Segments are not numbered as snapshots are: their revisions follow
// each other, so that one that is missing shows.
type Segment struct {
	Format     string `json:"format"`
	Repository string `json:"repository"`
	Kind       string `json:"kind"` // always "segment"

	Cluster  string   `json:"cluster"`
	Timeline Timeline `json:"timeline"`
	// Level is SegmentLive to SegmentDay.
	Level  int              `json:"level"`
	First  history.Revision `json:"first"`
	Last   history.Revision `json:"last"`
	Events int64            `json:"events"`
	// FirstTime is when the first revision came about at the earliest, LastTime when the last one did at the latest.
	FirstTime time.Time `json:"first-time"`
	LastTime  time.Time `json:"last-time"`
	// Exact tells that all revisions were seen as they came.
	Exact bool `json:"exact"`
	// Leases counts the leases that the segment tells of.
	Leases int64 `json:"leases"`

	Plain  Plain  `json:"plain"`
	Object Object `json:"object"`
	Source Source `json:"source"`
	// Term is the raft term of the cluster when the segment ended.
	Term uint64 `json:"raft-term"`
	// Inputs counts the segments that this one was merged from; 0 of a live one.
	Inputs int64 `json:"inputs,omitempty"`

	Started   time.Time `json:"started"`
	Completed time.Time `json:"completed"`
	// RetainUntil is how long the store was asked to lock the objects; left out when it was not.
	RetainUntil time.Time `json:"retain-until,omitzero"`

	// Session is that of the archiver that wrote a live one, as in its Lease; left out of others.
	Session string      `json:"session,omitempty"`
	Signer  Fingerprint `json:"signer"`
}

// Plain is a segment file before it was sealed. Size is in bytes.
type Plain struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Point is what the name of the manifest says.
func (s Segment) Point() SegmentPoint {
	p := SegmentPoint{Cluster: s.Cluster, Timeline: s.Timeline, Level: s.Level, First: s.First, Last: s.Last}
	if s.Level == SegmentLive {
		p.Last = 0
	}
	return p
}

// Range is its revisions.
func (s Segment) Range() history.Range { return history.Range{First: s.First, Last: s.Last} }

// check looks at what a manifest says by itself and against its place. That it is signed was checked before.
func (s Segment) check(repository string, point SegmentPoint) error {
	switch {
	case s.Repository != repository:
		return fmt.Errorf("%w: it is of repository %q", ErrForged, s.Repository)
	case s.Kind != segmentKind:
		return fmt.Errorf("it is about a %q, this program knows %q", s.Kind, segmentKind)
	case s.Point() != point:
		return fmt.Errorf("%w: its name does not say what is in it: it belongs at %q", ErrForged, s.Point().manifestName())
	}
	if _, err := parseSegmentPoint(point.manifestName()); err != nil {
		return err
	}
	if err := s.checkObject(); err != nil {
		return err
	}
	switch {
	case s.Last < s.First:
		return fmt.Errorf("its last revision %d is before the first, %d", s.Last, s.First)
	case s.Events < s.Range().Len(): // each revision has one at least
		return fmt.Errorf("it has %d events of %d revisions", s.Events, s.Range().Len())
	case s.FirstTime.IsZero() || s.LastTime.Before(s.FirstTime) || s.Started.IsZero() || s.Completed.Before(s.Started):
		return errors.New("its times are missing or not in order")
	case s.Leases < 0 || s.Inputs < 0 || (s.Inputs == 0) != (s.Level == SegmentLive):
		return errors.New("a count in it is not possible")
	case s.Session != "" && (s.Level != SegmentLive || CheckSession(s.Session) != nil):
		return fmt.Errorf("its session is %q", s.Session)
	}
	return nil
}

// Holds compares what was found in a segment, read to its end, with what its manifest says. A difference is an ErrDamaged.
func (s Segment) Holds(found segment.Summary) error {
	var first, last history.Span
	exact := true
	for span := range found.Times.All() {
		if first.First == 0 {
			first = span
		}
		last, exact = span, exact && span.Exact()
	}
	switch {
	case found.Range != s.Range():
		return fmt.Errorf("%w: segment %s holds revisions %s", ErrDamaged, s.Range(), found.Range)
	case found.Events != s.Events || int64(len(found.Leases)) != s.Leases:
		return fmt.Errorf("%w: segment %s holds %d events and %d leases, its manifest says %d and %d", ErrDamaged, s.Range(), found.Events, len(found.Leases), s.Events, s.Leases)
	case !first.From.Equal(s.FirstTime) || !last.To.Equal(s.LastTime) || exact != s.Exact:
		return fmt.Errorf("%w: segment %s has other times than its manifest says", ErrDamaged, s.Range())
	}
	return nil
}

func (s Segment) checkObject() error {
	o := s.Object
	data, err := parseSegmentData(o.Name)
	switch {
	case o.Encryption != Age && o.Encryption != None:
		return fmt.Errorf("its object has encryption %q, this program knows %q and %q", o.Encryption, Age, None)
	case err != nil || data.cluster != s.Cluster || data.timeline != s.Timeline || data.first != s.First || data.encrypted != (o.Encryption == Age):
		return fmt.Errorf("%w: its object is %q", ErrForged, o.Name)
	case (len(o.Recipients) > 0) != (o.Encryption == Age):
		return fmt.Errorf("its object has encryption %q and %d recipients", o.Encryption, len(o.Recipients))
	case o.Size < 1 || s.Plain.Size < 1:
		return errors.New("a size is below 1")
	}
	for _, sum := range []string{o.SHA256, s.Plain.SHA256} {
		if !fingerprintPattern.MatchString(sum) {
			return fmt.Errorf("sha256 %q is not 64 hexadecimal digits", sum)
		}
	}
	return nil
}

// SegmentRead is one manifest of a segment that was fetched, or why it could not be believed.
type SegmentRead struct {
	Point   SegmentPoint
	Segment Segment
	SHA256  string
	Err     error
}

// Segment fetches the manifest of a segment and checks it: who signed it, and that it says what its name says.
func (r *Repository) Segment(ctx context.Context, p SegmentPoint) SegmentRead {
	read := SegmentRead{Point: p}
	signed, err := r.readSigned(ctx, p.manifestName())
	if err != nil {
		read.Err = fmt.Errorf("read manifest %q: %w", p.manifestName(), err)
		return read
	}
	read.SHA256 = sumOf(signed)
	if read.Segment, err = r.openSegmentManifest(ctx, signed, p); err != nil {
		read.Err = fmt.Errorf("manifest %q: %w", p.manifestName(), err)
	}
	return read
}

func (r *Repository) openSegmentManifest(ctx context.Context, signed []byte, p SegmentPoint) (Segment, error) {
	var s Segment
	by, err := r.openSigned(ctx, signed, RoleBackup, segmentFormat, &s)
	if err != nil {
		return s, err
	}
	if s.Signer != by {
		return s, fmt.Errorf("%w: it says that it was signed by %s", ErrForged, s.Signer.Short())
	}
	return s, s.check(r.document.Repository, p)
}

// SegmentsOf fetches the manifests of segments, in their order. The error is that of ctx; what is wrong with one manifest is
// in its SegmentRead.
func (r *Repository) SegmentsOf(ctx context.Context, points []SegmentPoint) ([]SegmentRead, error) {
	reads := make([]SegmentRead, len(points))
	var group errgroup.Group
	group.SetLimit(fetchesAtOnce)
	for i, point := range points {
		group.Go(func() error {
			reads[i] = r.Segment(ctx, point)
			reads[i].Segment.share()
			return nil
		})
	}
	_ = group.Wait() // no error comes out of it
	return reads, context.Cause(ctx)
}

// share lets texts that segments have in common be there once, as there may be a hundred thousand segments.
func (s *Segment) share() {
	shareText(&s.Format, &s.Repository, &s.Kind, &s.Cluster, &s.Session)
	shareText(&s.Timeline)
	shareText(&s.Signer)
	shareText(&s.Object.Encryption)
	o := &s.Source
	shareText(&o.ClusterID, &o.MemberID, &o.MemberName, &o.Endpoint, &o.EtcdVersion, &o.CASHA256, &o.Role)
	for i := range s.Object.Recipients {
		shareText(&s.Object.Recipients[i])
	}
}

func shareText[T ~string](texts ...*T) {
	for _, t := range texts {
		*t = unique.Make(*t).Value()
	}
}

// Taken means that another segment has the place of the one that was to be published. Who finds it goes on after its Last.
type Taken struct {
	// Winner is the segment that counts. It can be a merged one, when the live one of this place was pruned.
	Winner Segment
}

// Error says who was faster.
func (t *Taken) Error() string {
	return fmt.Sprintf("revisions %s are in the archive already, signed by %s", t.Winner.Range(), t.Winner.Signer.Short())
}

// LiveAtLeast is how long the manifest of a live segment stays, merged or not: while it is there, nobody else can publish at
// its place. Whoever publishes a live segment that was completed half as long ago looks for a merged one as well.
const LiveAtLeast = 2 * time.Hour

// PublishSegment signs the manifest of a segment and puts it where its name says, if nobody was faster: then it is a *Taken,
// or an ErrForged when what is there cannot be believed, so that nothing can be published at that place for good. Format,
// Repository, Kind and Signer are filled in. All else is the caller's, Completed too: the same segment gives the same
// manifest byte for byte, so that a try whose answer was lost is made again without harm. (A winner with the same Plain and
// another Object is an earlier try of our own, too: its data had to be put again.)
//
// Its data was put a short while ago, or is put again before: see PutSegmentData. A key that may not sign is ErrNotEnrolled or
// ErrRevoked, and takes no place.
func (r *Repository) PublishSegment(ctx context.Context, w *Writer, s Segment) (Segment, error) {
	fail := func(err error) (Segment, error) { return Segment{}, fmt.Errorf("publish %s: %w", s.Point(), err) }
	s.Format, s.Repository, s.Kind, s.Signer = segmentFormat, r.document.Repository, segmentKind, w.key.Public().Fingerprint()
	for _, t := range []*time.Time{&s.FirstTime, &s.LastTime, &s.Started, &s.Completed} {
		*t = t.UTC().Truncate(time.Millisecond)
	}
	s.RetainUntil = s.RetainUntil.UTC().Truncate(time.Second)
	if _, err := r.Enrolled(ctx, s.Signer, RoleBackup); err != nil {
		return fail(fmt.Errorf("signing key of this host: %w", err))
	}
	if err := s.check(r.document.Repository, s.Point()); err != nil {
		return fail(err)
	}
	if s.Object.Encryption != r.document.Encryption {
		return fail(fmt.Errorf("its object has encryption %q, that of the repository is %q", s.Object.Encryption, r.document.Encryption))
	}
	signed, err := sign(s, w.key)
	if err != nil {
		return fail(err)
	}
	if err := r.mergedAlready(ctx, s); err != nil {
		return fail(err)
	}
	_, err = store.PutBytes(ctx, r.store, s.Point().manifestName(), signed, store.PutOptions{RetainUntil: s.RetainUntil})
	if errors.Is(err, store.ErrExists) {
		err = r.whoWon(ctx, s.Point(), signed)
	}
	if err != nil {
		return fail(err)
	}
	return s, nil
}

// mergedAlready is a *Taken when a merged segment has the first revision of a live one that comes late.
func (r *Repository) mergedAlready(ctx context.Context, s Segment) error {
	if s.Level != SegmentLive || time.Since(s.Completed) < LiveAtLeast/2 {
		return nil
	}
	points, _, err := r.segmentPoints(ctx, s.Cluster, s.Timeline)
	if err != nil {
		return err
	}
	for _, p := range points {
		if p.Level == SegmentLive || s.First < p.First || s.First > p.Last {
			continue
		}
		found, err := r.segmentIfAny(ctx, p)
		if err != nil {
			return err
		}
		if found != nil {
			return &Taken{Winner: *found}
		}
	}
	return nil
}

// whoWon looks at the manifest that has the place of ours: nil when it is ours.
func (r *Repository) whoWon(ctx context.Context, p SegmentPoint, ours []byte) error {
	there, err := readSmall(ctx, r.store, p.manifestName())
	if err != nil {
		return fmt.Errorf("read manifest %q: %w", p.manifestName(), err)
	}
	if bytes.Equal(there, ours) {
		return nil
	}
	winner, err := r.openSegmentManifest(ctx, there, p)
	if err != nil {
		return fmt.Errorf("manifest %q, which is in its place: %w", p.manifestName(), err)
	}
	return &Taken{Winner: winner}
}
