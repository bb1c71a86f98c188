// Package azure is a store in a container of Azure Blob Storage: an object is a block blob of its name, below the prefix.
//
// It is one of the drivers of a store; location makes it from an address. A Store is safe for concurrent use.
//
// A small object is one Put Blob, a large one blocks and a Put Block List that makes it appear. Both carry If-None-Match: *,
// so that the service itself refuses to replace an object, and both are followed by a look at what the service then has.
// Every block and every small object carries its MD5, which the service checks.
//
// An answer that is lost does not tell whether the call took effect. So each Put writes a random id of its own beside the
// object (metadata "holdfast_put"), and looks whose object is there before it says that one exists or that it failed.
//
// Blocks that are not committed yet belong to the name and not to the writer: whoever commits first discards those of the
// others, whose own commit then fails. So the ids of blocks begin with that of the Put, are all of one length, as the
// service wants it, and a commit that misses its blocks looks for the object that came before it.
//
// Memory: a Put holds three blocks, two that are sent while the next is read. That is 24 MiB for objects up to 78 GiB,
// unless BlockSize says otherwise; larger ones need larger blocks, see blockSize.
//
// RetainUntil becomes an immutability policy of the object, in locked mode: nobody can shorten it, also not who has stolen
// the owner's keys, which is what a backup is locked for. That needs a container with support for version-level
// immutability. Such a container has versions, in which a delete only hides an object, locked or not. So Delete looks for a
// lock first, and removes the versions too.
//
// Not promised: anything in an account with a hierarchical namespace, which orders names in another way and locks nothing,
// or in one whose lifecycle rules change or remove objects; that the space of a deleted object is free before the days of
// soft delete are over. A killed Put leaves blocks that no listing shows; the service removes them after a week.
package azure

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// Options say where a store is and how to reach it. Container is required, and an Account or an Endpoint.
type Options struct {
	// Account is the storage account; "" means that of the credentials.
	Account   string
	Container string
	// Prefix begins the names in the container, without a slash at its end; it passes store.CheckName or is "".
	Prefix string
	// Endpoint is the URL of the account's blob service, such as https://ACCOUNT.blob.core.usgovcloudapi.net, or
	// http://127.0.0.1:10000/ACCOUNT of an emulator; "" means the one that a connection string names, or else
	// https://ACCOUNT.blob.core.windows.net. http is allowed for addresses of this machine only: it shows everything but the
	// account's key to whoever listens.
	Endpoint string
	// CAFile is a PEM file with certificates that are trusted beside those of the system.
	CAFile string
	// BlockSize is how many bytes of a large object are sent at once, and a third of what a Put holds in memory; 0 means
	// 8 MiB. See blockSize for what it does to the largest object.
	BlockSize int
	// Credentials say who asks.
	Credentials Credentials
	// Retry is how often the steps of a Put are tried again. Reads are not: see store.Retry.
	Retry store.RetryOptions
	// Stall is how long a connection may be without a byte in either direction before it is given up; 0 means two minutes.
	Stall time.Duration
}

// Store keeps objects in a container.
type Store struct {
	container *container.Client
	keys      *keyring
	host      string
	prefix    string // with its slash, or ""
	block     int    // the size of the first blocks, in bytes
	retry     store.RetryOptions

	mu    sync.Mutex
	locks bool // the container is known to lock objects
}

// New makes the store of a container. It does not reach for it yet.
func New(o Options) (*Store, error) {
	s, err := newStore(o)
	if err != nil {
		return nil, fmt.Errorf("open container %q: %w", o.Container, store.Mark(err, store.ErrFinal))
	}
	return s, nil
}

