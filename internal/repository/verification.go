package repository

import (
	"cmp"
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

// Level is how deep a verification looked. Each level holds all of those before it.
type Level string

// The levels, from the shallowest.
const (
	// LevelListing: the manifest is signed and numbered, and its object is there with its size. It is not recorded.
	LevelListing Level = "listing"
	// LevelCiphertext: the stored bytes have their sha256; without a key nobody can say more.
	LevelCiphertext Level = "ciphertext"
	// LevelChecksum: decrypted, decompressed, every page and etcd's own sha256 checked.
	LevelChecksum Level = "checksum"
	// LevelReplay: opened as a database by etcd's own code, its hash computed again.
	LevelReplay Level = "replay"
	// LevelDrill: restored into an etcd that really started, and read back.
	LevelDrill Level = "drill"
)

// Levels are all levels, from the shallowest.
func Levels() []Level {
	return []Level{LevelListing, LevelCiphertext, LevelChecksum, LevelReplay, LevelDrill}
}

// Verification is what a verifier found out about a snapshot. Like a manifest it holds no keys and values of the cluster.
type Verification struct {
	Format     string `json:"format"`
	Repository string `json:"repository"`
	// ID tells when it began.
	ID       ID     `json:"id"`
	Cluster  string `json:"cluster"`
	Snapshot ID     `json:"snapshot"`
	// Manifest is the sha256 of the manifest that this is about.
	Manifest string `json:"manifest"`

	Level  Level `json:"level"`
	Passed bool  `json:"passed"`
	// Problem is why it did not pass.
	Problem string `json:"problem,omitempty"`
	// Compared tells that the hash of the restored keyspace was the one that the live cluster had. Uncompared is why it was
	// not compared, at a level that would.
	Compared   bool   `json:"compared"`
	Uncompared string `json:"uncompared,omitempty"`
	// Hash is the HashKV that was computed, of Revision and CompactRevision.
	Hash            uint32           `json:"hash,omitempty"`
	Revision        history.Revision `json:"revision,omitempty"`
	CompactRevision history.Revision `json:"compact-revision,omitempty"`
	// Keys counts the keys that were read back.
	Keys int64 `json:"keys,omitempty"`

	// Started is when it began, and Seconds how long it took.
	Started time.Time   `json:"started"`
	Seconds float64     `json:"duration_s"`
	Signer  Fingerprint `json:"signer"`
}

// name gives where a verification is. Its level, outcome and time are in the name, so that a listing tells which ones are
// worth a look.
func (v Verification) name() string {
	return verificationName(v.Cluster, verificationRef{snapshot: v.Snapshot, level: v.Level, passed: v.Passed, at: v.ID})
}

func verificationName(cluster string, ref verificationRef) string {
	return fmt.Sprintf("%s%s%s%s/%s-%s-%s.json", clusterFolder, cluster, verificationPart, ref.snapshot, ref.level, outcome(ref.passed), ref.at)
}

func outcome(passed bool) string {
	if passed {
		return "passed"
	}
	return "failed"
}

// verificationRef is a verification as its name tells of it.
type verificationRef struct {
	name     string
	snapshot ID
	level    Level
	passed   bool
	at       ID
}

func parseVerification(name, cluster string) (verificationRef, error) {
	fail := func() (verificationRef, error) {
		return verificationRef{}, fmt.Errorf("object %q is not named as a verification", name)
	}
	folder, file := path.Split(strings.TrimPrefix(name, clusterFolder+cluster+verificationPart))
	snapshot, err := parseID(strings.TrimSuffix(folder, "/"))
	fields := strings.SplitN(strings.TrimSuffix(file, ".json"), "-", 3)
	if err != nil || len(fields) != 3 {
		return fail()
	}
	at, err := parseID(fields[2])
	ref := verificationRef{name: name, snapshot: snapshot, level: Level(fields[0]), passed: fields[1] == outcome(true), at: at}
	if err != nil || verificationName(cluster, ref) != name || !slices.Contains(Levels(), ref.level) {
		return fail()
	}
	return ref, nil
}

// mostProblem bounds what a verification says of a problem, in bytes.
const mostProblem = 1000

// RecordVerification signs what was found out about a snapshot, and puts it beside it. read is the manifest that it is
// about.
func (r *Repository) RecordVerification(ctx context.Context, w *Writer, read Read, v Verification) (Verification, error) {
	if read.Err != nil {
		return v, errors.New("record verification: its manifest cannot be believed, so there is nothing that it could be about")
	}
	own := w.key.Public().Fingerprint()
	if _, err := r.Enrolled(ctx, own, RoleVerify); err != nil {
		return v, fmt.Errorf("record verification: %w", err)
	}
	v.Format, v.Repository, v.Cluster, v.Snapshot = verificationFormat, r.document.Repository, read.Point.Cluster, read.Point.ID
	v.Started = v.Started.UTC().Truncate(time.Millisecond)
	v.ID, v.Manifest, v.Signer = newID(v.Started), read.SHA256, own
	v.Problem = v.Problem[:min(len(v.Problem), mostProblem)]
	signed, err := sign(v, w.key)
	if err != nil {
		return v, fmt.Errorf("record verification: %w", err)
	}
	if _, err := store.PutBytes(ctx, r.store, v.name(), signed, store.PutOptions{}); err != nil {
		return v, fmt.Errorf("record verification: %w", err)
	}
	return v, nil
}

// VerificationRead is one verification that was fetched, or why it could not be believed.
type VerificationRead struct {
	Name         string
	Verification Verification
	SHA256       string
	Err          error
}

// Verifications fetches the verifications of a cluster's snapshots. With pick it fetches, of each snapshot, only those that
// decide its standing: of each level and outcome the newest. Strange is as in Points.
func (r *Repository) Verifications(ctx context.Context, cluster string, pick func(ID) bool) (reads []VerificationRead, strange []string, err error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, nil, err
	}
	var refs []verificationRef
	for object, err := range r.store.List(ctx, clusterFolder+cluster+verificationPart, "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list verifications of %q: %w", cluster, err)
		}
		ref, err := parseVerification(object.Name, cluster)
		switch {
		case err != nil:
			strange = append(strange, object.Name)
		case pick == nil || pick(ref.snapshot):
			refs = append(refs, ref)
		}
	}
	if pick != nil {
		refs = decisive(refs)
	}
	reads = make([]VerificationRead, len(refs))
	var group errgroup.Group
	group.SetLimit(fetchesAtOnce)
	for i, ref := range refs {
		group.Go(func() error {
			reads[i] = r.verification(ctx, cluster, ref)
			return nil
		})
	}
	_ = group.Wait() // no error comes out of it
	return reads, strange, context.Cause(ctx)
}

