// Package archive keeps a repository in step with a live cluster: every revision that etcd writes is in a stored segment
// seconds later, so that each moment can be restored. DESIGN.md has the invariants and the protocol.
//
// It sits above capture, which reads a member, segment and seal, which make a file of what was read, and repository. One
// archiver serves one cluster; Run belongs to one goroutine and starts others, which have ended when it returns. It never
// writes to etcd. On the local disk it keeps a small state and a spool of sealed segments, in one folder that it locks.
//
// Not promised: that nothing is ever missed. What etcd had compacted before the archiver could read it is gone; it is
// recorded as a gap and told.
package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Options of Run. The zero value of those that are not required is the documented default.
type Options struct {
	// Cluster is the name of the cluster in the repository; required.
	Cluster string
	// Dir is a folder for the state and the spool, of this cluster in this repository alone; required. It is made.
	Dir string
	// Snapshot takes a snapshot of the cluster into the repository; required.
	Snapshot func(ctx context.Context, what Wanted) (repository.Manifest, error)
	// Flush is how long an event waits at most before its segment is made; 1 s.
	Flush time.Duration
	// FlushSize is how many bytes of events make a segment before that; 8 MiB.
	FlushSize int64
	// SpoolLimit bounds what waits for the store, in bytes; 512 MiB.
	SpoolLimit int64
	// FarBehind is how many revisions a watch may have to catch up with; 10,000. Beyond it etcd itself suffers.
	FarBehind int64
	// SnapshotEvery is the age at which a snapshot is followed by the next one; 24 h.
	SnapshotEvery time.Duration
	// Takeover is how long no other archiver may show a sign of life before this one begins; 30 s, which is three times as long
	// as one is silent at most.
	Takeover time.Duration
	// HashEvery is how often the members are asked for their hash at one revision; 10 min.
	HashEvery time.Duration
	// NewTimeline says that the cluster was restored or replaced since it was last read, and that this is known.
	NewTimeline bool
	// CASHA256 is the fingerprint of the authority that the members' certificates were checked with.
	CASHA256 string
	// Observe is told what happens, from several goroutines, one at a time. It may be nil.
	Observe func(Event)
	// Heard is told after each response of the member that is read at which revision the cluster is, and when that came. It must
	// be quick, and may be nil.
	Heard func(current history.Revision, at time.Time)

	// For tests: the clock by which merging goes, and how often is looked for what is due to be merged, for owners and
	// revocations, and for changes of users.
	now                             func() time.Time
	mergeEvery, askEvery, authEvery time.Duration
}

// Members gives clients of the members of a cluster that can be reached, or could be. It is asked each time they are needed,
// from several goroutines, so that it can follow the membership; a client that it gives no more may be closed by then. What
// it opened, its owner closes, after Run.
type Members func(ctx context.Context) ([]*member.Client, error)

// Fixed are members that stay the same. The caller closes the clients, after Run.
func Fixed(clients []*member.Client) Members {
	return func(context.Context) ([]*member.Client, error) { return clients, nil }
}

// Wanted says what snapshot is wanted.
type Wanted struct {
	// NewTimeline is that it begins one.
	NewTimeline bool
	// Prompt is that the cluster is not covered until it is there.
	Prompt bool
}

func (o Options) withDefaults() Options {
	orDefault := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	orDefault(&o.Flush, time.Second)
	orDefault(&o.SnapshotEvery, 24*time.Hour)
	orDefault(&o.HashEvery, 10*time.Minute)
	orDefault(&o.Takeover, 30*time.Second)
	orDefault(&o.mergeEvery, mergeEvery)
	orDefault(&o.askEvery, askEvery)
	orDefault(&o.authEvery, authEvery)
	if o.now == nil {
		o.now = time.Now
	}
	for size, value := range map[*int64]int64{&o.FlushSize: 8 << 20, &o.SpoolLimit: 512 << 20, &o.FarBehind: 10_000} {
		if *size == 0 {
			*size = value
		}
	}
	var one sync.Mutex
	observe := o.Observe
	o.Observe = func(e Event) {
		if observe == nil {
			return
		}
		one.Lock()
		defer one.Unlock()
		observe(e)
	}
	return o
}

// validate names what is missing.
func (o Options) validate() error {
	switch {
	case o.Dir == "" || o.Snapshot == nil:
		return errors.New("want a folder and a way to take snapshots")
	case o.Flush < 0 || o.FlushSize < 0 || o.SpoolLimit < 0 || o.FarBehind < 0 || o.SnapshotEvery < 0 || o.HashEvery < 0 || o.Takeover < 0:
		return errors.New("an option is negative")
	}
	return repository.CheckCluster(o.Cluster)
}