var (
	accountName   = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	containerName = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9]){2,62}$`)
)

// Validate names what is wrong with options, as far as that can be seen without looking anywhere.
func (o Options) Validate() error {
	var wrong []error
	if o.Account != "" && !accountName.MatchString(o.Account) {
		wrong = append(wrong, fmt.Errorf("account %q: want 3 to 24 lower-case letters and digits", o.Account))
	}
	if !containerName.MatchString(o.Container) || len(o.Container) > 63 {
		wrong = append(wrong, fmt.Errorf("container %q: want 3 to 63 lower-case letters, digits and single hyphens between them", o.Container))
	}
	if o.Endpoint != "" {
		if _, err := endpoint(o.Endpoint); err != nil {
			wrong = append(wrong, err)
		}
	}
	if o.Prefix != "" {
		if err := store.CheckName(o.Prefix); err != nil {
			wrong = append(wrong, fmt.Errorf("prefix: %w", err))
		}
	}
	if o.BlockSize != 0 && (o.BlockSize < leastBlock || o.BlockSize > mostBlock) {
		wrong = append(wrong, fmt.Errorf("block size %d: want %d to %d bytes", o.BlockSize, leastBlock, mostBlock))
	}
	given := 0
	for _, text := range []string{o.Credentials.AccountKey, o.Credentials.SASToken, o.Credentials.File} {
		if text != "" {
			given++
		}
	}
	if given > 1 {
		wrong = append(wrong, errors.New("credentials: want an account key, a SAS token or a file, not several"))
	}
	return errors.Join(wrong...)
}

func newStore(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.BlockSize == 0 {
		o.BlockSize = 8 << 20
	}
	if o.Stall == 0 {
		o.Stall = 2 * time.Minute
	}
	connections, err := network.NewTransport(o.CAFile, o.Stall)
	if err != nil {
		return nil, err
	}
	who, err := find(o)
	if err != nil {
		return nil, err
	}
	service, err := endpoint(who.endpoint)
	if err != nil {
		return nil, err
	}
	client, keys, err := who.client(service.JoinPath(o.Container), transport{connections})
	if err != nil {
		return nil, err
	}
	s := &Store{container: client, keys: keys, host: service.Host, block: o.BlockSize, retry: o.Retry}
	if o.Prefix != "" {
		s.prefix = o.Prefix + "/"
	}
	return s, nil
}

// endpoint reads the URL of a blob service.
func endpoint(text string) (*url.URL, error) {
	return network.Endpoint{
		Example: "https://ACCOUNT.blob.core.windows.net", Form: "https://HOST:PORT, for some servers with /ACCOUNT",
		Path: func(path string) bool { return accountName.MatchString(strings.Trim(path, "/")) },
	}.Parse(text)
}

// key is the name of an object in the container.
func (s *Store) key(name string) (string, error) {
	if err := store.CheckName(s.prefix + name); err != nil {
		return "", err
	}
	return s.prefix + name, nil
}

func (s *Store) blob(key string) *blockblob.Client { return s.container.NewBlockBlobClient(key) }

// info is what the service tells of an object.
type info struct {
	size     int64
	modified time.Time
	put      string    // the id of the Put that made it, or ""
	version  string    // "" in a container without versions
	until    time.Time // when its lock ends, if it has one
	locked   bool      // for good until then
	held     bool      // by a legal hold, without a date
	now      time.Time // by the service's clock
}

// head looks at an object. When it gives an error, that is in the store's words.
func (s *Store) head(ctx context.Context, key string) (info, error) {
	return s.headOf(ctx, s.blob(key))
}

func (s *Store) headOf(ctx context.Context, b *blockblob.Client) (info, error) {
	p, err := b.GetProperties(ctx, nil)
	if err := s.explain(ctx, err); err != nil {
		return info{}, err
	}
	i := info{
		size: value(p.ContentLength), modified: value(p.LastModified).UTC(), version: value(p.VersionID),
		until: value(p.ImmutabilityPolicyExpiresOn).UTC(), held: value(p.LegalHold), now: value(p.Date),
	}
	if p.ImmutabilityPolicyMode != nil {
		i.locked = strings.EqualFold(string(*p.ImmutabilityPolicyMode), string(blob.ImmutabilityPolicySettingLocked))
	}
	for name, v := range p.Metadata { // which comes as headers, so that case is lost
		if strings.EqualFold(name, putID) {
			i.put = value(v)
		}
	}
	if i.now.IsZero() {
		i.now = time.Now()
	}
	return i, nil
}

// value is what a pointer of the client points to, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
