package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/client/pkg/v3/types"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// secure gives everything in the stage the modes that etcd uses and makes it durable.
func secure(s datadir.Stage) error {
	if err := secureTree(filepath.Join(s.Data, "member")); err != nil {
		return err
	}
	if s.WAL != "" {
		if err := secureTree(s.WAL); err != nil {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(s.WAL)); err != nil {
			return err
		}
	}
	return errors.Join(durable.SyncDir(s.Data), durable.SyncDir(filepath.Dir(s.Data)))
}

func secureTree(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o600)
		if e.IsDir() {
			mode = 0o700
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = f.Chmod(mode)
		if err == nil {
			// The sync of a folder makes the names in it durable; their content has its own.
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	})
}

// inspect reads the new data dir as a stranger would and compares it with what it must be. Of the backend it reads what is
// not as it was when the scanner found it whole.
func inspect(scanner *snapshot.Scanner, opts Options, result Result) error {
	info, err := recheck(scanner, backendOf(opts.Stage))
	if err != nil {
		return fmt.Errorf("check new backend: %w", err)
	}
	want := opts.Source
	records, scheduled := want.Records, want.ScheduledCompactRevision
	if result.Compacted {
		records++ // etcdutl puts one empty record at the new revision.
		scheduled = result.Revision
	}
	for _, fact := range []struct {
		what      string
		want, got any
	}{
		{"revision", result.Revision, info.Revision},
		{"scheduled compaction", scheduled, info.ScheduledCompactRevision},
		{"records", records, info.Records},
		{"leases", want.Leases, info.Leases},
		{"auth enabled", want.AuthEnabled && !opts.WithoutAuth, info.AuthEnabled},
		{"storage version", want.StorageVersion, info.StorageVersion},
		{"looks newer than its etcd", false, opts.Target == oldest && info.Term != 0},
		{"alarms", int64(0), info.Alarms},
		{"trailer", false, info.Trailer},
	} {
		if fact.want != fact.got {
			return fmt.Errorf("check new backend: %s: want %v, got %v", fact.what, fact.want, fact.got)
		}
	}
	// The membership is read from the backend and the WAL together: so the WAL is whole, too.
	dir, err := datadir.At(opts.Stage.Data, opts.Stage.WAL)
	if err != nil {
		return err
	}
	members, err := dir.Members()
	if err != nil {
		return err
	}
	return opts.onlyMembers(members, result.MemberID)
}

// onlyMembers wants the members of the new cluster and no others. id is that of the member whose data dir it is.
func (o Options) onlyMembers(members []datadir.Member, id uint64) error {
	urls, err := types.NewURLsMap(o.initialCluster())
	if err != nil {
		return err
	}
	for _, m := range members {
		if !slices.Equal(m.PeerURLs, urls[m.Name].StringSlice()) || m.Learner || (m.ID == id) != (m.Name == o.Name) {
			return fmt.Errorf("check new data dir: its members are %+v", members)
		}
	}
	if len(members) != len(urls) {
		return fmt.Errorf("check new data dir: its members are %+v", members)
	}
	return nil
}

func recheck(scanner *snapshot.Scanner, path string) (info snapshot.Info, err error) {
	f, err := os.Open(path)
	if err != nil {
		return snapshot.Info{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stat, err := f.Stat()
	if err != nil {
		return snapshot.Info{}, err
	}
	return scanner.Recheck(f, stat.Size())
}

// Space that a restore takes beyond the backend itself, in bytes.
const (
	// etcd preallocates one WAL file of 64 MB and has the next one ready.
	walSpace = 2 * 64_000_000
	// bbolt grows its file in steps of 16 MiB; one while it is restored and one when it is first served.
	growthSpace = 32 << 20
)

// SpaceNeeded is how much free space Build and the first start of etcd need for a backend of the given size: on the file
// system of the data dir and on that of the WAL; the sum where they are one. The backend file that Build reads is extra;
// Fresh has none.
// All numbers are bytes.
func SpaceNeeded(backend int64) (data, wal int64) { return backend + growthSpace, walSpace }
