package location

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/s3"
)

// s3Bucket is s3://BUCKET/PREFIX. Its fields are those of s3.Options; pathStyle is "true" or "".
type s3Bucket struct {
	bucket, prefix           string
	endpoint, region         string
	pathStyle                string
	caFile, keyFile, profile string
}

func (b *s3Bucket) options() []option {
	return []option{
		{optEndpoint, &b.endpoint, ofPlace}, {"region", &b.region, ofPlace}, {"path-style", &b.pathStyle, ofPlace},
		{optCAFile, &b.caFile, ofFile}, {optCredentials, &b.keyFile, ofFile}, {"profile", &b.profile, ofMachine},
	}
}

func parseS3(u *url.URL) (Location, error) {
	b := s3Bucket{bucket: u.Host, prefix: strings.Trim(u.Path, "/")}
	if err := readOptions(u, formS3+"?endpoint=URL", b.options()); err != nil {
		return nil, err
	}
	if b.pathStyle != "" {
		is, err := strconv.ParseBool(b.pathStyle)
		if err != nil {
			return nil, fmt.Errorf("option %q must be true or false", "path-style")
		}
		if b.pathStyle = "true"; !is {
			b.pathStyle = ""
		}
	}
	b.endpoint = strings.TrimSuffix(b.endpoint, "/")
	return b, b.driver().Validate()
}

func (b s3Bucket) driver() s3.Options {
	return s3.Options{
		Endpoint: b.endpoint, Region: b.region, Bucket: b.bucket, Prefix: b.prefix, PathStyle: b.pathStyle != "", CAFile: b.caFile,
		Credentials: s3.Credentials{File: b.keyFile, Profile: b.profile},
	}
}

func (b s3Bucket) String() string {
	return format(url.URL{Scheme: "s3", Host: b.bucket}, b.prefix, b.options())
}

func (b s3Bucket) Place() string {
	forget(b.options())
	return b.String()
}

func (b s3Bucket) Open(context.Context, Options) (store.Store, error) {
	return opened(s3.New(b.driver()))
}
