package merge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Merger keeps in mind which segments of a cluster are still to be merged, so that nothing is listed or read twice. It is safe
// for concurrent use, with one Do at a time.
type Merger struct {
	repo    *repository.Repository
	writer  *repository.Writer
	cluster string

	mu sync.Mutex
	// known are the segments that matter: of those that were merged, and read back, only the outcome.
	known map[repository.SegmentPoint]repository.Segment
	// checked are days that were read back.
	checked map[repository.SegmentPoint]bool
	// bad are inputs that can not be read, whoever tries.
	bad map[repository.SegmentPoint]bool
	// failed are merges that are tried again later.
	failed map[repository.SegmentPoint]failure
}

// failure is when a merge is tried again, and how long that was put off.
type failure struct {
	next  time.Time
	pause time.Duration
}

const (
	// firstPause is how long a merge that failed is left alone, which doubles up to mostPause.
	firstPause = time.Minute
	mostPause  = time.Hour
)

// NewMerger makes one that knows of nothing yet.
func NewMerger(repo *repository.Repository, writer *repository.Writer, cluster string) *Merger {
	return &Merger{
		repo: repo, writer: writer, cluster: cluster, known: map[repository.SegmentPoint]repository.Segment{},
		checked: map[repository.SegmentPoint]bool{}, bad: map[repository.SegmentPoint]bool{}, failed: map[repository.SegmentPoint]failure{},
	}
}

// Look reads what is in the repository, in place of what was known. Strays are as of the function of that name. Live segments
// that the identities do not open are passed over: of another archiver there may be very many.
func (m *Merger) Look(ctx context.Context, o Options) (strays []error, err error) {
	segments, strays, err := Look(ctx, m.repo, m.cluster)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.known)
	for _, s := range segments {
		if s.Level > repository.SegmentLive || o.CanOpen(s) {
			m.known[s.Point()] = s
		}
	}
	return strays, nil
}

// Add tells of a segment that was published.
func (m *Merger) Add(s repository.Segment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[s.Point()] = s
}

// Due is the Plan for now, without what has failed a short while ago, or cannot be read.
func (m *Merger) Due(o Options, wholeDays bool) []Merge {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := o.now()
	plan := Plan(slices.Collect(maps.Values(m.known)), m.rules(o, now, wholeDays))
	return slices.DeleteFunc(plan, func(one Merge) bool { return now.Before(m.failed[one.Point()].next) })
}

// Everything is the plan for now to its end, as All gives it.
func (m *Merger) Everything(o Options, wholeDays bool) []Merge {
	m.mu.Lock()
	defer m.mu.Unlock()
	return All(slices.Collect(maps.Values(m.known)), m.rules(o, o.now(), wholeDays))
}

func (m *Merger) rules(o Options, now time.Time, wholeDays bool) Rules {
	canOpen := func(s repository.Segment) bool { return !m.bad[s.Point()] && o.CanOpen(s) }
	return Rules{Now: now, CanOpen: canOpen, WholeDays: wholeDays}
}

// Do does one merge. After an error it is due again later, without inputs that were found to be unreadable.
func (m *Merger) Do(ctx context.Context, one Merge, o Options) (Result, error) {
	result, err := Run(ctx, m.repo, m.writer, one, o)
	unread, is := errors.AsType[*Unread](err)
	m.mu.Lock()
	switch {
	case err == nil:
		for _, in := range one.Inputs {
			delete(m.known, in.Point())
		}
		delete(m.failed, one.Point())
		m.known[result.Segment.Point()] = result.Segment
		m.checked[result.Segment.Point()] = true
	case is:
		m.known[unread.Segment.Point()] = unread.Segment // its inputs stay known
	case ctx.Err() == nil:
		pause := min(max(2*m.failed[one.Point()].pause, firstPause), mostPause)
		m.failed[one.Point()] = failure{o.now().Add(pause), pause}
	}
	m.mu.Unlock()
	if err != nil && !is && unreadable(err) {
		err = errors.Join(err, m.findBad(ctx, one.Inputs, o))
	}
	return result, err
}

// unreadable tells whether an error is about what is stored, so that another try ends the same way.
func unreadable(err error) bool {
	for _, class := range []error{repository.ErrDamaged, seal.ErrCorrupt, seal.ErrNoIdentity, segment.ErrCorrupt, segment.ErrVersion, store.ErrNotFound} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// findBad finds out which inputs cannot be read, so that what is around them is merged all the same.
func (m *Merger) findBad(ctx context.Context, inputs []repository.Segment, o Options) error {
	for _, in := range inputs {
		_, err := ReadBack(ctx, m.repo, in, o)
		switch {
		case err == nil:
		case unreadable(err):
			m.mu.Lock()
			m.bad[in.Point()] = true
			clear(m.failed)
			m.mu.Unlock()
		default:
			return err
		}
	}
	return nil
}

// Needs tells whether a key is still needed to merge: a segment that is in no day yet is sealed to it, as far as is known.
func (m *Merger) Needs(keyID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.known {
		if s.Level < repository.SegmentDay && slices.Contains(s.Object.Recipients, keyID) {
			return true
		}
	}
	return false
}

// Confirm reads back the merged days that have something of a day and that were not read back yet, by a Do or by this.
func (m *Merger) Confirm(ctx context.Context, day time.Time, o Options) error {
	m.mu.Lock()
	var open []repository.Segment
	for p, s := range m.known {
		// A day more on both sides: when a segment was sealed and when it began are not the same.
		if s.Level == repository.SegmentDay && !m.checked[p] && s.FirstTime.Before(day.Add(48*time.Hour)) && !s.LastTime.Before(day.Add(-24*time.Hour)) {
			open = append(open, s)
		}
	}
	m.mu.Unlock()
	for _, s := range open {
		if _, err := ReadBack(ctx, m.repo, s, o); err != nil {
			return fmt.Errorf("read back %s: %w", s.Point(), err)
		}
		m.mu.Lock()
		m.checked[s.Point()] = true
		m.mu.Unlock()
	}
	return nil
}
