// Package chain reads what leads to a revision out of a repository, a snapshot and the segments after it, and makes the backend
// file of that revision.
//
// It joins repository, segment and replay, which do not know each other, for those that restore, export and verify. Its values
// are safe for concurrent use. Not promised: that a chain is the best one; coverage finds it.
package chain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/replay"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// Chain is what leads to a revision: a snapshot, and the segments after it without a hole.
type Chain struct {
	Base     repository.Manifest
	Segments []repository.Segment
	Revision history.Revision
	// KeepHistory keeps what was written before the revision, from the compact revision of the snapshot on.
	KeepHistory bool
}

// Plain tells whether the snapshot is the revision, so that it can be used as it is.
func (c Chain) Plain() bool { return len(c.Segments) == 0 && c.Revision == c.Base.Content.Revision }

// Space is about what Parts.Backend takes on the disk while it works, in bytes: the snapshot, what lives of the segments, and
// the result.
func (c Chain) Space() int64 {
	base := c.Base.Content.Size
	if c.Plain() {
		return base
	}
	var events int64
	for _, s := range c.Segments {
		events += s.Plain.Size
	}
	return 2*base + min(events, base)
}

// Parts reads what a repository holds.
type Parts struct {
	Repository *repository.Repository
	// Identities open what is encrypted.
	Identities []seal.Identity
	// Observe is given the stored bytes of snapshots and the plain ones of segments as they are read. It may be nil.
	Observe io.Writer
}

// Backend makes, at path, the backend file of a chain's revision, out of parts that are checked as they are read: an error of
// any leaves no file at path. work is an empty folder of mode 0700 on the same file system; what is written into it holds every
// secret of the cluster. It is the caller's to remove.
func (p Parts) Backend(ctx context.Context, c Chain, path, work string) (replay.Result, error) {
	base, err := p.base(ctx, c.Base, filepath.Join(work, "base"))
	if err != nil {
		return replay.Result{}, err
	}
	segments, end := p.segments(ctx, c)
	defer end()
	return replay.Backend(ctx, path, base, segments, replay.Options{Target: c.Revision, KeepHistory: c.KeepHistory, Work: work})
}

// segments are those of a chain, which are read ahead in the order in which replay opens them until end is called. Two archivers
// that wrote at once can have cut the line at other places: of a segment that begins within the one before, the rest counts.
func (p Parts) segments(ctx context.Context, c Chain) (list []replay.Segment, end func()) {
	ahead := readAhead(ctx, c.Segments, p.Repository.StoredSegment)
	for i, s := range c.Segments {
		rest := s.Range()
		if i > 0 {
			rest.First = max(rest.First, c.Segments[i-1].Last+1)
		}
		list = append(list, replay.Segment{Range: rest, Open: func(ctx context.Context) (replay.Events, error) {
			events, err := p.open(s, func() (io.ReadCloser, error) { return ahead.open(ctx, i) })
			if err != nil {
				return nil, err
			}
			events.from = rest.First
			return events, nil
		}})
	}
	return list, ahead.end
}

// PartError is what is wrong with one part of a chain. Where that is damage, another chain may do without it.
type PartError struct {
	// Snapshot is the snapshot, or else Segment is the segment.
	Snapshot repository.ID
	Segment  repository.SegmentPoint
	// Name is either in the words of a person.
	Name string
	Err  error
}

// Error names the part, and nothing of its content.
func (e *PartError) Error() string { return e.Name + ": " + e.Err.Error() }

// Unwrap gives what is wrong.
func (e *PartError) Unwrap() error { return e.Err }

// OfSnapshot says that an error is about a snapshot.
func OfSnapshot(m repository.Manifest, err error) *PartError {
	return &PartError{Snapshot: m.ID, Name: "snapshot " + m.ID.Short(), Err: err}
}

// OfSegment says that an error is about a segment.
func OfSegment(s repository.Segment, err error) *PartError {
	return &PartError{Segment: s.Point(), Name: "segment " + s.Range().String(), Err: err}
}

// Fetch writes the backend file of a snapshot to dst, as Repository.FetchScanned does.
func (p Parts) Fetch(ctx context.Context, m repository.Manifest, dst io.Writer, scanner *snapshot.Scanner) error {
	if err := p.Repository.FetchScanned(ctx, m, p.Identities, dst, p.Observe, scanner); err != nil {
		return OfSnapshot(m, err)
	}
	return nil
}

// base brings the snapshot of a chain to the disk, and checks all of it.
func (p Parts) base(ctx context.Context, m repository.Manifest, path string) (base replay.Base, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return base, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	scanner := snapshot.NewScanner(snapshot.Options{Size: m.Content.Size})
	if err := p.Fetch(ctx, m, durable.NewOverlapped(file), scanner); err != nil {
		return base, err
	}
	info, err := scanner.Finish()
	return replay.Base{File: path, Info: info, Index: scanner.Index()}, err
}

// segmentEvents are the events of a stored segment.
type segmentEvents struct {
	content io.ReadCloser
	*segment.Reader
	of repository.Segment
	// from is the first revision that is given; what comes before was given by the segment before.
	from history.Revision
}

// open opens a segment whose object stored gives.
func (p Parts) open(s repository.Segment, stored func() (io.ReadCloser, error)) (*segmentEvents, error) {
	var content io.ReadCloser
	object, err := stored()
	if err == nil {
		content, err = repository.UnsealSegment(s, object, p.Identities)
	}
	if err != nil {
		return nil, OfSegment(s, err)
	}
	var plain io.Reader = content
	if p.Observe != nil {
		plain = io.TeeReader(content, p.Observe)
	}
	reader, err := segment.NewReader(plain, s.Plain.Size)
	if err == nil && reader.Head().Range != s.Range() {
		err = fmt.Errorf("%w: it says that it holds %s", repository.ErrForged, reader.Head().Range)
	}
	if err != nil {
		return nil, errors.Join(OfSegment(s, err), content.Close())
	}
	return &segmentEvents{content: content, Reader: reader, of: s}, nil
}

func (e *segmentEvents) Next() (history.Event, error) {
	event, err := e.Reader.Next()
	for err == nil && event.Revision < e.from {
		event, err = e.Reader.Next()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = OfSegment(e.of, err)
	}
	return event, err
}

func (e *segmentEvents) Leases() []history.Lease { return e.Head().Leases }

func (e *segmentEvents) Close() error { return e.content.Close() }

// Times gives the times within a segment. All of the segment is read, so that they are known to be what was stored.
func (p Parts) Times(ctx context.Context, s repository.Segment) (spans []history.Span, err error) {
	events, err := p.open(s, func() (io.ReadCloser, error) { return p.Repository.StoredSegment(ctx, s) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, events.Close()) }()
	for {
		if _, err := events.Next(); errors.Is(err, io.EOF) {
			return events.Head().Times.Spans(), nil
		} else if err != nil {
			return nil, err
		}
	}
}
