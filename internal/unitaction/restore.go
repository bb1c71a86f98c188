package unitaction

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/restore"
)

// restoreAction replaces the data of a unit that is alone by that of an archive. Everything that can refuse comes before
// anything is touched; the new data dir is complete and checked before etcd stops; the old data is kept, and is put back
// when the new one does not serve in time.
//
//	resolve, guard, unpack + check, version, space -> build -> plan -> back up -> guard -> HOLD -> switch -> release -> health -> commit
//	                                                                                       `------ any failure: put the old data back
//
// A cancel counts until the release.
type restoreAction struct{ *Unit }

const (
	backupPrefix = "etcd-data-"
	// rollBackTimeout bounds putting the old data back and seeing it served.
	rollBackTimeout = 3 * time.Minute
	keptStamp       = "20060102-150405"
)

func (a *restoreAction) Spec() action.Spec {
	return action.Spec{
		Name:        "restore",
		Description: "Replace the data of this unit by the attached snapshot. It is refused while the application has more than one unit.",
		Params: []action.Param{
			{Name: "accept-corrupt", Type: action.Boolean, Default: false, Description: "Take a snapshot of a cluster whose members had found their data to differ."},
			{Name: "bump", Type: action.Boolean, Default: true, Description: "Go on far above every revision that clients may have seen, so that Kubernetes API servers read everything again. False keeps the revision."},
			{Name: "health-timeout", Type: action.String, Default: "2m", Description: "How long the restored etcd may take to serve before the old data is put back."},
			{Name: "path", Type: action.String, Default: "", Description: "Archive on this unit, instead of the attached resource."},
			{Name: "sha256", Type: action.String, Default: "", Description: "Sum that the archive must have."},
			{Name: "skip-backup", Type: action.Boolean, Default: false, Description: "Do not archive the present data first. The old data dir is kept all the same."},
			{Name: "source-version", Type: action.String, Default: "", Description: "Version of the etcd that wrote the archive, such as 3.5, where the data does not tell."},
			{Name: "target", Type: action.String, Default: config.DefaultFiles, Description: "Folder on the unit for the archive of the present data."},
		},
	}
}

// restoration is one restore on its way.
type restoration struct {
	*Unit
	call    *action.Call
	dir     datadir.Dir
	source  source
	stage   datadir.Stage
	plan    restore.Plan
	built   restore.Result
	patient time.Duration
	// stamp tells what this restore keeps from what others kept.
	stamp string
	// late is set when a cancel came after the restored etcd was started.
	late bool
}

// untouched is said of every restore that did not get as far as the switch.
const untouched = "the data of etcd was not touched"

func (a *restoreAction) Run(ctx context.Context, call *action.Call) error {
	err := a.run(ctx, call)
	if _, told := errors.AsType[*action.OutcomeError](err); err == nil || told {
		return err
	}
	return &action.OutcomeError{Err: err, Outcome: untouched}
}

// run restores. An error that says no outcome is one from before the switch.
func (a *restoreAction) run(ctx context.Context, call *action.Call) (err error) {
	patient, err := time.ParseDuration(call.Params.String("health-timeout"))
	if err != nil || patient <= 0 {
		return fmt.Errorf("health-timeout must be a duration such as 2m, given %q", call.Params.String("health-timeout"))
	}
	backupFolder, err := inRoot("target", call.Params.String("target"))
	if err != nil {
		return err
	}
	dir, err := datadir.At(a.Record.DataDir, a.Record.WALDir)
	if err != nil {
		return err
	}
	r := &restoration{Unit: a.Unit, call: call, dir: dir, patient: patient, stamp: stampPrefix(call) + time.Now().UTC().Format(keptStamp)}
	defer func() {
		clearing := r.clear()
		if clearing != nil && err == nil {
			clearing = &action.OutcomeError{Err: clearing, Outcome: datadir.Finished.String()}
		}
		err = errors.Join(err, clearing)
	}()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	for line := range strings.Lines(r.plan.String()) {
		call.Logf("%s", line)
	}
	if !call.Params.Bool("skip-backup") {
		if err := r.backUp(ctx, backupFolder); err != nil {
			return err
		}
	}
	// Building took a while; somebody may have added a unit since.
	if err := a.guardOneUnit(ctx); err != nil {
		return err
	}
	return r.replace(ctx)
}

// prepare does everything that can refuse. It writes into the stage and the scratch folder only.
func (r *restoration) prepare(ctx context.Context) (err error) {
	// First, for no archive helps where it refuses.
	if err := r.guardOneUnit(ctx); err != nil {
		return err
	}
	if r.source, err = r.resolveSource(r.call); err != nil {
		return err
	}
	if err := r.unpack(ctx, &r.source); ctx.Err() != nil {
		return context.Cause(ctx) // given up, not refused
	} else if err != nil {
		return fmt.Errorf("restore refused: %w", err)
	}
	if err := r.makePlan(ctx); err != nil {
		return err
	}
	if r.stage, err = r.dir.Stage(); err != nil {
		return err
	}
	r.call.Logf("building the new data dir")
	if r.plan.V2 {
		return r.buildV2(ctx)
	}
	return r.buildV3(ctx)
}

