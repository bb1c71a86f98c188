package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// beginAnew covers the cluster with a snapshot from now on: the watch is opened first, so that nothing is between the two.
// At asked the member had nothing after the revision that its status tells.
func (a *archiver) beginAnew(ctx context.Context, c member.Candidate, s stand, v verdict, asked time.Time) error {
	events, first, mark, err := openAnew(ctx, c)
	if err != nil {
		return err
	}
	defer events.Close()
	j := joint{there: events.Current(), since: asked, opened: time.Now().UTC()}
	a.reads(elsewhere)
	if !v.otherLife {
		a.reads(beyond)
		if last := s.since(); last.After(asked) {
			j.since = last
		}
	}
	if err := a.spool.undecided(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var covering sync.WaitGroup
	covered := false
	defer func() {
		if covering.Wait(); covered {
			a.proved, a.broken = true, broken{}
		}
	}()
	begin := position{Revision: c.Status.Revision, Mark: mark, ClusterID: c.Status.ClusterID.String(), Term: c.Status.RaftTerm, Time: j.since}
	covering.Go(func() {
		err := a.cover(ctx, c, s, v, begin)
		if covered = err == nil; covered {
			a.well(Covering)
		} else {
			cancel(&notCovered{err})
		}
	})
	a.Observe(Event{Watching: &Watching{Endpoint: c.Client.Endpoint(), Role: c.Role, From: c.Status.Revision + 1, Why: v.why}})
	a.well(Reading)
	err = a.read(ctx, a.newPacker(c, begin, true), events, first, j)
	if errors.Is(err, errFull) {
		// Nothing of it can be sent before the snapshot tells where it belongs.
		covering.Wait()
	}
	cancel(err)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return err
}

// openAnew opens a watch of what comes after the revision that a member has. Where it can it begins at that revision, for its
// mark: with it a later run proves that the line goes on, though nothing was written meanwhile. The mark is "" when the revision
// is compacted, or has no events, as that of a keyspace that is new or whose revision was raised by a restore. First is what
// came after it already.
func openAnew(ctx context.Context, c member.Candidate) (events *capture.Events, first capture.Batch, mark string, err error) {
	at, o := c.Status.Revision, capture.EventsOptions{ClusterID: c.Status.ClusterID, Term: c.Status.RaftTerm}
	if at > 1 {
		if events, err = capture.OpenEvents(ctx, c.Client, at, o); err == nil {
			if first, mark, err = markAt(ctx, events, at); err == nil {
				return events, first, mark, nil
			}
			events.Close()
		}
	}
	events, err = capture.OpenEvents(ctx, c.Client, at+1, o)
	return events, capture.Batch{}, "", err
}

// markAt takes the first revision out of a watch, which begins there, and gives its mark and what comes after it.
func markAt(ctx context.Context, events *capture.Events, at history.Revision) (capture.Batch, string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for {
		batch, err := events.Next(ctx)
		if err != nil {
			return batch, "", err
		}
		if n := upTo(batch.Events, at); n > 0 {
			mark := markOf(batch.Events[:n])
			batch.Events = batch.Events[n:]
			return batch, mark, nil
		}
	}
}

// reading is how what is read belongs to the line.
type reading int

const (
	// onTheLine follows what is stored, or waits in the spool.
	onTheLine reading = iota
	// beyond is the life of the line, behind a hole that a snapshot has to cover.
	beyond
	// elsewhere is another life, which a snapshot has to begin.
	elsewhere
)

// reads says what is read from here on. What was seen of another life is not of this one.
func (a *archiver) reads(what reading) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if (what == elsewhere) != (a.reading == elsewhere) {
		a.seen = seen{}
	}
	a.reading = what
}

// cover takes the snapshot that a new part of the line begins with, and says what is missing before it.
// Begin is where the watch follows on.
func (a *archiver) cover(ctx context.Context, c member.Candidate, s stand, v verdict, begin position) error {
	m, err := a.snapshot(ctx, Wanted{NewTimeline: v.otherLife, Prompt: true}, v.why.Error())
	if err != nil {
		return err
	}
	if m.Source.ClusterID != c.Status.ClusterID.String() || m.Content.Revision < c.Status.Revision {
		return fmt.Errorf("the snapshot is of etcd cluster %s at revision %d, the watch of %s at %d",
			m.Source.ClusterID, m.Content.Revision, c.Status.ClusterID, c.Status.Revision)
	}
	if first, reached := m.Point().First, s.reached(); reached > 0 && m.Timeline == s.timeline && first > reached+1 {
		gap := repository.Gap{Cluster: a.Cluster, Timeline: m.Timeline, First: reached + 1, Last: first - 1, Noticed: time.Now(), Reason: v.why.Error()}
		if gap, err = a.repo.PutGap(ctx, a.writer, gap); err != nil {
			return err
		}
		a.Observe(Event{Gap: &gap})
	}
	a.covered(m, begin)
	if err := errors.Join(a.saveState(), a.spool.decide(m.Timeline)); err != nil {
		return err
	}
	// Others see at once that a new timeline has its archiver; the cluster may be silent for long.
	if _, err := a.putLease(ctx, false); err != nil && ctx.Err() == nil {
		a.ail(Storing, err)
	}
	return nil
}

// covered takes note of the snapshot that a part of the line begins with. Its position is that at which the watch began: what the
// snapshot has beyond it, the watch gives as well.
func (a *archiver) covered(m repository.Manifest, begin position) {
	a.mu.Lock()
	a.NewTimeline = false // it was known, and is done
	after := a.state.After
	if m.Timeline != a.line {
		after, a.line, a.lineEnd = a.line, m.Timeline, 0
	}
	a.lineEnd = max(a.lineEnd, m.Content.Revision)
	a.state.After, a.reading = after, onTheLine
	a.next = &state{After: after, Timeline: m.Timeline, Position: begin}
	a.mu.Unlock()
	a.adopt()
}

// adopt lets the state be that of the last snapshot, unless something of an older timeline is left to publish: then only the
// older state proves where that goes on.
func (a *archiver) adopt() {
	d, waiting, _ := a.spool.oldest()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch next := a.next; {
	case next == nil:
	case a.state.Timeline == next.Timeline:
		a.next = nil
		if was := a.state.Position; next.Position.Revision > was.Revision || was.Mark == "" {
			a.state.Position = next.Position
		}
	case !waiting || d.Segment.Timeline == "" || d.Segment.Timeline == next.Timeline:
		a.state, a.next = state{After: next.After, Auth: a.state.Auth, Timeline: next.Timeline, Position: next.Position}, nil
	}
}
