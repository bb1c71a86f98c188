package repository

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Folders of what an archiver says beside its segments: notes, each an object of its own that is never rewritten.
const (
	gapsFolder   = "gaps/"
	hashesFolder = "hashes/"
	leasesFolder = "leases/"
	drillsFolder = "drills/"
)

// Gap is a hole in the archive that was noticed: its revisions are in no segment, and came out of no snapshot.
type Gap struct {
	Format     string `json:"format"`
	Repository string `json:"repository"`
	// ID is 8 hexadecimal digits that tell two notes about the same revisions apart.
	ID       string           `json:"id"`
	Cluster  string           `json:"cluster"`
	Timeline Timeline         `json:"timeline"`
	First    history.Revision `json:"first"`
	Last     history.Revision `json:"last"`
	// Noticed is when, Reason why the revisions are not there.
	Noticed time.Time   `json:"noticed"`
	Reason  string      `json:"reason"`
	Signer  Fingerprint `json:"signer"`
	// Copied is the note of another repository that this is a copy of; nil of an original.
	Copied *Copied `json:"copied,omitempty"`
}

// Hashes are what the members of a cluster said of their keyspaces at one revision: etcd's HashKV.
type Hashes struct {
	Format     string           `json:"format"`
	Repository string           `json:"repository"`
	ID         string           `json:"id"` // as that of a Gap
	Cluster    string           `json:"cluster"`
	Timeline   Timeline         `json:"timeline"`
	Revision   history.Revision `json:"revision"`
	Taken      time.Time        `json:"taken"`
	Members    []MemberHash     `json:"members"`
	// Equal tells that all hashes that can be compared are the same. Suspects are the ids of the members whose hash is not
	// that of the others; all of them when nobody can say who is right.
	Equal    bool        `json:"equal"`
	Suspects []string    `json:"suspects,omitempty"`
	Signer   Fingerprint `json:"signer"`
	Copied   *Copied     `json:"copied,omitempty"` // as that of a Gap
}

// MemberHash is the hash of one member. Two can be compared when they count from the same compact revision.
type MemberHash struct {
	// MemberID is in hexadecimal.
	MemberID        string           `json:"member-id"`
	Name            string           `json:"name"`
	Hash            uint32           `json:"hash"`
	CompactRevision history.Revision `json:"compact-revision"`
	// Missing is why there is no hash; "" when there is one.
	Missing string `json:"missing,omitempty"`
}

// Lease is the word of an archiver that it is at work, or is no more. It keeps others from wasted work and decides nothing.
type Lease struct {
	Format     string `json:"format"`
	Repository string `json:"repository"`
	// ID is when it was put by the clock of its holder, so that those of one holder sort by time.
	ID       ID       `json:"id"`
	Cluster  string   `json:"cluster"`
	Timeline Timeline `json:"timeline"`
	// Session is 16 hexadecimal digits that an archiver draws for its folder, and keeps. They tell two apart that sign with
	// one key, and are the same again when one was restarted.
	Session string `json:"session"`
	// Revision is up to where its holder has archived the timeline; 0 when it has nothing of it.
	Revision history.Revision `json:"revision"`
	// AsOf is a time at which the cluster had Revision and no later one; left out when its holder did not know.
	AsOf time.Time `json:"as-of,omitzero"`
	// Release tells that its holder has ended cleanly.
	Release bool `json:"release"`
	// Signer is who holds it.
	Signer Fingerprint `json:"signer"`
	// Copied is set when this is the word of whoever copied the archive, up to Revision, and no archiver has ever said it here:
	// the lease of another repository that AsOf was taken from. Such a one is released.
	Copied *Copied `json:"copied,omitempty"`
}

const (
	// mostMembers bounds the members in Hashes; etcd knows 7 as many.
	mostMembers = 100
	// mostWord bounds what a member is called and why its hash is missing, in bytes.
	mostWord = 500
)

// note is what they have in common.
type note interface {
	Gap | Hashes | Lease | Drill
	format() string
	// role is the one that its signer needs.
	role() Role
	// name is where it is; its place in the name is checked with it.
	name() string
	repository() string
	signer() Fingerprint
	// check looks at the rest.
	check() error
}

