package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
)

// segmentData is a sealed segment as the name of its object tells of it.
type segmentData struct {
	cluster   string
	timeline  Timeline
	first     history.Revision
	random    string // 16 hexadecimal digits: two archivers never meet
	encrypted bool
}

func (d segmentData) name() string {
	name := fmt.Sprintf("%s%s%s%s/%020d-%s.zst", clusterFolder, d.cluster, segmentPart, d.timeline, d.first, d.random)
	if d.encrypted {
		name += ".age"
	}
	return name
}

var segmentRandom = regexp.MustCompile(`^[0-9a-f]{16}$`)

func parseSegmentData(name string) (segmentData, error) {
	fail := func() (segmentData, error) {
		return segmentData{}, fmt.Errorf("object %q is not named as the data of a segment", name)
	}
	var d segmentData
	var file string
	var ok bool
	if d.cluster, d.timeline, file, ok = inArchive(name, segmentPart); !ok {
		return fail()
	}
	file, d.encrypted = strings.CutSuffix(file, ".age")
	firstText, random, _ := strings.Cut(strings.TrimSuffix(file, ".zst"), "-")
	first, err := parseRevision(firstText)
	d.first, d.random = first, random
	if err != nil || !segmentRandom.MatchString(random) || d.name() != name {
		return fail()
	}
	return d, nil
}

// SegmentSealTo gives the recipients that a segment is encrypted to: those of SealTo and the extra ones of the caller, which
// must be of their kind. Nil without encryption.
func (r *Repository) SegmentSealTo(ctx context.Context, extra ...seal.Recipient) ([]seal.Recipient, error) {
	owners, err := r.SealTo(ctx)
	if err != nil || r.document.Encryption == None {
		return nil, err
	}
	all := append(owners, extra...)
	return all, seal.CheckRecipients(all)
}

// NewSegmentData names an object for a segment that was sealed to the recipients of SegmentSealTo, here by the ids of their
// keys. Size and SHA256 are for the caller to fill in.
func (r *Repository) NewSegmentData(cluster string, t Timeline, first history.Revision, recipients []string) (Object, error) {
	d := segmentData{cluster: cluster, timeline: t, first: first, random: randomHex(8), encrypted: r.document.Encryption == Age}
	o := Object{Name: d.name(), Encryption: r.document.Encryption, Recipients: recipients}
	if _, err := parseSegmentData(o.Name); err != nil {
		return Object{}, err
	}
	if (len(recipients) > 0) != d.encrypted {
		return Object{}, fmt.Errorf("name a segment: %d recipients in a repository with encryption %q", len(recipients), o.Encryption)
	}
	return o, nil
}

const (
	// freshData is how old data may be that an earlier try has put, so that no manifest names data which is about to be
	// reclaimed. Reclaim has a grace time of an hour at least.
	freshData = 15 * time.Minute
	// dataAttempts is how often data is put under another name.
	dataAttempts = 3
)

// PutSegmentData puts the data of a segment, o.Size bytes of content with the sum o.SHA256, and gives the object as the
// manifest is to name it. An earlier try whose answer was lost counts when what is there is the same, and was put a short while
// ago. Otherwise the name is another one. Content that is not what o says is a Mismatch, and nothing is put. After any error
// the caller may try again. The manifest must follow within freshData; later, the data is put again first.
func (r *Repository) PutSegmentData(ctx context.Context, o Object, content io.ReaderAt, retain time.Time) (Object, error) {
	d, err := parseSegmentData(o.Name)
	if err != nil {
		return Object{}, err
	}
	for range dataAttempts {
		checked := &counted{Reader: io.NewSectionReader(content, 0, o.Size), sum: sha256.New()}
		made, err := r.store.Put(ctx, o.Name, &toEnd{checked, o}, store.PutOptions{RetainUntil: retain})
		if err == nil && made.Size != o.Size {
			err = fmt.Errorf("store has %d bytes of object %q, sent were %d", made.Size, o.Name, o.Size)
		}
		if err == nil {
			return o, nil
		}
		if !errors.Is(err, store.ErrExists) {
			return Object{}, fmt.Errorf("put segment: %w", err)
		}
		same, err := r.sameData(ctx, o)
		if err != nil || same {
			return o, err
		}
		d.random = randomHex(8)
		o.Name = d.name()
	}
	return Object{}, fmt.Errorf("put segment: every name that was tried is taken, the last is %q", o.Name)
}

// toEnd gives a Mismatch for io.EOF when what was read is not the object, so that a store gives it up.
type toEnd struct {
	*counted
	object Object
}

func (t *toEnd) Read(p []byte) (int, error) {
	n, err := t.counted.Read(p)
	if errors.Is(err, io.EOF) {
		if err := t.check(t.object); err != nil {
			return n, err
		}
	}
	return n, err
}

// sameData tells whether an object that is there is the one that was to be put, and fresh.
func (r *Repository) sameData(ctx context.Context, o Object) (bool, error) {
	info, err := r.store.Stat(ctx, o.Name)
	if err != nil {
		return false, fmt.Errorf("find object %q: %w", o.Name, err)
	}
	if info.Size != o.Size || time.Since(info.Modified) > freshData {
		return false, nil
	}
	err = r.copyObject(ctx, o, io.Discard, nil)
	if errors.Is(err, ErrDamaged) {
		return false, nil
	}
	return err == nil, err
}

