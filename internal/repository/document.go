package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Formats of the documents. Another number means another meaning; docs/formats/repository.md describes them.
const (
	documentFormat     = "holdfast-repository/1"
	signerFormat       = "holdfast-signer/1"
	revocationFormat   = "holdfast-revocation/1"
	recipientsFormat   = "holdfast-recipients/1"
	manifestFormat     = "holdfast-manifest/1"
	verificationFormat = "holdfast-verification/1"
	removalFormat      = "holdfast-removal/1"
	pinFormat          = "holdfast-pin/1"
	segmentFormat      = "holdfast-segment/1"
	gapFormat          = "holdfast-gap/1"
	hashesFormat       = "holdfast-hashes/1"
	leaseFormat        = "holdfast-lease/1"
	drillFormat        = "holdfast-drill/1"
)

// Encryption tells how data objects are sealed.
type Encryption string

// The two ways.
const (
	Age  Encryption = "age"
	None Encryption = "none"
)

// Document is what a repository says of itself. It is signed by the root key and never rewritten.
type Document struct {
	Format     string    `json:"format"`
	Repository string    `json:"repository"` // a UUID
	Created    time.Time `json:"created"`
	// Encryption is Age or None.
	Encryption Encryption `json:"encryption"`
	// Recipients are the age recipients that data was encrypted to first; the method of that name gives those of now.
	Recipients []string  `json:"recipients,omitempty"`
	Root       PublicKey `json:"root"`
}

func (d Document) check() error {
	if d.Format != documentFormat {
		return fmt.Errorf("repository has format %q, this program knows %q", d.Format, documentFormat)
	}
	if _, err := uuid.Parse(d.Repository); err != nil {
		return fmt.Errorf("repository id %q is no UUID", d.Repository)
	}
	if err := d.Root.check(); err != nil {
		return fmt.Errorf("root key: %w", err)
	}
	switch d.Encryption {
	case None:
		if len(d.Recipients) > 0 {
			return errors.New("repository is without encryption and has recipients")
		}
		return nil
	case Age:
		_, err := parseRecipients(d.Recipients)
		return err
	}
	return fmt.Errorf("repository has encryption %q, this program knows %q and %q", d.Encryption, Age, None)
}

// Repository is an opened repository.
type Repository struct {
	store    store.Store
	document Document
	signed   []byte // the document as it is stored
	signers  signerCache
	cache    string // the folder with what was read before; "" for none
}

var (
	// ErrNoRepository means that nothing is there.
	ErrNoRepository = errors.New("no repository there")
	// ErrNothingMade means that Init ended before it had put the repository's document.
	ErrNothingMade = errors.New("nothing was made")
	// ErrUntrusted means that the repository is signed by another root key than the one that is trusted.
	ErrUntrusted = errors.New("signed by another root key than the one that is trusted")
)

// Init makes a repository in a store that is free for one, see CheckVacant, signed by root. It first sees to it that the store keeps what is there:
// one that lets a second writer replace an object is refused. ErrNothingMade tells that root has signed nothing there.
func Init(ctx context.Context, s store.Store, root Key, encryption Encryption, recipients []seal.Recipient) (*Repository, error) {
	document := Document{
		Format: documentFormat, Repository: uuid.NewString(), Created: time.Now().UTC().Truncate(time.Second),
		Encryption: encryption, Root: root.Public(),
	}
	for _, recipient := range recipients {
		document.Recipients = append(document.Recipients, recipient.String())
	}
	if err := document.check(); err != nil {
		return nil, fmt.Errorf("make repository: %w", err)
	}
	signed, err := sign(document, root)
	if err != nil {
		return nil, fmt.Errorf("make repository: %w", err)
	}
	if err := CheckVacant(ctx, s); err != nil {
		return nil, fmt.Errorf("make repository: %w", store.Mark(err, ErrNothingMade))
	}
	if err := probe(ctx, s); err != nil {
		return nil, fmt.Errorf("make repository: %w", store.Mark(err, ErrNothingMade))
	}
	if _, err := store.PutBytes(ctx, s, documentName, signed, store.PutOptions{}); err != nil {
		return nil, fmt.Errorf("make repository: %w", err)
	}
	return &Repository{store: s, document: document, signed: signed}, nil
}

// probe puts an object twice: the second time must be refused. Some stores ignore the condition and overwrite. The object
// stays; no right to delete is needed.
func probe(ctx context.Context, s store.Store) error {
	name := probesFolder + randomHex(8)
	if _, err := store.PutBytes(ctx, s, name, []byte("first\n"), store.PutOptions{}); err != nil {
		return err
	}
	switch _, err := store.PutBytes(ctx, s, name, []byte("second\n"), store.PutOptions{}); {
	case err == nil:
		return errors.New("this store lets an object be replaced although it was asked not to (put if absent): snapshots would not be safe there")
	case !errors.Is(err, store.ErrExists):
		return err
	}
	return nil
}

// Open opens a repository. trusted is the fingerprint of its root key, or "" to take whatever is there; the caller then
// tells the person and remembers Root.
func Open(ctx context.Context, s store.Store, trusted Fingerprint) (*Repository, error) {
	signed, err := readSmall(ctx, s, documentName)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrNoRepository, err) // the whole bucket may be missing
	}
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	document, err := openDocument(signed, trusted)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	return &Repository{store: s, document: document, signed: signed}, nil
}

// openDocument checks a document, and who signed it.
func openDocument(signed []byte, trusted Fingerprint) (document Document, err error) {
	line, signature, err := split(signed)
	if err != nil {
		return document, fmt.Errorf("%q is %w", documentName, err)
	}
	if err := decodeDocument(line, documentFormat, &document); err != nil {
		return document, fmt.Errorf("%q: %w", documentName, err)
	}
	if err := document.Root.check(); err != nil {
		return document, fmt.Errorf("%q: root key: %w", documentName, err)
	}
	if got := document.Root.Fingerprint(); trusted != "" && got != trusted {
		return document, fmt.Errorf("it is %w: expected %s, actual %s", ErrUntrusted, trusted, got)
	}
	if err := verify(line, signature, document.Root); err != nil {
		return document, fmt.Errorf("%q is %w", documentName, err)
	}
	return document, document.check()
}

// Document is what the repository says of itself.
func (r *Repository) Document() Document { return r.document }

// Root is the fingerprint of the root key.
func (r *Repository) Root() Fingerprint { return r.document.Root.Fingerprint() }

// decodeDocument decodes a document whose format is known; the format is looked at first, so that a newer one is named
// instead of its unknown fields.
func decodeDocument(line []byte, format string, into any) error {
	var head struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return err
	}
	if head.Format != format {
		return fmt.Errorf("it has format %q, this program knows %q", head.Format, format)
	}
	return decodeStrict(line, into)
}
