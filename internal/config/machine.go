package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v2"
)

// Machine is the configuration of a machine, which its commands and agents share. Flags and variables of the environment go
// before it.
type Machine struct {
	Repository Repository `yaml:"repository"`
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
	return m, nil
}
