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
		case errors.Is(err, errFull) && !a.spool.awaiting():
			a.ail(Reading, err)
			if err := a.spool.await(ctx); err != nil {
				return err
			}
			continue
		case final(err):
			return err
		}
		a.ail(partOf(err), err)
		a.noteBroken(err)
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

// stand is where the line stands, by what this archiver remembers and by what the repository has.
type stand struct {
	// at is what the next watch must continue; its revision is 0 when nothing is remembered.
	at       position
	timeline repository.Timeline
	// archived is the last segment of the timeline, nil when there is none; covered is the last revision that is stored at all.
	archived *repository.Segment
	covered  history.Revision
	// missing are revisions between what the repository has and what is remembered.
	missing history.Range
}

// reached is the last revision before which nothing new is missing.
func (s stand) reached() history.Revision {
	if s.missing.First > 0 {
		return s.missing.First - 1
	}
	return max(s.at.Revision, s.covered)
}

// segmented is the last revision that is in a segment, or will be, whoever made it.
func (s stand) segmented() history.Revision {
	if s.archived != nil && s.archived.Last > s.at.Revision {
		return s.archived.Last
	}
	return s.at.Revision
}

// since is when the last revision that is known came about, zero when there is none.
func (s stand) since() time.Time {
	if s.archived != nil && s.archived.LastTime.After(s.at.Time) {
		return s.archived.LastTime
	}
	return s.at.Time
}

// since is the last time at which anybody knew that nothing came after what is in segments, or when the last of that came about;
// zero when neither is known. What clocks say that are ahead of this one does not count.
func (a *archiver) since(s stand, now time.Time) time.Time {
	since := s.since()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, word := range append(a.words[:len(a.words):len(a.words)], a.seen) {
		if word.revision <= s.segmented() && word.at.After(since) && !word.at.After(now) {
			since = word.at
		}
	}
	return since
}

// stand finds out where the line stands. It is asked before a member is, so that nothing which is archived meanwhile is held
// against the member. When the store does not answer, what this run has proved before is enough: reading goes on.
func (a *archiver) stand(ctx context.Context) (stand, error) {
	s := stand{}
	s.at, s.timeline, _ = a.resume()
	if !a.proved {
		s.missing = a.missing
	}
	known, err := a.stored(ctx, s)
	if err != nil && a.proved && ctx.Err() == nil {
		return s, nil
	}
	return known, err
}

// stored adds what the repository has to what is remembered.
func (a *archiver) stored(ctx context.Context, s stand) (_ stand, err error) {
	if s.timeline == "" {
		timelines, err := a.repo.Timelines(ctx, a.Cluster)
		if err != nil || len(timelines) == 0 {
			return s, err
		}
		s.timeline = timelines[len(timelines)-1]
	}
	if s.archived, err = a.repo.LastSegment(ctx, a.Cluster, s.timeline); err != nil {
		return s, err
	}
	if s.archived != nil {
		s.covered = s.archived.Last
	}
	points, _, err := a.repo.Points(ctx, a.Cluster)
	for _, p := range points {
		if p.Timeline == s.timeline {
			s.covered = max(s.covered, p.Last)
		}
	}
	return s, err
}

// lookForMissing holds what is remembered against the repository, which may have been set back to an older state. It is done
// before anything out of the spool is published, as nobody could see then what is missing before that.
func (a *archiver) lookForMissing(ctx context.Context) error {
	at, timeline, before := a.resume()
	if a.missing = (history.Range{}); at.Revision == 0 || a.proved {
		return nil // what this run has read itself follows what was stored
	}
	s, err := a.stored(ctx, stand{at: at, timeline: timeline})
	if err == nil && before > s.covered {
		a.missing = history.Range{First: s.covered + 1, Last: before}
	}
	return err
}

// judge holds a member against the line, as far as its status tells.
func (a *archiver) judge(s stand, now member.Status) verdict {
	at := s.at
	if a.NewTimeline {
		return verdict{errAsked, true}
	}
	switch {
	case at.Revision > 0 && now.ClusterID.String() != at.ClusterID:
		return verdict{fmt.Errorf("etcd cluster is %s, it was %s", now.ClusterID, at.ClusterID), true}
	case now.RaftTerm < at.Term:
		return verdict{fmt.Errorf("raft term is %d, it was %d", now.RaftTerm, at.Term), true}
	case now.Revision < at.Revision:
		return verdict{fmt.Errorf("revision is %d, it was %d", now.Revision, at.Revision), true}
	}
	// What is remembered can be older than what was archived.
	if l := s.archived; l != nil && l.Source.ClusterID == now.ClusterID.String() {
		switch {
		case now.RaftTerm < l.Term:
			return verdict{fmt.Errorf("raft term is %d, that of the archive is %d", now.RaftTerm, l.Term), true}
		case now.Revision < l.Last:
			return verdict{fmt.Errorf("revision is %d, that of the archive is %d", now.Revision, l.Last), true}
		}
	}
	switch {
	case at.Revision == 0:
		return verdict{why: errNoLine}
	case s.missing.First > 0:
		return verdict{why: fmt.Errorf("revisions %s were archived, and the repository does not have them", s.missing)}
	case at.Mark == "":
		return verdict{why: errNoLine}
	case int64(now.Revision-at.Revision) > a.FarBehind:
		return verdict{why: fmt.Errorf("%d revisions were missed: that many would hurt etcd", now.Revision-at.Revision)}
	case a.broken.times >= mostBroken:
		return verdict{why: a.broken.err}
	}
	return verdict{}
}

