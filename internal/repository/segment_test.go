package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
)

const line Timeline = "0123456789abcdef"

// sealed is a segment that was not put yet: its manifest as a draft, and its stored bytes.
type sealed struct {
	Segment
	bytes []byte
}

// seal makes a segment out of arbitrary bytes.
func (w *world) seal(t *testing.T, level int, first, last history.Revision, plain []byte) sealed {
	t.Helper()
	recipients, err := w.SegmentSealTo(t.Context())
	must(t, err)
	object, err := w.NewSegmentData("prod", line, first, keyIDs(recipients))
	must(t, err)
	var out bytes.Buffer
	sealer, err := seal.NewWriter(&out, seal.Options{Recipients: recipients})
	must(t, err)
	_, err = sealer.Write(plain)
	must(t, errors.Join(err, sealer.Close()))
	object.Size, object.SHA256 = int64(out.Len()), sumOf(out.Bytes())
	now := time.Now()
	s := Segment{
		Cluster: "prod", Timeline: line, Level: level, First: first, Last: last, Events: 2 * int64(last-first+1),
		FirstTime: now.Add(-time.Second), LastTime: now, Exact: true, Leases: 1,
		Plain: Plain{Size: int64(len(plain)), SHA256: sumOf(plain)}, Object: object,
		Source: Source{ClusterID: "1", EtcdVersion: "3.7.3"}, Term: 3, Started: now.Add(-time.Second), Completed: now,
	}
	if level != SegmentLive {
		s.Inputs = 2
	}
	return sealed{s, out.Bytes()}
}

// put stores a segment.
func (w *world) put(t *testing.T, s sealed) Segment {
	t.Helper()
	published, err := s.put(t.Context(), w.Repository, w.writer)
	must(t, err)
	return published
}

// put does what an archiver does with a file of its spool, any number of times.
func (s sealed) put(ctx context.Context, r *Repository, w *Writer) (Segment, error) {
	object, err := r.PutSegmentData(ctx, s.Object, bytes.NewReader(s.bytes), s.RetainUntil)
	if err != nil {
		return Segment{}, err
	}
	s.Object = object
	return r.PublishSegment(ctx, w, s.Segment)
}

// live adds a live segment with some content.
func (w *world) live(t *testing.T, first, last history.Revision) Segment {
	t.Helper()
	return w.put(t, w.seal(t, SegmentLive, first, last, plainOf(first, last)))
}

func plainOf(first, last history.Revision) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%d-%d ", first, last), 100)
}

func (w *world) open(t *testing.T, s Segment) ([]byte, error) {
	t.Helper()
	reader, err := w.OpenSegment(t.Context(), s, w.identity)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(reader)
	must(t, reader.Close())
	return content, err
}

// segments reads all manifests of the archive.
func (w *world) segments(t *testing.T) []SegmentRead {
	t.Helper()
	r := w.again(t)
	points, strange, err := r.SegmentPoints(t.Context(), "prod", "")
	must(t, err)
	if len(strange) > 0 {
		t.Errorf("strange %q", strange)
	}
	reads, err := r.SegmentsOf(t.Context(), points)
	must(t, err)
	return reads
}