// buildV3 makes the new data dir from a backend.
func (r *restoration) buildV3(ctx context.Context) error {
	target, err := restore.ParseMinor(r.plan.Target)
	if err != nil {
		return err
	}
	highest := r.plan.Revision - restore.RevisionBump
	r.built, err = restore.Build(ctx, restore.Options{
		Backend: r.source.backend, Source: r.source.info, Stage: r.stage,
		Name: r.Record.Member, PeerURL: r.Record.PeerURL, Target: target,
		KeepRevision: !r.plan.Compacted, HighestKnown: max(highest, 0), AcceptCorrupt: r.call.Params.Bool("accept-corrupt"),
	})
	if errors.Is(err, restore.ErrCorruptAlarm) {
		return fmt.Errorf("restore refused: %w; accept-corrupt=true takes it all the same", err)
	}
	return err
}

// makePlan finds out what the restore will do and refuses versions that do not go together.
func (r *restoration) makePlan(ctx context.Context) error {
	asked, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	version, err := r.ServerVersion(asked)
	if err != nil {
		return err
	}
	note, sourceVersion, err := compatible(r.source, r.call.Params.String("source-version"), version)
	if err == nil && r.source.kind == archivefile.V2 {
		err = r.checkV2Target(ctx, version)
	}
	if err != nil {
		return fmt.Errorf("restore refused: %w", err)
	}
	r.plan = restore.Plan{
		Unit: r.Name.String(), Member: r.Record.Member, PeerURL: r.Record.PeerURL,
		DataDir: r.inUnit(r.Record.DataDir), WALDir: r.inUnit(r.Record.WALDir), Target: version,
		Archive: r.source.name, SHA256: r.source.sha256, Source: sourceVersion,
		SourceRevision: r.source.info.Revision, SourceKeys: r.source.keys,
		Compacted: r.call.Params.Bool("bump"),
	}
	if note != "" {
		r.plan.Notes = append(r.plan.Notes, note)
	}
	if !r.source.info.Trailer && r.source.kind != archivefile.V2 {
		r.plan.Notes = append(r.plan.Notes, "the archive carries no checksum of etcd; its pages are whole, but that is all that can be said")
	}
	live := r.liveData(ctx)
	r.plan.Live = live
	r.noteV2(ctx)
	var highest = r.source.info.Revision
	if live != nil {
		highest = max(highest, live.Revision)
	}
	bump := history.Revision(0)
	if r.plan.Compacted {
		bump = restore.RevisionBump
	}
	r.plan.Revision = restore.NextRevision(r.source.info.Revision, highest, bump)
	if _, err := os.Stat(filepath.Join(r.Record.DataDir, "member")); err == nil {
		kept, err := datadir.KeptName(r.stamp)
		if err != nil {
			return err
		}
		r.plan.Kept = r.inUnit(filepath.Join(r.Record.DataDir, kept))
	}
	return nil
}

// compatible compares the version that wrote the data with the one that will open it.
func compatible(from source, given, target string) (note, sourceVersion string, err error) {
	sourceVersion = from.version
	if given != "" {
		sourceVersion = given
	}
	var source restore.Minor
	if sourceVersion != "" {
		if source, err = restore.ParseMinor(sourceVersion); err != nil {
			return "", "", err
		}
	}
	into, err := restore.ParseMinor(target)
	if err != nil {
		return "", "", err
	}
	note, err = restore.Compatible(source, into)
	return note, source.String(), err
}

// liveData is what the unit serves now, nil when its etcd does not answer.
func (u *Unit) liveData(ctx context.Context) *restore.Live {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	client, err := u.dial()
	if err != nil {
		return nil
	}
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return nil
	}
	keys, err := client.CountKeys(ctx)
	if err != nil {
		return nil
	}
	return &restore.Live{Revision: status.Revision, Keys: keys}
}

// backUp archives the present data, if there is any: from its file when no etcd has that open, else streamed from the etcd.
func (r *restoration) backUp(ctx context.Context, folder string) error {
	if r.plan.Kept == "" {
		return nil
	}
	r.call.Logf("archiving the present data")
	made, err := r.saveBackendFile(ctx, r.call, folder, backupPrefix)
	if errors.Is(err, datadir.ErrInUse) {
		made, err = r.saveBackend(ctx, r.call, folder, backupPrefix, capture.Automatic)
	}
	if err != nil {
		return fmt.Errorf("archive the present data: %w", err)
	}
	r.call.Set("backup.path", made.path)
	r.call.Set("backup.sha256sum", made.sha256)
	return nil
}

