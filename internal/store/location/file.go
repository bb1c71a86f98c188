package location

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/file"
)

// folder is file:///PATH.
type folder struct {
	path string // absolute and clean
}

func parseFile(u *url.URL) (Location, error) {
	switch {
	case u.Host != "":
		return nil, errors.New("three slashes begin a path; want " + formFile)
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("a folder has no options")
	case !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) == "/":
		return nil, errors.New("the path must be absolute, and not the root folder; want " + formFile)
	}
	return folder{filepath.Clean(u.Path)}, nil
}

func (f folder) String() string { return (&url.URL{Scheme: "file", Path: f.path}).String() }

func (f folder) Place() string { return f.String() }

func (f folder) Open(_ context.Context, opts Options) (store.Store, error) {
	if opts.Create {
		return opened(file.Create(f.path))
	}
	return opened(file.Open(f.path))
}

// opened makes a store of what a driver gives: a nil pointer would be one that is not nil.
func opened[T store.Store](s T, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}