func TestSegmentRoundTrip(t *testing.T) {
	for _, encryption := range []Encryption{Age, None} {
		t.Run(string(encryption), func(t *testing.T) {
			w := newWorld(t, encryption)
			var want []Segment
			want = append(want, w.live(t, 5, 9), w.live(t, 10, 10), w.put(t, w.seal(t, SegmentMinute, 5, 10, plainOf(5, 10))))
			reads := w.segments(t)
			if len(reads) != 3 {
				t.Fatalf("%d segments", len(reads))
			}
			for i, read := range reads {
				must(t, read.Err)
				if diff := cmp.Diff(want[i], read.Segment); diff != "" || read.SHA256 == "" || read.Point != want[i].Point() {
					t.Errorf("%s (-published +read):\n%s", read.Point, diff)
				}
				content, err := w.open(t, read.Segment)
				must(t, err)
				if !bytes.Equal(content, plainOf(read.Segment.First, read.Segment.Last)) {
					t.Errorf("%s: %q", read.Point, content)
				}
				if strings.HasSuffix(read.Segment.Object.Name, ".age") != (encryption == Age) || len(read.Segment.Object.Recipients) != len(w.identity) {
					t.Errorf("object %+v", read.Segment.Object)
				}
			}
			result, _, err := w.Check(t.Context(), nil)
			must(t, err)
			if result.Segments != 3 || result.Clusters != 1 || result.Unclaimed != 0 || len(result.Problems) > 0 || result.Bytes == 0 {
				t.Errorf("check %+v", result)
			}
			timelines, err := w.Timelines(t.Context(), "prod")
			must(t, err)
			if diff := cmp.Diff([]Timeline{line}, timelines); diff != "" {
				t.Errorf("timelines (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSegmentRecipients: a key of the archiver opens what was sealed to it as well, and only that.
func TestSegmentRecipients(t *testing.T) {
	w := newWorld(t, Age)
	text, merge, err := seal.GenerateIdentity(seal.X25519)
	must(t, err)
	identity, err := seal.ReadIdentities(writeFile(t, text))
	must(t, err)
	recipients, err := w.SegmentSealTo(t.Context(), merge)
	must(t, err)
	if len(recipients) != 2 || recipients[1].String() != merge.String() {
		t.Fatalf("recipients %v", recipients)
	}
	object, err := w.NewSegmentData("prod", line, 1, keyIDs(recipients))
	must(t, err)
	if len(object.Recipients) != 2 || object.Recipients[1] != merge.KeyID() {
		t.Errorf("object %+v", object)
	}
	if _, err := w.SegmentSealTo(t.Context(), recipients[0]); err == nil {
		t.Error("the same recipient twice passes")
	}
	_, hybrid, err := seal.GenerateIdentity(seal.Hybrid)
	must(t, err)
	if _, err := w.SegmentSealTo(t.Context(), hybrid); err == nil {
		t.Error("a recipient of another kind passes")
	}
	if _, err := w.NewSegmentData("prod", line, 1, nil); err == nil {
		t.Error("sealed to nobody")
	}
	s := w.live(t, 1, 1)
	reader, err := w.OpenSegment(t.Context(), s, identity)
	if !errors.Is(err, seal.ErrNoIdentity) || errors.Is(err, ErrDamaged) {
		t.Errorf("another key: %v, %v", reader, err)
	}
	plain := newWorld(t, None)
	if recipients, err := plain.SegmentSealTo(t.Context(), merge); recipients != nil || err != nil {
		t.Errorf("without encryption: %v, %v", recipients, err)
	}
}

// TestPublishRace: of many archivers at one revision exactly one wins, and all others are told by whom.
func TestPublishRace(t *testing.T) {
	w := newWorld(t, None)
	other, err := OpenWriter(t.TempDir())
	must(t, err)
	must(t, w.Enroll(t.Context(), w.root, other.Public(), RoleBackup, "other"))
	const rounds, racers = 20, 8
	first := history.Revision(1)
	for range rounds {
		var group sync.WaitGroup
		won := make([]*Segment, racers)
		errs := make([]error, racers)
		for i := range racers {
			draft := w.seal(t, SegmentLive, first, first+history.Revision(i), []byte{byte(i)})
			group.Go(func() {
				writer := []*Writer{w.writer, other}[i%2]
				s, err := draft.put(t.Context(), w.Repository, writer)
				if errs[i] = err; err == nil {
					won[i] = &s
				}
			})
		}
		group.Wait()
		var winner *Segment
		for i, s := range won {
			if s != nil && winner != nil {
				t.Errorf("%s and %s both won", s.Range(), winner.Range())
			}
			if s != nil {
				winner = won[i]
			}
		}
		if winner == nil {
			t.Fatalf("nobody won at %d: %v", first, errors.Join(errs...))
		}
		for i, err := range errs {
			if taken, is := errors.AsType[*Taken](err); won[i] == nil && (!is || cmp.Diff(*winner, taken.Winner) != "") {
				t.Errorf("racer %d is told %v", i, err)
			}
		}
		first = winner.Last + 1
	}
	reads := w.segments(t)
	next := history.Revision(1)
	for _, read := range reads {
		must(t, read.Err)
		if read.Segment.First != next {
			t.Errorf("%s follows %d", read.Segment.Range(), next-1)
		}
		next = read.Segment.Last + 1
	}
	if len(reads) != rounds {
		t.Errorf("%d segments of %d rounds", len(reads), rounds)
	}
	// What the losers put is claimed by nobody.
	unclaimed, err := w.Unclaimed(t.Context(), "prod")
	must(t, err)
	if len(unclaimed) != rounds*(racers-1) {
		t.Errorf("%d objects are unclaimed", len(unclaimed))
	}
}

// TestPublishRefuses: a manifest that nobody would believe takes no place.
func TestPublishRefuses(t *testing.T) {
	w := newWorld(t, Age)
	good := w.seal(t, SegmentLive, 5, 9, []byte("x"))
	_, err := w.PutSegmentData(t.Context(), good.Object, bytes.NewReader(good.bytes), time.Time{})
	must(t, err)
	before := w.names(t)
	for what, change := range map[string]func(*Segment){
		"a level":                   func(s *Segment) { s.Level = 4 },
		"a level below":             func(s *Segment) { s.Level = -1 },
		"a timeline":                func(s *Segment) { s.Timeline = "../0" },
		"a cluster":                 func(s *Segment) { s.Cluster = "a/b" },
		"no revision":               func(s *Segment) { s.First = 0 },
		"last before first":         func(s *Segment) { s.Last = 4 },
		"fewer events":              func(s *Segment) { s.Events = 4 },
		"no plain size":             func(s *Segment) { s.Plain.Size = 0 },
		"no size":                   func(s *Segment) { s.Object.Size = 0 },
		"a sum":                     func(s *Segment) { s.Object.SHA256 = strings.ToUpper(s.Object.SHA256) },
		"a plain sum":               func(s *Segment) { s.Plain.SHA256 = "" },
		"data of another revision":  func(s *Segment) { s.Object.Name = strings.Replace(s.Object.Name, "5-", "6-", 1) },
		"data of another cluster":   func(s *Segment) { s.Object.Name = strings.Replace(s.Object.Name, "prod", "test", 1) },
		"data of another timeline":  func(s *Segment) { s.Object.Name = strings.Replace(s.Object.Name, string(line), "0123456789abcdee", 1) },
		"data elsewhere":            func(s *Segment) { s.Object.Name = documentName },
		"no encryption":             func(s *Segment) { s.Object.Encryption, s.Object.Recipients = None, nil },
		"no encryption by its name": func(s *Segment) { s.Object.Name = strings.TrimSuffix(s.Object.Name, ".age") },
		"plain in a sealed repository": func(s *Segment) {
			s.Object.Name, s.Object.Encryption, s.Object.Recipients = strings.TrimSuffix(s.Object.Name, ".age"), None, nil
		},
		"nobody who reads it":  func(s *Segment) { s.Object.Recipients = nil },
		"no time":              func(s *Segment) { s.FirstTime = time.Time{} },
		"times in disorder":    func(s *Segment) { s.LastTime = s.FirstTime.Add(-time.Second) },
		"no end":               func(s *Segment) { s.Completed = time.Time{} },
		"inputs of a live one": func(s *Segment) { s.Inputs = 1 },
		"a merged one of none": func(s *Segment) { s.Level = SegmentHour },
		"negative leases":      func(s *Segment) { s.Leases = -1 },
		"a session":            func(s *Segment) { s.Session = "host-1" },
	} {
		bad := good.Segment
		change(&bad)
		if _, err := w.PublishSegment(t.Context(), w.writer, bad); err == nil {
			t.Errorf("%s passes", what)
		}
	}
	stranger, err := OpenWriter(t.TempDir())
	must(t, err)
	if _, err := w.PublishSegment(t.Context(), stranger, good.Segment); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("a stranger: %v", err)
	}
	must(t, w.Enroll(t.Context(), w.root, stranger.Public(), RoleVerify, "verifier"))
	if _, err := w.PublishSegment(t.Context(), stranger, good.Segment); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("another role: %v", err)
	}
	if after := w.names(t); len(after) != len(before)+1 { // the enrolment
		t.Errorf("left behind: %q", after)
	}
	must(t, w.Enroll(t.Context(), w.root, stranger.Public(), RoleBackup, "archiver"))
	_, err = w.Revoke(t.Context(), w.root, stranger.Public().Fingerprint(), false)
	must(t, err)
	if _, err := w.again(t).PublishSegment(t.Context(), stranger, good.Segment); !errors.Is(err, ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
	_, err = w.PublishSegment(t.Context(), w.writer, good.Segment)
	must(t, err)
	_, err = w.PublishSegment(t.Context(), w.writer, good.Segment) // again is the same
	must(t, err)
}

// TestSegmentManifestIsBelievedOnlyWhole flips a bit of every byte of one manifest.
func TestSegmentManifestIsBelievedOnlyWhole(t *testing.T) {
	w := newWorld(t, None)
	p := w.live(t, 5, 9).Point()
	good := w.read(t, p.manifestName())
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 4
		w.replace(t, p.manifestName(), bad)
		if w.Segment(t.Context(), p).Err == nil {
			t.Fatalf("a flipped bit in byte %d passes:\n%s", i, bad)
		}
		w.replace(t, p.manifestName(), good[:i])
		if w.Segment(t.Context(), p).Err == nil {
			t.Fatalf("cut at byte %d it passes", i)
		}
	}
	w.replace(t, p.manifestName(), append(bytes.Clone(good), '\n'))
	if err := w.Segment(t.Context(), p).Err; !errors.Is(err, ErrForged) {
		t.Errorf("a line more: %v", err)
	}
	w.replace(t, p.manifestName(), bytes.Repeat([]byte{'\n'}, mostSigned+1))
	if err := w.Segment(t.Context(), p).Err; err == nil {
		t.Error("a huge one passes")
	}
}

// TestSegmentForgery is done by somebody who may write everything in the store and has no key.
func TestSegmentForgery(t *testing.T) {
	w := newWorld(t, None)
	live := w.live(t, 5, 9)
	merged := w.put(t, w.seal(t, SegmentMinute, 5, 9, []byte("m")))
	signed, signedMerged := w.read(t, live.Point().manifestName()), w.read(t, merged.Point().manifestName())
	stranger := newWorld(t, None)
	foreign := stranger.live(t, 20, 29)
	key, err := NewKey()
	must(t, err)
	self := live
	self.First, self.Last, self.Signer = 40, 44, key.Public().Fingerprint()
	self.Object.Name = segmentData{cluster: "prod", timeline: line, first: 40, random: strings.Repeat("0", 16)}.name()
	selfSigned, err := sign(self, key)
	must(t, err)
	verifier, archiver := newSigner(t, w, RoleVerify), newSigner(t, w, RoleBackup)
	byVerifier, another := self, self
	byVerifier.Signer = verifier.Public().Fingerprint()
	verifierSigned, err := sign(byVerifier, verifier.key)
	must(t, err)
	another.Signer = w.writer.Public().Fingerprint()
	anotherSigned, err := sign(another, archiver.key)
	must(t, err)
	gap, err := w.PutGap(t.Context(), w.writer, Gap{Cluster: "prod", Timeline: line, First: 1, Last: 2, Noticed: time.Now(), Reason: "why"})
	must(t, err)

	at := func(p SegmentPoint, change func(*SegmentPoint)) SegmentPoint { change(&p); return p }
	for what, test := range map[string]struct {
		point   SegmentPoint
		content []byte
	}{
		"under another revision":        {at(live.Point(), func(p *SegmentPoint) { p.First = 6 }), signed},
		"on another timeline":           {at(live.Point(), func(p *SegmentPoint) { p.Timeline = "0123456789abcdee" }), signed},
		"in another cluster":            {at(live.Point(), func(p *SegmentPoint) { p.Cluster = "test" }), signed},
		"live as merged":                {at(merged.Point(), func(p *SegmentPoint) { p.Level = SegmentHour }), signed},
		"merged at another level":       {at(merged.Point(), func(p *SegmentPoint) { p.Level = SegmentDay }), signedMerged},
		"merged as live":                {at(live.Point(), func(p *SegmentPoint) { p.First = 7 }), signedMerged},
		"merged longer than it is":      {at(merged.Point(), func(p *SegmentPoint) { p.Last = 10 }), signedMerged},
		"of another repository":         {foreign.Point(), stranger.read(t, foreign.Point().manifestName())},
		"signed in another role":        {self.Point(), verifierSigned},
		"signed by who it does not say": {self.Point(), anotherSigned},
		"signed by a stranger":          {self.Point(), selfSigned},
		"another thing that we signed":  {at(live.Point(), func(p *SegmentPoint) { p.First = 50 }), w.read(t, gap.name())},
	} {
		name := test.point.manifestName()
		w.replace(t, name, test.content)
		read := w.again(t).Segment(t.Context(), test.point)
		if read.Err == nil || (what != "another thing that we signed" && !errors.Is(read.Err, ErrForged)) {
			t.Errorf("%s: %v", what, read.Err)
		}
		if result, _, err := w.again(t).Check(t.Context(), nil); err != nil || len(result.Problems) != 1 || !strings.Contains(result.Problems[0], name) {
			t.Errorf("%s: check says %q, %v", what, result.Problems, err)
		}
		w.replace(t, name, nil)
	}

	// What stands in the place of the next segment keeps it, and nobody takes it for a winner or for the last one.
	next := w.seal(t, SegmentLive, 10, 12, []byte("n"))
	w.replace(t, next.Point().manifestName(), []byte("rubbish"))
	_, err = next.put(t.Context(), w.Repository, w.writer)
	if _, taken := errors.AsType[*Taken](err); taken || !errors.Is(err, ErrForged) {
		t.Errorf("rubbish in its place: %v", err)
	}
	last, err := w.LastSegment(t.Context(), "prod", line)
	must(t, err)
	if last == nil || last.Last != 9 {
		t.Errorf("last %+v", last)
	}
}

// newSigner gives a writer that may sign in one role.
func newSigner(t *testing.T, w *world, role Role) *Writer {
	t.Helper()
	writer, err := OpenWriter(t.TempDir())
	must(t, err)
	must(t, w.Enroll(t.Context(), w.root, writer.Public(), role, string(role)))
	return writer
}

func TestRevokeArchiver(t *testing.T) {
	w := newWorld(t, None)
	s := w.live(t, 5, 9)
	gap, err := w.PutGap(t.Context(), w.writer, Gap{Cluster: "prod", Timeline: line, First: 1, Last: 4, Noticed: time.Now(), Reason: "why"})
	must(t, err)
	_, err = w.PutHashes(t.Context(), w.writer, Hashes{Cluster: "prod", Timeline: line, Revision: 9, Taken: time.Now(), Members: []MemberHash{{MemberID: "1", Hash: 7}}, Equal: true})
	must(t, err)
	_, err = w.PutLease(t.Context(), w.writer, Lease{Cluster: "prod", Timeline: line, Session: NewSession()})
	must(t, err)
	w.replace(t, SegmentPoint{Cluster: "prod", Timeline: line, First: 77}.manifestName(), []byte("rubbish"))
	old := w.again(t) // knows the key as a good one
	key := w.writer.Public().Fingerprint()
	_, err = old.Enrolled(t.Context(), key, RoleBackup)
	must(t, err)
	accepted, err := w.Revoke(t.Context(), w.root, key, false)
	must(t, err)
	if accepted != 3 {
		t.Errorf("%d objects stay believed, want the segment, the gap and the hashes", accepted)
	}
	// A thief of the key goes on.
	thief := w.seal(t, SegmentLive, 10, 12, []byte("t"))
	forged, err := thief.put(t.Context(), old, w.writer)
	must(t, err)
	r := w.again(t)
	must(t, r.Segment(t.Context(), s.Point()).Err)
	if err := r.Segment(t.Context(), forged.Point()).Err; !errors.Is(err, ErrForged) {
		t.Errorf("signed after the revocation: %v", err)
	}
	gaps, _, err := r.Gaps(t.Context(), "prod", line)
	must(t, err)
	if len(gaps) != 1 || gaps[0].Err != nil || gaps[0].Note != gap {
		t.Errorf("gaps %+v", gaps)
	}
	last, err := r.LastSegment(t.Context(), "prod", line)
	must(t, err)
	if last == nil || last.Last != 9 {
		t.Errorf("last %+v", last)
	}
}

// TestRevokeMany: the word of a revocation has room for what an archiver signs.
func TestRevokeMany(t *testing.T) {
	w := newWorld(t, None)
	key := w.writer.Public().Fingerprint()
	v := Revocation{Format: revocationFormat, Repository: w.document.Repository, Key: key, Revoked: time.Now().UTC().Truncate(time.Second)}
	for i := range 200_000 {
		v.Accepted = append(v.Accepted, fmt.Sprintf("%064x", i))
	}
	signed, err := signUpTo(v, w.root, mostRevocation)
	must(t, err)
	w.replace(t, revocationName(key), signed)
	got, err := w.again(t).revocation(t.Context(), key)
	must(t, err)
	if got == nil || len(got.Accepted) != len(v.Accepted) || !got.accepts(v.Accepted[1000]) {
		t.Errorf("revocation is lost")
	}
	if _, err := sign(v, w.root); err == nil {
		t.Error("any other document may be as long")
	}
}

// TestDamagedSegment: whatever is wrong with the stored bytes, it is told before io.EOF.
func TestDamagedSegment(t *testing.T) {
	for _, encryption := range []Encryption{Age, None} {
		w := newWorld(t, encryption)
		plain := []byte(strings.Repeat("some events of a cluster ", 5000))
		s := w.put(t, w.seal(t, SegmentLive, 5, 9, plain))
		other := w.put(t, w.seal(t, SegmentMinute, 5, 9, bytes.ToUpper(plain)))
		good := w.read(t, s.Object.Name)
		try := func(what string, bad []byte) {
			t.Helper()
			w.replace(t, s.Object.Name, bad)
			if _, err := w.open(t, s); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s, %s: %v", encryption, what, err)
			}
		}
		for i := 0; i < len(good); i += 1 + len(good)/80 {
			bad := bytes.Clone(good)
			bad[i] ^= 0x10
			try(fmt.Sprintf("flip at %d", i), bad)
			try(fmt.Sprintf("cut at %d", i), good[:i])
		}
		try("a byte more", append(bytes.Clone(good), 0))
		try("twice", append(bytes.Clone(good), good...))
		try("the object of another segment", w.read(t, other.Object.Name))
		w.replace(t, s.Object.Name, nil)
		if _, err := w.open(t, s); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s, gone: %v", encryption, err)
		}
		w.replace(t, s.Object.Name, good)

		// A manifest that is wrong about what was sealed.
		for what, change := range map[string]func(*Plain){
			"shorter": func(p *Plain) { p.Size-- }, "longer": func(p *Plain) { p.Size++ },
			"another": func(p *Plain) { p.SHA256 = sumOf(nil) },
		} {
			wrong := s
			change(&wrong.Plain)
			content, err := w.open(t, wrong)
			if err == nil || int64(len(content)) > max(wrong.Plain.Size, s.Plain.Size) {
				t.Errorf("%s, the manifest says %s: %d bytes, %v", encryption, what, len(content), err)
			}
		}
		content, err := w.open(t, s)
		must(t, err)
		if !bytes.Equal(content, plain) {
			t.Error("the good one is not what was sealed")
		}
	}
}

// TestOpenSegmentEnds: a reader may be closed at any time, and a store that fails is not taken for damage.
func TestOpenSegmentEnds(t *testing.T) {
	w := newWorld(t, Age)
	s := w.put(t, w.seal(t, SegmentLive, 1, 1, bytes.Repeat([]byte("abcdefgh"), 1<<20)))
	reader, err := w.OpenSegment(t.Context(), s, w.identity)
	must(t, err)
	_, err = reader.Read(make([]byte, 10))
	must(t, errors.Join(err, reader.Close()))
	if _, err := reader.Read(make([]byte, 10)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read of a closed one: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reader, err = w.OpenSegment(ctx, s, w.identity)
	must(t, err)
	cancel()
	if _, err := io.Copy(io.Discard, reader); !errors.Is(err, context.Canceled) || errors.Is(err, ErrDamaged) {
		t.Errorf("ended by its context: %v", err)
	}
	must(t, reader.Close())
}

// TestPutSegmentData: only what is said is put, and what is there is believed only when it is the same and fresh.
func TestPutSegmentData(t *testing.T) {
	w := newWorld(t, None)
	s := w.seal(t, SegmentLive, 5, 9, []byte("plain"))
	put := func(content []byte) (Object, error) {
		return w.PutSegmentData(t.Context(), s.Object, bytes.NewReader(content), time.Time{})
	}
	before := w.names(t)
	damaged := bytes.Clone(s.bytes)
	damaged[3] ^= 1
	for what, bad := range map[string][]byte{"damaged": damaged, "short": s.bytes[1:], "none": nil} {
		if o, err := put(bad); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %+v, %v", what, o, err)
		}
	}
	if diff := cmp.Diff(before, w.names(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	for range 2 { // the second time after a lost answer
		o, err := put(s.bytes)
		must(t, err)
		if diff := cmp.Diff(s.Object, o); diff != "" {
			t.Errorf("object (-asked +got):\n%s", diff)
		}
	}
	for what, other := range map[string][]byte{"other bytes": damaged, "another length": append(bytes.Clone(s.bytes), 0)} {
		w.replace(t, s.Object.Name, other)
		o, err := put(s.bytes)
		must(t, err)
		if o.Name == s.Object.Name || !bytes.Equal(w.read(t, o.Name), s.bytes) || o.SHA256 != s.Object.SHA256 {
			t.Errorf("%s are in its place: %+v", what, o)
		}
		s.Object.Name, o.Name = o.Name, s.Object.Name
	}
	if _, err := w.PutSegmentData(t.Context(), Object{Name: documentName, Size: 1}, bytes.NewReader([]byte{1}), time.Time{}); err == nil {
		t.Error("a name that is none of a segment passes")
	}
}

// TestLateArchiver comes out of its spool after long: data that is about to be reclaimed is not counted on, and a place that
// is free because it was merged and pruned is not taken.
func TestLateArchiver(t *testing.T) {
	w := newWorld(t, None)
	synctest.Test(t, func(t *testing.T) {
		late := w.seal(t, SegmentLive, 5, 9, []byte("late"))
		_, err := w.PutSegmentData(t.Context(), late.Object, bytes.NewReader(late.bytes), time.Time{})
		must(t, err)
		time.Sleep(freshData + time.Second)
		o, err := w.PutSegmentData(t.Context(), late.Object, bytes.NewReader(late.bytes), time.Time{})
		must(t, err)
		if o.Name == late.Object.Name {
			t.Error("old data is taken up again")
		}

		winner := w.live(t, 5, 7)
		rest := w.live(t, 8, 20)
		merged := w.put(t, w.seal(t, SegmentMinute, 5, 20, []byte("m")))
		var victims []SegmentVictim
		for _, s := range []Segment{winner, rest} {
			victims = append(victims, SegmentVictim{w.Segment(t.Context(), s.Point()), "merged"})
		}
		if outcomes, err := w.RemoveSegments(t.Context(), w.writer, victims); err == nil {
			t.Errorf("a live segment goes while others may come late: %+v", outcomes)
		}
		time.Sleep(LiveAtLeast + time.Second)
		_, err = w.RemoveSegments(t.Context(), w.writer, victims)
		must(t, err)
		_, err = late.put(t.Context(), w.Repository, w.writer)
		taken, is := errors.AsType[*Taken](err)
		if !is || cmp.Diff(merged, taken.Winner) != "" {
			t.Errorf("a late one: %v", err)
		}
		// At a place that nobody had, it is welcome.
		next := w.seal(t, SegmentLive, 21, 22, []byte("n"))
		time.Sleep(LiveAtLeast)
		w.put(t, next)
	})
}

// TestRetainedSegment is locked with its manifest, and not removed.
func TestRetainedSegment(t *testing.T) {
	w := newWorld(t, None)
	merged := w.seal(t, SegmentMinute, 5, 9, []byte("x"))
	merged.RetainUntil = time.Now().Add(time.Hour)
	s := w.put(t, merged)
	outcomes, err := w.RemoveSegments(t.Context(), w.writer, []SegmentVictim{{w.Segment(t.Context(), s.Point()), "old"}})
	must(t, err)
	if len(outcomes) != 1 || outcomes[0].Gone || outcomes[0].Locked == nil {
		t.Errorf("outcomes %+v", outcomes)
	}
	if _, err := w.open(t, w.segments(t)[0].Segment); err != nil {
		t.Error(err)
	}
}

func keyIDs(recipients []seal.Recipient) (ids []string) {
	for _, r := range recipients {
		ids = append(ids, r.KeyID())
	}
	return ids
}
