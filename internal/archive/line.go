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
	"github.com/holdfast-project/holdfast/internal/seal"
)

// capture reads the cluster until ctx ends: one watch after the other, each of which continues the line or begins a part of
// it with a snapshot. Its errors are final.
func (a *archiver) capture(ctx context.Context) error {
	pause := time.Second
	for ctx.Err() == nil {
		began := time.Now()
		err := a.watch(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errFull):
			a.Observe(Event{Trouble: err})
			if err := a.spool.await(ctx); err != nil {
				return err
			}
			continue
		case final(err):
			return err
		}
		a.Observe(Event{Trouble: err})
		if time.Since(began) > time.Minute {
			pause = time.Second
		}
		if !wait(ctx, pause) {
			break
		}
		pause = min(2*pause, mostPause)
	}
	return context.Cause(ctx)
}

// verdict is what was found out about a member and the line: whether it goes on there, or why it does not.
type verdict struct {
	// why is the reason to begin anew; nil when the line goes on.
	why error
	// otherLife tells that the history that was archived does not go on in this cluster.
	otherLife bool
}

// watch opens one watch and reads it to its end, which is always an error.
func (a *archiver) watch(ctx context.Context) error {
	chosen, err := a.choose(ctx)
	if err != nil {
		return err
	}
	recipients, err := a.repo.SegmentSealTo(ctx)
	if err != nil {
		return err
	}
	at, timeline := a.resume()
	var v verdict
	switch {
	case at.Revision == 0:
		v.why = errNoLine
		v.otherLife = a.NewTimeline
	case chosen.Status.ClusterID.String() != at.ClusterID:
		v = verdict{fmt.Errorf("etcd cluster is %s, it was %s", chosen.Status.ClusterID, at.ClusterID), true}
	case chosen.Status.RaftTerm < at.Term:
		v = verdict{fmt.Errorf("raft term is %d, it was %d", chosen.Status.RaftTerm, at.Term), true}
	case chosen.Status.Revision < at.Revision:
		v = verdict{fmt.Errorf("revision is %d, it was %d", chosen.Status.Revision, at.Revision), true}
	case at.Mark == "":
		v.why = errNoLine
	case int64(chosen.Status.Revision-at.Revision) > a.FarBehind:
		v.why = fmt.Errorf("%d revisions were missed: that many would hurt etcd", chosen.Status.Revision-at.Revision)
	}
	if v.why == nil {
		v, err = a.goOn(ctx, chosen, recipients, at, timeline)
		if v.why == nil {
			return err
		}
	}
	if v.otherLife && at.Revision > 0 {
		a.Observe(Event{NewTimeline: v.why})
	}
	return a.beginAnew(ctx, chosen, recipients, at, timeline, v)
}

// errNoLine is why an archive begins with a snapshot.
var errNoLine = errors.New("nothing proves where the archive stands")

// resume gives what the next watch must continue: the end of the spool, or what was confirmed last.
func (a *archiver) resume() (position, repository.Timeline) {
	if d, found := a.spool.newest(); found && d.Segment.Timeline != "" {
		return d.End, d.Segment.Timeline
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.Position, a.state.Timeline
}

// choose finds the member to read. A read through the leader brings it up to what the cluster has acknowledged, so that what
// it says of itself then can be held against the line.
func (a *archiver) choose(ctx context.Context) (member.Candidate, error) {
	good, _, err := member.Choose(ctx, a.clients)
	if err != nil {
		return member.Candidate{}, err
	}
	var failed []error
	for _, c := range good {
		look, cancel := context.WithTimeout(ctx, lookTimeout)
		err := c.Client.Probe(look)
		if err == nil {
			c.Status, err = c.Client.Status(look)
		}
		cancel()
		if err == nil {
			return c, nil
		}
		failed = append(failed, err)
	}
	return member.Candidate{}, errors.Join(failed...)
}

// lookTimeout bounds a question to a member.
const lookTimeout = 5 * time.Second

// goOn continues the line in a member, if it is the same line. Without a verdict the error is that of the watch.
func (a *archiver) goOn(ctx context.Context, c member.Candidate, recipients []seal.Recipient, at position, timeline repository.Timeline) (verdict, error) {
	archived, err := a.archived(ctx, timeline)
	if err != nil {
		return verdict{}, err
	}
	events, err := capture.OpenEvents(ctx, c.Client, at.Revision, capture.EventsOptions{ClusterID: c.Status.ClusterID, Term: at.Term})
	var compacted *capture.Compacted
	switch {
	case errors.As(err, &compacted):
		return verdict{why: err}, nil
	case errors.Is(err, capture.ErrAhead), errors.Is(err, capture.ErrOtherCluster), errors.Is(err, capture.ErrTermFell):
		return verdict{err, true}, nil
	case err != nil:
		return verdict{}, err
	}
	defer events.Close()
	j := joint{there: events.Current(), since: at.Time, opened: time.Now().UTC()}
	first, err := a.sameLine(ctx, events, at)
	if errors.As(err, &compacted) {
		return verdict{why: err}, nil
	}
	if errors.Is(err, errOtherEvents) {
		return verdict{err, true}, nil
	}
	if err != nil {
		return verdict{}, err
	}
	if err := a.spool.decide(timeline); err != nil {
		return verdict{}, err
	}
	j.skip = max(at.Revision, archived)
	a.Observe(Event{Watching: &Watching{Endpoint: c.Client.Endpoint(), Role: c.Role, From: at.Revision + 1, Behind: int64(j.there - at.Revision)}})
	return verdict{}, a.read(ctx, a.newPacker(c, recipients, at), events, first, j)
}

var errOtherEvents = errors.New("the events of the last archived revision are others than they were")

// sameLine takes batches up to the one with the last revision of the line, which must be as it was. It gives what that batch
// holds after it.
func (a *archiver) sameLine(ctx context.Context, events *capture.Events, at position) (capture.Batch, error) {
	for {
		batch, err := events.Next(ctx)
		if err != nil {
			return batch, err
		}
		if len(batch.Events) == 0 {
			continue
		}
		n := 0
		for n < len(batch.Events) && batch.Events[n].Revision == at.Revision {
			n++
		}
		if markOf(batch.Events[:n]) != at.Mark {
			return batch, errOtherEvents
		}
		batch.Events = batch.Events[n:]
		return batch, nil
	}
}

// archived is up to where the repository has the timeline, whoever wrote it.
func (a *archiver) archived(ctx context.Context, timeline repository.Timeline) (history.Revision, error) {
	last, err := a.repo.LastSegment(ctx, a.Cluster, timeline)
	if err != nil || last == nil {
		return 0, err
	}
	return last.Last, nil
}

// read packs what a watch gives until it ends; first is what came of it already.
func (a *archiver) read(ctx context.Context, p *packer, events *capture.Events, first capture.Batch, j joint) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var packing sync.WaitGroup
	var packed error
	packing.Go(func() {
		if packed = p.run(); packed != nil {
			cancel(packed)
		}
	})
	err := p.take(first, j)
	if err == nil {
		err = p.pump(ctx, events, j)
	}
	p.close()
	packing.Wait()
	if packed != nil {
		return packed
	}
	return err
}

