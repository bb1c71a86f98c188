package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/store"
)

// TrustFolder remembers which root key is trusted at which place, a file for each place, and keeps the documents that it signed.
type TrustFolder struct{ Dir string }

// Trust is what is trusted at a place.
type Trust struct {
	// Location is the address of the store, without secrets.
	Location   string      `json:"location"`
	Repository string      `json:"repository"`
	Root       Fingerprint `json:"root"`
}

// File is where that is remembered. Who wants to trust anew removes it.
func (p TrustFolder) File(location string) string {
	return filepath.Join(p.Dir, sumOf([]byte(location))[:32]+".json")
}

// Get gives what is trusted at a place; found is false when nothing was remembered.
func (p TrustFolder) Get(location string) (trust Trust, found bool, err error) {
	text, err := os.ReadFile(p.File(location))
	if errors.Is(err, fs.ErrNotExist) {
		return Trust{}, false, nil
	}
	if err == nil {
		err = decodeStrict(text, &trust)
	}
	if err == nil {
		_, err = ParseFingerprint(string(trust.Root))
	}
	if err != nil {
		return Trust{}, false, fmt.Errorf("read what is trusted at %q: file %q: %w", location, p.File(location), err)
	}
	return trust, true, nil
}

// ErrReplaced means that another repository is at a place than before, although the same root key signed it.
var ErrReplaced = errors.New("it is another one than before")

// Open opens the repository at a place, which must be signed by trusted or, when that is "", by the key that was trusted there
// before. The first time, and with trusted, what is there is remembered; first tells the first time. Errors are those of Open, and
// ErrReplaced.
func (p TrustFolder) Open(ctx context.Context, s store.Store, place string, trusted Fingerprint) (r *Repository, first bool, err error) {
	known, found, err := p.Get(place)
	if err != nil {
		return nil, false, err
	}
	explicit := trusted != ""
	if !explicit {
		trusted = known.Root
	}
	if r, err = Open(ctx, s, trusted); err != nil {
		return nil, false, err
	}
	if !found || explicit || known.Repository == r.document.Repository {
		p.keep(place, r)
	}
	switch {
	case !found, explicit && (known.Repository != r.document.Repository || known.Root != r.Root()):
		return r, !found, p.Set(Trust{Location: place, Repository: r.document.Repository, Root: r.Root()})
	case known.Repository != r.document.Repository:
		return nil, false, fmt.Errorf("open repository: %w: %s, expected %s", ErrReplaced, r.document.Repository, known.Repository)
	}
	return r, false, nil
}

// Begin remembers a repository that was just made at a place.
func (p TrustFolder) Begin(location string, r *Repository) error {
	if err := p.Set(Trust{Location: location, Repository: r.document.Repository, Root: r.Root()}); err != nil {
		return err
	}
	p.keep(location, r)
	return nil
}

// Set remembers what is trusted at a place.
func (p TrustFolder) Set(trust Trust) error {
	text, err := json.MarshalIndent(trust, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(p.Dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(p.File(trust.Location), append(text, '\n'), 0o600)
}
