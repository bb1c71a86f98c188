package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"

	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Mismatch means that a stored object is not what its manifest says. errors.Is finds ErrDamaged.
type Mismatch struct {
	Object, What, Want, Got string
}

// Error names the object and both values.
func (m *Mismatch) Error() string {
	return fmt.Sprintf("object %q: %s: expected %s, actual %s", m.Object, m.What, m.Want, m.Got)
}

// Is makes every Mismatch an ErrDamaged.
func (m *Mismatch) Is(target error) bool { return target == ErrDamaged }

// ErrDamaged is the class of stored data that is not what was stored.
var ErrDamaged = errors.New("stored object is damaged")

// counted hashes and counts what is read through it.
type counted struct {
	io.Reader
	sum hash.Hash
	n   int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.sum.Write(p[:n])
	c.n += int64(n)
	return n, err
}

// check compares what was read with the manifest.
func (c *counted) check(o Object) error {
	if c.n != o.Size {
		return &Mismatch{Object: o.Name, What: "size in bytes", Want: strconv.FormatInt(o.Size, 10), Got: strconv.FormatInt(c.n, 10)}
	}
	if got := hex.EncodeToString(c.sum.Sum(nil)); got != o.SHA256 {
		return &Mismatch{Object: o.Name, What: "sha256", Want: o.SHA256, Got: got}
	}
	return nil
}

// openObject opens the object of a manifest. It gives one byte more than the manifest says, so that a longer one shows.
func (r *Repository) openObject(ctx context.Context, o Object) (io.ReadCloser, error) {
	if err := r.checkListed(ctx, o); err != nil {
		return nil, err
	}
	body, err := r.store.Open(ctx, o.Name, 0, -1)
	if err != nil {
		return nil, noObject(o.Name, err)
	}
	return body, nil
}

// noObject is why an object could not be looked at. Where it is not there, how the store looked says nothing more.
func noObject(name string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %q", store.ErrNotFound, name)
	}
	return fmt.Errorf("object %q: %w", name, err)
}

// CheckListed looks whether the object of a manifest is there with its size.
func (r *Repository) CheckListed(ctx context.Context, m Manifest) error {
	return r.checkListed(ctx, m.Object)
}

func (r *Repository) checkListed(ctx context.Context, o Object) error {
	info, err := r.store.Stat(ctx, o.Name)
	if err != nil {
		return noObject(o.Name, err)
	}
	if info.Size != o.Size {
		return &Mismatch{Object: o.Name, What: "size in bytes", Want: strconv.FormatInt(o.Size, 10), Got: strconv.FormatInt(info.Size, 10)}
	}
	return nil
}

// CheckStored reads the object of a manifest and compares its sha256. No key is needed, and what is inside is not looked
// at. observe, which may be nil, is given what is read.
func (r *Repository) CheckStored(ctx context.Context, m Manifest, observe io.Writer) error {
	return r.CopyStored(ctx, m, io.Discard, observe)
}

// CopyStored is CheckStored, and writes the stored bytes to dst. What dst was given is worth something only when there is no
// error.
func (r *Repository) CopyStored(ctx context.Context, m Manifest, dst, observe io.Writer) error {
	return r.copyObject(ctx, m.Object, dst, observe)
}

func (r *Repository) copyObject(ctx context.Context, o Object, dst, observe io.Writer) (err error) {
	body, err := r.openObject(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	stored := &counted{Reader: observed(body, observe), sum: sha256.New()}
	if _, err := io.CopyBuffer(dst, stored, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("copy object %q: %w", o.Name, err)
	}
	return stored.check(o)
}

func observed(r io.Reader, observe io.Writer) io.Reader {
	if observe == nil {
		return r
	}
	return io.TeeReader(r, observe)
}

// Fetch writes the backend file of a snapshot to dst and checks everything that can be: the sha256 of the stored object,
// the end of its encryption, every page, etcd's own sha256, and that it is what the manifest says. What dst was given is
// worth something only when there is no error. observe, which may be nil, is given the stored bytes as they are read.
func (r *Repository) Fetch(ctx context.Context, m Manifest, identities []seal.Identity, dst, observe io.Writer) (snapshot.Info, *snapshot.Index, error) {
	scanner := snapshot.NewScanner(snapshot.Options{Size: m.Content.Size})
	if err := r.FetchScanned(ctx, m, identities, dst, observe, scanner); err != nil {
		return snapshot.Info{}, nil, err
	}
	info, err := scanner.Finish()
	return info, scanner.Index(), err
}

// FetchScanned is Fetch with a Scanner of the caller's, which has finished and found the file whole when there is no error.
func (r *Repository) FetchScanned(ctx context.Context, m Manifest, identities []seal.Identity, dst, observe io.Writer, scanner *snapshot.Scanner) (err error) {
	body, err := r.openObject(ctx, m.Object)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	stored := &counted{Reader: observed(body, observe), sum: sha256.New()}
	if m.Object.Encryption == None {
		identities = nil
	}
	unsealErr := unseal(stored, m, identities, dst, scanner)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A wrong sum explains the most, so the rest is read for it: damage to the first bytes looks like a wrong key.
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return fmt.Errorf("read object %q: %w", m.Object.Name, err)
	}
	if err := stored.check(m.Object); err != nil {
		return err
	}
	if unsealErr != nil {
		return fmt.Errorf("object %q: %w", m.Object.Name, unsealErr)
	}
	info, err := scanner.Finish()
	if err != nil {
		return fmt.Errorf("object %q: %w", m.Object.Name, err)
	}
	if got := ContentOf(info); got != m.Content {
		return &Mismatch{Object: m.Object.Name, What: "content", Want: fmt.Sprintf("%+v", m.Content), Got: fmt.Sprintf("%+v", got)}
	}
	return nil
}

func unseal(src io.Reader, m Manifest, identities []seal.Identity, dst io.Writer, scanner *snapshot.Scanner) (err error) {
	plain, err := seal.NewReader(src, seal.ReaderOptions{Identities: identities, PlainSize: m.Content.Size})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	tee := snapshot.NewTee(scanner, dst)
	defer func() { err = errors.Join(err, tee.Close()) }()
	_, err = plain.WriteTo(tee)
	return err
}
