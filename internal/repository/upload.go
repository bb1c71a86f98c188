package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Upload is a snapshot on its way into the repository: an io.Writer for the bytes of a backend file, which are sealed and
// sent to the store while they come. Nothing is kept on the local disk. It ends with Finish or Abort; what was finished
// becomes a snapshot by Publish.
type Upload struct {
	repository *Repository
	cluster    string
	id         ID
	started    time.Time
	retain     time.Time
	verbatim   bool

	sealer *seal.Writer // nil when verbatim
	pipe   *io.PipeWriter
	sum    hash.Hash
	sent   int64
	put    chan putResult
	ended  *putResult // what put gave, once it was waited for
	object Object
	// finished tells that the store has all of it.
	finished bool
}

type putResult struct {
	object store.Object
	err    error
}

// UploadOptions of an Upload. The zero value is for a snapshot that is taken now, without a lock on its objects.
type UploadOptions struct {
	// RetainUntil locks the objects in stores that can.
	RetainUntil time.Time
	// Taken is when the snapshot was taken, for one that was not taken now.
	Taken time.Time
	// Fast compresses faster, and less.
	Fast bool
	// Verbatim is the object of another repository whose stored bytes are written, as they are, and not those of a backend.
	Verbatim *Object
}

// Upload begins a snapshot of a cluster. ctx bounds all of it.
func (r *Repository) Upload(ctx context.Context, cluster string, opts UploadOptions) (*Upload, error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, err
	}
	recipients, err := r.SealTo(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	u := opts.begin(r, cluster)
	if !u.verbatim {
		u.object.Encryption = r.document.Encryption
		for _, recipient := range recipients {
			u.object.Recipients = append(u.object.Recipients, recipient.KeyID())
		}
	}
	u.object.Name = dataName(cluster, u.id, u.object.Encryption == Age)
	reader, pipe := io.Pipe()
	u.pipe = pipe
	go func() {
		object, err := r.store.Put(ctx, u.object.Name, reader, store.PutOptions{RetainUntil: u.retain})
		// Whatever the store did not take must not block the sealer.
		reader.CloseWithError(errors.Join(err, errPutEnded))
		u.put <- putResult{object, err}
	}()
	if u.verbatim {
		return u, nil
	}
	if u.sealer, err = seal.NewWriter(sentBytes{u}, seal.Options{Recipients: recipients, Fast: opts.Fast}); err != nil {
		pipe.CloseWithError(err)
		u.wait()
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	return u, nil
}

// begin names an upload.
func (o UploadOptions) begin(r *Repository, cluster string) *Upload {
	now := time.Now().UTC()
	u := &Upload{
		repository: r, cluster: cluster, id: newID(now), started: now.Truncate(time.Millisecond),
		retain: o.RetainUntil.UTC().Truncate(time.Second), sum: sha256.New(), put: make(chan putResult, 1),
	}
	if !o.Taken.IsZero() {
		u.id, u.started = newID(o.Taken), o.Taken.UTC().Truncate(time.Millisecond)
	}
	if o.Verbatim != nil {
		u.verbatim, u.object = true, *o.Verbatim
	}
	return u
}

// errPutEnded is what a write to the store gives after the store has stopped reading.
var errPutEnded = errors.New("the store has ended the upload")

// sentBytes counts and hashes what goes to the store.
type sentBytes struct{ u *Upload }

func (s sentBytes) Write(p []byte) (int, error) {
	n, err := s.u.pipe.Write(p)
	s.u.sum.Write(p[:n])
	s.u.sent += int64(n)
	return n, err
}

// Write takes the next bytes. An error is final; the caller aborts.
func (u *Upload) Write(p []byte) (int, error) {
	if u.verbatim {
		return sentBytes{u}.Write(p)
	}
	return u.sealer.Write(p)
}

// wait waits for the end of the put, and gives what came of it, also when it is asked again.
func (u *Upload) wait() putResult {
	if u.ended == nil {
		result := <-u.put
		u.ended = &result
	}
	return *u.ended
}

// Abort ends the upload; the store keeps nothing of it, or what no manifest will name. It may be called again.
func (u *Upload) Abort() {
	u.pipe.CloseWithError(errAborted)
	if !u.verbatim {
		u.sealer.Abort()
	}
	u.wait()
}

var errAborted = errors.New("upload was given up")

// Finish ends the data and waits until the store has it. After an error nothing of it is visible.
func (u *Upload) Finish() error {
	if err := u.endSeal(); err != nil {
		u.pipe.CloseWithError(err)
		// The store's own reason explains more than that it stopped reading.
		if result := u.wait(); result.err != nil && !errors.Is(result.err, err) {
			return result.err
		}
		return err
	}
	if err := u.pipe.Close(); err != nil {
		return err
	}
	result := u.wait()
	if result.err != nil {
		return result.err
	}
	if result.object.Size != u.sent {
		return fmt.Errorf("store has %d bytes of object %q, sent were %d", result.object.Size, u.object.Name, u.sent)
	}
	u.object.Size, u.object.SHA256, u.finished = u.sent, hex.EncodeToString(u.sum.Sum(nil)), true
	return nil
}

// endSeal ends the sealed stream, or sees to it that a verbatim one is what it was to be.
func (u *Upload) endSeal() error {
	if !u.verbatim {
		return u.sealer.Close()
	}
	if got := hex.EncodeToString(u.sum.Sum(nil)); u.sent != u.object.Size || got != u.object.SHA256 {
		return &Mismatch{Object: u.object.Name, What: "sha256 of what was copied", Want: u.object.SHA256, Got: got}
	}
	return nil
}

// Publish makes the finished upload a snapshot: it completes the manifest, which says where it is from and what is in it,
// and lets the writer sign and put it. A copy is completed when the caller says: when the original was.
func (u *Upload) Publish(ctx context.Context, w *Writer, m Manifest) (Manifest, error) {
	if !u.finished {
		return Manifest{}, errors.New("publish snapshot: its upload is not finished")
	}
	m.ID, m.Cluster, m.Object = u.id, u.cluster, u.object
	if m.Timeline == "" {
		m.Timeline = newTimeline()
	}
	m.RetainUntil = u.retain
	m.Started = u.started
	if m.Source.Copied == nil || m.Completed.IsZero() { // by that of a copy it is told when its revision was there
		m.Completed = time.Now()
	}
	m.Completed = m.Completed.UTC().Truncate(time.Millisecond)
	if err := w.publish(ctx, u.repository, &m, store.PutOptions{RetainUntil: u.retain}); err != nil {
		return Manifest{}, fmt.Errorf("publish snapshot %s: %w", u.id.Long(), err)
	}
	return m, nil
}