// replace stops etcd, switches, starts etcd and waits for it to serve. When any of that fails the old data is put back.
func (r *restoration) replace(ctx context.Context) error {
	r.call.Logf("stopping etcd")
	if err := r.Service.Hold(ctx); err != nil {
		return err
	}
	kept, err := r.dir.Switch(r.stamp)
	if err == nil {
		err = r.serveRestored(ctx)
	}
	if err == nil {
		err = r.dir.Commit()
	}
	if err != nil {
		return r.putBack(ctx, err)
	}
	r.tell(kept)
	return nil
}

// stopPatience is how long an agent that stops goes on waiting for the restored etcd; who stops it waits little longer.
const stopPatience = 10 * time.Second

// serveRestored starts etcd on the restored data and waits for it. From then on clients can write to it, and taking it back
// would lose what it has acknowledged: a cancel comes too late, and only an etcd that does not serve in time is an error.
func (r *restoration) serveRestored(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // nobody has seen the restored data
	}
	r.call.Logf("starting etcd on the restored data")
	waiting, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	noticed := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(noticed)
		if r.late = errors.Is(context.Cause(ctx), action.ErrCancelled); r.late {
			r.call.Logf("%s: etcd was started on the restored data already; what it does not serve within %s is taken back", tooLate, r.patient)
			return
		}
		// The agent stops.
		timer := time.AfterFunc(stopPatience, func() { giveUp(context.Cause(ctx)) })
		context.AfterFunc(waiting, func() { timer.Stop() })
	})
	r.Service.Release()
	err := r.awaitServing(waiting, r.patient, uint64(r.built.ClusterID))
	if !unhook() {
		<-noticed
	}
	return err
}

// tooLate is said of a cancel after the start of the restored etcd.
const tooLate = "the cancel came too late"

// awaitServing waits until etcd answers with a quorum, as the cluster with that id; 0 is any cluster.
func (u *Unit) awaitServing(ctx context.Context, patient time.Duration, cluster uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patient, fmt.Errorf("it did not serve within %s", patient))
	defer cancel()
	for {
		err := u.serves(ctx, member.ID(cluster))
		if err == nil {
			return nil
		}
		if waitUntil(ctx, time.Now().Add(servingStep)) != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// servingStep is the pause between two looks at a member that starts.
const servingStep = 100 * time.Millisecond

// serves looks once. It asks only a member that listens: a client that was refused waits a second before it tries again,
// and etcd starts in less.
func (u *Unit) serves(ctx context.Context, cluster member.ID) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := u.listens(ctx); err != nil {
		return err
	}
	client, err := u.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if cluster != 0 && status.ClusterID != cluster {
		return fmt.Errorf("it serves cluster %s, not the restored one %s", status.ClusterID, cluster)
	}
	return client.Probe(ctx)
}

// listens tells whether somebody takes connections for the member. That it answers is another question.
func (u *Unit) listens(ctx context.Context) error {
	at, err := url.Parse(u.Record.ClientURLs[0])
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at.Host)
	if err != nil {
		return err
	}
	return conn.Close()
}

// putBack undoes a switch after a failure and says in the error how that went. It goes on although ctx was cancelled.
func (r *restoration) putBack(ctx context.Context, failure error) error {
	said := plainLog(r.Service.LogTail(3))
	r.call.Logf("putting the old data back: %v", failure)
	cancelled := errors.Is(failure, action.ErrCancelled)
	agentStops := ctx.Err() != nil && !errors.Is(context.Cause(ctx), action.ErrCancelled)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollBackTimeout)
	defer cancel()
	outcome := func(format string, args ...any) error {
		err := failure
		if !cancelled {
			err = fmt.Errorf("restored etcd failed: %w", failure)
		}
		if r.late {
			err = fmt.Errorf("%w; %s to stop it before that", err, tooLate)
		}
		return &action.OutcomeError{Err: err, Outcome: fmt.Sprintf(format, args...)}
	}
	if err := r.Service.Hold(ctx); err != nil {
		return outcome("and it could not be stopped, so the old data is not back yet: %v", err)
	}
	found, err := r.dir.Recover()
	r.Service.Release()
	if err != nil {
		return outcome("and putting the old data back failed: %v", err)
	}
	back := found.String()
	if found != datadir.RolledBack {
		back = untouched
	}
	switch {
	case agentStops:
		return outcome("%s, and etcd starts on it with the agent", back) // whoever starts an etcd here has ended
	case r.plan.Live != nil:
		if err := r.awaitServing(ctx, rollBackTimeout, 0); err != nil {
			return outcome("%s, but etcd does not serve it: %v", back, err)
		}
		back += " and is served again"
	}
	if cancelled {
		return outcome("%s", back)
	}
	return outcome("%s; etcd had said: %s", back, said)
}

