package snapshot

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"regexp"
	"slices"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Names that etcd gives to its buckets and to what it keeps in them.
const (
	bucketKey     = "key"
	bucketMeta    = "meta"
	bucketLease   = "lease"
	bucketAlarm   = "alarm"
	bucketMembers = "members"
	bucketAuth    = "auth"

	nameFinished   = "finishedCompactRev"
	nameScheduled  = "scheduledCompactRev"
	nameConsistent = "consistent_index"
	nameTerm       = "term"
	nameVersion    = "storageVersion"
	nameAuth       = "authEnabled"
)

// Info is what a whole backend file says of itself.
type Info struct {
	// Size is the length of the file in bytes, with the trailer.
	Size int64
	// PageSize is in bytes; Pages is how many pages the database uses or has free, its high-water mark.
	PageSize int
	Pages    int64
	// Trailer tells whether etcd's sha256 is behind the pages. It is then right.
	Trailer bool
	// SHA256 is of the bytes without the trailer.
	SHA256 [32]byte
	// Revision is what an etcd that opens the file starts with. It is never below 1.
	Revision history.Revision
	// CompactRevision and ScheduledCompactRevision are those of the last compaction that was finished and asked for;
	// zero when there was none.
	CompactRevision          history.Revision
	ScheduledCompactRevision history.Revision
	// Missing is the greatest revision after the compaction that has no record, or zero. Each revision that etcd
	// gives out has one, so that a file with a gap was put together from several states, or lost records. A file
	// without a trailer is refused for it. Where etcd itself vouches for the bytes, it is what etcd serves, and told.
	Missing history.Revision
	// Records counts what is in the key bucket: each put and delete that was not compacted away.
	Records int64
	// ConsistentIndex and Term are of the last raft entry that was applied; Term is zero before etcd 3.5.
	ConsistentIndex uint64
	Term            uint64
	// StorageVersion is such as "3.6.0"; empty before etcd 3.6.
	StorageVersion string
	// Members are those that the file knows, by ascending ID.
	Members []Member
	// AuthEnabled tells whether users must log in.
	AuthEnabled bool
	// Alarms and Leases count what is active.
	Alarms int64
	Leases int64
}

// Member is a member of the cluster as the backend has it.
type Member struct {
	ID       uint64
	Name     string
	PeerURLs []string
}

// Evidence is what tells the version of the etcd that wrote a file.
type Evidence string

const (
	// ByStorageVersion is what etcd 3.6 and newer write of themselves, some seconds after their first start.
	ByStorageVersion Evidence = "storage version"
	// ByTerm is a raft term and no storage version: etcd 3.5, or a newer one in its first seconds.
	ByTerm Evidence = "term"
	// ByNoTerm is neither: etcd 3.4 or older.
	ByNoTerm Evidence = "no term"
)

// SourceVersion is the minor version of the etcd that wrote the file, as far as the file tells, and what tells it: "3.4"
// stands for everything before 3.5 too.
func SourceVersion(info Info) (string, Evidence) {
	switch {
	case info.StorageVersion != "":
		return info.StorageVersion, ByStorageVersion
	case info.Term != 0:
		return "3.5", ByTerm
	}
	return "3.4", ByNoTerm
}

// wanted tells whether an element is one that Info is made of. Records of users can look alike; the bucket decides
// in the end.
func wanted(k, v []byte) bool {
	switch string(k) {
	case nameFinished, nameScheduled, nameConsistent, nameTerm, nameVersion, nameAuth:
		return true
	}
	return len(k) <= 16 && bytes.HasPrefix(v, []byte(`{"`))
}

// facts gathers an Info while the trees are walked.
type facts struct {
	*Info
	last    int64 // the revision of the last record so far
	gap     int64 // the greatest revision of a record that has none right before it
	members int   // how many the bucket has
}

// record takes note of the revision of the next record. A jump may leave revisions out.
func (f *facts) record(main int64, jump bool) {
	before := max(f.last, 1) // etcd writes its first record at revision 2
	if main > before+1 && !jump {
		f.gap = main
	}
	f.last = main
}

// count takes note that a bucket has n more elements.
func (f *facts) count(b bucketRoot, n int) {
	if b.level != topLevel {
		return
	}
	switch b.name {
	case bucketKey:
		f.Records += int64(n)
	case bucketLease:
		f.Leases += int64(n)
	case bucketAlarm:
		f.Alarms += int64(n)
	case bucketMembers:
		f.members += n
	}
}

// fact takes one element of a bucket.
func (f *facts) fact(b bucketRoot, k, v []byte) error {
	if b.level != topLevel {
		return nil
	}
	ok := true
	switch b.name {
	case bucketMeta:
		switch string(k) {
		case nameFinished:
			f.CompactRevision, ok = revisionOf(v)
		case nameScheduled:
			f.ScheduledCompactRevision, ok = revisionOf(v)
		case nameConsistent:
			f.ConsistentIndex, ok = numberOf(v)
		case nameTerm:
			f.Term, ok = numberOf(v)
		case nameVersion:
			f.StorageVersion, ok = versionOf(v)
		}
	case bucketAuth:
		if string(k) == nameAuth {
			f.AuthEnabled, ok = len(v) == 1 && v[0] == 1, len(v) == 1
		}
	case bucketMembers:
		var m struct {
			ID       uint64   `json:"id"`
			Name     string   `json:"name"`
			PeerURLs []string `json:"peerURLs"`
		}
		ok = json.Unmarshal(v, &m) == nil
		f.Members = append(f.Members, Member(m))
	}
	if !ok {
		return f.malformed(b.name)
	}
	return nil
}

func (f *facts) malformed(bucket string) error {
	return &Corrupt{Page: -1, Bucket: bucket, What: "the value of one of etcd's own keys is malformed"}
}

// settle computes what needs everything else. A compaction can have removed the last record; etcd then takes the
// revision of the compaction, even of one that it had not finished.
func (f *facts) settle() error {
	compacted := max(f.CompactRevision, f.ScheduledCompactRevision)
	f.Revision = max(1, history.Revision(f.last), compacted)
	if missing := history.Revision(f.gap - 1); missing > compacted {
		f.Missing = missing
		if !f.Trailer {
			return &Corrupt{Page: -1, Bucket: bucketKey, What: "revision " + missing.String() + " is missing"}
		}
	}
	if len(f.Members) != f.members {
		return f.malformed(bucketMembers)
	}
	slices.SortFunc(f.Members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

func revisionOf(v []byte) (history.Revision, bool) {
	if !isRevision(v) {
		return 0, false
	}
	main, _, _ := splitRevision(v)
	return history.Revision(main), true
}

func numberOf(v []byte) (uint64, bool) {
	if len(v) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}

// versionPattern is that of semantic versions, roughly: what it accepts can be shown anywhere.
var versionPattern = regexp.MustCompile(`^[0-9]+\.[0-9]+[0-9A-Za-z.+-]{0,40}$`)

func versionOf(v []byte) (string, bool) {
	if !versionPattern.Match(v) {
		return "", false
	}
	return string(v), true
}
