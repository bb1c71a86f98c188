package juju

import (
	"strings"

	"github.com/holdfast-project/holdfast/internal/api"
)

// statusRecord is Status in JSON and YAML. The keys are those of juju status, so that scripts written for it go on
// working; root and archive are ours.
type statusRecord struct {
	Model        modelRecord          `yaml:"model" json:"model"`
	Applications map[string]appRecord `yaml:"applications" json:"applications"`
}

type modelRecord struct {
	Name string `yaml:"name" json:"name"`
}

type appRecord struct {
	Status  currentRecord         `yaml:"application-status" json:"application-status"`
	Scale   string                `yaml:"scale" json:"scale"`
	Version string                `yaml:"version,omitempty" json:"version,omitempty"`
	Units   map[string]unitRecord `yaml:"units" json:"units"`
}

type unitRecord struct {
	Workload currentRecord `yaml:"workload-status" json:"workload-status"`
	Agent    currentRecord `yaml:"juju-status" json:"juju-status"`
	Leader   bool          `yaml:"leader,omitempty" json:"leader,omitempty"`
	Machine  string        `yaml:"machine,omitempty" json:"machine,omitempty"`
	Ports    []string      `yaml:"open-ports,omitempty" json:"open-ports,omitempty"`
	Address  string        `yaml:"public-address,omitempty" json:"public-address,omitempty"`
	Root     string        `yaml:"root" json:"root"`
	Archive  *api.Archive  `yaml:"archive,omitempty" json:"archive,omitempty"`
}

type currentRecord struct {
	Current string `yaml:"current" json:"current"`
	Message string `yaml:"message,omitempty" json:"message,omitempty"`
}

func newStatusRecord(s Status) statusRecord {
	apps := map[string]appRecord{}
	for _, app := range s.Applications {
		units := map[string]unitRecord{}
		for _, u := range app.Units {
			units[u.Unit.String()] = unitRecord{
				Workload: currentRecord{Current: string(u.Workload), Message: u.Message},
				Agent:    currentRecord{Current: string(u.Agent)},
				Leader:   u.Leader,
				Machine:  u.Machine,
				Ports:    u.Ports,
				Address:  u.Address,
				Root:     u.Root,
				Archive:  u.Archive,
			}
		}
		apps[app.Name] = appRecord{
			Status:  currentRecord{Current: string(app.Status), Message: app.Message},
			Scale:   app.Scale,
			Version: app.Version,
			Units:   units,
		}
	}
	return statusRecord{Model: modelRecord{Name: s.Model}, Applications: apps}
}

// portList gives "2379/tcp,2380/tcp".
func portList(ports []string) string { return strings.Join(ports, ",") }
