package repository

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// Heads are the last manifests of signers that a reader has seen. That the newest manifests of a signer are missing shows only
// to who remembers them.
type Heads map[Fingerprint]Head

// Head is the last manifest of a signer.
type Head struct {
	Sequence int64  `json:"sequence"`
	SHA256   string `json:"sha256"`
}

// HeadsFile is where the heads of a repository are remembered.
func (p TrustFolder) HeadsFile(repository string) string {
	return filepath.Join(p.Dir, repository+".heads.json")
}

// Heads gives what was remembered of a repository; none the first time.
func (p TrustFolder) Heads(repository string) (Heads, error) {
	text, err := os.ReadFile(p.HeadsFile(repository))
	if errors.Is(err, fs.ErrNotExist) {
		return Heads{}, nil
	}
	heads := Heads{}
	if err == nil {
		err = decodeStrict(text, &heads)
	}
	if err != nil {
		return nil, fmt.Errorf("read what was seen of repository %s: %w; without %q it starts anew", repository, err, p.HeadsFile(repository))
	}
	return heads, nil
}

// Remember writes down the heads of a repository, when they are further than those before.
func (p TrustFolder) Remember(repository string, before, now Heads) error {
	next := maps.Clone(before)
	for signer, head := range now {
		if head.Sequence > next[signer].Sequence {
			next[signer] = head
		}
	}
	if maps.Equal(next, before) {
		return nil
	}
	text, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(p.Dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(p.HeadsFile(repository), append(text, '\n'), 0o600)
}