func (g Gap) format() string      { return gapFormat }
func (g Gap) role() Role          { return RoleBackup }
func (g Gap) repository() string  { return g.Repository }
func (g Gap) signer() Fingerprint { return g.Signer }
func (g Gap) name() string {
	return fmt.Sprintf("%s%s%020d-%020d-%s.json", archiveFolder(g.Cluster, g.Timeline), gapsFolder, g.First, g.Last, g.ID)
}

func (g Gap) check() error {
	switch {
	case !randomPattern.MatchString(g.ID):
		return fmt.Errorf("its id %q is not 8 hexadecimal digits", g.ID)
	case g.First < 1 || g.Last < g.First:
		return fmt.Errorf("it is about revisions %d to %d", g.First, g.Last)
	case g.Noticed.IsZero() || g.Reason == "" || len(g.Reason) > mostReason:
		return fmt.Errorf("it lacks a time or a reason, or its reason is longer than %d bytes", mostReason)
	}
	return nil
}

func (h Hashes) format() string      { return hashesFormat }
func (h Hashes) role() Role          { return RoleBackup }
func (h Hashes) repository() string  { return h.Repository }
func (h Hashes) signer() Fingerprint { return h.Signer }
func (h Hashes) name() string {
	return fmt.Sprintf("%s%s%020d-%s.json", archiveFolder(h.Cluster, h.Timeline), hashesFolder, h.Revision, h.ID)
}

func (h Hashes) check() error {
	switch {
	case !randomPattern.MatchString(h.ID):
		return fmt.Errorf("its id %q is not 8 hexadecimal digits", h.ID)
	case h.Revision < 1 || h.Taken.IsZero() || len(h.Members) < 1 || len(h.Members) > mostMembers:
		return fmt.Errorf("it lacks a revision or a time, or has %d members", len(h.Members))
	}
	ids, hashes := map[string]bool{}, map[history.Revision]uint32{}
	differ := false
	for _, m := range h.Members {
		if m.MemberID == "" || ids[m.MemberID] || max(len(m.MemberID), len(m.Name), len(m.Missing)) > mostWord {
			return errors.New("a member of it has no id, or is there twice, or says too much")
		}
		ids[m.MemberID] = true
		if m.Missing != "" {
			continue
		}
		hash, found := hashes[m.CompactRevision]
		differ = differ || found && hash != m.Hash
		hashes[m.CompactRevision] = m.Hash
	}
	for _, suspect := range h.Suspects {
		if !ids[suspect] {
			return fmt.Errorf("it suspects %q, which is not among its members", suspect)
		}
	}
	if h.Equal == differ || h.Equal == (len(h.Suspects) > 0) {
		return errors.New("what it says of its hashes does not follow from them")
	}
	return nil
}

func (l Lease) format() string      { return leaseFormat }
func (l Lease) role() Role          { return RoleBackup }
func (l Lease) repository() string  { return l.Repository }
func (l Lease) signer() Fingerprint { return l.Signer }
func (l Lease) name() string {
	return fmt.Sprintf("%s%s%s.json", archiveFolder(l.Cluster, l.Timeline), leasesFolder, l.ID)
}

func (l Lease) check() error {
	if _, err := parseID(l.ID.String()); err != nil || CheckSession(l.Session) != nil {
		return fmt.Errorf("its id is %q and its session %q, want 16 hexadecimal digits", l.ID, l.Session)
	}
	if l.Revision < 0 || l.Revision == 0 && !l.AsOf.IsZero() {
		return fmt.Errorf("its revision is %d", l.Revision)
	}
	if l.Copied != nil && !l.Release {
		return errors.New("it is a copy, and says that an archiver is at work")
	}
	return nil
}

// NewSession draws the session of an archiver.
func NewSession() string { return randomHex(8) }

