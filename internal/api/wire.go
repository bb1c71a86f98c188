// Package api is the agent API, version 1, as seen from outside: the JSON types on the wire and a client.
//
// The client sits between the CLI and an agent. It is safe for concurrent use, and every call on it ends in bounded time
// with an error that names the unit, whether the agent is down, hung or gone. It retries nothing.
package api

import (
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// The routes of version 1. {id} and {name} are path values.
const (
	PathUnit     = "/v1/unit"
	PathActions  = "/v1/actions"
	PathTasks    = "/v1/tasks"
	PathTask     = "/v1/tasks/{id}"
	PathCancel   = "/v1/tasks/{id}/cancel"
	PathFiles    = "/v1/files"
	PathResource = "/v1/resources/{name}"
)

// LongestWait is the longest that an agent holds a request for a task that is not finished.
const LongestWait = 20 * time.Second

// Unit is the answer of GET /v1/unit.
type Unit struct {
	Unit unit.Name `json:"unit"`
	// Holdfast is the version of the agent's program.
	Holdfast string `json:"holdfast"`
	// Root is the folder on the unit's host that action paths are inside of.
	Root string `json:"root"`
	// Busy names the action that runs now, if any.
	Busy string `json:"busy,omitempty"`
	Etcd Etcd   `json:"etcd"`
	// Resources are the attached files, by name.
	Resources map[string]Resource `json:"resources,omitempty"`
	// Archive is how the unit's archiver is; nil where none is wanted.
	Archive *Archive `json:"archive,omitempty"`
}

// Roles of a unit's archiver.
const (
	// ArchiveArchiver: it archives the cluster.
	ArchiveArchiver = "archiver"
	// ArchiveStandby: it waits while another one does, or for leave to begin.
	ArchiveStandby = "standby"
	// ArchiveFailed: it has ended with an error, and is tried again.
	ArchiveFailed = "failed"
	// ArchiveOff: it is not wanted.
	ArchiveOff = "off"
)

// Archive is how the archiver of a unit is.
type Archive struct {
	Enabled bool `json:"enabled" yaml:"enabled"`
	// Role is one of ArchiveArchiver and the others.
	Role string `json:"role" yaml:"role"`
	// Cluster is the name of the cluster in the repository, Timeline the one that is written.
	Cluster  string `json:"cluster,omitempty" yaml:"cluster,omitempty"`
	Timeline string `json:"timeline,omitempty" yaml:"timeline,omitempty"`
	// Revision is up to where the store has confirmed the archive; of one that waits, up to where the other had come when the
	// wait began. Confirmed is when that was.
	Revision  int64     `json:"revision,omitempty" yaml:"revision,omitempty"`
	Confirmed time.Time `json:"confirmed,omitzero" yaml:"confirmed,omitempty"`
	// LagSeconds and LagRevisions are how far the archive is behind the cluster; 0 of one that does not archive.
	LagSeconds   float64 `json:"lag-seconds" yaml:"lag-seconds"`
	LagRevisions int64   `json:"lag-revisions" yaml:"lag-revisions"`
	// SpoolBytes are sealed and wait for the store.
	SpoolBytes int64 `json:"spool-bytes" yaml:"spool-bytes"`
	// Snapshot is the last one that this archiver took; nil before.
	Snapshot *ArchiveSnapshot `json:"snapshot,omitempty" yaml:"snapshot,omitempty"`
	// Error is what went wrong last, until something went right.
	Error string `json:"error,omitempty" yaml:"error,omitempty"`
}

// ArchiveSnapshot is a snapshot in the repository.
type ArchiveSnapshot struct {
	ID        string    `json:"id" yaml:"id"`
	Revision  int64     `json:"revision" yaml:"revision"`
	Completed time.Time `json:"completed" yaml:"completed"`
}

// Etcd is the state of the unit's member as the agent sees it.
type Etcd struct {
	// PID is the server's process id, 0 when it does not run.
	PID int `json:"pid,omitempty"`
	// Started is the process's start, in clock ticks since the machine's boot, as /proc shows it.
	Started   uint64 `json:"started,omitempty"`
	Version   string `json:"version,omitempty"`
	ClusterID string `json:"cluster-id,omitempty"`
	MemberID  string `json:"member-id,omitempty"`
	Revision  int64  `json:"revision,omitempty"`
	Leader    bool   `json:"leader"`
	Learner   bool   `json:"learner"`
	// Members is the size of the membership that the member knows, Healthy how many of them gave a healthy result.
	Members int `json:"members"`
	Healthy int `json:"healthy"`
	// Error says why there is no status.
	Error string `json:"error,omitempty"`
}

// Resource is a file that was attached to the unit.
type Resource struct {
	Name     string    `json:"name"`
	Revision int       `json:"revision"`
	Size     int64     `json:"size"`
	SHA256   string    `json:"sha256"`
	Attached time.Time `json:"attached"`
	// Error says why nothing but the name is known: the unit cannot read its record. Attaching the file again heals it.
	Error string `json:"error,omitempty"`
}

// TaskRequest is the body of POST /v1/tasks.
type TaskRequest struct {
	// Key makes the request idempotent: the same key always gives the same task. Required.
	Key    string        `json:"key"`
	Action string        `json:"action"`
	Params action.Params `json:"params,omitempty"`
	// Program is the name that the caller's program was called by.
	Program string `json:"program,omitempty"`
	// Number and Operation are the caller's small numbers for the task and for the operation it belongs to.
	Number    int `json:"number,omitempty"`
	Operation int `json:"operation,omitempty"`
}

// Tasks is the answer of GET /v1/tasks, in the order of arrival.
type Tasks struct {
	Tasks []action.Task `json:"tasks"`
}

// Actions is the answer of GET /v1/actions.
type Actions struct {
	Actions []action.Spec `json:"actions"`
}

// Error is the body of every answer that is not 2xx.
type Error struct {
	Message string `json:"error"`
}