// tell sets the results.
func (r *restoration) tell(kept datadir.Kept) {
	set := func(key, value string) {
		if value != "" {
			r.call.Set("restore."+key, value)
		}
	}
	set("cluster-id", member.ID(r.built.ClusterID).String())
	if !r.plan.V2 { // The v2 store has no revisions.
		set("revision", r.built.Revision.String())
		set("source-revision", r.source.info.Revision.String())
	}
	set("source-version", r.plan.Source)
	if r.source.keys != unknownKeys {
		set("keys", fmt.Sprint(r.source.keys))
	}
	set("old-data", r.inUnit(kept.Member))
	set("old-wal", r.inUnit(kept.WAL))
	set("dropped-alarms", strings.Join(r.built.DroppedAlarms, ", "))
	if r.late {
		r.plan.Notes = append(r.plan.Notes, tooLate+": etcd had been started on the restored data")
	}
	set("note", strings.Join(r.plan.Notes, "; "))
}

// clear removes what the restore needed on its way. A switch that is pending was dealt with before.
func (r *restoration) clear() error {
	var failed []error
	if r.stage.Data != "" {
		if pending, err := r.dir.Pending(); err == nil && !pending {
			_, err = r.dir.Recover()
			failed = append(failed, err)
		}
	}
	return errors.Join(append(failed, r.source.remove())...)
}

// inUnit gives a path of the host as one inside the unit's root, where it is inside.
func (u *Unit) inUnit(hostPath string) string {
	relative, err := filepath.Rel(u.Record.Root, hostPath)
	if hostPath == "" || err != nil || relative == ".." || strings.HasPrefix(relative, "../") {
		return hostPath
	}
	return "/" + relative
}

// stampPrefix begins the stamp of a task's kept data, so that Recover finds it.
func stampPrefix(call *action.Call) string { return call.TaskID[:8] + "-" }

// Recover says what has become of a run that was cut off, which RecoverData has dealt with, and removes its unfinished
// files.
func (a *restoreAction) Recover(_ context.Context, call *action.Call) (string, error) {
	folder, err := inRoot("target", call.Params.String("target"))
	if err != nil {
		return untouched, nil // the run refused this folder and did nothing
	}
	if err := a.removeLeftover(partName(folder, call)); err != nil {
		return "", err
	}
	if made := a.backupSince(folder, call.Started); made != "" {
		call.Set("backup.path", made)
	}
	if a.recovered == datadir.RolledBack {
		return datadir.RolledBack.String(), nil
	}
	// The run may have been cut off after its end, when only its record was missing.
	kept, err := filepath.Glob(filepath.Join(a.Record.DataDir, "member.before-restore-"+stampPrefix(call)+"*"))
	if err != nil || len(kept) == 0 && a.recovered != datadir.Finished {
		return datadir.Discarded.String() + "; " + untouched, err
	}
	return datadir.Finished.String(), nil
}

// backupSince finds the archive of the present data that a run from started on has made, if it got as far: the last by
// its name, which has the time, for a unit does one thing at a time.
func (u *Unit) backupSince(folder string, started time.Time) string {
	entries, err := fs.ReadDir(u.Root.FS(), folder)
	if err != nil || started.IsZero() {
		return ""
	}
	last := ""
	for _, entry := range entries {
		stamp, found := strings.CutPrefix(entry.Name(), backupPrefix)
		stamp, isArchive := strings.CutSuffix(stamp, archiveSuffix)
		made, err := time.Parse(archiveStamp, stamp)
		if found && isArchive && err == nil && !made.Before(started.UTC().Truncate(time.Second)) {
			last = max(last, path.Join("/", folder, entry.Name()))
		}
	}
	return last
}

// RecoverData ends a restore that a crash cut off: until it was committed, the old data is put back. It is called before
// anything can start an etcd or run an action.
func (u *Unit) RecoverData(ctx context.Context) error {
	if err := os.RemoveAll(u.Scratch); err != nil {
		return fmt.Errorf("clear scratch folder: %w", err)
	}
	dir, err := datadir.At(u.Record.DataDir, u.Record.WALDir)
	if err != nil {
		return err
	}
	pending, err := dir.Pending()
	if err != nil {
		return err
	}
	if pending {
		// The agent may have died after it started etcd on the new data, which serves on.
		ctx, cancel := context.WithTimeout(ctx, rollBackTimeout)
		defer cancel()
		if err := u.Service.Hold(ctx); err != nil {
			return err
		}
		defer u.Service.Release()
	}
	if u.recovered, err = dir.Recover(); err != nil {
		return err
	}
	if u.recovered != datadir.Nothing {
		u.Logger.Warn("a restore was cut off", "unit", u.Name.String(), "outcome", u.recovered.String())
	}
	return nil
}
