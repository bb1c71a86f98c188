// Package s3 is a store in a bucket of S3, or of anything that speaks it: an object is an object of its name, below the
// prefix.
//
// It is one of the drivers of a store; location makes it from an address. A Store is safe for concurrent use.
//
// A small object is one PUT, a large one a multipart upload whose last call makes it appear. Both carry If-None-Match: *,
// so that the server itself refuses to replace an object, and both are followed by a look at what the server then has.
// Every request with content carries its SHA-256, which the server checks as part of the signature, and its MD5, which S3
// wants where objects are locked.
//
// An answer that is lost does not tell whether the call took effect. So each Put writes a random id of its own beside the
// object (user metadata "holdfast-put"), and looks whose object is there before it says that one exists or that it failed.
//
// Memory: a Put holds two parts, one that is sent while the next is read, or both that are sent. That is 32 MiB for objects
// up to 14 GiB, unless PartSize says otherwise; larger ones need larger parts, see partSize.
//
// RetainUntil becomes an object lock in COMPLIANCE mode: nobody can shorten it, also not who has stolen the owner's keys,
// which is what a backup is locked for. In a bucket with versions, Delete removes the version itself, which needs
// s3:DeleteObjectVersion: a delete marker would only hide it, and a lock would not stop that.
//
// Not promised: anything in a bucket whose lifecycle rules change or remove objects; that a killed Put leaves no parts
// behind, see Sweep.
package s3

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// Options say where a store is and how to reach it. Bucket is required.
type Options struct {
	// Endpoint is the URL of the server, such as https://s3.example:9000; "" means Amazon's. http is allowed for addresses
	// of this machine only: it shows everything but the secret key to whoever listens.
	Endpoint string
	// Region is that of the bucket; "" asks the server.
	Region string
	Bucket string
	// Prefix begins the names in the bucket, without a slash at its end; it passes store.CheckName or is "".
	Prefix string
	// PathStyle puts the bucket into the path of URLs; without, it is part of the host name for servers known to want that.
	PathStyle bool
	// CAFile is a PEM file with certificates that are trusted beside those of the system.
	CAFile string
	// PartSize is how many bytes of a large object are sent at once, and half of what a Put holds in memory; 0 means 16 MiB.
	// S3 takes no less than 5 MiB. See partSize for what it does to the largest object.
	PartSize int
	// Credentials say who asks.
	Credentials Credentials
	// Retry is how often the steps of a Put are tried again. Reads are not: see store.Retry.
	Retry store.RetryOptions
	// Stall is how long a connection may be without a byte in either direction before it is given up; 0 means two minutes:
	// some servers take a while to join the parts of a large object.
	Stall time.Duration
}

// Store keeps objects in a bucket.
type Store struct {
	core       *minio.Core
	keys       *keyring
	host       string
	bucket     string
	prefix     string // with its slash, or ""
	part       int    // the size of the first parts, in bytes
	asksRegion bool
	retry      store.RetryOptions

	mu    sync.Mutex
	locks bool // the bucket is known to lock objects
}

// New makes the store of a bucket. It does not reach for it yet.
func New(o Options) (*Store, error) {
	s, err := newStore(o)
	if err != nil {
		return nil, fmt.Errorf("open bucket %q: %w", o.Bucket, store.Mark(err, store.ErrFinal))
	}
	return s, nil
}

// Validate names what is wrong with options, as far as that can be seen without looking anywhere.
func (o Options) Validate() error {
	var wrong []error
	if err := s3utils.CheckValidBucketNameStrict(o.Bucket); err != nil {
		wrong = append(wrong, fmt.Errorf("bucket %q: %w", o.Bucket, err))
	}
	if _, _, err := endpoint(o.Endpoint); err != nil {
		wrong = append(wrong, err)
	}
	if o.Prefix != "" {
		if err := store.CheckName(o.Prefix); err != nil {
			wrong = append(wrong, fmt.Errorf("prefix: %w", err))
		}
	}
	if o.PartSize != 0 && (o.PartSize < leastPart || o.PartSize > mostPart) {
		wrong = append(wrong, fmt.Errorf("part size %d: want %d to %d bytes", o.PartSize, leastPart, mostPart))
	}
	if (o.Credentials.AccessKey == "") != (o.Credentials.SecretKey == "") {
		wrong = append(wrong, errors.New("credentials: access key and secret key go together"))
	}
	return errors.Join(wrong...)
}

func newStore(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	host, secure, err := endpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	if o.PartSize == 0 {
		o.PartSize = 16 << 20
	}
	if o.Stall == 0 {
		o.Stall = 2 * time.Minute
	}
	transport, err := network.NewTransport(o.CAFile, o.Stall)
	if err != nil {
		return nil, err
	}
	keys := newKeyring(o.Credentials)
	lookup := minio.BucketLookupAuto
	if o.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(host, &minio.Options{
		Creds: credentials.New(keys), Secure: secure, Transport: network.NameCut(transport), Region: o.Region, BucketLookup: lookup,
		// Repeating is ours: we know what may have become of a call whose answer was lost, and how long to wait.
		MaxRetries: 1,
	})
	if err != nil {
		return nil, err
	}
	s := &Store{core: core, keys: keys, host: host, bucket: o.Bucket, part: o.PartSize, asksRegion: o.Region == "", retry: o.Retry}
	if o.Prefix != "" {
		s.prefix = o.Prefix + "/"
	}
	return s, nil
}

// endpoint reads the URL of a server.
func endpoint(text string) (host string, secure bool, err error) {
	if text == "" {
		return "s3.amazonaws.com", true, nil
	}
	u, err := network.Endpoint{Example: "https://s3.example:9000", Form: "https://HOST:PORT"}.Parse(text)
	if err != nil {
		return "", false, err
	}
	return u.Host, u.Scheme == "https", nil
}

// key is the name of an object in the bucket.
func (s *Store) key(name string) (string, error) {
	if err := store.CheckName(s.prefix + name); err != nil {
		return "", err
	}
	return s.prefix + name, nil
}

// head looks at an object. When it gives an error, that is in the store's words.
func (s *Store) head(ctx context.Context, key string) (minio.ObjectInfo, error) {
	info, err := s.core.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	return info, s.explain(ctx, err)
}
