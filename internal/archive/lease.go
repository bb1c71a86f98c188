package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	// renewEvery is how long an archiver is silent at most; segments that are published are signs of life too.
	renewEvery = 10 * time.Second
	// settleTime is how long an archiver that claims the lease looks whether another one does at the same moment: longer than it
	// takes to put a small object.
	settleTime = 2 * time.Second
	// lineEvery is how many looks at an archiver that is at work there are to one at the timelines, which change rarely.
	lineEvery = 5
	// tellEvery is how often is told that the archive goes on.
	tellEvery = time.Minute
	// releaseTime bounds the last word.
	releaseTime = 2 * time.Second
	// sessionName is the file with the session, in the archiver's folder.
	sessionName = "session"
)

// loadSession gives what this folder's archiver is known by: the same after each restart, and another one in another folder,
// though several sign with the key of one machine. One that cannot be read is drawn anew, which costs no more than a wait.
func loadSession(dir string) (string, error) {
	file := filepath.Join(dir, sessionName)
	if text, err := os.ReadFile(file); err == nil {
		if session := strings.TrimSpace(string(text)); repository.CheckSession(session) == nil {
			return session, nil
		}
	}
	session := repository.NewSession()
	return session, durable.WriteFile(file, []byte(session+"\n"), 0o600)
}

// horizon is what was seen of all archivers on the line that counts. When it changes, one is alive; times in it are not
// compared.
type horizon struct {
	timeline repository.Timeline
	// lease is the newest one; its ID is zero when there is none.
	lease repository.Lease
	// last is the segment with the last revision, nil when there is none.
	last *repository.Segment
	// words are what the newest leases say of times, oldest first.
	words []seen
}

// mostWords is how many leases are read for what they say of times: the last one may say nothing.
const mostWords = 5

// take takes note of what a lease says.
func (h *horizon) take(l repository.Lease) {
	if h.lease = l; !l.AsOf.IsZero() {
		h.words = append(h.words, seen{l.Revision, l.AsOf})
		h.words = slices.Clone(h.words[max(0, len(h.words)-mostWords):]) // an earlier look keeps its own
	}
}

// end is up to where the line is archived.
func (h horizon) end() history.Revision {
	if h.last == nil {
		return 0
	}
	return h.last.Last
}

// holder is the other archiver that spoke last: nil when there is none, when it was the one of this session, or when it said
// that it ended.
func (h horizon) holder(session string) *Holder {
	holder := &Holder{h.lease.Signer, h.lease.Session, h.lease.Revision}
	switch { // a lease is the last word when nothing was archived after it
	case !h.lease.ID.IsZero() && h.lease.Revision >= h.end():
		if h.lease.Release {
			return nil
		}
	case h.last == nil:
		return nil
	default:
		holder = &Holder{h.last.Signer, h.last.Session, h.last.Last}
	}
	if holder.Session == session {
		return nil
	}
	return holder
}

// own tells whether the archiver of a session had the last word, so that it goes on where it ended and nobody was there since.
func (h horizon) own(session string) bool {
	if !h.lease.ID.IsZero() && h.lease.Revision >= h.end() {
		return h.lease.Session == session
	}
	return h.last != nil && h.last.Session == session
}

// same tells whether nothing was said in between.
func (h horizon) same(o horizon) bool {
	return h.timeline == o.timeline && h.lease.ID == o.lease.ID && h.end() == o.end()
}

// newestLine is the timeline that counts: that of the newest snapshot of a live cluster, or the one that the first snapshot
// will have.
func (a *archiver) newestLine(ctx context.Context) (repository.Timeline, error) {
	m, err := a.repo.NewestLive(ctx, a.Cluster, nil)
	if err != nil {
		return "", err
	}
	if m != nil {
		return m.Timeline, nil
	}
	c, err := a.choose(ctx)
	if err != nil {
		return "", err
	}
	return a.repo.FirstTimeline(a.Cluster, c.Status.ClusterID.String()), nil
}