// beginAnew covers the cluster with a snapshot from now on: the watch is opened first, so that nothing is between the two.
func (a *archiver) beginAnew(ctx context.Context, c member.Candidate, recipients []seal.Recipient, at position, timeline repository.Timeline, v verdict) error {
	events, err := capture.OpenEvents(ctx, c.Client, c.Status.Revision+1, capture.EventsOptions{ClusterID: c.Status.ClusterID, Term: c.Status.RaftTerm})
	if err != nil {
		return err
	}
	defer events.Close()
	j := joint{there: events.Current(), since: at.Time, opened: time.Now().UTC()}
	if v.otherLife {
		j.since = time.Time{}
	}
	if err := a.spool.undecided(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var covering sync.WaitGroup
	defer covering.Wait()
	covering.Go(func() {
		if err := a.cover(ctx, c, at, timeline, v); err != nil {
			cancel(err)
		}
	})
	a.Observe(Event{Watching: &Watching{Endpoint: c.Client.Endpoint(), Role: c.Role, From: c.Status.Revision + 1}})
	begin := position{Revision: c.Status.Revision, ClusterID: c.Status.ClusterID.String(), Term: c.Status.RaftTerm, Time: j.since}
	err = a.read(ctx, a.newPacker(c, recipients, begin), events, capture.Batch{}, j)
	cancel(err)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return err
}

// cover takes the snapshot that a new part of the line begins with, and says what is missing before it.
func (a *archiver) cover(ctx context.Context, c member.Candidate, at position, before repository.Timeline, v verdict) error {
	m, err := a.snapshot(ctx, v.otherLife, v.why.Error())
	if err != nil {
		return err
	}
	if m.Source.ClusterID != c.Status.ClusterID.String() || m.Content.Revision < c.Status.Revision {
		return fmt.Errorf("the snapshot is of etcd cluster %s at revision %d, the watch of %s at %d",
			m.Source.ClusterID, m.Content.Revision, c.Status.ClusterID, c.Status.Revision)
	}
	if first := m.Point().First; at.Revision > 0 && m.Timeline == before && first > at.Revision+1 {
		gap := repository.Gap{Cluster: a.Cluster, Timeline: m.Timeline, First: at.Revision + 1, Last: first - 1, Noticed: time.Now(), Reason: v.why.Error()}
		if gap, err = a.repo.PutGap(ctx, a.writer, gap); err != nil {
			return err
		}
		a.Observe(Event{Gap: &gap})
	}
	a.covered(m)
	// Others see at once that a new timeline has its archiver; the cluster may be silent for long.
	if err := a.putLease(ctx, false); err != nil {
		a.Observe(Event{Trouble: err})
	}
	return a.spool.decide(m.Timeline)
}

// covered takes note of the snapshot that a part of the line begins with. Where nothing of an older line is left to publish, the state is of its line from here on.
func (a *archiver) covered(m repository.Manifest) {
	_, waiting, _ := a.spool.oldest()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.NewTimeline = false // it was known, and is done
	if a.state.Timeline != m.Timeline && !waiting {
		a.state = state{Timeline: m.Timeline, Position: position{Revision: m.Content.Revision, ClusterID: m.Source.ClusterID, Term: m.Content.RaftTerm, Time: m.Completed}}
	}
}
