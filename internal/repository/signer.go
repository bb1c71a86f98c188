package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Role is what a key may sign. A key that has several has an enrolment for each.
type Role string

// The roles.
const (
	// RoleBackup signs manifests, of snapshots and of segments, and what else an archiver says: what was backed up.
	RoleBackup Role = "backup"
	// RoleVerify signs verifications: what was found out about a snapshot.
	RoleVerify Role = "verify"
	// RolePrune signs what was removed, and which snapshots are pinned.
	RolePrune Role = "prune"
)

// Roles are all roles.
func Roles() []Role { return []Role{RoleBackup, RoleVerify, RolePrune} }

// ParseRole reads the name of a role.
func ParseRole(text string) (Role, error) {
	if !slices.Contains(Roles(), Role(text)) {
		return "", fmt.Errorf("role %q is not known; known are %q", text, Roles())
	}
	return Role(text), nil
}

// Enrolment is the root key's word that a key may sign in this repository.
type Enrolment struct {
	Format     string    `json:"format"`
	Repository string    `json:"repository"`
	Key        PublicKey `json:"key"`
	Role       Role      `json:"role"`
	// Name is what people call the signer, such as the host that it is on.
	Name     string    `json:"name"`
	Enrolled time.Time `json:"enrolled"`
}

// mostName bounds the name of a signer, in bytes.
const mostName = 200

// Enroll lets a key sign in the repository. root must be its root key. Enrolling a key again changes nothing. A
// key that was revoked is ErrRevoked: its host needs a new one.
func (r *Repository) Enroll(ctx context.Context, root Key, key PublicKey, role Role, name string) error {
	if err := r.checkRoot(root); err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	}
	if _, err := ParseRole(string(role)); err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	}
	if err := key.check(); err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	}
	if name == "" || len(name) > mostName {
		return fmt.Errorf("enroll signer: name %q: want 1 to %d bytes", name, mostName)
	}
	if earlier, err := r.revocation(ctx, key.Fingerprint()); err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	} else if earlier != nil {
		return fmt.Errorf("enroll signer %s: %w on %s", key.Fingerprint().Short(), ErrRevoked, earlier.Revoked.Format(personStamp))
	}
	signed, err := sign(Enrolment{
		Format: signerFormat, Repository: r.document.Repository, Key: key, Role: role, Name: name,
		Enrolled: time.Now().UTC().Truncate(time.Second),
	}, root)
	if err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	}
	_, err = store.PutBytes(ctx, r.store, signerName(key.Fingerprint(), role), signed, store.PutOptions{})
	if errors.Is(err, store.ErrExists) {
		_, err = r.signer(ctx, key.Fingerprint(), role)
	}
	if err != nil {
		return fmt.Errorf("enroll signer: %w", err)
	}
	return nil
}

// ErrNotEnrolled means that the root key did not let a key sign. Such an error is a NotEnrolled.
var ErrNotEnrolled = errors.New("key is not enrolled in this repository")

// NotEnrolled is ErrNotEnrolled about a key in a role.
type NotEnrolled struct {
	Signer Fingerprint
	Role   Role
}

// Error names the key by its beginning.
func (n NotEnrolled) Error() string {
	return fmt.Sprintf("signer %s, role %s: %v", n.Signer.Short(), n.Role, ErrNotEnrolled)
}

// Unwrap makes it an ErrNotEnrolled.
func (n NotEnrolled) Unwrap() error { return ErrNotEnrolled }

// BySigner tells once of each signer who is not enrolled, with how many objects that is true of, and leaves other errors as they
// are: where an enrolment was lost it would be a line for each of its manifests. Those that are left keep their order.
func BySigner(all []error) []error {
	counts := map[NotEnrolled]int{}
	for _, err := range all {
		if n, is := errors.AsType[NotEnrolled](err); is {
			counts[n]++
		}
	}
	var left []error
	for _, err := range all {
		n, is := errors.AsType[NotEnrolled](err)
		switch count := counts[n]; {
		case !is, count == 1:
			left = append(left, err)
		case count > 1:
			counts[n] = 0 // the rest is told with this one
			others := "1 other object"
			if count > 2 {
				others = fmt.Sprintf("%d other objects", count-1)
			}
			left = append(left, fmt.Errorf("%w; the same is true of %s", err, others))
		}
	}
	return left
}

// checkRoot tells whether a key is the root key.
func (r *Repository) checkRoot(root Key) error {
	if got := root.Public().Fingerprint(); got != r.Root() {
		return fmt.Errorf("the given root key is %s, that of the repository is %s", got.Short(), r.Root().Short())
	}
	return nil
}

// Enrolled gives the enrolment of a key in a role. ErrNotEnrolled, and ErrRevoked of a key that may not sign any more.
func (r *Repository) Enrolled(ctx context.Context, f Fingerprint, role Role) (Enrolment, error) {
	s, err := r.signer(ctx, f, role)
	if err == nil && s.revocation != nil {
		err = fmt.Errorf("signer %s: %w on %s", f.Short(), ErrRevoked, s.revocation.Revoked.Format(personStamp))
	}
	return s.enrolment, err
}