// watch opens one watch and reads it to its end, which is always an error.
func (a *archiver) watch(ctx context.Context) error {
	s, err := a.stand(ctx)
	if err != nil {
		return err
	}
	asked := time.Now().UTC()
	chosen, err := a.choose(ctx)
	if err != nil {
		return err
	}
	if err := a.know(ctx); err != nil {
		return err
	}
	v := a.judge(s, chosen.Status)
	if v.why == nil {
		v, err = a.goOn(ctx, chosen, s)
		if v.why == nil {
			return err
		}
	}
	if v.otherLife && s.reached() > 0 {
		if err := a.checkLine(ctx); err != nil {
			return err // somebody knows of it, and has begun the timeline of that life
		}
		a.Observe(Event{NewTimeline: v.why})
	}
	return a.beginAnew(ctx, chosen, s, v, asked)
}

// Why an archive begins with a snapshot.
var (
	errNoLine = errors.New("nothing proves where the archive stands")
	errAsked  = errors.New("a new timeline was asked for")
)

// broken is a place at which the events of a member do not follow each other, and how often in a row.
type broken struct {
	at    history.Revision
	times int
	err   error
}

// mostBroken is how often events may be asked for again at one place: a member that was restarted, or another one, gives
// them as they are.
const mostBroken = 2

// noteBroken counts how often the events broke at one place, and tells when that is too often.
func (a *archiver) noteBroken(err error) {
	d, is := errors.AsType[*capture.Discontinuous](err)
	if !is {
		return
	}
	if a.broken.at != d.Expected {
		a.broken = broken{at: d.Expected}
	}
	a.broken.times++
	a.broken.err = fmt.Errorf("events do not follow each other, %d times in a row: %w", a.broken.times, d)
	if a.broken.times == mostBroken {
		a.Observe(Event{Broken: a.broken.err})
	}
}

// resume gives what the next watch must continue: the end of the spool, or what was confirmed last; and the revision up to
// which that needs the repository to have the line.
func (a *archiver) resume() (at position, timeline repository.Timeline, before history.Revision) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d, before, found := a.spool.end(); found && d.Segment.Timeline == a.line &&
		(a.state.Timeline != a.line || d.End.Revision > a.state.Position.Revision) {
		return d.End, a.line, before
	}
	if a.state.Timeline == a.line {
		return a.state.Position, a.line, a.state.Position.Revision
	}
	return position{}, a.line, 0 // others have begun another line since
}

// choose finds the member to read. A read through the leader brings it up to what the cluster has acknowledged, so that what
// it says of itself then can be held against the line.
func (a *archiver) choose(ctx context.Context) (member.Candidate, error) {
	clients, err := a.members(ctx)
	if err != nil {
		return member.Candidate{}, err
	}
	good, _, err := member.Choose(ctx, clients)
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
func (a *archiver) goOn(ctx context.Context, c member.Candidate, s stand) (verdict, error) {
	at := s.at
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
	j := joint{there: events.Current(), opened: time.Now().UTC(), skip: s.segmented()}
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
	// What waits for a snapshot that never came is read again.
	if err := errors.Join(a.spool.undecided(), a.spool.decide(s.timeline)); err != nil {
		return verdict{}, err
	}
	a.proved = true
	a.reads(onTheLine)
	j.since = a.since(s, j.opened)
	a.Observe(Event{Watching: &Watching{Endpoint: c.Client.Endpoint(), Role: c.Role, From: at.Revision + 1, Behind: int64(j.there - at.Revision)}})
	a.well(Reading, Covering)
	at.Time = j.since
	return verdict{}, a.read(ctx, a.newPacker(c, at, false), events, first, j)
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
		n := upTo(batch.Events, at.Revision)
		if markOf(batch.Events[:n]) != at.Mark {
			return batch, errOtherEvents
		}
		batch.Events = batch.Events[n:]
		return batch, nil
	}
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
	if err == nil && !first.Arrived.IsZero() {
		p.heard(first)
	}
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
