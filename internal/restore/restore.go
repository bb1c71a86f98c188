// Package restore turns a checked backend file into the data dir of a new cluster of one member, and says beforehand what
// a restore will do.
//
// It sits between snapshot, which has judged the file, and the restore action, which hands it a stage of datadir and
// switches to what was built. Build writes only into the empty stage and never talks to a live cluster; stopping,
// switching and starting etcd is the caller's. What a restore changes is etcd's own package etcdutl's to say, which is run
// on a skeleton of the backend; the backend itself is written once and changed in place (see docs/adr/0005). What is added
// here is that the result is complete, durable, private and checked before anybody relies on it. It is made with etcd
// 3.7's code and served by etcd 3.4 to 3.7.
//
// Build runs in one goroutine and may run for several stages at once. Not promised: that the members of the old cluster
// cannot be reached any more; they keep their own cluster id and are strangers to the new one.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"go.etcd.io/etcd/client/pkg/v3/types"
	etcdsnapshot "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// RevisionBump is how far above every revision that anyone may have seen a restored cluster goes on. It is the distance
// that etcd's documentation advises: more than any cluster writes between two snapshots.
const RevisionBump = 1_000_000_000

// ErrCorruptAlarm means that the members of the cluster that was saved had found their data to differ.
var ErrCorruptAlarm = errors.New("the backend carries a CORRUPT alarm: its cluster had found that its members disagree")

// ErrNoToken means that a cluster of several members has no token, so that each would be restored into a cluster of its own.
var ErrNoToken = errors.New("several members must be restored with the same token, one that no other restore had")

// Options of Build.
type Options struct {
	// Backend is the path of the backend file, with or without etcd's trailer. It is only read.
	Backend string
	// Source is what snapshot said of that very file.
	Source snapshot.Info
	// Stage is where the data dir goes: its data folder is absent or empty, its WAL folder absent.
	Stage datadir.Stage
	// Name and PeerURL are those of the member that will serve the data.
	Name, PeerURL string
	// Target is the version of the etcd that will serve the data; zero when that is not known.
	Target Minor
	// InitialCluster are all members of the new cluster, "NAME=URL,NAME=URL", this one with them; "" is this one alone. Each
	// of several is restored with the same Token, which makes them one cluster; "" is a token that no other restore has.
	InitialCluster, Token string
	// KeepRevision lets the new cluster go on at the revision of the backend. By default it goes on Bump above that and
	// HighestKnown, and everything below is marked compacted: then watchers and caches that have seen a later revision, as
	// those of Kubernetes API servers, notice and read everything again, instead of missing changes.
	KeepRevision bool
	// Bump is RevisionBump when zero.
	Bump history.Revision
	// HighestKnown is the highest revision that clients of the unit may have seen; zero when not known.
	HighestKnown history.Revision
	// AcceptCorrupt takes a backend that carries a CORRUPT alarm.
	AcceptCorrupt bool
	// WithoutAuth turns off that users must log in. It is for a data dir that only this program will look at.
	WithoutAuth bool
}

// Result is what Build has made.
type Result struct {
	// Revision is the first revision of the new cluster. Unless it was kept, it is marked compacted.
	Revision  history.Revision
	Compacted bool
	// ClusterID and MemberID are new.
	ClusterID, MemberID uint64
	// HashChecked tells that etcd's own sha256 was checked; a file without trailer has none.
	HashChecked bool
	// DroppedAlarms names alarms of the old cluster that were not taken over, such as "NOSPACE".
	DroppedAlarms []string
}

// Build makes a data dir in the stage, checks it as a whole and makes it durable, with etcd's own modes 0700 and 0600
// whatever the umask is. Keys, values, revisions, versions, leases, users and roles are those of the backend; the members
// and alarms of the old cluster and a downgrade that it was in are not taken over. The cluster id is new.
//
// ErrCorruptAlarm can be lifted by Options. On error nothing is left in the stage. Build looks at ctx while it copies the
// file, which takes the longest, and between its other steps.
func Build(ctx context.Context, opts Options) (result Result, err error) {
	who, err := opts.identify()
	if err == nil {
		err = opts.check()
	}
	if err != nil {
		return Result{}, fmt.Errorf("build data dir: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("build data dir: %w", err), empty(opts.Stage))
		}
	}()
	scanner := snapshot.NewScanner(snapshot.Options{Size: opts.Source.Size})
	// Paced, because an etcd may be alive on the same disk.
	err = writeBackend(backendOf(opts.Stage), opts.Source.Size, scanner, durable.NewStepwise, func(out io.Writer) error {
		return copyScanned(ctx, opts.Backend, out, scanner)
	})
	if err != nil {
		return Result{}, err
	}
	if info, err := scanner.Finish(); err != nil {
		return Result{}, fmt.Errorf("copy backend: %w", err)
	} else if info.SHA256 != opts.Source.SHA256 {
		return Result{}, fmt.Errorf("copy backend: its sha256 is %x, not the %x that was checked", info.SHA256, opts.Source.SHA256)
	}
	return build(ctx, opts, who, scanner)
}