// decisive leaves, of each snapshot, level and outcome, the newest.
func decisive(refs []verificationRef) []verificationRef {
	type kind struct {
		snapshot ID
		level    Level
		passed   bool
	}
	newest := map[kind]verificationRef{}
	for _, ref := range refs {
		k := kind{ref.snapshot, ref.level, ref.passed}
		if old, found := newest[k]; !found || old.at.compare(ref.at) < 0 {
			newest[k] = ref
		}
	}
	return slices.DeleteFunc(refs, func(ref verificationRef) bool {
		return newest[kind{ref.snapshot, ref.level, ref.passed}] != ref
	})
}

func (r *Repository) verification(ctx context.Context, cluster string, ref verificationRef) VerificationRead {
	read := VerificationRead{Name: ref.name}
	signed, err := r.readSigned(ctx, ref.name)
	if err == nil {
		read.SHA256 = sumOf(signed)
		var by Fingerprint
		by, err = r.openSigned(ctx, signed, RoleVerify, verificationFormat, &read.Verification)
		if v := read.Verification; err == nil && (v.Signer != by || v.Repository != r.document.Repository || v.Cluster != cluster || v.name() != ref.name) {
			err = fmt.Errorf("%w: it does not belong there", ErrForged)
		}
	}
	if err != nil {
		read.Err = fmt.Errorf("verification %q: %w", ref.name, err)
	}
	return read
}

// Standing is how well a snapshot is known to be good.
type Standing string

// The standings, from the weakest.
const (
	// StandingBad: the last verification found it damaged.
	StandingBad Standing = "bad"
	// StandingStored: it was checked while it was made, and never since, or only its ciphertext was.
	StandingStored Standing = "stored"
	// StandingVerified: all of its content was read again and found right.
	StandingVerified Standing = "verified"
	// StandingProven: it was restored into an etcd that really started, and that had the hash of the live cluster.
	StandingProven Standing = "proven"
)

// Proof is the standing of a snapshot, and since when.
type Proof struct {
	Standing Standing
	// At is when the verification began that decides; zero for one that is only stored.
	At time.Time
	// Level of it; "" for one that is only stored.
	Level Level
}

// ProofOf decides the standing of a snapshot from verifications of it. Those that cannot be believed, or are about another
// manifest, do not count. A failure counts until a later verification of at least that depth passes.
func ProofOf(snapshot Read, reads []VerificationRead) Proof {
	proof := Proof{Standing: StandingStored}
	depth := func(l Level) int { return slices.Index(Levels(), l) }
	var valid []Verification
	for _, read := range reads {
		if v := read.Verification; read.Err == nil && v.Snapshot == snapshot.Point.ID && v.Manifest == snapshot.SHA256 {
			valid = append(valid, v)
		}
	}
	slices.SortStableFunc(valid, func(a, b Verification) int { return cmp.Or(a.Started.Compare(b.Started), a.ID.compare(b.ID)) })
	rank := func(s Standing) int {
		return slices.Index([]Standing{StandingStored, StandingVerified, StandingProven}, s)
	}
	for _, v := range valid {
		now := Proof{Standing: standingBy(v), At: v.Started, Level: v.Level}
		switch {
		case !v.Passed:
			proof = now
		case proof.Standing == StandingBad && depth(v.Level) < depth(proof.Level):
			// It did not look where the failure was.
		case proof.Standing == StandingBad || cmp.Compare(rank(now.Standing), rank(proof.Standing)) >= 0:
			proof = now
		}
	}
	return proof
}

func standingBy(v Verification) Standing {
	switch {
	case !v.Passed:
		return StandingBad
	case v.Level == LevelDrill && v.Compared:
		return StandingProven
	case v.Level == LevelChecksum || v.Level == LevelReplay || v.Level == LevelDrill:
		return StandingVerified
	}
	return StandingStored
}