// CheckSession tells whether a text is a session.
func CheckSession(text string) error {
	if !segmentRandom.MatchString(text) {
		return fmt.Errorf("session %q is not 16 hexadecimal digits", text)
	}
	return nil
}

// NoteRead is one note that was fetched, or why it could not be believed.
type NoteRead[N any] struct {
	Name   string
	Note   N
	SHA256 string
	Err    error
}

// PutGap signs and puts a note of a hole. Cluster, Timeline, First, Last, Noticed and Reason are the caller's.
func (r *Repository) PutGap(ctx context.Context, w *Writer, g Gap) (Gap, error) {
	g.Format, g.Repository, g.ID, g.Signer = gapFormat, r.document.Repository, randomHex(4), w.key.Public().Fingerprint()
	g.Noticed = g.Noticed.UTC().Truncate(time.Millisecond)
	if err := putNote(ctx, r, w, g); err != nil {
		return Gap{}, fmt.Errorf("note a gap: %w", err)
	}
	return g, nil
}

// Gaps fetches the holes of a timeline that were noticed, by revision. Strange are objects among them that are not named as
// one. What cannot be believed is in its read.
func (r *Repository) Gaps(ctx context.Context, cluster string, t Timeline) (reads []NoteRead[Gap], strange []string, err error) {
	return notes(ctx, r, cluster, t, gapsFolder, parseGap, "", 0)
}

// PutHashes signs and puts the hashes of the members. Cluster, Timeline, Revision, Taken, Members, Equal and Suspects are the
// caller's.
func (r *Repository) PutHashes(ctx context.Context, w *Writer, h Hashes) (Hashes, error) {
	h.Format, h.Repository, h.ID, h.Signer = hashesFormat, r.document.Repository, randomHex(4), w.key.Public().Fingerprint()
	h.Taken = h.Taken.UTC().Truncate(time.Millisecond)
	if err := putNote(ctx, r, w, h); err != nil {
		return Hashes{}, fmt.Errorf("note hashes: %w", err)
	}
	return h, nil
}

// Hashes fetches the newest hashes of a timeline by revision, so many of them, oldest first; all when most is 0. Strange is as
// in Gaps.
func (r *Repository) Hashes(ctx context.Context, cluster string, t Timeline, most int) (reads []NoteRead[Hashes], strange []string, err error) {
	return notes(ctx, r, cluster, t, hashesFolder, parseHashes, "", most)
}

// HashesFrom fetches the first hashes of a timeline at or after a revision, so many of them, by revision. It lists no more than
// those. What cannot be believed is in its read.
func (r *Repository) HashesFrom(ctx context.Context, cluster string, t Timeline, from history.Revision, most int) ([]NoteRead[Hashes], error) {
	return notesFrom(ctx, r, cluster, t, hashesFolder, parseHashes, fmt.Sprintf("%020d", from), most)
}

// LeasesFrom fetches the first leases of a timeline from the second of a time on, by the clocks of their holders, so many of them,
// oldest first. It lists no more than those. What cannot be believed is in its read.
func (r *Repository) LeasesFrom(ctx context.Context, cluster string, t Timeline, from time.Time, most int) ([]NoteRead[Lease], error) {
	return notesFrom(ctx, r, cluster, t, leasesFolder, parseLease, from.UTC().Format(idStamp), most)
}

// notesFrom fetches the first notes of a kind whose names come after one, so many of them.
func notesFrom[N note](ctx context.Context, r *Repository, cluster string, t Timeline, folder string, parse func(string) (N, error), after string, most int) ([]NoteRead[N], error) {
	if err := errors.Join(CheckCluster(cluster), CheckTimeline(string(t))); err != nil {
		return nil, err
	}
	var reads []NoteRead[N]
	prefix := archiveFolder(cluster, t) + folder
	for object, err := range r.store.List(ctx, prefix, prefix+after) {
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", prefix, err)
		}
		if len(reads) >= most {
			break
		}
		if _, err := parse(object.Name); err == nil {
			reads = append(reads, NoteRead[N]{Name: object.Name})
		}
	}
	return reads, readNotes(ctx, r, reads)
}

