package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/archiver"
	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/unitaction"
)

const (
	// configEvery is how often the agent looks whether it shall archive: people wait for it after a change.
	configEvery = 2 * time.Second
	// firstPause and mostPause bound the wait before an archiver that has failed is tried again. People repair what it says,
	// and wait for it then.
	firstPause, mostPause = time.Second, 30 * time.Second
	// steadyArchive is how long an archiver must have run for its failure not to count as one more in a row.
	steadyArchive = 5 * time.Minute
	// sayAgain is after how long what goes wrong is logged again though it is the same.
	sayAgain = 10 * time.Minute
)

// errChanged ends an archiver whose configuration is another one now.
var errChanged = errors.New("the configuration has changed")

// keepArchiving archives the unit's cluster while the configuration of the machine says so, until ctx ends; then what was read
// is published. An archiver that fails is told and started again. It gives no error: the unit is served without an archive.
func (a *Agent) keepArchiving(ctx context.Context) error {
	if a.config.Home == "" {
		return nil
	}
	said := teller{log: a.log}
	for pause := firstPause; ctx.Err() == nil; {
		machine, _, err := config.LoadMachine("", a.config.Home)
		if err == nil && !machine.Archive.Enabled {
			a.archive.Stop(nil)
			pauseFor(ctx, configEvery)
			continue
		}
		begun := time.Now()
		if err == nil {
			err = a.archiveWith(ctx, machine, &said)
		}
		if ctx.Err() != nil || errors.Is(err, errChanged) {
			pause = firstPause
			continue
		}
		if time.Since(begun) > steadyArchive {
			pause = firstPause
		}
		a.archive.Stop(err)
		said.tell(slog.LevelError, "archiver failed", "unit", a.config.Unit.String(), "err", err, "duration", pause)
		pauseFor(ctx, pause)
		pause = min(2*pause, mostPause)
	}
	return nil
}

// pauseFor waits, or until ctx ends.
func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// archiveWith runs one archiver until ctx ends, it fails, or the configuration changes, which is errChanged.
func (a *Agent) archiveWith(parent context.Context, machine config.Machine, said *teller) (err error) {
	ctx, cancel := context.WithCancelCause(parent)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel(nil)
	looking.Go(func() {
		for ctx.Err() == nil {
			pauseFor(ctx, configEvery)
			// One that cannot be read is being edited, or is told when the archiver is started again.
			if now, _, err := config.LoadMachine("", a.config.Home); err == nil && !machine.Same(now) {
				cancel(errChanged)
			}
		}
	})
	err = a.archiveOnce(ctx, machine, said)
	if cause := context.Cause(ctx); errors.Is(cause, errChanged) {
		return cause
	}
	return err
}

