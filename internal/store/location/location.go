// Package location reads the address of a store, and opens it: file:///srv/backups is a folder, s3://bucket/prefix a part of
// a bucket.
//
// It is between people, who write addresses, and the drivers. Its values are plain and hold no secrets: an address that
// holds some is refused, and not repeated. Keys come from where AWS's own tools look, or from a file that the address names.
package location

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/file"
	"github.com/holdfast-project/holdfast/internal/store/s3"
)

// Location is the address of a store: of a folder, when it has a Path, else of a bucket.
type Location struct {
	// Path is the folder, absolute.
	Path string

	// Bucket and Prefix are the part of a bucket; Prefix is "" for all of it.
	Bucket, Prefix string
	// Endpoint is the URL of the server; "" means Amazon's. Region is "" when the server is to be asked for it.
	Endpoint, Region string
	// PathStyle has the bucket in the path of URLs.
	PathStyle bool
	// CAFile has certificates to trust; CredentialsFile and Profile say where keys are, when not at the usual place.
	CAFile, CredentialsFile, Profile string
}

// known are the schemes of addresses, and what reads them.
func known() map[string]func(*url.URL) (Location, error) {
	return map[string]func(*url.URL) (Location, error){"file": parseFile, "s3": parseS3}
}

// Parse reads an address.
func Parse(text string) (Location, error) {
	parsed, err := url.Parse(text)
	switch {
	case err != nil: // it repeats the text
		return Location{}, errors.New("repository: its address cannot be read; want file:///PATH or s3://BUCKET/PREFIX")
	case parsed.User != nil:
		return Location{}, errors.New("repository: an address must not hold a name or password")
	}
	// Options are not shown: somebody may have put a key there.
	shown := (&url.URL{Scheme: parsed.Scheme, Opaque: parsed.Opaque, Host: parsed.Host, Path: parsed.Path}).String()
	schemes := known()
	parse := schemes[parsed.Scheme]
	switch {
	case parsed.Scheme == "":
		return Location{}, fmt.Errorf("repository %q: it is no address; want file:///PATH or s3://BUCKET/PREFIX", shown)
	case parse == nil:
		return Location{}, fmt.Errorf("repository %q: scheme %q is not known; known are %s", shown, parsed.Scheme, strings.Join(slices.Sorted(maps.Keys(schemes)), ", "))
	case parsed.Fragment != "":
		return Location{}, fmt.Errorf("repository %q: an address has no part after #", shown)
	}
	l, err := parse(parsed)
	if err != nil {
		return Location{}, fmt.Errorf("repository %q: %w", shown, err)
	}
	return l, nil
}

func parseFile(u *url.URL) (Location, error) {
	switch {
	case u.Host != "":
		return Location{}, errors.New("three slashes begin a path; want file:///PATH")
	case u.RawQuery != "" || u.ForceQuery:
		return Location{}, errors.New("a folder has no options")
	case !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) == "/":
		return Location{}, errors.New("the path must be absolute, and not the root folder; want file:///PATH")
	}
	return Location{Path: filepath.Clean(u.Path)}, nil
}

// Names of options in an address of a bucket.
const (
	optEndpoint    = "endpoint"
	optRegion      = "region"
	optPathStyle   = "path-style"
	optCAFile      = "ca-file"
	optCredentials = "credentials-file"
	optProfile     = "profile"
)

func parseS3(u *url.URL) (Location, error) {
	l := Location{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	given, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Opaque != "" {
		return Location{}, errors.New("want s3://BUCKET/PREFIX?endpoint=URL")
	}
	pathStyle := ""
	options := map[string]*string{
		optEndpoint: &l.Endpoint, optRegion: &l.Region, optPathStyle: &pathStyle,
		optCAFile: &l.CAFile, optCredentials: &l.CredentialsFile, optProfile: &l.Profile,
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		option, values := options[name], given[name]
		switch {
		case option == nil:
			return Location{}, fmt.Errorf("option %q is not known; known are %s", name, strings.Join(slices.Sorted(maps.Keys(options)), ", "))
		case len(values) > 1 || values[0] == "":
			return Location{}, fmt.Errorf("option %q must be given once, with a value", name)
		}
		*option = values[0]
	}
	if pathStyle != "" {
		if l.PathStyle, err = strconv.ParseBool(pathStyle); err != nil {
			return Location{}, fmt.Errorf("option %q must be true or false", optPathStyle)
		}
	}
	l.Endpoint = strings.TrimSuffix(l.Endpoint, "/")
	for name, file := range map[string]string{optCAFile: l.CAFile, optCredentials: l.CredentialsFile} {
		if file != "" && !filepath.IsAbs(file) {
			return Location{}, fmt.Errorf("option %q must be an absolute path", name)
		}
	}
	return l, l.s3().Validate()
}

func (l Location) s3() s3.Options {
	return s3.Options{
		Endpoint: l.Endpoint, Region: l.Region, Bucket: l.Bucket, Prefix: l.Prefix, PathStyle: l.PathStyle, CAFile: l.CAFile,
		Credentials: s3.Credentials{File: l.CredentialsFile, Profile: l.Profile},
	}
}

// String gives the address, in one form however it was written.
func (l Location) String() string {
	if l.Path != "" {
		return (&url.URL{Scheme: "file", Path: l.Path}).String()
	}
	options := url.Values{}
	for name, value := range map[string]string{
		optEndpoint: l.Endpoint, optRegion: l.Region, optCAFile: l.CAFile, optCredentials: l.CredentialsFile, optProfile: l.Profile,
	} {
		if value != "" {
			options.Set(name, value)
		}
	}
	if l.PathStyle {
		options.Set(optPathStyle, "true")
	}
	// Colons and slashes need no escape there, and people read this.
	query := strings.NewReplacer("%3A", ":", "%2F", "/").Replace(options.Encode())
	u := url.URL{Scheme: "s3", Host: l.Bucket, RawQuery: query}
	if l.Prefix != "" {
		u.Path = "/" + l.Prefix
	}
	return u.String()
}

// Place is the address without what only this machine is about: the same place has the same one whoever looks.
func (l Location) Place() string {
	l.CAFile, l.CredentialsFile, l.Profile = "", "", ""
	return l.String()
}

// Open opens the store. With create a folder is made when it is missing; without, that is store.ErrNotFound. A bucket is
// never made, and not reached for yet.
func (l Location) Open(_ context.Context, create bool) (store.Store, error) {
	switch {
	case l.Path == "":
		return s3.New(l.s3())
	case create:
		return file.Create(l.Path)
	}
	return file.Open(l.Path)
}
