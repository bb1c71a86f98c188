// Package gcs is a store in a bucket of Google Cloud Storage: an object is an object of its name, below the prefix.
//
// It is one of the drivers of a store; location makes it from an address. A Store is safe for concurrent use.
//
// It speaks the JSON API itself, over net/http. A small object is one request, a large one a resumable session: chunks that
// are kept here until the server says that it has them, the last of which makes the object appear. Both carry
// ifGenerationMatch=0, so that the server itself refuses to replace an object, and a CRC-32C that it compares with what it
// has got; its answer is compared once more. When an answer is lost, the server is asked how much of the session it has, and
// only the rest is sent.
//
// An answer that is lost for good does not tell whether the call took effect. So each Put writes a random id of its own
// beside the object (metadata "holdfast-put"), and looks whose object is there before it says that one exists or that it
// failed. A Put that fails ends its session first, so that the object cannot appear afterwards. A session that a killed Put
// leaves behind is invisible, and the server forgets it after a week: there is nothing to sweep.
//
// Memory: a Put holds two chunks, one that is sent while the next is read. That is 32 MiB, unless ChunkSize says otherwise.
//
// RetainUntil becomes an object retention in mode Locked: nobody can shorten it, also not who has stolen the owner's keys,
// which is what a backup is locked for. The bucket must have been made for it. Delete removes the generation that is there,
// so that a bucket with versions keeps none of it; a soft delete policy of the bucket still does, for as long as it says.
//
// Who writes needs the permissions storage.objects.create and get; who reads get and list; who deletes get and delete. A lock
// takes storage.objects.setRetention and storage.buckets.get too.
//
// Not promised: anything in a bucket whose lifecycle rules change or remove objects; older generations of objects that
// somebody else overwrote.
package gcs

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// Options say where a store is and how to reach it. Bucket is required.
type Options struct {
	Bucket string
	// Prefix begins the names in the bucket, without a slash at its end; it passes store.CheckName or is "".
	Prefix string
	// Endpoint is the URL of the server; "" means Google's. http is allowed for addresses of this machine only: it shows
	// everything, tokens too, to whoever listens. Where an emulator is must be said here: the variable STORAGE_EMULATOR_HOST is
	// not looked at.
	Endpoint string
	// CredentialsFile is a JSON file with a key of a service account, or any other that Google's tools write; it is read anew
	// for each token, so that it can be changed under way. "" looks where Google's own tools do: the file that
	// GOOGLE_APPLICATION_CREDENTIALS names, that of gcloud, the account of the machine. But at an Endpoint of this machine ""
	// means none: it is an emulator.
	CredentialsFile string
	// CAFile is a PEM file with certificates that are trusted beside those of the system.
	CAFile string
	// ChunkSize is how many bytes of a large object are sent at once, and half of what a Put holds in memory; 0 means 16 MiB.
	// It is a multiple of 256 KiB, as the server wants it.
	ChunkSize int
	// Retry is how often the steps of a Put are tried again. Reads are not: see store.Retry.
	Retry store.RetryOptions
	// Stall is how long a connection may be without a byte in either direction before it is given up; 0 means two minutes.
	Stall time.Duration
}

const (
	// chunkUnit is what all chunks but the last are multiples of, in bytes: the server's rule.
	chunkUnit = 256 << 10
	// mostChunk bounds the memory that a mistyped size takes, in bytes.
	mostChunk = 1 << 30
)

// Store keeps objects in a bucket.
type Store struct {
	transport *http.Transport
	keys      *keyring
	base      string // the URL of the server, without a path
	host      string
	bucket    string
	prefix    string // with its slash, or ""
	chunk     int    // bytes
	retry     store.RetryOptions

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

// bucketName is what a bucket may be called, as far as it matters: nothing that has a meaning in a URL.
const bucketName = `^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`

// Validate names what is wrong with options, as far as that can be seen without looking anywhere.
func (o Options) Validate() error {
	var wrong []error
	if !regexp.MustCompile(bucketName).MatchString(o.Bucket) {
		wrong = append(wrong, fmt.Errorf("bucket %q: want lower-case letters, digits, dots, dashes and underscores", o.Bucket))
	}
	if _, err := endpoint(o.Endpoint); err != nil {
		wrong = append(wrong, err)
	}
	if o.Prefix != "" {
		if err := store.CheckName(o.Prefix); err != nil {
			wrong = append(wrong, fmt.Errorf("prefix: %w", err))
		}
	}
	if o.ChunkSize < 0 || o.ChunkSize%chunkUnit != 0 || o.ChunkSize > mostChunk {
		wrong = append(wrong, fmt.Errorf("chunk size %d: want a multiple of %d bytes, %d at most", o.ChunkSize, chunkUnit, mostChunk))
	}
	return errors.Join(wrong...)
}

func newStore(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	server, err := endpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	if o.ChunkSize == 0 {
		o.ChunkSize = 16 << 20
	}
	if o.Stall == 0 {
		o.Stall = 2 * time.Minute
	}
	transport, err := network.NewTransport(o.CAFile, o.Stall)
	if err != nil {
		return nil, err
	}
	s := &Store{
		transport: transport,
		keys:      newKeyring(o.CredentialsFile, network.Loopback(server.Hostname()), transport),
		base:      server.Scheme + "://" + server.Host,
		host:      server.Host,
		bucket:    o.Bucket,
		chunk:     o.ChunkSize,
		retry:     o.Retry,
	}
	if o.Prefix != "" {
		s.prefix = o.Prefix + "/"
	}
	return s, nil
}

// endpoint reads the URL of a server.
func endpoint(text string) (*url.URL, error) {
	if text == "" {
		return &url.URL{Scheme: "https", Host: "storage.googleapis.com"}, nil
	}
	return network.Endpoint{Example: "https://gcs.example:4443", Form: "https://HOST:PORT"}.Parse(text)
}

// key is the name of an object in the bucket.
func (s *Store) key(name string) (string, error) {
	if err := store.CheckName(s.prefix + name); err != nil {
		return "", err
	}
	return s.prefix + name, nil
}