func (a *Agent) archiveOnce(ctx context.Context, machine config.Machine, said *teller) (err error) {
	if machine.Repository.URL == "" {
		return fmt.Errorf("archive.enabled is set, and no repository.url in %s", filepath.Join(a.config.Home, config.MachineFile))
	}
	vault, err := a.openVault(ctx, machine.Repository)
	if err != nil {
		return fmt.Errorf("open repository: %w", err)
	}
	pool, err := archiver.NewPool(a.config.Record.ClientURLs[0], a.etcdTLS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	rate, err := capture.ParseRate(capture.AutomaticRate)
	if err != nil {
		return err
	}
	c := machine.Archive
	o := archive.Options{
		Cluster: vault.Cluster, Dir: archiver.Folder(a.config.StateDir, vault.Repository, vault.Cluster), CASHA256: vault.CASHA256,
		Flush: c.Flush, SpoolLimit: int64(c.SpoolLimit), SnapshotEvery: c.SnapshotEvery, HashEvery: c.HashEvery, Takeover: c.Takeover,
		Heard: a.archive.Heard,
		Observe: func(e archive.Event) {
			a.archive.Observe(e)
			a.logArchive(vault.Cluster, e, said)
		},
	}
	a.archive.Start(vault.Cluster)
	members := unlessRestoring(a.runner.Tasks, pool.Members)
	err = archiver.Run(ctx, vault.Repository, vault.Writer, members, o, rate)
	if (errors.Is(err, backup.ErrOtherCluster) || errors.Is(err, backup.ErrWentBack)) && a.restoredSince(ctx, vault) {
		a.log.Error("the unit was restored since the last snapshot: a new timeline begins", "cluster", vault.Cluster, "unit", a.config.Unit.String(), "err", err)
		o.NewTimeline = true
		err = archiver.Run(ctx, vault.Repository, vault.Writer, members, o, rate)
	}
	switch {
	case errors.Is(err, repository.ErrNotEnrolled):
		return fmt.Errorf("%w; on the machine that has the root key: holdfast key enroll --repo URL --root-key FILE %s", err, vault.Writer.Public())
	case errors.Is(err, backup.ErrOtherCluster), errors.Is(err, backup.ErrWentBack):
		return fmt.Errorf("%w; if the cluster was restored: create-backup new-timeline=true; if it is another cluster: another repository.cluster in the configuration", err)
	}
	return err
}

// restoreAction is the action that gives the member another life.
const restoreAction = "restore"

// errRestoring keeps an archiver from a member that a restore has started and may still take back.
var errRestoring = errors.New("a restore runs on this unit")

// unlessRestoring gives no members while a restore runs: what etcd serves then may never have been.
func unlessRestoring(tasks func() []action.Task, members archive.Members) archive.Members {
	return func(ctx context.Context) ([]*member.Client, error) {
		for _, task := range tasks() {
			if task.Action == restoreAction && (task.Status == action.Running || task.Status == action.Aborting) {
				return nil, errRestoring
			}
		}
		return members(ctx)
	}
}

// restoredSince tells whether this unit was restored after the newest snapshot of its cluster, so that a person knows that its
// history is another one.
func (a *Agent) restoredSince(ctx context.Context, vault unitaction.Vault) bool {
	newest, err := vault.Repository.NewestLive(ctx, vault.Cluster, nil)
	if err != nil || newest == nil {
		return false
	}
	for _, task := range a.runner.Tasks() {
		if task.Action == restoreAction && task.Status == action.Completed && task.Completed.After(newest.Completed) {
			return true
		}
	}
	return false
}

// logArchive logs what an archiver tells: what is lost or in doubt as an error, what may heal as a warning.
func (a *Agent) logArchive(cluster string, e archive.Event, said *teller) {
	log := a.log.With("cluster", cluster, "unit", a.config.Unit.String())
	switch {
	case e.Stored != nil:
		s := e.Stored.Segment
		log.Debug("segment stored", "timeline", s.Timeline, "first", s.First, "last", s.Last, "object", s.Object.Name, "bytes", s.Object.Size, "duration", e.Stored.Lag)
	case e.Snapshot != nil:
		m := e.Snapshot.Manifest
		log.Info("snapshot stored", "timeline", m.Timeline, "revision", m.Content.Revision, "first", m.Point().First, "object", m.ID.Long(),
			"bytes", m.Object.Size, "duration", m.Completed.Sub(m.Started), "why", e.Snapshot.Why)
	case e.Begun != nil && e.Begun.Before != nil:
		log.Info("taking over the archive from an archiver that is silent", "timeline", e.Begun.Timeline, "revision", e.Begun.Revision, "signer", e.Begun.Before.Signer.Short(), "session", e.Begun.Before.Session)
	case e.Begun != nil:
		log.Info("archiving", "timeline", e.Begun.Timeline, "revision", e.Begun.Revision)
	case e.Standby != nil:
		log.Info("another archiver is at work; waiting", "revision", e.Standby.Revision, "signer", e.Standby.Signer.Short(), "session", e.Standby.Session)
	case e.Watching != nil && e.Watching.Why != nil:
		log.Info("reading events, while a snapshot is taken of what is before", "member", e.Watching.Endpoint, "role", e.Watching.Role, "first", e.Watching.From, "why", e.Watching.Why.Error())
	case e.Watching != nil:
		log.Info("reading events", "member", e.Watching.Endpoint, "role", e.Watching.Role, "first", e.Watching.From, "behind", e.Watching.Behind)
	case e.Gap != nil:
		log.Error("gap in the archive: revisions are lost", "timeline", e.Gap.Timeline, "first", e.Gap.First, "last", e.Gap.Last, "err", e.Gap.Reason)
	case e.NewTimeline != nil:
		log.Error("the history that was archived does not go on: a new timeline begins", "err", e.NewTimeline)
	case e.Hashes != nil && !e.Hashes.Equal:
		log.Error("the members differ", "timeline", e.Hashes.Timeline, "revision", e.Hashes.Revision, "member", e.Hashes.Suspects)
	case e.Hashes != nil:
		log.Debug("the members agree", "timeline", e.Hashes.Timeline, "revision", e.Hashes.Revision)
	case e.Well != "":
		log.Info("the archive goes on after trouble", "part", string(e.Well))
	case e.Trouble != nil:
		said.tell(slog.LevelWarn, "archive has trouble", "cluster", cluster, "unit", a.config.Unit.String(), "part", string(e.Part), "err", e.Trouble)
	}
}

// teller logs what goes wrong again and again only from time to time.
type teller struct {
	log *slog.Logger

	mu   sync.Mutex
	last string
	at   time.Time
}

// tell logs, unless the same was logged last and a short while ago. An attribute "err" tells what is the same.
func (t *teller) tell(level slog.Level, message string, attributes ...any) {
	what := message
	for i := 0; i+1 < len(attributes); i += 2 {
		if attributes[i] == "err" {
			what = fmt.Sprint(message, attributes[i+1])
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if what == t.last && time.Since(t.at) < sayAgain {
		return
	}
	t.last, t.at = what, time.Now()
	t.log.Log(context.Background(), level, message, attributes...)
}
