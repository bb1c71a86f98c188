package repository

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// Manifest says what one stored snapshot is. It holds no keys and values of the cluster and is readable without any key.
type Manifest struct {
	Format     string `json:"format"`
	Repository string `json:"repository"`
	Kind       string `json:"kind"` // always "snapshot"
	ID         ID     `json:"id"`

	Cluster  string   `json:"cluster"`
	Timeline Timeline `json:"timeline"`
	Source   Source   `json:"source"`
	Content  Content  `json:"content"`
	Object   Object   `json:"object"`
	HashKV   HashKV   `json:"hashkv"`

	Started   time.Time `json:"started"`
	Completed time.Time `json:"completed"`
	// RetainUntil is how long the store was asked to lock the objects; left out when it was not.
	RetainUntil time.Time `json:"retain-until,omitzero"`

	Signer Fingerprint `json:"signer"`
	// Sequence counts the manifests of the signer from 1; Previous is the sha256 of the one before, "" for the first.
	Sequence int64  `json:"sequence"`
	Previous string `json:"previous"`
}

// Source is where a snapshot is from.
type Source struct {
	// ClusterID and MemberID are etcd's, in hexadecimal. Both are "" for a file of unknown origin.
	ClusterID   string `json:"cluster-id"`
	MemberID    string `json:"member-id"`
	MemberName  string `json:"member-name"`
	Endpoint    string `json:"endpoint"`
	EtcdVersion string `json:"etcd-version"`
	// CASHA256 is of the certificate authority of etcd's clients, in DER; "" when the connection was not TLS.
	CASHA256 string `json:"ca-sha256,omitempty"`
	// Role of the member when the snapshot was taken: "follower", "leader" or "alone"; "" for a file.
	Role string `json:"role"`
	// File is where an imported snapshot is from; nil for one of a live member.
	File *File `json:"file,omitempty"`
	// Copied is where a copy is from; nil for an original.
	Copied *Copied `json:"copied,omitempty"`
	// Adopted tells that the manifest was made from the data alone, by whoever signed it.
	Adopted bool `json:"adopted,omitempty"`
}

// File is a file that a snapshot was imported from. What it says of it is hearsay.
type File struct {
	// Name is without folders, Form how the backend was packed, Tool what made it, as far as that could be told.
	Name string `json:"name"`
	Form string `json:"form"`
	Tool string `json:"tool,omitempty"`
	// Taken is when the file says that it was taken, TakenFrom where it says so; left out when it does not.
	Taken     time.Time `json:"taken,omitzero"`
	TakenFrom string    `json:"taken-from,omitempty"`
	// Checksum tells whether etcd's own sha256 was in the file. Where it was not, the snapshot got one.
	Checksum bool `json:"checksum"`
}

// Copied is what of another repository a copy was made of: a snapshot, a segment or a note.
type Copied struct {
	Repository string `json:"repository"`
	// Manifest is the sha256 of the manifest or note there, Signer who signed it.
	Manifest string      `json:"manifest"`
	Signer   Fingerprint `json:"signer"`
}

// Content is what was sealed: a backend file, and what it says of itself.
type Content struct {
	// Size is in bytes, with etcd's trailer; SHA256 is of the bytes before it, which is what the trailer holds.
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Trailer bool   `json:"trailer"`
	// CompactRevision is 0 when there was no compaction.
	Revision        history.Revision `json:"revision"`
	CompactRevision history.Revision `json:"compact-revision"`
	Records         int64            `json:"records"`
	Leases          int64            `json:"leases"`
	AuthEnabled     bool             `json:"auth-enabled"`
	StorageVersion  string           `json:"storage-version,omitempty"`
	RaftTerm        uint64           `json:"raft-term"`
	RaftIndex       uint64           `json:"raft-index"`
}

// ContentOf takes from what a scan found what a manifest says.
func ContentOf(info snapshot.Info) Content {
	return Content{
		Size: info.Size, SHA256: hex.EncodeToString(info.SHA256[:]), Trailer: info.Trailer,
		Revision: info.Revision, CompactRevision: max(info.CompactRevision, info.ScheduledCompactRevision),
		Records: info.Records, Leases: info.Leases, AuthEnabled: info.AuthEnabled,
		StorageVersion: info.StorageVersion, RaftTerm: info.Term, RaftIndex: info.ConsistentIndex,
	}
}

// Object is a stored object.
type Object struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Encryption is that of this object, Recipients the ids of the keys that open it.
	Encryption Encryption `json:"encryption"`
	Recipients []string   `json:"recipients,omitempty"`
}

// HashKV is etcd's hash of a keyspace, as the member gave it at a revision.
type HashKV struct {
	Hash            uint32           `json:"hash"`
	Revision        history.Revision `json:"revision"`
	CompactRevision history.Revision `json:"compact-revision"`
	// Missing is why there is none; "" when there is one.
	Missing string `json:"missing,omitempty"`
}

// Point is what the name of the manifest says. A state is readable from the compact revision on.
func (m Manifest) Point() Point {
	return Point{Cluster: m.Cluster, Timeline: m.Timeline, First: max(m.Content.CompactRevision, 1), Last: m.Content.Revision, ID: m.ID}
}

// check looks at what a manifest says by itself and against its place. That it is signed was checked before.
func (m Manifest) check(repository string, point Point) error {
	switch {
	case m.Repository != repository:
		return fmt.Errorf("%w: it is of repository %q", ErrForged, m.Repository)
	case m.Kind != snapshotKind:
		return fmt.Errorf("it is about a %q, this program knows %q", m.Kind, snapshotKind)
	case m.Point() != point:
		return fmt.Errorf("%w: its name does not say what is in it: it belongs at %q", ErrForged, m.Point().manifestName())
	case m.Object.Encryption != Age && m.Object.Encryption != None:
		return fmt.Errorf("its object has encryption %q, this program knows %q and %q", m.Object.Encryption, Age, None)
	case m.Object.Name != dataName(m.Cluster, m.ID, m.Object.Encryption == Age):
		return fmt.Errorf("%w: its object is %q", ErrForged, m.Object.Name)
	case m.Object.Size < 1 || m.Content.Size < 1 || m.Sequence < 1:
		return errors.New("a size or its sequence number is below 1")
	}
	for _, sum := range []string{m.Object.SHA256, m.Content.SHA256} {
		if !fingerprintPattern.MatchString(sum) {
			return fmt.Errorf("sha256 %q is not 64 hexadecimal digits", sum)
		}
	}
	return nil
}
