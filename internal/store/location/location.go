// Package location reads the address of a store, and opens it: file:///srv/backups is a folder, s3://BUCKET/PREFIX a part of a
// bucket, and so on; each scheme has a file here.
//
// It is between people, who write addresses, and the drivers. Its values are plain, can be compared with == and hold no
// secrets: an address that holds some is refused, and not repeated. Keys come from where the tools of each store look, or from
// a file that the address names. All of it is safe for concurrent use.
//
// Not promised: that there is anything at an address. Opening one reaches for nothing but what is on this machine.
package location

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Location is the address of a store.
type Location interface {
	// String gives the address, in one form however it was written. Parse reads it again.
	String() string
	// Place is the address without what only this machine is about: the same place has the same one whoever looks. People's
	// trust is remembered by it, so that it must not change.
	Place() string
	// Open opens the store. A bucket is never made, and not reached for yet. What is wrong with the files that an address names
	// is told here, or by the first call of the store.
	Open(ctx context.Context, opts Options) (store.Store, error)
}

// Options of Open.
type Options struct {
	// Create makes a folder that is missing. Without, that is store.ErrNotFound; over SFTP only the first call tells.
	Create bool
	// Getenv reads a variable of the environment, as os.Getenv does, for a store whose client leaves that to us: Azure's. With
	// nil none is looked at there.
	Getenv func(name string) string
}

// scheme is one kind of address.
type scheme struct {
	// form is what such an address looks like, for people.
	form string
	// user tells that it has the name of a user.
	user  bool
	parse func(*url.URL) (Location, error)
}

// Forms of addresses.
const (
	formFile  = "file:///PATH"
	formS3    = "s3://BUCKET/PREFIX"
	formGCS   = "gs://BUCKET/PREFIX"
	formAzure = "azblob://CONTAINER/PREFIX?account=NAME"
	formSFTP  = "sftp://USER@HOST/PATH"
)

func known() map[string]scheme {
	return map[string]scheme{
		"file":   {form: formFile, parse: parseFile},
		"s3":     {form: formS3, parse: parseS3},
		"gs":     {form: formGCS, parse: parseGCS},
		"azblob": {form: formAzure, parse: parseAzure},
		"sftp":   {form: formSFTP, parse: parseSFTP, user: true},
	}
}

// forms are what addresses look like, for people.
func forms() string {
	return strings.Join([]string{formFile, formS3, formGCS, formAzure, formSFTP}, ", ")
}

// Parse reads an address. Its errors show neither options nor what stands where a user or password would: somebody may have
// put a key there.
func Parse(text string) (Location, error) {
	parsed, err := url.Parse(text)
	if err != nil { // it repeats the text
		return nil, errors.New("repository: its address cannot be read; want one of " + forms())
	}
	kind, is := known()[parsed.Scheme]
	if parsed.User != nil {
		if _, password := parsed.User.Password(); password || !kind.user {
			return nil, errors.New("repository: an address must not hold a name or password; only that of " + formSFTP + " has the name of a user")
		}
	}
	shown := (&url.URL{Scheme: parsed.Scheme, Host: parsed.Host, Path: parsed.Path}).String()
	switch {
	case parsed.Scheme == "":
		return nil, fmt.Errorf("repository %q: it is no address; want one of %s", shown, forms())
	case !is:
		return nil, fmt.Errorf("repository %q: scheme %q is not known; known are %s", shown, parsed.Scheme, strings.Join(slices.Sorted(maps.Keys(known())), ", "))
	case parsed.Fragment != "":
		return nil, fmt.Errorf("repository %q: an address has no part after #", shown)
	}
	l, err := kind.parse(parsed)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", shown, err)
	}
	return l, nil
}
