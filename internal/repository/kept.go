package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Orphaned means that a place holds objects of a repository, such as Name, and no document of one: it was lost, and what is there
// is not to be built over.
type Orphaned struct{ Name string }

// Error names the object.
func (o *Orphaned) Error() string {
	return fmt.Sprintf("there are objects of a repository, such as %q, and no %s", o.Name, documentName)
}

// CheckVacant refuses a place that is not free for a new repository: store.ErrExists where there is one, and Orphaned. What
// others keep there does not count, nor does what an Init left that was cut off.
func CheckVacant(ctx context.Context, s store.Store) error {
	if _, err := s.Stat(ctx, documentName); err == nil {
		return store.ErrExists
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	for _, folder := range []string{clusterFolder, signersFolder, recipientsFolder, removalsFolder} {
		for object, err := range s.List(ctx, folder, "") {
			if errors.Is(err, store.ErrNotFound) {
				break // no folder yet
			}
			if err != nil {
				return err
			}
			return &Orphaned{Name: object.Name}
		}
	}
	return nil
}

// keptFile has the document of the repository at a place, as it was signed.
func (p TrustFolder) keptFile(location string) string {
	return strings.TrimSuffix(p.File(location), ".json") + ".repository.json"
}

// keep keeps the document, should it ever be lost in the store. That it cannot be written keeps nobody from working.
func (p TrustFolder) keep(location string, r *Repository) {
	file := p.keptFile(location)
	if before, err := os.ReadFile(file); err == nil && bytes.Equal(before, r.signed) {
		return
	}
	if durable.MkdirAll(p.Dir, 0o700) == nil {
		_ = durable.WriteFile(file, r.signed, 0o600)
	}
}

// ErrNotKept means that this machine has no document of a repository that is lost in the store.
var ErrNotKept = errors.New("this machine has kept no copy of it")

// Kept gives the document of the repository that was at a place, signed by trusted or, when that is "", by the key that is
// remembered. It is checked as Open checks it. ErrNotKept where there is none that is right.
func (p TrustFolder) Kept(location string, trusted Fingerprint) ([]byte, error) {
	known, found, err := p.Get(location)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrNotKept
	}
	if trusted == "" {
		trusted = known.Root
	}
	signed, err := os.ReadFile(p.keptFile(location))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotKept
	}
	if err != nil {
		return nil, err
	}
	document, err := openDocument(signed, trusted)
	if err == nil && document.Repository != known.Repository {
		err = fmt.Errorf("it is of repository %s, not %s", document.Repository, known.Repository)
	}
	if err != nil {
		return nil, fmt.Errorf("%w that is right: file %q: %w", ErrNotKept, filepath.Base(p.keptFile(location)), err)
	}
	return signed, nil
}

// PutBack puts the document of a repository back, where it is lost and its objects are not.
func (p TrustFolder) PutBack(ctx context.Context, s store.Store, location string, trusted Fingerprint) error {
	signed, err := p.Kept(location, trusted)
	if err == nil {
		_, err = store.PutBytes(ctx, s, documentName, signed, store.PutOptions{})
	}
	if err != nil {
		return fmt.Errorf("put back %q: %w", documentName, err)
	}
	return nil
}
