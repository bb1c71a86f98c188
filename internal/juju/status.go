package juju

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// Workload is how the etcd member of a unit is.
type Workload string

// The workload statuses, with Juju's meanings.
const (
	// WorkloadActive: the member serves.
	WorkloadActive Workload = "active"
	// WorkloadBlocked: a person has to do something.
	WorkloadBlocked Workload = "blocked"
	// WorkloadWaiting: something else has to happen first.
	WorkloadWaiting Workload = "waiting"
	// WorkloadError: something broke.
	WorkloadError Workload = "error"
	// WorkloadUnknown: nobody can tell, for example since the agent does not answer.
	WorkloadUnknown Workload = "unknown"
)

// AgentStatus is how the agent of a unit is.
type AgentStatus string

// The agent statuses, with Juju's meanings.
const (
	// AgentIdle: no task is running.
	AgentIdle AgentStatus = "idle"
	// AgentExecuting: a task is running.
	AgentExecuting AgentStatus = "executing"
	// AgentLost: the agent does not answer.
	AgentLost AgentStatus = "lost"
)

// UnitStatus is one unit in the status table.
type UnitStatus struct {
	Unit unit.Name
	// Leader tells whether the unit's member is the raft leader of its etcd cluster.
	Leader   bool
	Workload Workload
	Agent    AgentStatus
	// Machine is the machine that the unit is on, Address where clients reach its member.
	Machine, Address string
	// Ports are open ports, such as "2379/tcp".
	Ports []string
	// Root is the folder that paths of actions are inside of.
	Root    string
	Message string
	// Archive is how the unit's archiver is; nil where none is wanted.
	Archive *api.Archive
}

// AppStatus is one application in the status table.
type AppStatus struct {
	Name string
	// Version is the version of etcd that runs, empty when it is not known.
	Version string
	Status  Workload
	// Scale is how many units there are, "3", or "2/3" when fewer answer.
	Scale   string
	Message string
	// Units are in the order of their numbers.
	Units []UnitStatus
}

// Status is what the status command shows of a model.
type Status struct {
	Model        string
	Applications []AppStatus
}

// NewAppStatus sums up the units of an application: its status and message are those of the unit that is worst off,
// of the leader when all are alike. Where the cluster is to be archived, the messages say by whom, and how far behind.
func NewAppStatus(name, version string, units []UnitStatus) AppStatus {
	units = slices.Clone(units)
	slices.SortFunc(units, func(a, b UnitStatus) int { return a.Unit.Compare(b.Unit) })
	app := AppStatus{Name: name, Version: version, Status: WorkloadUnknown, Units: units}
	alive := 0
	for i, u := range units {
		if u.Agent != AgentLost {
			alive++
		}
		worse := severity(u.Workload) - severity(app.Status)
		if i == 0 || worse > 0 || worse == 0 && u.Leader {
			app.Status, app.Message = u.Workload, u.Message
		}
	}
	app.Scale = strconv.Itoa(len(units))
	if alive < len(units) {
		app.Scale = fmt.Sprintf("%d/%d", alive, len(units))
	}
	if text := archiveOfApp(units); text != "" {
		app.Message = joinMessage(app.Message, text)
	}
	for i, u := range units {
		if u.Archive != nil {
			units[i].Message = joinMessage(u.Message, archiveOfUnit(*u.Archive))
		}
	}
	return app
}

func joinMessage(message, more string) string {
	if message == "" {
		return more
	}
	return message + "; " + more
}

// archiveOfUnit is the part of a unit's message about its archiver.
func archiveOfUnit(a api.Archive) string {
	text := "archive " + a.Role
	if a.Role == api.ArchiveArchiver {
		text = "archiving, " + lag(a)
	}
	if a.Error != "" {
		text += ": " + a.Error
	}
	return text
}

// archiveOfApp says who archives the cluster; "" where nobody shall.
func archiveOfApp(units []UnitStatus) string {
	wanted := false
	var text []string
	for _, u := range units {
		if u.Archive == nil {
			continue
		}
		wanted = true
		if u.Archive.Role == api.ArchiveArchiver {
			text = append(text, u.Unit.String()+" archives, "+lag(*u.Archive))
		}
	}
	if wanted && len(text) == 0 {
		return "nobody archives"
	}
	return strings.Join(text, "; ")
}

// lag tells how far an archive is behind its cluster.
func lag(a api.Archive) string {
	behind := time.Duration(a.LagSeconds * float64(time.Second))
	round := 100 * time.Millisecond
	if behind >= 10*time.Second {
		round = time.Second
	}
	return behind.Round(round).String() + " behind"
}

// severity orders workload statuses by how much they ask for attention.
func severity(w Workload) int {
	return slices.Index([]Workload{
		WorkloadActive, WorkloadWaiting, WorkloadUnknown, WorkloadBlocked, WorkloadError,
	}, w)
}

// Health is what a unit found when it asked its cluster how it is.
type Health int

const (
	// Healthy: every known member answers and is well.
	Healthy Health = iota
	// UnHealthy: the members are known, but not all of them are well.
	UnHealthy
	// Errored: not even the members can be listed.
	Errored
)

// Message is the workload message for a health with a number of known members, "Healthy with 3 known peers".
func (h Health) Message(known int) string {
	word := "Healthy"
	switch h {
	case UnHealthy:
		word = "UnHealthy"
	case Errored:
		word = "Errored"
	}
	return word + " with " + count(known, "known peer")
}

// Workload is the workload status that goes with the message.
func (h Health) Workload() Workload {
	if h == Healthy {
		return WorkloadActive
	}
	return WorkloadBlocked
}

// WriteStatus writes what status prints: two tables in Tabular form, the raft leader marked with "*", else a map of
// applications with the keys of juju status, and each unit's root beside them.
func WriteStatus(w io.Writer, f Format, s Status) error {
	if f != Tabular {
		return encode(w, f, newStatusRecord(s))
	}
	apps := table{header: []string{"App", "Version", "Status", "Scale", "Message"}, right: []int{3}}
	units := table{header: []string{"Unit", "Workload", "Agent", "Address", "Ports", "Message"}}
	for _, app := range s.Applications {
		apps.add(app.Name, app.Version, string(app.Status), app.Scale, app.Message)
		for _, u := range app.Units {
			name := u.Unit.String()
			if u.Leader {
				name += "*"
			}
			units.add(name, string(u.Workload), string(u.Agent), u.Address, portList(u.Ports), u.Message)
		}
	}
	if err := apps.write(w); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return units.write(w)
}
