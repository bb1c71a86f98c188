package merge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
)

// Options of Run and CanOpen.
type Options struct {
	// Identities open the inputs; none are needed without encryption.
	Identities []seal.Identity
	// Further makes minutes and hours readable for the identities too, so that their owner can merge on: an archiver, which
	// keeps them for a few days. Days go to the recipients of the repository alone.
	Further bool
	// Dir is a folder for a temporary file; required.
	Dir string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

func (o Options) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

// CanOpen tells whether one of the identities opens a segment, by what its manifest says.
func (o Options) CanOpen(s repository.Segment) bool {
	return s.Object.Encryption == repository.None || o.opener(s) != nil
}

func (o Options) opener(s repository.Segment) *seal.Identity {
	for i := range o.Identities {
		if slices.Contains(s.Object.Recipients, o.Identities[i].Recipient().KeyID()) {
			return &o.Identities[i]
		}
	}
	return nil
}

// Result is what came of a merge.
type Result struct {
	// Segment is what was stored, and read back.
	Segment repository.Segment
	// Taken tells that another one was faster; Segment is then that one.
	Taken bool
	// Opened tells that it was decrypted again and all of it checked. Otherwise, as nobody here has a key to it, its stored
	// bytes were compared with what was sealed.
	Opened bool
}

// Run does one merge: it opens the inputs, merges them into a sealed temporary file, puts that and its manifest, and reads
// back what is stored. Without an error what was merged may be removed. After an error it may be tried again; an
// *Unread, when only the reading back failed, is about a segment that was published.
//
// Errors are those of the inputs (repository.ErrDamaged, seal.ErrNoIdentity, segment.ErrCorrupt, store.ErrNotFound), of the
// disk, and of publishing.
func Run(ctx context.Context, repo *repository.Repository, writer *repository.Writer, m Merge, o Options) (result Result, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("merge %d segments to %s: %w", len(m.Inputs), m.Point(), err)
		}
	}()
	began := o.now()
	to, err := recipients(ctx, repo, m, o)
	if err != nil {
		return result, err
	}
	file, err := unnamed(o.Dir)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	s, err := write(ctx, repo, m, o, to, file)
	if err != nil {
		return result, err
	}
	s.Started = began
	if result, err = publish(ctx, repo, writer, s, file, o); err != nil {
		return result, err
	}
	if result.Opened, err = ReadBack(ctx, repo, result.Segment, o); err != nil {
		return result, &Unread{result.Segment, err}
	}
	return result, nil
}

// Unread means that a segment was published, and could not be read back.
type Unread struct {
	Segment repository.Segment
	Err     error
}

// Error says why.
func (u *Unread) Error() string {
	return fmt.Sprintf("what was published could not be read back, and what it was made of must stay: %v", u.Err)
}

// Unwrap gives the reason.
func (u *Unread) Unwrap() error { return u.Err }

// recipients are whom the output is sealed to.
func recipients(ctx context.Context, repo *repository.Repository, m Merge, o Options) ([]seal.Recipient, error) {
	owners, err := repo.SegmentSealTo(ctx)
	if err != nil || len(owners) == 0 || m.Level == repository.SegmentDay || !o.Further {
		return owners, err
	}
	// The key of the first input, so that the keys of a day go on to be its keys; another one where the owners' kind of key
	// has changed, since kinds do not go together.
	candidates := slices.Clone(o.Identities)
	if first := o.opener(m.Inputs[0]); first != nil {
		candidates = slices.Insert(candidates, 0, *first)
	}
	for _, identity := range candidates {
		r := identity.Recipient()
		if r.Kind() == owners[0].Kind() && !slices.ContainsFunc(owners, func(o seal.Recipient) bool { return o.KeyID() == r.KeyID() }) {
			return append(owners, r), nil
		}
	}
	return owners, nil
}

// unnamed gives a file that is gone with the process that has it open, however that ends.
func unnamed(dir string) (*os.File, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dir, "merge-*") // 0600
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// FrameOf is the content of a frame, in bytes. Many segments of minutes and hours are read at once, one frame of each at
// least; those of days are read one after the other.
func FrameOf(level int) int {
	switch level {
	case repository.SegmentMinute:
		return 128 << 10
	case repository.SegmentHour:
		return 256 << 10
	case repository.SegmentDay:
		return seal.DefaultFrame
	}
	return 1 << 20
}