// look reads the horizon anew, with listings of all leases and segments of the line.
func (a *archiver) look(ctx context.Context, line repository.Timeline) (horizon, error) {
	h := horizon{timeline: line}
	leases, _, err := a.repo.Leases(ctx, a.Cluster, line, repository.ID{}, mostWords)
	if err != nil {
		return h, err
	}
	for _, read := range leases {
		if h.lease = (repository.Lease{}); read.Err == nil {
			h.take(read.Note)
		}
	}
	h.last, err = a.repo.LastSegment(ctx, a.Cluster, line)
	return h, err
}

// lookAgain reads only what came after an earlier look of the same line; leases of this archiver are none of it. claims are those
// that came.
func (a *archiver) lookAgain(ctx context.Context, h horizon) (_ horizon, claims []repository.Lease, err error) {
	line := h.timeline
	leases, _, err := a.repo.Leases(ctx, a.Cluster, line, h.lease.ID, 0)
	if err != nil {
		return h, nil, err
	}
	for _, read := range leases {
		if read.Err == nil && read.Note.Session != a.session {
			h.take(read.Note)
			claims = append(claims, read.Note)
		}
	}
	if h.last == nil {
		h.last, err = a.repo.LastSegment(ctx, a.Cluster, line)
		return h, claims, err
	}
	for { // the next segment's name is known, so nothing is listed
		read := a.repo.Segment(ctx, repository.SegmentPoint{Cluster: a.Cluster, Timeline: line, First: h.last.Last + 1})
		switch {
		case errors.Is(read.Err, store.ErrNotFound), errors.Is(read.Err, repository.ErrForged):
			return h, claims, nil
		case read.Err != nil:
			return h, claims, read.Err
		}
		h.last = &read.Segment
	}
}

// lookForLine looks whether another line counts by now, and then at that one.
func (a *archiver) lookForLine(ctx context.Context, h horizon) (horizon, error) {
	line, err := a.newestLine(ctx)
	if err != nil {
		return h, err
	}
	a.mu.Lock()
	same := line == h.timeline || line == a.state.After
	a.mu.Unlock()
	if same {
		return h, nil
	}
	return a.look(ctx, line)
}

// awaitLease waits until no other archiver shows a sign of life, and claims the lease. It keeps two from doing the same work;
// that they cannot harm each other is the fence's doing.
func (a *archiver) awaitLease(ctx context.Context) error {
	newest, err := a.newestLine(ctx)
	if err != nil {
		return err
	}
	line := newest
	a.mu.Lock()
	if a.state.Timeline != "" && a.state.After == newest {
		line = a.state.Timeline // by the clocks of others it is older than the one that it followed
	}
	a.mu.Unlock()
	h, err := a.look(ctx, line)
	if err != nil {
		return err
	}
	for {
		var before *Holder
		if before = h.holder(a.session); before != nil {
			a.Observe(Event{Standby: before})
			if h, err = a.awaitQuiet(ctx, h); err != nil {
				return err
			}
		}
		won := false
		if won, h, err = a.claim(ctx, h); err != nil {
			return err
		}
		if won {
			a.begun(h, before)
			return nil
		}
	}
}

// begun tells that this archiver has the lease.
func (a *archiver) begun(h horizon, before *Holder) {
	a.mu.Lock()
	b := Begun{Timeline: h.timeline, Revision: max(h.end(), a.lineEnd), Before: before}
	a.mu.Unlock()
	a.Observe(Event{Begun: &b})
}

// awaitQuiet waits until the other archiver has ended, or was silent for long enough.
func (a *archiver) awaitQuiet(ctx context.Context, h horizon) (horizon, error) {
	quiet := time.Now()
	for looks := 1; h.holder(a.session) != nil && time.Since(quiet) < a.Takeover; looks++ {
		if !wait(ctx, a.Takeover/10) {
			return h, context.Cause(ctx)
		}
		now, err := h, error(nil)
		if looks%lineEvery == 0 {
			now, err = a.lookForLine(ctx, h)
		}
		if err == nil {
			now, _, err = a.lookAgain(ctx, now)
		}
		if err != nil {
			return h, err
		}
		if now.same(h) {
			continue
		}
		before, after := h.holder(a.session), now.holder(a.session)
		if h, quiet = now, time.Now(); after != nil && after.Session != before.Session {
			a.Observe(Event{Standby: after})
		}
	}
	return h, nil
}