// Event is something that happened. Exactly one of its fields is set, and Part beside Trouble.
type Event struct {
	// Watching is the member that is read from here on, From the first revision that comes from it.
	Watching *Watching
	// Stored is a segment that the repository has now. Waiting is what else is in the spool, in bytes.
	Stored *Stored
	// Snapshot is a snapshot that was taken, and why.
	Snapshot *Base
	// Gap is a hole in the history of the cluster.
	Gap *repository.Gap
	// NewTimeline is why the history that was archived does not go on.
	NewTimeline error
	// Broken is that a member twice left out revisions at the same place, or gave them again: a snapshot is taken instead.
	Broken error
	// Standby is the other archiver that is alive: this one waits.
	Standby *Holder
	// Begun is that this one has leave to write from here on.
	Begun *Begun
	// Trouble is what keeps a part of the archiver from going on and may heal by itself.
	Trouble error
	Part    Part
	// Well is a part that goes on again after trouble.
	Well Part
	// Hashes are what the members said of their keyspace at one revision.
	Hashes *repository.Hashes
	// Merged is a segment that was made of others.
	Merged *Merged
	// Progress is told once a minute while a cluster is read, whether it writes or not.
	Progress *Progress
	// Ended is the last word of a run that was told to end.
	Ended *Progress
}

// Progress is how far an archive is.
type Progress struct {
	Timeline repository.Timeline
	// Revision is up to where the repository has everything, and AsOf a time at which the cluster had nothing after that; zero
	// when that is not known.
	Revision history.Revision
	AsOf     time.Time
	// Read is up to where the cluster was read without a hole.
	Read history.Revision
	// Awaits tells that the cluster is read beyond a hole, and that nothing of it counts before a snapshot is there.
	Awaits bool
	// Waiting is what is in the spool, in bytes.
	Waiting int64
}

// Holder is an archiver that is at work.
type Holder struct {
	Signer repository.Fingerprint
	// Session tells two apart that sign with one key; "" when it is not known.
	Session string
	// Revision is up to where it has archived.
	Revision history.Revision
}

// Begun is the begin of an archiver's time.
type Begun struct {
	// Timeline is the one that counts so far. It may not have a snapshot yet.
	Timeline repository.Timeline
	// Revision is up to where it is archived; 0 when nothing is.
	Revision history.Revision
	// Before is the other archiver that was silent for too long; nil when the last one ended by its own word, or was this one.
	Before *Holder
}

// Watching is a watch that was opened.
type Watching struct {
	Endpoint, Role string
	From           history.Revision
	// Why is that a snapshot has to cover what is before From; nil when the line goes on there.
	Why error
	// Behind is how many revisions the cluster is ahead of From; 0 when a snapshot covers them.
	Behind int64
}

// Stored is a segment that was confirmed.
type Stored struct {
	Segment repository.Segment
	// Waiting is what is in the spool after it, in bytes.
	Waiting int64
	// Lag is how long its oldest event waited.
	Lag time.Duration
}

// Base is a snapshot that covers what the segments do not.
type Base struct {
	Manifest repository.Manifest
	Why      string
}

const (
	// drainTime bounds the end: what was read is published, if the store takes it. With lookUpTime before it and releaseTime after
	// it, a whole end is less than 10 s.
	drainTime = 5 * time.Second
	// mostPause bounds the time between two tries.
	mostPause = 15 * time.Second
)

// Run archives a cluster until ctx ends; then what was read is published, within 10 s, and there is no error. What may heal is
// told and tried again. An error is what a person must decide or repair: backup.ErrOtherCluster, repository.ErrNotEnrolled,
// durable.ErrLocked, a lack of rights.
func Run(ctx context.Context, repo *repository.Repository, writer *repository.Writer, members Members, o Options) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("archive cluster %q: %w", o.Cluster, err)
		}
	}()
	if err := o.validate(); err != nil {
		return err
	}
	if err := durable.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	release, err := durable.TryLock(filepath.Join(o.Dir, "lock"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	a := &archiver{repo: repo, writer: writer, members: members, Options: o.withDefaults(), ttl: map[int64]int64{}}
	if a.session, err = loadSession(o.Dir); err != nil {
		return err
	}
	if a.spool, err = openSpool(filepath.Join(o.Dir, "spool"), a.SpoolLimit); err != nil {
		return err
	}
	a.merger = merge.NewMerger(repo, writer, a.Cluster)
	a.sealing.now = a.now
	if repo.Document().Encryption != repository.None {
		var bad []error
		if a.sealing.keys, bad, err = openKeyring(filepath.Join(o.Dir, "keys")); err != nil {
			return err
		}
		for _, err := range bad {
			a.ail(Beside, err)
		}
	}
	if a.state, err = loadState(filepath.Join(o.Dir, stateName)); errors.Is(err, errState) {
		a.ail(Beside, err)
	} else if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := a.begin(ctx); err != nil {
			return ended(ctx, err)
		}
		err := a.hold(ctx)
		if !errors.Is(err, errSuperseded) && !errors.Is(err, errSpoilt) {
			return ended(ctx, err)
		}
		a.ail(Beside, err)
	}
	return nil
}

