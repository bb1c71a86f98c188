package repository

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Enrolment is the root key's word that a key may sign in this repository.
type Enrolment struct {
	Format     string    `json:"format"`
	Repository string    `json:"repository"`
	Key        PublicKey `json:"key"`
	// Name is what people call the signer, such as the host that it is on.
	Name     string    `json:"name"`
	Enrolled time.Time `json:"enrolled"`
}

// mostName bounds the name of a signer, in bytes.
const mostName = 200

// Enroll lets a key sign in the repository. root must be its root key. Enrolling a key again changes nothing.
func (r *Repository) Enroll(ctx context.Context, root Key, key PublicKey, name string) error {
	if got := root.Public().Fingerprint(); got != r.Root() {
		return fmt.Errorf("enroll signer: the given root key is %s, that of the repository is %s", got.Short(), r.Root().Short())
	}
	if err := key.check(); err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	}
	if name == "" || len(name) > mostName {
		return fmt.Errorf("enroll signer: name %q: want 1 to %d bytes", name, mostName)
	}
	signed, err := sign(Enrolment{
		Format: signerFormat, Repository: r.document.Repository, Key: key, Name: name, Enrolled: time.Now().UTC().Truncate(time.Second),
	}, root)
	if err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	}
	_, err = store.PutBytes(ctx, r.store, signerName(key.Fingerprint()), signed, store.PutOptions{})
	if errors.Is(err, store.ErrExists) {
		_, err = r.signer(ctx, key.Fingerprint())
	}
	if err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	}
	return nil
}

// ErrNotEnrolled means that the root key did not let a key sign.
var ErrNotEnrolled = errors.New("key is not enrolled in this repository")

// Enrolled gives the enrolment of a key, or ErrNotEnrolled.
func (r *Repository) Enrolled(ctx context.Context, f Fingerprint) (Enrolment, error) {
	return r.signer(ctx, f)
}

// Signers lists all enrolments, by fingerprint.
func (r *Repository) Signers(ctx context.Context) ([]Enrolment, error) {
	var list []Enrolment
	for object, err := range r.store.List(ctx, signersFolder, "") {
		if err != nil {
			return nil, fmt.Errorf("list signers: %w", err)
		}
		f, err := parseSignerName(object.Name)
		if err != nil {
			return nil, err
		}
		enrolment, err := r.signer(ctx, f)
		if err != nil {
			return nil, err
		}
		list = append(list, enrolment)
	}
	return list, nil
}

// signerCache keeps enrolments, which never change once they are there.
type signerCache struct {
	mu    sync.Mutex
	known map[Fingerprint]Enrolment
}

func (r *Repository) signer(ctx context.Context, f Fingerprint) (Enrolment, error) {
	r.signers.mu.Lock()
	known, found := r.signers.known[f]
	r.signers.mu.Unlock()
	if found {
		return known, nil
	}
	if _, err := ParseFingerprint(string(f)); err != nil {
		return Enrolment{}, fmt.Errorf("find signer: %w", err)
	}
	signed, err := readSmall(ctx, r.store, signerName(f))
	if errors.Is(err, store.ErrNotFound) {
		return Enrolment{}, fmt.Errorf("signer %s: %w", f.Short(), ErrNotEnrolled)
	}
	if err != nil {
		return Enrolment{}, fmt.Errorf("find signer %s: %w", f.Short(), err)
	}
	enrolment, err := r.openEnrolment(signed, f)
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrolment of signer %s: %w", f.Short(), err)
	}
	r.signers.mu.Lock()
	defer r.signers.mu.Unlock()
	if r.signers.known == nil {
		r.signers.known = map[Fingerprint]Enrolment{}
	}
	r.signers.known[f] = enrolment
	return enrolment, nil
}

func (r *Repository) openEnrolment(signed []byte, f Fingerprint) (Enrolment, error) {
	var enrolment Enrolment
	line, signature, err := split(signed)
	if err != nil {
		return enrolment, err
	}
	if err := verify(line, signature, r.document.Root); err != nil {
		return enrolment, err
	}
	if err := decodeDocument(line, signerFormat, &enrolment); err != nil {
		return enrolment, err
	}
	if err := enrolment.Key.check(); err != nil {
		return enrolment, err
	}
	if enrolment.Repository != r.document.Repository || enrolment.Key.Fingerprint() != f {
		return enrolment, fmt.Errorf("%w: it is about key %s of repository %q", ErrForged, enrolment.Key.Fingerprint().Short(), enrolment.Repository)
	}
	return enrolment, nil
}
