// Package location reads the address of a store, and opens it: file:///srv/backups is a folder.
//
// It is between people, who write addresses, and the drivers. Its values are plain.
package location

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/file"
)

// Location is the address of a store. It holds no secrets.
type Location struct {
	// Path is the folder, absolute.
	Path string
}

// Parse reads an address.
func Parse(text string) (Location, error) {
	fail := func(why string) (Location, error) {
		return Location{}, fmt.Errorf("repository %q: %s; want file:///PATH", text, why)
	}
	parsed, err := url.Parse(text)
	if err != nil {
		return Location{}, errors.New("repository: its address cannot be read; want file:///PATH")
	}
	switch {
	case parsed.User != nil:
		// The text is not repeated: it may hold a password.
		return Location{}, errors.New("repository: an address must not hold a name or password; want file:///PATH")
	case parsed.Scheme != "file":
		return fail(fmt.Sprintf("scheme %q is not known", parsed.Scheme))
	case parsed.Host != "":
		return fail("three slashes begin a path")
	case parsed.RawQuery != "" || parsed.Fragment != "":
		return fail("a folder has no options")
	case !filepath.IsAbs(parsed.Path) || filepath.Clean(parsed.Path) == "/":
		return fail("the path must be absolute, and not the root folder")
	}
	return Location{Path: filepath.Clean(parsed.Path)}, nil
}

// String gives the address.
func (l Location) String() string { return (&url.URL{Scheme: "file", Path: l.Path}).String() }

// Open opens the store. With create its folder is made when it is missing; without, that is store.ErrNotFound.
func (l Location) Open(_ context.Context, create bool) (store.Store, error) {
	if create {
		return file.Create(l.Path)
	}
	return file.Open(l.Path)
}
