package unitaction

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/scratch"
)

// v2Unpacked is the folder of the scratch folder that an archive of the v2 store is unpacked into.
const v2Unpacked = "v2-archive"

// v2Backend is the backend of a v2 archive: it has the membership and no keys.
const v2Backend = "member/snap/db"

// unpackMember writes one file of a v2 archive to the scratch folder and checks it, if there is room for all so far and
// for what is built from it. scanner judges the backend.
func (u *Unit) unpackMember(s *source, e archivefile.Entry, content io.Reader, scanner io.Writer) error {
	s.unpacked += e.Size
	if err := u.checkSpace(s.unpacked); err != nil {
		return err
	}
	s.folder = filepath.Join(u.Scratch, v2Unpacked)
	target := filepath.Join(s.folder, e.Name)
	if err := durable.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	if e.Name == v2Backend {
		content = io.TeeReader(content, scanner)
	}
	if err := unpackFile(target, content); err != nil {
		return err
	}
	if e.Name == v2Backend {
		s.backend = target
		return nil
	}
	_, err := checkLogFile(s.folder, e.Name, nil)
	return err
}

// checkV2Target refuses a unit whose etcd could not open the v2 store, or would let nobody use it.
func (u *Unit) checkV2Target(ctx context.Context, version string) error {
	err := checkV2Store(version)
	if err == nil {
		err = u.liveV2().served(ctx)
		if err != nil && !errors.Is(err, errNoV2API) && v2Argument(u.Record.EtcdArgs) {
			err = nil // It does not run, or wants a login: what it is started with counts.
		} else if err != nil {
			err = fmt.Errorf("etcd %s of the unit has no v2 store in use: %w", version, errNoV2API)
		}
	}
	if err != nil {
		return fmt.Errorf("the archive holds v2 keys: %w", err)
	}
	return nil
}

// noteV2 adds to the plan what becomes of the keys of the other store: a restore brings one kind and ends the other.
func (r *restoration) noteV2(ctx context.Context) {
	note := func(format string, args ...any) { r.plan.Notes = append(r.plan.Notes, fmt.Sprintf(format, args...)) }
	r.plan.V2 = r.source.kind == archivefile.V2
	if r.plan.V2 && r.source.info.Records > 0 {
		note("the archive also holds v3 keys, %d records of them, which are served as they are", r.source.info.Records)
	}
	if r.plan.Live == nil || checkV2Store(r.plan.Target) != nil {
		return
	}
	keys, err := r.liveV2().countKeys(ctx)
	switch {
	case errors.Is(err, errNoV2API):
	case err != nil:
		note("whether the unit has v2 keys now cannot be said (%v); they go", err)
	case keys > 0:
		r.plan.Live.V2Keys = keys
		if !r.plan.V2 {
			note("the v2 keys of the unit (%d) go: the archive holds v3 keys only", keys)
		}
		if !r.call.Params.Bool("skip-backup") {
			note("the archive of the present data holds its v3 keys only; its v2 keys are in the kept data")
		}
	}
	if r.plan.V2 && r.plan.Live.Keys > 0 {
		note("the v3 keys of the unit (%d) go: the archive holds v2 keys only", r.plan.Live.Keys)
	}
}

// buildV2 makes the new data dir from a v2 archive: etcd itself, started on it in the stage, makes it that of a cluster of
// one and shows that it can be served.
func (r *restoration) buildV2(ctx context.Context) error {
	run := filepath.Join(r.Scratch, "v2-run")
	built, err := restore.BuildV2(ctx, restore.V2Options{
		Folder: r.source.folder, Stage: r.stage, Name: r.Record.Member, PeerURL: r.Record.PeerURL,
		Found: func(ctx context.Context, made restore.V2Result) (err error) {
			etcd, err := r.startScratchEtcd(ctx, run, r.stage.Data, r.stage.WAL)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, etcd.Stop()) }()
			return r.found(ctx, etcd, made)
		},
	})
	if err = errors.Join(err, os.RemoveAll(run)); err != nil {
		return err
	}
	r.built = restore.Result{ClusterID: built.ClusterID, MemberID: built.MemberID}
	r.plan.SourceKeys = r.source.keys
	return nil
}

// found makes the only member of the new cluster known by its peer URL, and counts its keys.
func (r *restoration) found(ctx context.Context, etcd *scratch.Etcd, made restore.V2Result) (err error) {
	if r.source.keys, err = countV2Keys(ctx, etcd); err != nil {
		return err
	}
	if r.source.keys == unknownKeys {
		r.plan.Notes = append(r.plan.Notes, "the v2 keys cannot be counted: the store asks for a login")
	}
	client, err := etcd.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, scratchTimeout)
	defer cancel()
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if status.ClusterID != member.ID(made.ClusterID) || status.MemberID != member.ID(made.MemberID) {
		return fmt.Errorf("etcd in scratch is member %s of cluster %s", status.MemberID, status.ClusterID)
	}
	if err := client.SetPeerURL(ctx, status.MemberID, r.Record.PeerURL); err != nil {
		return err
	}
	members, err := client.Members(ctx)
	if err != nil {
		return err
	}
	if len(members) != 1 || !slices.Equal(members[0].PeerURLs, []string{r.Record.PeerURL}) {
		return fmt.Errorf("the members of the new cluster are %+v", members)
	}
	return nil
}