// PutLease signs and puts a lease. Cluster, Timeline, Session, Revision, AsOf, Release and Copied are the caller's.
func (r *Repository) PutLease(ctx context.Context, w *Writer, l Lease) (Lease, error) {
	l.Format, l.Repository, l.ID, l.Signer = leaseFormat, r.document.Repository, newID(time.Now()), w.key.Public().Fingerprint()
	l.AsOf = l.AsOf.UTC().Truncate(time.Millisecond)
	if err := putNote(ctx, r, w, l); err != nil {
		return Lease{}, fmt.Errorf("put lease: %w", err)
	}
	return l, nil
}

// Leases fetches the newest leases of a timeline by their names, so many of them, oldest first; all when most is 0. It lists
// only those after an id, which may be zero: there is one for every 10 quiet seconds. Strange is as in Gaps.
func (r *Repository) Leases(ctx context.Context, cluster string, t Timeline, after ID, most int) (reads []NoteRead[Lease], strange []string, err error) {
	from := ""
	if !after.IsZero() {
		from = Lease{Cluster: cluster, Timeline: t, ID: after}.name()
	}
	return notes(ctx, r, cluster, t, leasesFolder, parseLease, from, most)
}

// recentLeases is how far back the last lease is looked for first: there is one for every 10 quiet seconds of an archiver.
const recentLeases = time.Hour

// LastLease fetches the last word about a timeline; its Err is why that cannot be believed. It is nil when there is none.
func (r *Repository) LastLease(ctx context.Context, cluster string, t Timeline) (*NoteRead[Lease], error) {
	recent := ID{Time: time.Now().Add(-recentLeases).UTC(), Random: "00000000"}
	for _, after := range []ID{recent, {}} {
		leases, _, err := r.Leases(ctx, cluster, t, after, 1)
		if err != nil {
			return nil, err
		}
		if len(leases) > 0 {
			return &leases[0], nil
		}
	}
	return nil, nil
}

// FirstLease fetches the first lease of a timeline by its name that can be believed and tells a revision: where its archive began.
// It is nil when there is none.
func (r *Repository) FirstLease(ctx context.Context, cluster string, t Timeline) (*NoteRead[Lease], error) {
	if err := errors.Join(CheckCluster(cluster), CheckTimeline(string(t))); err != nil {
		return nil, err
	}
	prefix := archiveFolder(cluster, t) + leasesFolder
	for object, err := range r.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", prefix, err)
		}
		if _, err := parseLease(object.Name); err != nil {
			continue
		}
		lease, sum, err := readNote[Lease](ctx, r, object.Name)
		switch {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, ErrForged):
		case err != nil:
			return nil, err
		case lease.Revision > 0:
			return &NoteRead[Lease]{Name: object.Name, Note: lease, SHA256: sum}, nil
		}
	}
	return nil, nil
}

func putNote[N note](ctx context.Context, r *Repository, w *Writer, n N) error {
	if _, err := r.Enrolled(ctx, n.signer(), n.role()); err != nil {
		return fmt.Errorf("signing key of this host: %w", err)
	}
	if err := n.check(); err != nil {
		return err
	}
	if _, _, _, ok := inArchive(n.name(), archivePart); !ok {
		return fmt.Errorf("object %q would not be in an archive", n.name())
	}
	signed, err := sign(n, w.key)
	if err != nil {
		return err
	}
	_, err = store.PutBytes(ctx, r.store, n.name(), signed, store.PutOptions{})
	return err
}

// notes lists and fetches the last notes of a kind, so many of them.
func notes[N note](ctx context.Context, r *Repository, cluster string, t Timeline, folder string, parse func(string) (N, error), after string, most int) (reads []NoteRead[N], strange []string, err error) {
	if err := errors.Join(CheckCluster(cluster), CheckTimeline(string(t))); err != nil {
		return nil, nil, err
	}
	prefix := archiveFolder(cluster, t) + folder
	for object, err := range r.store.List(ctx, prefix, after) {
		if err != nil {
			return nil, nil, fmt.Errorf("list %q: %w", prefix, err)
		}
		if _, err := parse(object.Name); err != nil {
			strange = append(strange, object.Name)
			continue
		}
		reads = append(reads, NoteRead[N]{Name: object.Name})
	}
	if most > 0 {
		reads = slices.Clone(reads[max(0, len(reads)-most):])
	}
	return reads, strange, readNotes(ctx, r, reads)
}

