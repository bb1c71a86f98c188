package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Writer is the identity of this host as a signer: its key, and for each repository how far it has counted.
//
//	key.pem              the secret key
//	UUID.json            {"sequence": 7, "sha256": …, "pending": {…}}: the head of the chain in that repository
//	UUID.lock            held while a manifest is put
//
// It may be used by several processes at once.
type Writer struct {
	dir string
	key Key
}

// OpenWriter opens the writer in a folder. The first time it makes the folder and a key.
func OpenWriter(dir string) (*Writer, error) {
	w := &Writer{dir: dir}
	err := w.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = w.create()
	}
	if err != nil {
		return nil, fmt.Errorf("open signing key of this host: %w", err)
	}
	return w, nil
}

// FindWriter opens the writer in a folder, and makes none: fs.ErrNotExist where there is none.
func FindWriter(dir string) (*Writer, error) {
	w := &Writer{dir: dir}
	return w, w.load()
}

// Head is the last manifest that this host has signed in a repository, by its own file; zero when that cannot be read.
func (w *Writer) Head(r *Repository) Head {
	var h head
	if text, err := os.ReadFile(w.headFile(r)); err != nil || json.Unmarshal(text, &h) != nil {
		return Head{}
	}
	return Head{h.Sequence, h.SHA256}
}

// KeyFile is where the secret key is.
func (w *Writer) KeyFile() string { return filepath.Join(w.dir, "key.pem") }

func (w *Writer) load() error {
	info, err := os.Stat(w.KeyFile())
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may read %q; run: chmod 600 %q", w.KeyFile(), w.KeyFile())
	}
	text, err := os.ReadFile(w.KeyFile())
	if err != nil {
		return err
	}
	if w.key, err = ParseKey(text); err != nil {
		return fmt.Errorf("%q: %w", w.KeyFile(), err)
	}
	return nil
}

