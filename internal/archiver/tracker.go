package archiver

import (
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// silence is after how long without a sign of the member that is read nobody can say any more that the archive is up to
// date: three times as long as a healthy one is silent.
const silence = 3 * 5 * time.Second

// Tracker knows how an archiver is, by what it tells. Its zero value is one that does not run.
type Tracker struct {
	mu    sync.Mutex
	state api.Archive
	// troubles are those of each part of the archiver that has one. That of "" is of the archiver before, and ends when this one has
	// come somewhere, as does what is beside.
	troubles map[archive.Part]string
	// current is the highest revision that the cluster is known to have, heard when the member said something last.
	current history.Revision
	heard   time.Time
	// behind is since when something waits that is not confirmed; zero when nothing does.
	behind time.Time
}

// Start says that an archiver of a cluster runs from here on. What was wrong with the one before stays until this one has
// come somewhere.
func (t *Tracker) Start(cluster string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.state.Error
	t.troubles = map[archive.Part]string{"": before}
	t.state = api.Archive{Enabled: true, Role: api.ArchiveStandby, Cluster: cluster, Error: before}
	t.current, t.heard, t.behind = 0, time.Time{}, time.Time{}
}

// Stop says that no archiver runs any more: because of err, or because none is wanted when it is nil.
func (t *Tracker) Stop(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.state = api.Archive{Role: api.ArchiveOff}
		return
	}
	t.state.Enabled, t.state.Role, t.state.Error = true, api.ArchiveFailed, err.Error()
}

// Observe takes an event of the archiver.
func (t *Tracker) Observe(e archive.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	switch {
	case e.Trouble != nil:
		if t.troubles == nil {
			t.troubles = map[archive.Part]string{}
		}
		t.troubles[e.Part] = e.Trouble.Error()
		t.state.Error = t.worst()
		return
	case e.Well != "":
		delete(t.troubles, e.Well)
	case e.Gap != nil, e.Hashes != nil:
		return
	case e.NewTimeline != nil:
		t.state.Timeline, t.state.Revision, t.state.Confirmed = "", 0, time.Time{}
	case e.Standby != nil:
		t.state.Role, t.state.SpoolBytes = api.ArchiveStandby, 0
		t.at("", e.Standby.Revision, time.Time{})
	case e.Begun != nil:
		t.state.Role, t.heard = api.ArchiveArchiver, now
		t.at(e.Begun.Timeline, e.Begun.Revision, time.Time{})
	case e.Watching != nil:
		w := e.Watching
		t.current, t.heard, t.behind = w.From-1+history.Revision(w.Behind), now, time.Time{}
		t.wait(now)
	case e.Stored != nil:
		s := e.Stored.Segment
		t.state.SpoolBytes = e.Stored.Waiting
		t.at(s.Timeline, s.Last, now)
		// What is older than the last event of the segment does not wait any more.
		if !t.behind.IsZero() && s.LastTime.After(t.behind) {
			t.behind = s.LastTime
		}
	case e.Snapshot != nil:
		m := e.Snapshot.Manifest
		t.state.Snapshot = &api.ArchiveSnapshot{ID: m.ID.Long(), Revision: int64(m.Content.Revision), Completed: m.Completed}
		if string(m.Timeline) != t.state.Timeline || int64(m.Content.Revision) > t.state.Revision {
			t.at(m.Timeline, m.Content.Revision, now)
		}
	}
	delete(t.troubles, "")
	delete(t.troubles, archive.Beside)
	t.state.Error = t.worst()
}

// worst is the trouble that matters most; "" when there is none.
func (t *Tracker) worst() string {
	for _, part := range []archive.Part{archive.Beginning, archive.Reading, archive.Covering, archive.Storing, archive.Beside, ""} {
		if trouble := t.troubles[part]; trouble != "" {
			return trouble
		}
	}
	return ""
}

// at says up to where a timeline is archived.
func (t *Tracker) at(timeline repository.Timeline, revision history.Revision, confirmed time.Time) {
	t.state.Timeline, t.state.Revision, t.state.Confirmed = string(timeline), int64(revision), confirmed.UTC().Truncate(time.Millisecond)
	if t.current <= revision {
		t.behind = time.Time{}
	}
}

// wait notes that something waits from now on, if something does.
func (t *Tracker) wait(now time.Time) {
	if t.behind.IsZero() && int64(t.current) > t.state.Revision {
		t.behind = now
	}
}

// Heard takes note of what the member that is read has said.
func (t *Tracker) Heard(current history.Revision, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current, t.heard = max(t.current, current), at
	t.wait(at)
}

// State is how the archiver is now.
func (t *Tracker) State() api.Archive {
	t.mu.Lock()
	defer t.mu.Unlock()
	state, now := t.state, time.Now()
	if state.Role == "" {
		state.Role = api.ArchiveOff
	}
	if state.Role != api.ArchiveArchiver {
		return state
	}
	state.LagRevisions = max(int64(t.current)-state.Revision, 0)
	lag := time.Duration(0)
	if !t.behind.IsZero() {
		lag = now.Sub(t.behind)
	}
	if quiet := now.Sub(t.heard); quiet > silence {
		lag = max(lag, quiet)
	}
	state.LagSeconds = max(lag.Round(time.Millisecond).Seconds(), 0)
	return state
}