// ended makes the end of ctx no error.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil
	}
	return err
}

// archiver is the run of one archive.
type archiver struct {
	Options
	repo    *repository.Repository
	writer  *repository.Writer
	members Members
	session string
	spool   *spool
	sealing sealing
	merger  *merge.Merger

	// ttl are lease times that were looked up. It belongs to the goroutine that makes segments.
	ttl map[int64]int64

	mu sync.Mutex
	// state is where the confirmed line is, and next what takes its place when nothing of an older timeline is left to publish;
	// nil when nothing does.
	state state
	next  *state
	// line is the timeline that is written, and lineEnd up to where the repository has it, whoever wrote it.
	line    repository.Timeline
	lineEnd history.Revision
	// reading is what the watch that is open gives.
	reading reading
	// ill are the parts that have trouble.
	ill map[Part]bool
	// lastSnapshot is when the last one began; renewed is when others were shown last that this archiver is alive.
	lastSnapshot, renewed time.Time

	// seen is what the cluster had at a time: a revision, and no later one. It is of the life that is read.
	seen seen
	// words are what archivers said of that before this one began.
	words []seen

	// proved tells that the line was held against the repository: what is on the disk can be older or newer than that. It and
	// broken belong to the goroutine that reads the cluster.
	proved bool
	// missing are revisions that were to be in the repository and were not when that was looked for.
	missing history.Range
	broken  broken

	// snapshotting is held while a snapshot is taken.
	snapshotting sync.Mutex
}

// errSuperseded means that another archiver has written what this one was about to.
var errSuperseded = errors.New("another archiver writes this timeline")

// begin waits for the store and for leave to write.
func (a *archiver) begin(ctx context.Context) error {
	err := a.retry(ctx, Beginning, func() error {
		if _, err := a.repo.Enrolled(ctx, a.writer.Public().Fingerprint(), repository.RoleBackup); err != nil {
			return fmt.Errorf("signing key of this host: %w", err)
		}
		if err := a.awaitLease(ctx); err != nil {
			return err
		}
		return a.lookForMissing(ctx)
	})
	if err == nil {
		a.well(Beginning)
	}
	return err
}

// retry tries until there is no error, the error is final, or ctx ends.
func (a *archiver) retry(ctx context.Context, part Part, try func() error) error {
	for pause := time.Second; ; pause = min(2*pause, mostPause) {
		err := try()
		if err == nil || final(err) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a.ail(part, err)
		if !wait(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// wait waits, and tells whether ctx did not end meanwhile.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// hold archives for as long as this archiver has leave to: one goroutine reads the cluster, one makes segments, one
// publishes them, one merges what was published, and others do what is due from time to time.
func (a *archiver) hold(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	// What was read is published after the reading has ended, so publishing has its own end.
	publishing, abandon := context.WithCancelCause(context.WithoutCancel(parent))
	defer abandon(nil)
	var publisher, keeper sync.WaitGroup
	var published error
	read := make(chan struct{})
	publisher.Go(func() {
		if published = a.publishAll(publishing, read); published != nil {
			cancel(published)
		}
	})
	keeper.Go(func() { a.renewLease(ctx) })
	keeper.Go(func() { a.mergeAll(ctx) })
	keeper.Go(func() {
		if err := a.askAgain(ctx); err != nil {
			abandon(err)
			cancel(err)
		}
	})
	keeper.Go(func() {
		if err := a.keep(ctx); err != nil {
			cancel(err)
		}
	})
	err := a.capture(ctx)
	cancel(err)
	keeper.Wait()
	close(read)
	timer := time.AfterFunc(drainTime, func() { abandon(errDrain) })
	publisher.Wait()
	timer.Stop()
	if published != nil {
		err = published
	}
	switch {
	case errors.Is(err, errSuperseded):
		return errors.Join(err, a.forget())
	case errors.Is(err, errSpoilt):
		a.proved = false
		return errors.Join(err, a.spool.clear(), a.saveState())
	}
	a.release(parent)
	if parent.Err() != nil {
		a.Observe(Event{Ended: a.progress()})
	}
	return errors.Join(ended(parent, err), a.saveState())
}

func (a *archiver) progress() *Progress {
	p := &Progress{Waiting: a.spool.waiting()}
	a.mu.Lock()
	defer a.mu.Unlock()
	p.Timeline, p.Revision, p.AsOf, p.Read = a.line, a.lineEnd, a.asOf(), a.lineEnd
	if p.Awaits = a.reading != onTheLine; !p.Awaits {
		p.Read = max(p.Read, a.seen.revision)
	}
	return p
}

// errDrain ends publishing when the archiver has to end.
var errDrain = errors.New("the store did not take everything in time; it stays in the spool")

// forget drops what another archiver has written already.
func (a *archiver) forget() error {
	a.mu.Lock()
	a.state, a.next = state{}, nil
	a.mu.Unlock()
	return errors.Join(a.spool.clear(), a.saveState())
}
