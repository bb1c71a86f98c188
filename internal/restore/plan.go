package restore

import (
	"fmt"
	"math"
	"strings"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Plan is what a restore is going to do, as shown before anything is touched. It is a plain value.
type Plan struct {
	// Unit is the unit's name, Member and PeerURL what its member is called.
	Unit    string `json:"unit"`
	Member  string `json:"member"`
	PeerURL string `json:"peer-url"`
	DataDir string `json:"data-dir"`
	WALDir  string `json:"wal-dir,omitempty"`
	// Target is the version of the etcd that will open the data.
	Target string `json:"target-version"`

	// Archive is the path of the archive file and SHA256 its sum in hex.
	Archive string `json:"archive"`
	SHA256  string `json:"sha256"`
	// Source is the version of the etcd that wrote the data.
	Source         string           `json:"source-version"`
	SourceRevision history.Revision `json:"source-revision"`
	SourceKeys     int64            `json:"source-keys"`
	// V2 tells that these are keys of the v2 store, which knows no revisions. SourceKeys is -1 when they cannot be counted.
	V2 bool `json:"v2,omitempty"`

	// Live is what the unit serves now; nil when its etcd does not answer.
	Live *Live `json:"live,omitempty"`
	// Revision is what the unit goes on from. Compacted tells that everything below is marked compacted.
	Revision  history.Revision `json:"revision"`
	Compacted bool             `json:"compacted"`
	// Kept is where the present data will be; empty when there is none.
	Kept string `json:"kept,omitempty"`
	// Notes are further things that a person should know, one clause each.
	Notes []string `json:"notes,omitempty"`
}

// Live is what a unit serves before a restore.
type Live struct {
	Revision history.Revision `json:"revision"`
	Keys     int64            `json:"keys"`
	// V2Keys are the keys of the v2 store, where etcd has one.
	V2Keys int64 `json:"v2-keys,omitempty"`
}

// NextRevision is the revision that a restore goes on from: see Options.Bump. With a bump of 0 the revision is kept.
func NextRevision(source, highestKnown, bump history.Revision) history.Revision {
	if bump == 0 {
		return source
	}
	return max(source, highestKnown) + bump
}

// MostBump is the most that a revision goes on by: a few such restores leave room for what is written between them.
const MostBump = math.MaxInt64 / 4

// CheckBump refuses a revision that cannot go on by a bump, 0 for none: after it there must be room for all that the cluster
// will ever write, and for the next restore. highestKnown is as in Options.
func CheckBump(source, highestKnown, bump history.Revision) error {
	if bump < 0 {
		return fmt.Errorf("a revision does not go on by %d", bump)
	}
	if last := max(source, highestKnown); bump > MostBump || last > math.MaxInt64-2*max(bump, RevisionBump) {
		return fmt.Errorf("revision %d is too high to go on from by %d", last, bump)
	}
	return nil
}

// String is the plan for people, some lines.
func (p Plan) String() string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "  %-10s %s\n", label, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "restore %s\n", p.Unit)
	line("from", "%s", p.Archive)
	line("sha256", "%s", p.SHA256)
	switch {
	case p.V2 && p.SourceKeys < 0:
		line("holds", "v2 keys, of etcd %s", p.Source)
	case p.V2:
		line("holds", "%d v2 keys, of etcd %s", p.SourceKeys, p.Source)
	default:
		line("holds", "%d keys at revision %s, of etcd %s", p.SourceKeys, p.SourceRevision, p.Source)
	}
	line("into", "%s, served by etcd %s as member %q, %s", p.DataDir, p.Target, p.Member, p.PeerURL)
	if p.WALDir != "" {
		line("WAL", "%s", p.WALDir)
	}
	switch {
	case p.Kept == "":
		line("replaces", "nothing: the unit has no data")
	case p.Live == nil:
		line("replaces", "all data of the unit; its etcd does not answer, so what that is cannot be said")
	case p.Live.V2Keys > 0:
		line("replaces", "all data of the unit: %d keys at revision %s, %d v2 keys", p.Live.Keys, p.Live.Revision, p.Live.V2Keys)
	default:
		line("replaces", "all data of the unit: %d keys at revision %s", p.Live.Keys, p.Live.Revision)
	}
	if p.Kept != "" {
		line("keeps", "the present data as %s", p.Kept)
	}
	switch {
	case p.V2:
		line("revision", "none: the v2 store has no revisions")
	case p.Compacted:
		line("revision", "%s; below it all is marked compacted, so that clients read everything again", p.Revision)
	default:
		line("revision", "%s; clients that have seen a later one will miss changes", p.Revision)
	}
	for _, note := range p.Notes {
		line("note", "%s", note)
	}
	return b.String()
}
