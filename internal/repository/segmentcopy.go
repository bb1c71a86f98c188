package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/store"
)

// CopyStoredSegment is CheckStoredSegment, and writes the stored bytes to dst. What dst was given is worth something only when
// there is no error.
func (r *Repository) CopyStoredSegment(ctx context.Context, s Segment, dst, observe io.Writer) error {
	return r.copyObject(ctx, s.Object, dst, observe)
}

// StreamSegmentData puts the data of a segment while write writes it, sealed, and gives the object as the manifest is to name
// it: o, which NewSegmentData made, with the size and sum of what came. When write fails its error is given as it is, and nothing
// is put. It may be called again when the name was taken. As with PutSegmentData the manifest must follow within freshData.
func (r *Repository) StreamSegmentData(ctx context.Context, o Object, retain time.Time, write func(io.Writer) error) (Object, error) {
	d, err := parseSegmentData(o.Name)
	if err != nil {
		return Object{}, err
	}
	for range dataAttempts {
		sent := streamed{sum: sha256.New()}
		made, err := sent.put(ctx, r.store, o.Name, retain, write)
		switch {
		case err == nil && made.Size != sent.n:
			return Object{}, fmt.Errorf("store has %d bytes of object %q, sent were %d", made.Size, o.Name, sent.n)
		case err == nil:
			o.Size, o.SHA256 = sent.n, hex.EncodeToString(sent.sum.Sum(nil))
			return o, nil
		case !errors.Is(err, store.ErrExists):
			return Object{}, err
		}
		// An earlier answer was lost, or the draw was odd.
		d.random = randomHex(8)
		o.Name = d.name()
	}
	return Object{}, fmt.Errorf("put segment: every name that was tried is taken, the last is %q", o.Name)
}

// streamed counts and hashes what goes through a pipe to a store.
type streamed struct {
	pipe *io.PipeWriter
	sum  hash.Hash
	n    int64
	// ended tells that the store stopped reading, so that an error of the writer only follows from that.
	ended bool
}

func (s *streamed) Write(p []byte) (int, error) {
	n, err := s.pipe.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	s.ended = s.ended || err != nil
	return n, err
}

func (s *streamed) put(ctx context.Context, to store.Store, name string, retain time.Time, write func(io.Writer) error) (store.Object, error) {
	reader, pipe := io.Pipe()
	s.pipe = pipe
	written := make(chan error, 1)
	go func() {
		err := write(s)
		pipe.CloseWithError(err)
		written <- err
	}()
	made, err := to.Put(ctx, name, reader, store.PutOptions{RetainUntil: retain})
	reader.CloseWithError(errPutEnded)
	switch writeErr := <-written; {
	case writeErr != nil && !s.ended:
		return made, writeErr
	case err != nil:
		return made, fmt.Errorf("put segment: %w", err)
	default:
		return made, writeErr
	}
}

// CopyGaps copies the gaps of a timeline that another repository has noted of a cluster, to one of this repository by the name
// as, signed by w. Those whose names are here already are left alone. Bad are notes that cannot be believed there, or whose
// place here has other content; the rest is copied all the same.
func (r *Repository) CopyGaps(ctx context.Context, w *Writer, from *Repository, cluster, as string, t Timeline) (copied int, bad []error, err error) {
	return copyNotes(ctx, r, w, noteSource{from, cluster, as, t}, gapsFolder, parseGap, func(g Gap, copied *Copied) (Gap, bool) {
		g.Cluster, g.Repository, g.Signer, g.Copied = as, r.document.Repository, w.key.Public().Fingerprint(), copied
		return g, true
	})
}

// CopyHashes is CopyGaps for the hashes up to a revision.
func (r *Repository) CopyHashes(ctx context.Context, w *Writer, from *Repository, cluster, as string, t Timeline, until history.Revision) (copied int, bad []error, err error) {
	return copyNotes(ctx, r, w, noteSource{from, cluster, as, t}, hashesFolder, parseHashes, func(h Hashes, copied *Copied) (Hashes, bool) {
		h.Cluster, h.Repository, h.Signer, h.Copied = as, r.document.Repository, w.key.Public().Fingerprint(), copied
		return h, h.Revision <= until
	})
}

// noteSource is where notes are copied from, and the cluster that they are of here.
type noteSource struct {
	from        *Repository
	cluster, as string
	timeline    Timeline
}

// copyNotes copies the notes of one kind. What adapt makes of one is what is to be here, if it is to be.
func copyNotes[N note](ctx context.Context, r *Repository, w *Writer, source noteSource, folder string, parse func(string) (N, error), adapt func(N, *Copied) (N, bool)) (copied int, bad []error, err error) {
	there, err := r.listNotes(ctx, archiveFolder(source.as, source.timeline)+folder)
	if err != nil {
		return 0, nil, err
	}
	names, err := source.from.listNotes(ctx, archiveFolder(source.cluster, source.timeline)+folder)
	if err != nil {
		return 0, nil, err
	}
	var reads []NoteRead[N]
	for name := range names {
		// What the name says is enough to leave most alone.
		if n, err := parse(archiveFolder(source.cluster, source.timeline) + folder + name); err == nil && !there[name] {
			if _, wanted := adapt(n, nil); wanted {
				reads = append(reads, NoteRead[N]{Name: n.name()})
			}
		}
	}
	if err := readNotes(ctx, source.from, reads); err != nil {
		return 0, nil, err
	}
	outcomes := make([]error, len(reads))
	var group errgroup.Group
	group.SetLimit(fetchesAtOnce)
	for i, read := range reads {
		group.Go(func() error {
			switch {
			case errors.Is(read.Err, ErrForged):
				outcomes[i] = read.Err
				return nil
			case read.Err != nil:
				return read.Err
			}
			n, _ := adapt(read.Note, &Copied{Repository: source.from.document.Repository, Manifest: read.SHA256, Signer: read.Note.signer()})
			err := putNote(ctx, r, w, n)
			if errors.Is(err, store.ErrExists) {
				outcomes[i] = sameNote(ctx, r, n, func(n N) N { n, _ = adapt(n, nil); return n })
				return nil
			}
			return err
		})
	}
	err = group.Wait()
	for _, problem := range outcomes {
		if problem != nil {
			bad = append(bad, problem)
		}
	}
	return len(reads) - len(bad), bad, err
}

// sameNote is nil when what is in the place of a note can be believed and says the same, by whomever it was put.
func sameNote[N note](ctx context.Context, r *Repository, ours N, bare func(N) N) error {
	there, _, err := readNote[N](ctx, r, ours.name())
	if err == nil && !reflect.DeepEqual(bare(there), bare(ours)) {
		err = fmt.Errorf("note %q: %w", ours.name(), ErrOtherContent)
	}
	return err
}

// ErrOtherContent means that what was to be put is there, and is something else.
var ErrOtherContent = errors.New("there is something else by that name")

// listNotes gives the names below a folder.
func (r *Repository) listNotes(ctx context.Context, folder string) (map[string]bool, error) {
	names := map[string]bool{}
	for object, err := range r.store.List(ctx, folder, "") {
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", folder, err)
		}
		names[object.Name[len(folder):]] = true
	}
	return names, nil
}