// claim puts a lease and looks whether others did so at the same moment: then the one with the first id has it.
func (a *archiver) claim(ctx context.Context, h horizon) (won bool, _ horizon, err error) {
	a.mu.Lock()
	if a.line != h.timeline {
		a.seen = seen{} // it was of the other one
	}
	a.line, a.lineEnd, a.reading = h.timeline, h.end(), onTheLine
	if a.state.Timeline == a.line {
		a.lineEnd = max(a.lineEnd, a.state.Position.Revision)
	}
	a.words = h.words
	for _, word := range h.words {
		if word.revision >= a.seen.revision && word.at.After(a.seen.at) {
			a.seen = word
		}
	}
	a.mu.Unlock()
	own, err := a.putLease(ctx, false)
	if err != nil {
		return false, h, err
	}
	if h.own(a.session) {
		return true, h, nil // whoever claims at this moment finds the claim, or the fence; it is not worth to wait for
	}
	if !wait(ctx, min(settleTime, a.Takeover/10)) {
		return false, h, context.Cause(ctx)
	}
	now, err := a.lookForLine(ctx, h)
	if err != nil || now.timeline != h.timeline {
		return false, now, err
	}
	now, claims, err := a.lookAgain(ctx, h)
	if err != nil {
		return false, h, err
	}
	if now.end() != h.end() && now.last.Session != a.session {
		return false, now, nil
	}
	for _, other := range claims {
		if !other.Release && other.ID.String() < own.ID.String() {
			now.lease = other
			return false, now, nil
		}
	}
	return true, now, nil
}

// seen is that at a time the cluster had a revision and no later one.
type seen struct {
	revision history.Revision
	at       time.Time
}

// asOf is a time at which the cluster had what is stored of the line, and nothing after it; zero when that is not known. The lock
// is held.
func (a *archiver) asOf() time.Time {
	if a.reading == elsewhere || a.seen.revision != a.lineEnd {
		return time.Time{}
	}
	return a.seen.at
}

// renewLease shows that this archiver is alive when nothing else does, and tells from time to time how far it is.
func (a *archiver) renewLease(ctx context.Context) {
	every := max(min(renewEvery, a.Takeover/3), 100*time.Millisecond)
	for told := time.Now(); wait(ctx, every/4); {
		if time.Since(told) >= tellEvery {
			told = time.Now()
			a.Observe(Event{Progress: a.progress()})
		}
		a.mu.Lock()
		due := time.Since(a.renewed) >= every
		a.mu.Unlock()
		if !due {
			continue
		}
		if _, err := a.putLease(ctx, false); err == nil && a.spool.waiting() == 0 {
			a.well(Storing)
		} else if err != nil && ctx.Err() == nil {
			a.ail(Storing, err)
		}
	}
}

func (a *archiver) putLease(ctx context.Context, released bool) (repository.Lease, error) {
	a.mu.Lock()
	lease := repository.Lease{Cluster: a.Cluster, Timeline: a.line, Revision: a.lineEnd, AsOf: a.asOf(), Session: a.session, Release: released}
	a.mu.Unlock()
	lease, err := a.repo.PutLease(ctx, a.writer, lease)
	if err != nil {
		return lease, err
	}
	a.mu.Lock()
	a.renewed = time.Now()
	a.mu.Unlock()
	return lease, nil
}

// release tells a challenger that it need not wait. That it fails costs the challenger half a minute, and is told only.
func (a *archiver) release(parent context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), releaseTime)
	defer cancel()
	if _, err := a.putLease(ctx, true); err != nil {
		a.ail(Beside, err)
	}
}

// checkLine tells whether somebody has begun a newer timeline than the one that is written here: the cluster was restored, and
// others know of it.
func (a *archiver) checkLine(ctx context.Context) error {
	newest, err := a.newestLine(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if newest != a.line && newest != a.state.After {
		return fmt.Errorf("%w: timeline %s was begun", errSuperseded, newest)
	}
	return nil
}