// Signer is a key that may or might sign.
type Signer struct {
	Enrolment Enrolment
	// Revoked is when the key was revoked; zero when it was not.
	Revoked time.Time
}

// Signers lists all enrolments, by fingerprint and role. Strange are objects among them that the root key did not sign, or
// that are not named as it names them; nobody believes them.
func (r *Repository) Signers(ctx context.Context) (list []Signer, strange []string, err error) {
	for object, err := range r.store.List(ctx, signersFolder, "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list signers: %w", err)
		}
		f, role, err := parseSignerName(object.Name)
		if err != nil {
			strange = append(strange, object.Name)
			continue
		}
		if role == "" { // a revocation, which is read with the enrolments
			if _, err := r.readRevocation(ctx, object.Name, f); errors.Is(err, ErrForged) {
				strange = append(strange, object.Name)
			}
			continue
		}
		s, err := r.signer(ctx, f, role)
		switch {
		case errors.Is(err, ErrForged):
			strange = append(strange, object.Name)
			continue
		case err != nil:
			return nil, nil, err
		}
		one := Signer{Enrolment: s.enrolment}
		if s.revocation != nil {
			one.Revoked = s.revocation.Revoked
		}
		list = append(list, one)
	}
	return list, strange, nil
}

// signer is what the root key said of a key.
type signer struct {
	enrolment  Enrolment
	revocation *Revocation
}

// signerCache keeps what was read of signers. A revocation that comes while a repository is open is not seen by it.
type signerCache struct {
	mu    sync.Mutex
	known map[string]signer
}

// Fresh gives the repository without what it remembers of signers, so that a revocation is seen which came since it was
// opened.
func (r *Repository) Fresh() *Repository {
	return &Repository{store: r.store, document: r.document, signed: r.signed, cache: r.cache}
}

func (r *Repository) signer(ctx context.Context, f Fingerprint, role Role) (signer, error) {
	name := signerName(f, role)
	r.signers.mu.Lock()
	known, found := r.signers.known[name]
	r.signers.mu.Unlock()
	if found {
		return known, nil
	}
	if _, err := ParseFingerprint(string(f)); err != nil {
		return signer{}, fmt.Errorf("find signer: %w", err)
	}
	signed, err := readSmall(ctx, r.store, name)
	if errors.Is(err, store.ErrNotFound) {
		return signer{}, NotEnrolled{Signer: f, Role: role}
	}
	if err != nil {
		return signer{}, fmt.Errorf("find signer %s: %w", f.Short(), err)
	}
	var s signer
	if s.enrolment, err = r.openEnrolment(signed, f, role); err != nil {
		return signer{}, fmt.Errorf("enrolment of signer %s: %w", f.Short(), err)
	}
	if s.revocation, err = r.revocation(ctx, f); err != nil {
		return signer{}, err
	}
	r.signers.mu.Lock()
	defer r.signers.mu.Unlock()
	if r.signers.known == nil {
		r.signers.known = map[string]signer{}
	}
	r.signers.known[name] = s
	return s, nil
}

func (r *Repository) openEnrolment(signed []byte, f Fingerprint, role Role) (Enrolment, error) {
	var enrolment Enrolment
	if err := r.openRootSigned(signed, signerFormat, &enrolment); err != nil {
		return enrolment, err
	}
	if err := enrolment.Key.check(); err != nil {
		return enrolment, err
	}
	if enrolment.Repository != r.document.Repository || enrolment.Key.Fingerprint() != f || enrolment.Role != role {
		return enrolment, fmt.Errorf("%w: it is about key %s as %q in repository %q", ErrForged, enrolment.Key.Fingerprint().Short(), enrolment.Role, enrolment.Repository)
	}
	return enrolment, nil
}

// openRootSigned opens a document that the root key signed.
func (r *Repository) openRootSigned(signed []byte, format string, into any) error {
	line, signature, err := split(signed)
	if err != nil {
		return err
	}
	if err := verify(line, signature, r.document.Root); err != nil {
		return err
	}
	return decodeDocument(line, format, into)
}

// openSigned opens a document that an enrolled key signed in a role, and gives who it was.
func (r *Repository) openSigned(ctx context.Context, signed []byte, role Role, format string, into any) (Fingerprint, error) {
	line, signature, err := split(signed)
	if err != nil {
		return "", err
	}
	by, err := r.signer(ctx, signature.Signer, role)
	if errors.Is(err, ErrNotEnrolled) || errors.Is(err, ErrForged) {
		return "", fmt.Errorf("%w: %w", ErrForged, err)
	}
	if err != nil {
		return "", err
	}
	if err := verify(line, signature, by.enrolment.Key); err != nil {
		return "", err
	}
	if by.revocation != nil && !by.revocation.accepts(sumOf(signed)) {
		return "", fmt.Errorf("%w: its signer %s was revoked on %s, and this is not among what was accepted", ErrForged, signature.Signer.Short(), by.revocation.Revoked.Format(personStamp))
	}
	return signature.Signer, decodeDocument(line, format, into)
}