// readNotes fetches the notes that are named. The error is that of ctx.
func readNotes[N note](ctx context.Context, r *Repository, reads []NoteRead[N]) error {
	var group errgroup.Group
	group.SetLimit(fetchesAtOnce)
	for i := range reads {
		group.Go(func() error {
			reads[i].Note, reads[i].SHA256, reads[i].Err = readNote[N](ctx, r, reads[i].Name)
			return nil
		})
	}
	_ = group.Wait() // no error comes out of it
	return context.Cause(ctx)
}

func readNote[N note](ctx context.Context, r *Repository, name string) (n N, sum string, err error) {
	fail := func(err error) (N, string, error) { return n, sum, fmt.Errorf("note %q: %w", name, err) }
	read := r.readSigned
	if n.format() == leaseFormat { // nobody looks at one twice
		read = func(ctx context.Context, name string) ([]byte, error) { return readSmall(ctx, r.store, name) }
	}
	signed, err := read(ctx, name)
	if err != nil {
		return fail(err)
	}
	sum = sumOf(signed)
	if n, err = openNote[N](ctx, r, signed, name); err != nil {
		return fail(err)
	}
	return n, sum, nil
}

func openNote[N note](ctx context.Context, r *Repository, signed []byte, name string) (n N, err error) {
	by, err := r.openSigned(ctx, signed, n.role(), n.format(), &n)
	if err != nil {
		return n, err
	}
	if n.signer() != by || n.repository() != r.document.Repository || n.name() != name {
		return n, fmt.Errorf("%w: it does not belong there", ErrForged)
	}
	return n, n.check()
}

// noteFields takes the name of a note apart: what is between dashes in the name of its file.
func noteFields(name, folder string, n int) (cluster string, t Timeline, fields []string, err error) {
	cluster, t, rest, ok := inArchive(name, archivePart)
	dir, file := path.Split(rest)
	fields = strings.SplitN(strings.TrimSuffix(file, ".json"), "-", n)
	if !ok || dir != folder || len(fields) != n {
		return "", "", nil, fmt.Errorf("object %q is not named as one of %q", name, folder)
	}
	return cluster, t, fields, nil
}

func parseGap(name string) (g Gap, err error) {
	cluster, t, fields, err := noteFields(name, gapsFolder, 3)
	if err != nil {
		return g, err
	}
	first, firstErr := parseRevision(fields[0])
	last, lastErr := parseRevision(fields[1])
	g = Gap{Cluster: cluster, Timeline: t, First: first, Last: last, ID: fields[2]}
	if firstErr != nil || lastErr != nil || last < first || !randomPattern.MatchString(g.ID) || g.name() != name {
		return g, fmt.Errorf("object %q is not named as a gap", name)
	}
	return g, nil
}

func parseHashes(name string) (h Hashes, err error) {
	cluster, t, fields, err := noteFields(name, hashesFolder, 2)
	if err != nil {
		return h, err
	}
	revision, err := parseRevision(fields[0])
	h = Hashes{Cluster: cluster, Timeline: t, Revision: revision, ID: fields[1]}
	if err != nil || !randomPattern.MatchString(h.ID) || h.name() != name {
		return h, fmt.Errorf("object %q is not named as hashes", name)
	}
	return h, nil
}

func parseLease(name string) (l Lease, err error) {
	cluster, t, fields, err := noteFields(name, leasesFolder, 1)
	if err != nil {
		return l, err
	}
	id, err := parseID(fields[0])
	l = Lease{Cluster: cluster, Timeline: t, ID: id}
	if err != nil || l.name() != name {
		return l, fmt.Errorf("object %q is not named as a lease", name)
	}
	return l, nil
}
