package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"gopkg.in/yaml.v2"
)

// Machine is the configuration of a machine, which its commands and agents share. Flags and variables of the environment go
// before it.
type Machine struct {
	Repository Repository `yaml:"repository"`
	Archive    Archive    `yaml:"archive,omitempty"`
}

// Archive says whether the agents of this machine archive every revision of their clusters into the repository, and how. A
// zero is the default that archive.Options documents.
type Archive struct {
	Enabled bool `yaml:"enabled"`
	// Flush is how long an event waits at most before it is sent: 10 ms to 1 min.
	Flush time.Duration `yaml:"flush,omitempty"`
	// SpoolLimit is how much may wait on the disk while the store does not take it: 1 MiB to 1 PiB.
	SpoolLimit Size `yaml:"spool-limit,omitempty"`
	// SnapshotEvery is the age at which a snapshot is followed by the next: 1 min at least.
	SnapshotEvery time.Duration `yaml:"snapshot-every,omitempty"`
	// HashEvery is how often the members are asked for their hash: 10 s at least, as each reads its whole keyspace for it.
	HashEvery time.Duration `yaml:"hash-every,omitempty"`
	// Takeover is how long the unit that archives may be silent before another one begins: 3 s to 1 h.
	Takeover time.Duration `yaml:"takeover,omitempty"`
}

// Size is a number of bytes, written with a unit such as 512MiB.
type Size int64

// UnmarshalYAML reads the form with a unit, or a plain number of bytes.
func (s *Size) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is no size such as 512MiB", text)
	}
	*s = Size(n)
	return nil
}

// validate names every bad field.
func (a Archive) validate() error {
	var bad []error
	for _, field := range []struct {
		name               string
		value, least, most time.Duration
	}{
		{"flush", a.Flush, 10 * time.Millisecond, time.Minute},
		{"snapshot-every", a.SnapshotEvery, time.Minute, math.MaxInt64},
		{"hash-every", a.HashEvery, 10 * time.Second, math.MaxInt64},
		{"takeover", a.Takeover, 3 * time.Second, time.Hour},
	} {
		if field.value != 0 && (field.value < field.least || field.value > field.most) {
			limits := "at least " + field.least.String()
			if field.most != math.MaxInt64 {
				limits = field.least.String() + " to " + field.most.String()
			}
			bad = append(bad, fmt.Errorf("archive.%s: want %s, got %s", field.name, limits, field.value))
		}
	}
	if a.SpoolLimit != 0 && (a.SpoolLimit < 1<<20 || a.SpoolLimit > 1<<50) {
		bad = append(bad, fmt.Errorf("archive.spool-limit: want 1MiB to 1PiB, got %d bytes", a.SpoolLimit))
	}
	return errors.Join(bad...)
}

// Repository says where the backups of this machine are. It holds addresses and paths, no secrets.
type Repository struct {
	// URL is the address, such as file:///srv/backups.
	URL string `yaml:"url"`
	// Trust is the fingerprint of its root key; empty trusts what was there first.
	Trust string `yaml:"trust,omitempty"`
	// Cluster is the name of this machine's cluster in the repository.
	Cluster string `yaml:"cluster,omitempty"`
	// Identity are files with secret age keys to read with. A machine that only backs up has none.
	Identity []string `yaml:"identity,omitempty"`
}

// Same tells whether two configurations say the same of the repository and the archive.
func (m Machine) Same(o Machine) bool {
	return m.Archive == o.Archive && m.Repository.URL == o.Repository.URL && m.Repository.Trust == o.Repository.Trust &&
		m.Repository.Cluster == o.Repository.Cluster // agents read nothing, so they need no identity
}

// MachineFile is the name of the configuration of a machine in its home.
const MachineFile = "config.yaml"

// Folders of a home for what has to do with repositories.
const (
	// TrustFolder remembers which root keys are trusted.
	TrustFolder = "trust"
	// SignerFolder has the signing key of the machine.
	SignerFolder = "signer"
)

// systemFile is where the configuration is of machines whose home has none.
const systemFile = "/etc/holdfast/config.yaml"

// LoadMachine reads the configuration of a machine: explicit when it is not "", else config.yaml in home, else
// /etc/holdfast/config.yaml, else an empty one. file says which it was; "" for none.
func LoadMachine(explicit, home string) (m Machine, file string, err error) {
	candidates := []string{filepath.Join(home, MachineFile), systemFile}
	if explicit != "" {
		candidates = []string{explicit}
	}
	for _, file := range candidates {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && explicit == "" {
			continue
		}
		if err != nil {
			return Machine{}, "", fmt.Errorf("read configuration: %w", err)
		}
		m, err := parseMachine(data)
		if err != nil {
			return Machine{}, "", fmt.Errorf("read configuration %q: %w", file, err)
		}
		return m, file, nil
	}
	return Machine{}, "", nil
}

func parseMachine(data []byte) (m Machine, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.SetStrict(true)
	if err := decoder.Decode(&m); err != nil && !errors.Is(err, io.EOF) { // an empty file says nothing
		return m, err
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return m, errors.New("want one YAML document, got more")
	}
	for i, file := range m.Repository.Identity {
		if !filepath.IsAbs(file) {
			return m, fmt.Errorf("repository.identity[%d]: %q is no absolute path", i, file)
		}
	}
	return m, m.Archive.validate()
}
