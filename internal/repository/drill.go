package repository

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Drill is what a verifier found out about one moment of a timeline, which it restored from a snapshot and the segments after
// it. Like a Verification it holds no keys and values of the cluster. It says nothing of the snapshot alone: a segment may be
// what is wrong.
type Drill struct {
	Format     string `json:"format"`
	Repository string `json:"repository"`
	// ID tells when it began.
	ID       ID       `json:"id"`
	Cluster  string   `json:"cluster"`
	Timeline Timeline `json:"timeline"`
	// Revision is the moment.
	Revision history.Revision `json:"revision"`
	// Snapshot is what it was restored from, with so many segments.
	Snapshot ID    `json:"snapshot"`
	Segments int64 `json:"segments"`
	// First and Last are the revisions that were restored with it: from the beginning of the snapshot's history up to where a
	// hash of the live cluster is recorded, or to the moment where none is.
	First history.Revision `json:"first"`
	Last  history.Revision `json:"last"`

	Passed bool `json:"passed"`
	// Problem is why it did not pass.
	Problem string `json:"problem,omitempty"`
	// Compared tells that the hash at Last was the one that the live cluster had; Uncompared is why it was not compared.
	Compared   bool   `json:"compared"`
	Uncompared string `json:"uncompared,omitempty"`
	// Hash is the HashKV that was computed at Last, counted from CompactRevision.
	Hash            uint32           `json:"hash,omitempty"`
	CompactRevision history.Revision `json:"compact-revision,omitempty"`
	// Keys counts the keys that live at Revision.
	Keys int64 `json:"keys,omitempty"`

	Started time.Time   `json:"started"`
	Seconds float64     `json:"duration_s"`
	Signer  Fingerprint `json:"signer"`
}

func (d Drill) format() string      { return drillFormat }
func (d Drill) role() Role          { return RoleVerify }
func (d Drill) repository() string  { return d.Repository }
func (d Drill) signer() Fingerprint { return d.Signer }
func (d Drill) name() string {
	return fmt.Sprintf("%s%s%020d-%s-%s.json", archiveFolder(d.Cluster, d.Timeline), drillsFolder, d.Revision, outcome(d.Passed), d.ID)
}

func (d Drill) check() error {
	_, idErr := parseID(d.ID.String())
	_, snapshotErr := parseID(d.Snapshot.String())
	switch {
	case idErr != nil || snapshotErr != nil:
		return errors.Join(idErr, snapshotErr)
	case d.Revision < 1 || d.First < 1 || d.Revision < d.First || d.Last < d.Revision || d.Segments < 0:
		return fmt.Errorf("it is about revision %d of %d to %d", d.Revision, d.First, d.Last)
	case d.Passed == (d.Problem != "") || d.Compared && (!d.Passed || d.Uncompared != ""):
		return errors.New("what it says of its outcome does not fit together")
	case max(len(d.Problem), len(d.Uncompared)) > mostProblem || d.Started.IsZero():
		return fmt.Errorf("it lacks a time, or says more than %d bytes", mostProblem)
	}
	return nil
}

// Proves tells whether a drill has shown that the revisions up to its Last are what the live cluster had.
func (d Drill) Proves() bool { return d.Passed && d.Compared }

// PutDrill signs and puts what a drill found. Format, Repository, ID and Signer are filled in; all else is the caller's. A key
// without the role verify is ErrNotEnrolled.
func (r *Repository) PutDrill(ctx context.Context, w *Writer, d Drill) (Drill, error) {
	d.Started = d.Started.UTC().Truncate(time.Millisecond)
	d.Format, d.Repository, d.ID, d.Signer = drillFormat, r.document.Repository, newID(d.Started), w.key.Public().Fingerprint()
	d.Problem = d.Problem[:min(len(d.Problem), mostProblem)]
	d.Uncompared = d.Uncompared[:min(len(d.Uncompared), mostProblem)]
	if err := putNote(ctx, r, w, d); err != nil {
		return Drill{}, fmt.Errorf("record drill: %w", err)
	}
	return d, nil
}

// Drills fetches the drills of moments of a timeline, by revision. Strange is as in Gaps.
func (r *Repository) Drills(ctx context.Context, cluster string, t Timeline) (reads []NoteRead[Drill], strange []string, err error) {
	return notes(ctx, r, cluster, t, drillsFolder, parseDrill, "", 0)
}

func parseDrill(name string) (d Drill, err error) {
	cluster, t, fields, err := noteFields(name, drillsFolder, 3)
	if err != nil {
		return d, err
	}
	revision, revisionErr := parseRevision(fields[0])
	id, err := parseID(fields[2])
	d = Drill{Cluster: cluster, Timeline: t, Revision: revision, Passed: fields[1] == outcome(true), ID: id}
	if revisionErr != nil || err != nil || d.name() != name {
		return d, fmt.Errorf("object %q is not named as a drill", name)
	}
	return d, nil
}