// write merges the inputs into a sealed file, and says what it is.
func write(ctx context.Context, repo *repository.Repository, m Merge, o Options, to []seal.Recipient, file *os.File) (s repository.Segment, err error) {
	inputs, closeAll, err := open(ctx, repo, m.Inputs, o)
	defer func() { err = errors.Join(err, closeAll()) }()
	if err != nil {
		return s, err
	}
	stored := &counted{ctx: ctx, dst: durable.NewStepwise(file), sum: sha256.New()}
	sealer, err := seal.NewWriter(stored, seal.Options{Recipients: to, Concurrency: 1, FrameSize: FrameOf(m.Level)})
	if err != nil {
		return s, err
	}
	summary, err := segment.Merge(sealer, inputs)
	if err != nil {
		sealer.Abort()
		return s, err
	}
	if err := sealer.Close(); err != nil {
		return s, err
	}
	newest := m.Inputs[len(m.Inputs)-1]
	s = repository.Segment{
		Cluster: newest.Cluster, Timeline: newest.Timeline, Level: m.Level, First: summary.First, Last: summary.Last,
		Events: summary.Events, Exact: true, Leases: int64(len(summary.Leases)), Source: newest.Source, Term: newest.Term,
		Plain:  repository.Plain{Size: summary.Size, SHA256: hex.EncodeToString(summary.SHA256[:])},
		Inputs: int64(len(m.Inputs)),
	}
	// Nothing proves who made what was adopted, nor what is made of it.
	s.Source.Adopted = slices.ContainsFunc(m.Inputs, func(in repository.Segment) bool { return in.Source.Adopted })
	for span := range summary.Times.All() {
		if span.First == s.First {
			s.FirstTime = span.From
		}
		s.LastTime, s.Exact = span.To, s.Exact && span.Exact()
	}
	var ids []string
	for _, r := range to {
		ids = append(ids, r.KeyID())
	}
	if s.Object, err = repo.NewSegmentData(s.Cluster, s.Timeline, s.First, ids); err != nil {
		return s, err
	}
	s.Object.Size, s.Object.SHA256 = stored.size, hex.EncodeToString(stored.sum.Sum(nil))
	return s, nil
}

// open opens all inputs. What was opened is closed by closeAll, also after an error.
func open(ctx context.Context, repo *repository.Repository, segments []repository.Segment, o Options) (readers []*segment.Reader, closeAll func() error, err error) {
	var opened []io.Closer
	closeAll = func() (err error) {
		for _, c := range opened {
			err = errors.Join(err, c.Close())
		}
		return err
	}
	for _, s := range segments {
		content, err := repo.OpenSegmentLean(ctx, s, o.Identities)
		if err != nil {
			return nil, closeAll, err
		}
		opened = append(opened, content)
		reader, err := reader(content, s)
		if err != nil {
			return nil, closeAll, err
		}
		readers = append(readers, reader)
	}
	return readers, closeAll, nil
}

// reader begins to read a segment, which must be the one of its manifest.
func reader(content io.Reader, s repository.Segment) (*segment.Reader, error) {
	reader, err := segment.NewReader(content, s.Plain.Size)
	if err == nil {
		if head := reader.Head(); head.Range != s.Range() || head.Events != s.Events {
			err = fmt.Errorf("%w: it has %d events of %s", repository.ErrDamaged, head.Events, head.Range)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Point(), err)
	}
	return reader, nil
}

// publish puts the data, and the manifest after it. That another one has done the same is as good.
func publish(ctx context.Context, repo *repository.Repository, writer *repository.Writer, s repository.Segment, file io.ReaderAt, o Options) (Result, error) {
	object, err := repo.PutSegmentData(ctx, s.Object, file, time.Time{})
	if err != nil {
		return Result{}, err
	}
	s.Object, s.Completed = object, o.now()
	stored, err := repo.PublishSegment(ctx, writer, s)
	if taken, is := errors.AsType[*repository.Taken](err); is {
		return Result{Segment: taken.Winner, Taken: true}, nil
	}
	return Result{Segment: stored}, err
}

// ReadBack reads a stored segment to its end and checks all of it: with a key its events, and without one that it is what was
// sealed. Opened tells which.
func ReadBack(ctx context.Context, repo *repository.Repository, s repository.Segment, o Options) (opened bool, err error) {
	if !o.CanOpen(s) {
		return false, repo.CheckStoredSegment(ctx, s, nil)
	}
	content, err := repo.OpenSegmentLean(ctx, s, o.Identities)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	reader, err := reader(content, s)
	if err != nil {
		return false, err
	}
	for n := 1; ; n++ {
		if n%eventsBetweenLooks == 0 && ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if _, err := reader.Next(); errors.Is(err, io.EOF) {
			return true, nil
		} else if err != nil {
			return false, fmt.Errorf("%s: %w", s.Point(), err)
		}
	}
}

// eventsBetweenLooks is how many events are read before is looked whether to go on.
const eventsBetweenLooks = 10_000

// counted counts and hashes what goes through, until ctx ends.
type counted struct {
	ctx  context.Context
	dst  io.Writer
	sum  hash.Hash
	size int64
}

func (c *counted) Write(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.dst.Write(b)
	c.sum.Write(b[:n])
	c.size += int64(n)
	return n, err
}