func (w *Writer) create() error {
	if err := durable.MkdirAll(w.dir, 0o700); err != nil {
		return err
	}
	key, err := NewKey()
	if err != nil {
		return err
	}
	text, err := key.MarshalPEM()
	if err != nil {
		return err
	}
	// Two processes may both come here: the key of the first one counts.
	if err := durable.WriteNewFile(w.KeyFile(), text, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return w.load()
}

// Public is the half of the writer's key that is enrolled.
func (w *Writer) Public() PublicKey { return w.key.Public() }

// head is how far a writer has counted in one repository.
type head struct {
	Sequence int64  `json:"sequence"`
	SHA256   string `json:"sha256"`
	// Pending is a manifest that was about to be put.
	Pending *pending `json:"pending,omitempty"`
}

type pending struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

func (w *Writer) headFile(r *Repository) string {
	return filepath.Join(w.dir, r.document.Repository+".json")
}

// publish numbers, signs and puts a manifest. What a crash leaves between its steps is resolved by the next call.
func (w *Writer) publish(ctx context.Context, r *Repository, m *Manifest, opts store.PutOptions) (err error) {
	release, err := durable.Lock(filepath.Join(w.dir, r.document.Repository+".lock"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	h, err := w.head(ctx, r)
	if err != nil {
		return err
	}
	m.Format, m.Repository, m.Kind = manifestFormat, r.document.Repository, snapshotKind
	m.Signer, m.Sequence, m.Previous = w.key.Public().Fingerprint(), h.Sequence+1, h.SHA256
	if err := m.check(r.document.Repository, m.Point()); err != nil {
		return fmt.Errorf("make manifest: %w", err)
	}
	signed, err := sign(m, w.key)
	if err != nil {
		return err
	}
	name := m.Point().manifestName()
	h.Pending = &pending{Name: name, SHA256: sumOf(signed)}
	if err := w.saveHead(r, h); err != nil {
		return err
	}
	if _, err := store.PutBytes(ctx, r.store, name, signed, opts); err != nil {
		return fmt.Errorf("put manifest: %w", err)
	}
	return w.saveHead(r, head{Sequence: m.Sequence, SHA256: h.Pending.SHA256})
}

// head gives the last manifest of the writer. A pending one counts if the store has it.
func (w *Writer) head(ctx context.Context, r *Repository) (head, error) {
	text, err := os.ReadFile(w.headFile(r))
	if errors.Is(err, fs.ErrNotExist) {
		return w.rebuildHead(ctx, r)
	}
	var h head
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err != nil {
		return head{}, fmt.Errorf("read head of the manifests of this host: %w; without the file it is found again in the repository", err)
	}
	if h.Pending == nil {
		return h, nil
	}
	switch stored, err := readSmall(ctx, r.store, h.Pending.Name); {
	case errors.Is(err, store.ErrNotFound):
		h.Pending = nil
	case err != nil:
		return head{}, fmt.Errorf("look for manifest %q: %w", h.Pending.Name, err)
	case sumOf(stored) != h.Pending.SHA256:
		return head{}, fmt.Errorf("manifest %q is not the one that this host signed", h.Pending.Name)
	default:
		h = head{Sequence: h.Sequence + 1, SHA256: h.Pending.SHA256}
	}
	return h, nil
}

// Repair finds out from the repository how far this host has counted there, whatever its own file says, and gives the number
// of its last manifest there, and the one that the file remembered, 0 when it could not be read: what is in between is missing.
func (w *Writer) Repair(ctx context.Context, r *Repository) (last, remembered int64, err error) {
	release, err := durable.Lock(filepath.Join(w.dir, r.document.Repository+".lock"))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, release()) }()
	remembered = w.Head(r).Sequence
	h, err := w.rebuildHead(ctx, r)
	if err != nil {
		return 0, 0, fmt.Errorf("count the manifests of this host: %w", err)
	}
	return h.Sequence, remembered, w.saveHead(r, h)
}

// rebuildHead finds the writer's last manifest among all of the repository, and among what was removed from it.
func (w *Writer) rebuildHead(ctx context.Context, r *Repository) (head, error) {
	var h head
	clusters, err := r.Clusters(ctx)
	if err != nil {
		return h, err
	}
	own := w.key.Public().Fingerprint()
	for _, cluster := range clusters {
		reads, _, err := r.Snapshots(ctx, cluster)
		if err != nil {
			return h, err
		}
		for _, read := range reads {
			if err := r.snapshotKnownBad(ctx, read); err != nil {
				return h, err
			}
			if read.Err == nil && read.Manifest.Signer == own && read.Manifest.Sequence > h.Sequence {
				h = head{Sequence: read.Manifest.Sequence, SHA256: read.SHA256}
			}
		}
	}
	removals, err := r.Removals(ctx)
	if err != nil {
		return h, err
	}
	for _, removal := range removals {
		if unread(removal.Err) {
			return h, removal.Err
		}
		for _, gone := range removal.Removal.Snapshots {
			if removal.Err == nil && gone.Signer == own && gone.Sequence > h.Sequence {
				h = head{Sequence: gone.Sequence, SHA256: gone.SHA256}
			}
		}
	}
	return h, nil
}

// snapshotKnownBad gives an error unless a manifest was read, or is certain to be rubbish: one that only could not be read
// may be the last one of this host, and its number must not be given again.
func (r *Repository) snapshotKnownBad(ctx context.Context, read Read) error {
	return r.knownBad(ctx, read.Point.manifestName(), read.Err, func(signed []byte) error {
		_, err := r.openManifest(ctx, signed, read.Point)
		return err
	})
}

// knownBad is that for any signed object, which gave err when it was read and which open opens.
func (r *Repository) knownBad(ctx context.Context, name string, err error, open func(signed []byte) error) error {
	if err == nil || unread(err) {
		return err
	}
	content, err := readSmall(ctx, r.store, name)
	if err != nil {
		return err
	}
	info, err := r.store.Stat(ctx, name)
	if err != nil {
		return err
	}
	if info.Size != int64(len(content)) {
		return fmt.Errorf("object %q: the store gives %d bytes of %d", name, len(content), info.Size)
	}
	if err := open(content); !errors.Is(err, ErrForged) {
		return fmt.Errorf("object %q: the store gave something else the first time", name)
	}
	return nil
}

func (w *Writer) saveHead(r *Repository, h head) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return durable.WriteFile(w.headFile(r), append(text, '\n'), 0o600)
}
