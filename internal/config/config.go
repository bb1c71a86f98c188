// Package config finds where Holdfast keeps its local state and reads the configuration of an agent.
//
// It is plain values and file reads; nothing is cached. Unknown keys are refused, and every bad field is named.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v2"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// Home is the folder of all local state: $HOLDFAST_HOME, or the XDG data folder, or /var/lib/holdfast for a system
// service, which has no home folder. getenv is os.Getenv outside of tests.
func Home(getenv func(string) string) (string, error) {
	home, variable := getenv("HOLDFAST_HOME"), "HOLDFAST_HOME"
	switch {
	case home != "":
	case getenv("XDG_DATA_HOME") != "":
		variable = "XDG_DATA_HOME"
		home = filepath.Join(getenv("XDG_DATA_HOME"), "holdfast")
	case getenv("HOME") != "":
		variable = "HOME"
		home = filepath.Join(getenv("HOME"), ".local", "share", "holdfast")
	default:
		home = "/var/lib/holdfast"
	}
	if !filepath.IsAbs(home) {
		return "", fmt.Errorf("find home: %s is %q, which is not an absolute path", variable, getenv(variable))
	}
	return filepath.Clean(home), nil
}

// Agent is the configuration of the agent of one unit. All paths are absolute.
type Agent struct {
	Unit   unit.Name   `yaml:"unit"`
	Record unit.Record `yaml:"record"`
	// StateDir holds the journal, the attached resources, and the etcd's pid file and log.
	StateDir string `yaml:"state-dir"`
	// TLS is the agent's own identity and the CA that its callers' certificates must be from.
	TLS unit.TLSFiles `yaml:"tls"`
	// Cluster is how a new member finds its cluster. It counts only until the member has a data dir.
	Cluster Cluster `yaml:"cluster"`
	// Files are the folders inside the unit's root that the file API serves. Files that actions made elsewhere can be read
	// as well, each by itself. Empty means the snapshot target and DefaultFiles.
	Files []string `yaml:"files,omitempty"`
	// Inventory is the operator's inventory file, where the agent can read it; the restore guard counts the
	// application's units in it. Empty means that the guard asks etcd and the data dir only.
	Inventory string `yaml:"inventory,omitempty"`
	// Home is the folder of this machine's local state: its configuration names the repository that backups go to, and its
	// signing key signs them. Empty means that the unit makes no backups.
	Home string `yaml:"home,omitempty"`
}

// Cluster is what etcd's --initial-cluster flags say.
type Cluster struct {
	// Members are peer URLs by member name.
	Members map[string]string `yaml:"members"`
	// State is New or Existing.
	State string `yaml:"state"`
	Token string `yaml:"token"`
}

// The states of a cluster as a new member meets it.
const (
	New      = "new"
	Existing = "existing"
)

// DefaultFiles is the login folder of the backups page's units; a path without a leading slash is inside it.
const DefaultFiles = "/home/ubuntu"

// ServedFolders are the folders that the file API serves.
func (a Agent) ServedFolders() []string {
	if len(a.Files) > 0 {
		return a.Files
	}
	return []string{DefaultFiles, a.Record.SnapshotTarget()}
}

// LoadAgent reads and checks the configuration of an agent.
func LoadAgent(path string) (Agent, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Agent{}, fmt.Errorf("read agent configuration: %w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.SetStrict(true)
	var agent Agent
	if err := decoder.Decode(&agent); err != nil && !errors.Is(err, io.EOF) { // an empty file is one without any field
		return Agent{}, fmt.Errorf("read agent configuration %q: %w", path, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return Agent{}, fmt.Errorf("read agent configuration %q: want one YAML document, got more", path)
	}
	if err := agent.Validate(); err != nil {
		return Agent{}, fmt.Errorf("agent configuration %q: %w", path, err)
	}
	return agent, nil
}

// Marshal gives the file form. It holds paths of keys, no keys.
func (a Agent) Marshal() ([]byte, error) { return yaml.Marshal(a) }

// Validate names every field that cannot work.
func (a Agent) Validate() error {
	var bad []error
	if a.Unit.IsZero() {
		bad = append(bad, errors.New("unit: missing, want APPLICATION/NUMBER"))
	}
	if err := a.Record.Validate(); err != nil {
		bad = append(bad, fmt.Errorf("record: %w", err))
	}
	for _, field := range []struct{ name, path string }{
		{"state-dir", a.StateDir}, {"tls.ca", a.TLS.CA}, {"tls.cert", a.TLS.Cert}, {"tls.key", a.TLS.Key},
	} {
		if !filepath.IsAbs(field.path) {
			bad = append(bad, fmt.Errorf("%s: %q is no absolute path", field.name, field.path))
		}
	}
	for name, file := range map[string]string{"inventory": a.Inventory, "home": a.Home} {
		if file != "" && !filepath.IsAbs(file) {
			bad = append(bad, fmt.Errorf("%s: %q is no absolute path", name, file))
		}
	}
	if url := a.Cluster.Members[a.Record.Member]; url != a.Record.PeerURL {
		bad = append(bad, fmt.Errorf("cluster.members: want %q with the peer URL %q, got %q", a.Record.Member, a.Record.PeerURL, url))
	}
	if a.Cluster.State != New && a.Cluster.State != Existing {
		bad = append(bad, fmt.Errorf("cluster.state: want %s or %s, got %q", New, Existing, a.Cluster.State))
	}
	for i, folder := range a.Files {
		if !filepath.IsAbs(folder) {
			bad = append(bad, fmt.Errorf("files[%d]: %q is no absolute path", i, folder))
		}
	}
	return errors.Join(bad...)
}
