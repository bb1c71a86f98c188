package repository

import (
	"bytes"
	"context"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// Cache keeps signed objects of a repository on this machine, so that a list costs a listing and nothing more. They are never
// rewritten in the store, their signatures are checked each time, and what is shown is what a listing names: an old cache is
// no danger, and a lost or damaged one costs only time. It is for looking at what there is, and not for checking whether it is
// still there.
type Cache struct {
	// Dir is the folder of all repositories; each gets one inside of it. It is made when it is missing.
	Dir string
}

// WithCache gives the repository as it is read through a cache.
func (r *Repository) WithCache(c Cache) *Repository {
	return &Repository{store: r.store, document: r.document, signed: r.signed, cache: filepath.Join(c.Dir, r.document.Repository)}
}

// readSigned reads a signed object that is never rewritten.
func (r *Repository) readSigned(ctx context.Context, name string) ([]byte, error) {
	if r.cache == "" {
		return readSmall(ctx, r.store, name)
	}
	file := filepath.Join(r.cache, sumOf([]byte(name)))
	if content, found := readCached(file); found {
		return content, nil
	}
	content, err := readSmall(ctx, r.store, name)
	if err == nil {
		_ = writeCached(file, content) // a cache that cannot be written, on a full disk say, keeps nobody from reading
	}
	return content, err
}

// readCached reads a file of a cache: the sha256 of the object on a line, and the object.
func readCached(file string) (content []byte, found bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, false
	}
	sum, content, cut := bytes.Cut(text, []byte("\n"))
	return content, cut && string(sum) == sumOf(content)
}

// writeCached needs no sync: what a crash leaves is seen by its sum.
func writeCached(file string, content []byte) error {
	if err := durable.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	text := append([]byte(sumOf(content)+"\n"), content...)
	temporary, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return err
	}
	_, err = temporary.Write(text)
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
	}
	return err
}
