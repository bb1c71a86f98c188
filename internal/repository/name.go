package repository

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Names of objects and folders. DESIGN.md draws the layout.
const (
	documentName     = "repository.json"
	probesFolder     = "probes/"
	recipientsFolder = "recipients/"
	removalsFolder   = "removals/"
	pinPart          = "/pins/"
	signersFolder    = "signers/"
	clusterFolder    = "clusters/"
	dataPart         = "/data/"
	manifestPart     = "/manifests/"
	verificationPart = "/verifications/"
	snapshotKind     = "snapshot"
)

// clusterPattern is that of DNS names: it is safe in object names, files and shells.
var clusterPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// CheckCluster refuses what cannot name a cluster.
func CheckCluster(name string) error {
	if !clusterPattern.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Errorf("cluster name %q: want 1 to 63 lower-case letters, digits, dashes or dots, such as prod-eu1", name)
	}
	return nil
}

// Timeline names one continuous life of a cluster's keyspace: 16 hexadecimal digits.
type Timeline string

var timelinePattern = regexp.MustCompile(`^[0-9a-f]{16}$`)

// CheckTimeline refuses what cannot name a timeline.
func CheckTimeline(text string) error {
	if !timelinePattern.MatchString(text) {
		return fmt.Errorf("timeline %q: want 16 hexadecimal digits, as list shows them", text)
	}
	return nil
}

func newTimeline() Timeline { return Timeline(randomHex(8)) }

// FirstTimeline is the timeline of the first snapshot of a cluster: whoever begins it, even several at once, begins the same
// one. Later timelines are random.
func (r *Repository) FirstTimeline(cluster, etcdCluster string) Timeline {
	return Timeline(sumOf([]byte("first timeline\n" + r.document.Repository + "\n" + cluster + "\n" + etcdCluster))[:16])
}

// ID names one snapshot within its cluster: when its backup began, so that ids sort by time, and what tells it from others.
type ID struct {
	Time time.Time // UTC, whole seconds
	// Random is 8 hexadecimal digits: 4 of the part of the second, in 65536ths, and 4 random ones. Readers take any digits.
	Random string
}

const (
	idStamp     = "20060102T150405Z"
	personStamp = "2006-01-02T15:04:05Z"
)

func newID(now time.Time) ID {
	now = now.UTC()
	part := uint64(now.Nanosecond()) << 16 / uint64(time.Second)
	return ID{Time: now.Truncate(time.Second), Random: fmt.Sprintf("%04x", part) + randomHex(2)}
}

// String is the form in names of objects: "20261125T170102Z-1f3a9c20".
func (id ID) String() string { return id.Time.Format(idStamp) + "-" + id.Random }

// Short is the form for people: "2026-11-25T17:01:02Z".
func (id ID) Short() string { return id.Time.Format(personStamp) }

// Long is Short with the digits that tell two snapshots of the same second apart.
func (id ID) Long() string { return id.Short() + "-" + id.Random }

// IsZero tells whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText makes an ID a plain string in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = parseID(string(text))
	return err
}

var randomPattern = regexp.MustCompile(`^[0-9a-f]{8}$`)

func parseID(text string) (ID, error) {
	stamp, random, _ := strings.Cut(text, "-")
	at, err := time.Parse(idStamp, stamp)
	if err != nil || at.Format(idStamp) != stamp || !randomPattern.MatchString(random) {
		return ID{}, fmt.Errorf("parse snapshot id %q: want one like 20261125T170102Z-1f3a9c20", text)
	}
	return ID{Time: at, Random: random}, nil
}

// compare orders by time.
func (id ID) compare(other ID) int { return strings.Compare(id.String(), other.String()) }

// matches tells whether what a person wrote names the id: either form, or the form for people alone.
func (id ID) matches(text string) bool {
	return text == id.Short() || text == id.Long() || text == id.String()
}

// Point is one snapshot as the name of its manifest tells of it, without a look inside.
type Point struct {
	Cluster  string
	Timeline Timeline
	// First and Last are the revisions that can be restored from it.
	First, Last history.Revision
	ID          ID
}

// manifestName gives the name of the point's manifest.
func (p Point) manifestName() string {
	return fmt.Sprintf("%s%s%s%s/%s-%020d-%020d-%s.json", clusterFolder, p.Cluster, manifestPart, p.Timeline, snapshotKind, p.First, p.Last, p.ID)
}

// parsePoint reads the name of a manifest.
func parsePoint(name string) (Point, error) {
	fail := func() (Point, error) { return Point{}, fmt.Errorf("object %q is not named as a manifest", name) }
	rest, inClusters := strings.CutPrefix(name, clusterFolder)
	cluster, rest, inManifests := strings.Cut(rest, manifestPart)
	timeline, file := path.Split(rest)
	timeline = strings.TrimSuffix(timeline, "/")
	if !inClusters || !inManifests || CheckCluster(cluster) != nil || !timelinePattern.MatchString(timeline) {
		return fail()
	}
	fields := strings.SplitN(strings.TrimSuffix(file, ".json"), "-", 4)
	if len(fields) != 4 || fields[0] != snapshotKind {
		return fail()
	}
	first, firstErr := strconv.ParseInt(fields[1], 10, 64)
	last, lastErr := strconv.ParseInt(fields[2], 10, 64)
	id, idErr := parseID(fields[3])
	p := Point{Cluster: cluster, Timeline: Timeline(timeline), First: history.Revision(first), Last: history.Revision(last), ID: id}
	if firstErr != nil || lastErr != nil || idErr != nil || first < 1 || last < first || p.manifestName() != name {
		return fail()
	}
	return p, nil
}

// dataName gives the name of the object with a sealed snapshot.
func dataName(cluster string, id ID, encrypted bool) string {
	name := clusterFolder + cluster + dataPart + id.String() + ".zst"
	if encrypted {
		name += ".age"
	}
	return name
}

func signerName(f Fingerprint, role Role) string {
	return signersFolder + string(f) + "." + string(role) + ".json"
}

func revocationName(f Fingerprint) string { return signersFolder + string(f) + ".revoked.json" }

func rejectionName(f Fingerprint) string { return signersFolder + string(f) + ".rejected.json" }

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // it cannot fail: crypto/rand ends the program instead
	return hex.EncodeToString(b)
}