// OpenSegment gives the plain bytes of a segment. They are worth something only once Read was io.EOF: then the object had the
// size and the sha256 of the manifest, its seal was whole, and so were the plain bytes. Otherwise the last error says what is
// wrong: a Mismatch, seal.ErrCorrupt, seal.ErrNoIdentity. The reader is for one goroutine; its Close ends it at any time.
func (r *Repository) OpenSegment(ctx context.Context, s Segment, identities []seal.Identity) (io.ReadCloser, error) {
	stored, err := r.StoredSegment(ctx, s)
	if err != nil {
		return nil, err
	}
	return UnsealSegment(s, stored, identities)
}

// OpenSegmentLean is OpenSegment on one core, for whoever has many open at once: each keeps three frames, plain and packed.
func (r *Repository) OpenSegmentLean(ctx context.Context, s Segment, identities []seal.Identity) (io.ReadCloser, error) {
	stored, err := r.StoredSegment(ctx, s)
	if err != nil {
		return nil, err
	}
	return unsealSegment(s, stored, identities, 1)
}

// StoredSegment gives the object of a segment as it is stored, for UnsealSegment: a byte more than the manifest says, if it is
// there, so that a longer object shows. Nothing is checked.
func (r *Repository) StoredSegment(ctx context.Context, s Segment) (io.ReadCloser, error) {
	body, err := r.store.Open(ctx, s.Object.Name, 0, s.Object.Size+1)
	if err != nil {
		return nil, noObject(s.Object.Name, err)
	}
	return body, nil
}

// UnsealSegment is OpenSegment for an object that StoredSegment gave. It sees to it that the object is closed, also when there
// is an error.
func UnsealSegment(s Segment, object io.ReadCloser, identities []seal.Identity) (io.ReadCloser, error) {
	return unsealSegment(s, object, identities, 0)
}

// UnsealSegmentLean is UnsealSegment on one core, as OpenSegmentLean.
func UnsealSegmentLean(s Segment, object io.ReadCloser, identities []seal.Identity) (io.ReadCloser, error) {
	return unsealSegment(s, object, identities, 1)
}

func unsealSegment(s Segment, object io.ReadCloser, identities []seal.Identity, concurrency int) (io.ReadCloser, error) {
	if s.Object.Encryption == None {
		identities = nil
	}
	stored := &counted{Reader: io.LimitReader(object, s.Object.Size+1), sum: sha256.New()}
	reader := &segmentReader{manifest: s, body: object, stored: stored, sum: sha256.New()}
	var err error
	reader.sealed, err = seal.NewReader(stored, seal.ReaderOptions{Identities: identities, Concurrency: concurrency, PlainSize: s.Plain.Size})
	if err != nil {
		return nil, errors.Join(reader.end(err), object.Close())
	}
	return reader, nil
}

// CheckStoredSegment reads the object of a segment and compares its size and sha256, as CheckStored does that of a snapshot.
func (r *Repository) CheckStoredSegment(ctx context.Context, s Segment, observe io.Writer) error {
	return r.copyObject(ctx, s.Object, io.Discard, observe)
}

type segmentReader struct {
	manifest Segment
	body     io.Closer
	stored   *counted // read by sealed in a goroutine of its own, until that has ended
	sealed   *seal.Reader
	sum      hash.Hash // of the plain bytes
	n        int64
	err      error
}

// Read gives the next plain bytes.
func (s *segmentReader) Read(p []byte) (int, error) {
	if s.err != nil || len(p) == 0 {
		return 0, s.err
	}
	n, err := s.sealed.Read(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	if err != nil {
		_ = s.sealed.Close() // it is always nil
		s.err = s.end(err)
	}
	return n, s.err
}

// end turns the end of the seal into that of the segment.
func (s *segmentReader) end(err error) error {
	o := s.manifest.Object
	// A wrong sum explains the most, so the rest is read for it: damage to the first bytes looks like a wrong key.
	if _, readErr := io.Copy(io.Discard, s.stored); readErr != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return fmt.Errorf("read object %q: %w", o.Name, errors.Join(err, readErr))
	}
	if mismatch := s.stored.check(o); mismatch != nil {
		return mismatch
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("object %q: %w", o.Name, err)
	}
	plain := s.manifest.Plain
	if s.n != plain.Size {
		return &Mismatch{Object: o.Name, What: "plain size in bytes", Want: strconv.FormatInt(plain.Size, 10), Got: strconv.FormatInt(s.n, 10)}
	}
	if got := hex.EncodeToString(s.sum.Sum(nil)); got != plain.SHA256 {
		return &Mismatch{Object: o.Name, What: "plain sha256", Want: plain.SHA256, Got: got}
	}
	return io.EOF
}

// Close ends the reading.
func (s *segmentReader) Close() error {
	_ = s.sealed.Close() // it is always nil
	if s.err == nil {
		s.err = errors.New("read of a segment that is closed")
	}
	return s.body.Close()
}
