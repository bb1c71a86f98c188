package location

import (
	"context"
	"net/url"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
)

// gcsBucket is gs://BUCKET/PREFIX. Its fields are those of gcs.Options.
type gcsBucket struct {
	bucket, prefix  string
	endpoint        string
	caFile, keyFile string
}

func (b *gcsBucket) options() []option {
	return []option{{optEndpoint, &b.endpoint, ofPlace}, {optCAFile, &b.caFile, ofFile}, {optCredentials, &b.keyFile, ofFile}}
}

func parseGCS(u *url.URL) (Location, error) {
	b := gcsBucket{bucket: u.Host, prefix: strings.Trim(u.Path, "/")}
	if err := readOptions(u, formGCS, b.options()); err != nil {
		return nil, err
	}
	b.endpoint = strings.TrimSuffix(b.endpoint, "/")
	return b, b.driver().Validate()
}

func (b gcsBucket) driver() gcs.Options {
	return gcs.Options{Bucket: b.bucket, Prefix: b.prefix, Endpoint: b.endpoint, CredentialsFile: b.keyFile, CAFile: b.caFile}
}

func (b gcsBucket) String() string {
	return format(url.URL{Scheme: "gs", Host: b.bucket}, b.prefix, b.options())
}

func (b gcsBucket) Place() string {
	forget(b.options())
	return b.String()
}

func (b gcsBucket) Open(context.Context, Options) (store.Store, error) {
	return opened(gcs.New(b.driver()))
}