// check refuses before anything is written, so that Build never removes what it did not make.
func (o Options) check() error {
	info, err := os.Stat(o.Backend)
	if err != nil {
		return err
	}
	if info.Size() != o.Source.Size {
		return fmt.Errorf("backend %q has %d bytes, not the %d that were checked", o.Backend, info.Size(), o.Source.Size)
	}
	if err := o.checkRevision(); err != nil {
		return err
	}
	entries, err := os.ReadDir(o.Stage.Data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("stage %q is not empty", o.Stage.Data)
	}
	if o.Stage.WAL == "" {
		return nil
	}
	if _, err := os.Lstat(o.Stage.WAL); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("WAL stage %q exists", o.Stage.WAL))
	}
	return nil
}

func (o Options) checkRevision() error {
	if o.Bump < 0 {
		return CheckBump(o.Source.Revision, o.HighestKnown, o.Bump)
	}
	return CheckBump(o.Source.Revision, o.HighestKnown, o.bump())
}

// bump is by how much the revision goes on; 0 when it is kept.
func (o Options) bump() history.Revision {
	switch {
	case o.KeepRevision:
		return 0
	case o.Bump == 0:
		return RevisionBump
	}
	return o.Bump
}

// initialCluster are the members of the new cluster.
func (o Options) initialCluster() string { return cmp.Or(o.InitialCluster, o.Name+"="+o.PeerURL) }

// build turns the stage, which holds the backend where it will be served and nothing else, into a data dir. The scanner
// has found that backend whole.
func build(ctx context.Context, opts Options, who identity, scanner *snapshot.Scanner) (Result, error) {
	backend, bones := backendOf(opts.Stage), skeleton{folder: skeletonOf(opts.Stage)}
	source, err := readSource(backend)
	if err != nil {
		return Result{}, err
	}
	if source.corrupt && !opts.AcceptCorrupt {
		return Result{}, ErrCorruptAlarm
	}
	result := Result{
		HashChecked: opts.Source.Trailer, DroppedAlarms: source.alarms, ClusterID: who.cluster, MemberID: who.member,
		Revision: NextRevision(opts.Source.Revision, opts.HighestKnown, opts.bump()), Compacted: !opts.KeepRevision,
	}
	config := etcdsnapshot.RestoreConfig{
		SnapshotPath: bones.before(), SkipHashCheck: true,
		Name: opts.Name, PeerURLs: []string{opts.PeerURL}, InitialCluster: opts.initialCluster(), InitialClusterToken: who.token,
		OutputDataDir: bones.data(), OutputWALDir: opts.Stage.WAL,
	}
	if result.Compacted {
		// etcdutl counts from the last record, which a compaction may have left below the revision.
		config.MarkCompacted, config.RevisionBump = true, uint64(result.Revision-source.lastRecord)
	}
	steps := []func() error{
		func() error { return bones.make(backend) },
		func() error {
			return runEtcd(func(log *zap.Logger) error { return etcdsnapshot.NewV3(log).Restore(config) })
		},
		func() error { return dropState(bones.after(), source, opts) },
		func() error { return bones.graft(backend) },
		func() error { return bones.move(opts.Stage) },
		func() error { return secure(opts.Stage) },
		func() error { return inspect(scanner, opts, result) },
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return Result{}, context.Cause(ctx)
		}
		if err := step(); err != nil {
			return Result{}, err
		}
	}
	return result, nil
}

// identity is who the new cluster and its member are.
type identity struct {
	token           string
	cluster, member uint64
}

// identify makes an identity that no other restore has: a token of its own makes the cluster id differ from that of any
// other, so that a member of an old cluster that is still alive can neither join nor be joined.
func (o Options) identify() (identity, error) {
	if o.Name == "" {
		return identity{}, errors.New("the member has no name")
	}
	own, err := types.NewURLsMap(o.Name + "=" + o.PeerURL)
	if err != nil {
		return identity{}, err
	}
	if len(own) != 1 || len(own[o.Name]) != 1 {
		return identity{}, fmt.Errorf("name %q and peer URL %q do not make one member", o.Name, o.PeerURL)
	}
	urls, err := types.NewURLsMap(o.initialCluster())
	if err != nil {
		return identity{}, err
	}
	if !slices.Equal(urls[o.Name].StringSlice(), own[o.Name].StringSlice()) {
		return identity{}, fmt.Errorf("member %q with peer URL %q is not in the initial cluster %q", o.Name, o.PeerURL, o.initialCluster())
	}
	if len(urls) > 1 && o.Token == "" {
		return identity{}, ErrNoToken
	}
	who := identity{token: cmp.Or(o.Token, uuid.NewString())}
	cluster, err := membership.NewClusterFromURLsMap(zap.NewNop(), who.token, urls)
	if err != nil {
		return identity{}, err
	}
	who.cluster, who.member = uint64(cluster.ID()), uint64(cluster.MemberByName(o.Name).ID)
	return who, nil
}

func backendOf(s datadir.Stage) string { return filepath.Join(s.Data, "member", "snap", "db") }

// empty removes what Build has put into a stage that was empty.
func empty(s datadir.Stage) error {
	err := errors.Join(os.RemoveAll(filepath.Join(s.Data, "member")), os.RemoveAll(skeletonOf(s)))
	if s.WAL != "" {
		err = errors.Join(err, os.RemoveAll(s.WAL), os.RemoveAll(s.WAL+".tmp")) // etcd's WAL starts under that name.
	}
	return err
}
