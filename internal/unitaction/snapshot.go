package unitaction

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// snapshotAction makes an archive file from etcd's own snapshot stream. A copy of the live backend file would be torn.
type snapshotAction struct{ *Unit }

const archivePrefix = "etcd-snapshot-"

func (a *snapshotAction) Spec() action.Spec {
	return action.Spec{
		Name:        "snapshot",
		Description: "Save the keys of etcd into an archive on this unit. Persistent volumes are not in it.",
		Params: []action.Param{
			{Name: "keys-version", Type: action.String, Default: "v3", Description: "Keys to save: v3, or v2 where etcd still has that store. To restore the one ends the other."},
			{Name: "max-rate", Type: action.String, Default: capture.AutomaticRate, Description: "Pace in bytes of database per second, such as 30MB. 0 is unlimited; automatic is 60MB where etcd is on this machine, down to 20MB while etcd answers slowly, raised so that no snapshot lasts over 10 minutes."},
			{Name: "target", Type: action.String, Default: a.Record.SnapshotTarget(), Description: "Folder on the unit for the archive."},
		},
	}
}

func (a *snapshotAction) Run(ctx context.Context, call *action.Call) error {
	folder, err := inRoot("target", call.Params.String("target"))
	if err != nil {
		return err
	}
	pace, err := capture.ParseRate(call.Params.String("max-rate"))
	if err != nil {
		return fmt.Errorf("max-rate %w", err)
	}
	started := time.Now()
	behind := a.lacksQuorum(ctx)
	var made archive
	switch call.Params.String("keys-version") {
	case "v3":
		made, err = a.saveBackend(ctx, call, folder, archivePrefix, pace)
	case "v2":
		made, err = a.saveV2(ctx, call, folder)
	default:
		return errors.New("keys-version must be either v2 or v3")
	}
	if err != nil && ctx.Err() != nil {
		return &action.OutcomeError{Err: err, Outcome: noArchive}
	}
	if err != nil {
		return err
	}
	if err := a.writeSideFiles(call, made, started); err != nil {
		return err
	}
	call.Set("snapshot.path", made.path)
	call.Set("snapshot.sha256", made.sha256)
	call.Set("snapshot.size", archivefile.HumanSize(made.allocated))
	call.Set("snapshot.version", fmt.Sprintf("etcdctl version: %s\nAPI version: %s", made.etcdVersion, made.apiVersion))
	if behind {
		call.Set("snapshot.note", noteNoQuorum)
	}
	call.Set("copy.cmd", copyCommand(call.Program, call.Unit, made.path))
	return nil
}

// noArchive is said of a snapshot that was cancelled, or cut off by the agent's stop.
const noArchive = "no archive was left"

// noteNoQuorum is the note of a snapshot that is right, and perhaps not the newest state of the cluster.
const noteNoQuorum = "etcd has no quorum: the snapshot holds what this member has heard of, and may be behind what others had"

// lacksQuorum tells whether the unit's member answers without a quorum. What else may be wrong shows in the snapshot.
func (u *Unit) lacksQuorum(ctx context.Context) bool {
	client, err := u.dial()
	if err != nil {
		return false
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, member.ProbeTimeout)
	defer cancel()
	lacks, err := client.LacksQuorum(ctx)
	return err == nil && lacks
}

// Recover removes what a run that was cut off left. The archive itself appears under its name only when it is complete.
func (a *snapshotAction) Recover(_ context.Context, call *action.Call) (string, error) {
	folder, err := inRoot("target", call.Params.String("target"))
	if err != nil {
		return "", nil // the run refused this target, so it left nothing
	}
	part := partName(folder, call)
	for _, leftover := range []string{part, part + archivefile.SumSuffix, part + archivefile.SideSuffix} {
		if err := a.removeLeftover(leftover); err != nil {
			return "", err
		}
	}
	return "unfinished files are removed", nil
}

// saveBackend streams the member's backend into a new archive file in folder, which is relative to the root.
func (u *Unit) saveBackend(ctx context.Context, call *action.Call, folder, prefix string, pace capture.Rate) (archive, error) {
	client, err := u.dial()
	if err != nil {
		return archive{}, err
	}
	defer client.Close()
	status, err := u.status(ctx, client)
	if err != nil {
		return archive{}, err
	}
	if status.Leader == 0 {
		call.Logf("the cluster has no leader: what this member has not heard of is not in the snapshot")
	}
	stream, err := capture.Open(ctx, client, pace)
	if err != nil {
		return archive{}, err
	}
	defer stream.Close()
	scanner := snapshot.NewScanner(snapshot.Options{Size: stream.Size()})
	out, err := u.createArchive(folder, call)
	if err != nil {
		return archive{}, err
	}
	defer out.discard()
	out.most = stream.Size()
	if err := archivefile.Write(out, io.TeeReader(progressReader{stream, newProgress(call, stream.Size())}, scanner), stream.Size(), time.Now()); err != nil {
		return archive{}, err
	}
	info, err := scanner.Finish()
	if err != nil {
		return archive{}, fmt.Errorf("check snapshot stream: %w", err)
	}
	if !info.Trailer {
		return archive{}, errors.New("check snapshot stream: it has no checksum at its end")
	}
	made, err := out.publish(ctx, prefix)
	if err != nil {
		return archive{}, err
	}
	made.backend, made.etcdVersion, made.apiVersion = info, status.Version, minorOf(status.Version)
	made.clusterID, made.memberID = status.ClusterID, status.MemberID
	return made, nil
}

func (u *Unit) status(ctx context.Context, client *member.Client) (member.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := member.Listens(ctx, u.Record.ClientURLs[0]); err != nil {
		return member.Status{}, fmt.Errorf("read status at %s: etcd of this unit takes no clients: %w", u.Record.ClientURLs[0], errors.Unwrap(err))
	}
	return client.Status(ctx)
}

// copyCommand is the line that fetches the archive when it is pasted into a shell.
func copyCommand(program string, name unit.Name, file string) string {
	return fmt.Sprintf("%s scp %s .", program, shellQuote(name.String()+":"+file))
}

// shellQuote quotes a word for sh where it needs that.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,", r)
	}
	if !strings.ContainsFunc(word, plain) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// minorOf gives "3.5" for "3.5.35".
func minorOf(version string) string {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return version
	}
	return parts[0] + "." + parts[1]
}

// partName is the name of the unfinished archive of a task; Recover finds it by the task's id.
func partName(folder string, call *action.Call) string {
	return path.Join(folder, "."+archivePrefix+call.TaskID+".part")
}
