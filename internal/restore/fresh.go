package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// FreshOptions of Fresh.
type FreshOptions struct {
	// DataDir is where the data dir will be. It does not exist, and its parent does; or it is an empty folder, which may be a
	// mount point or behind a symbolic link. Such a folder keeps its owner, to whom root gives what is restored, and gets
	// mode 0700.
	DataDir string
	// Name and PeerURL are those of the member that will serve the data.
	Name, PeerURL string
	// Size is that of the backend file, in bytes. With Build it is what the file and all that Build writes into its work folder
	// may take at once, which only has to be about right.
	Size int64
	// Fetch writes the backend file to dst and gives the same bytes to the scanner. It is called once. What it wrote is used
	// only when it gives no error and the scanner found it whole.
	Fetch func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error
	// Build, when it is set, makes the backend file at path, where nothing is, instead of Fetch: as a regular file, whole, with
	// or without etcd's trailer. work is an empty folder on the same file system, of mode 0700, which is removed afterwards.
	// It is called once. What it made is used only when it gives no error and a scanner finds every page of it whole.
	Build func(ctx context.Context, path, work string) error
	// Revision, when it is set, is what the backend must have; see ErrOtherRevision.
	Revision history.Revision
	// InitialCluster, Token, Target, KeepRevision, Bump, HighestKnown and AcceptCorrupt are as in Options.
	InitialCluster, Token string
	Target                Minor
	KeepRevision          bool
	Bump, HighestKnown    history.Revision
	AcceptCorrupt         bool
}

// ErrTargetInUse means that a data dir is there already, or on its way.
var ErrTargetInUse = errors.New("a restore writes only where there is no data")

// ErrOtherRevision means that the backend does not have the revision that was asked for.
var ErrOtherRevision = errors.New("the backend is of another revision")

// Fresh makes a data dir where there is none, from a backend file that is fetched for it and checked while it comes, or that is
// built for it and then checked. It works in a hidden folder on the same file system: beside the target, or, where that is an
// empty folder, in it. One rename gives the result its name, or the folder "member", without which etcd finds no data; so it
// is there whole or not at all. What a crash left in the hidden folder is removed by the next call; it holds every secret of
// a cluster. Of several at once into one place, one goes on and the others are ErrTargetInUse.
func Fresh(ctx context.Context, o FreshOptions) (result Result, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore into %q: %w", o.DataDir, err)
		}
	}()
	o.DataDir = filepath.Clean(o.DataDir)
	opts := Options{
		Name: o.Name, PeerURL: o.PeerURL, InitialCluster: o.InitialCluster, Token: o.Token,
		Target: o.Target, KeepRevision: o.KeepRevision, Bump: o.Bump, HighestKnown: o.HighestKnown, AcceptCorrupt: o.AcceptCorrupt,
	}
	who, err := opts.identify()
	if err != nil {
		return Result{}, err
	}
	where, err := checkFresh(o.DataDir, o.Size)
	if err != nil {
		return Result{}, err
	}
	end, err := where.begin()
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, end()) }()
	stage := datadir.Stage{Data: filepath.Join(where.work, "data")}
	if err := os.Mkdir(stage.Data, 0o700); err != nil {
		return Result{}, err
	}
	opts.Stage = stage
	if result, err = o.build(ctx, opts, who); errors.Is(err, unix.ENOSPC) {
		return Result{}, fmt.Errorf("%w (a restore of this snapshot takes %s)", err, humanize.Bytes(uint64(o.space())))
	} else if err != nil {
		return Result{}, err
	}
	if err := where.publish(stage.Data); err != nil {
		return Result{}, err
	}
	return result, nil
}

// CheckFresh refuses what Fresh would refuse before it fetches anything: a place that holds something, where nothing can be
// written, or that is too small for a backend file of that size, in bytes. It changes nothing.
func CheckFresh(dataDir string, size int64) error {
	_, err := checkFresh(dataDir, size)
	return err
}

func checkFresh(dataDir string, size int64) (place, error) {
	where, err := placeOf(dataDir)
	if err != nil {
		return place{}, err
	}
	return where, where.room(FreshOptions{Size: size}.space())
}

// space is what the restore and the first start of etcd take, in bytes.
func (o FreshOptions) space() int64 {
	data, wal := SpaceNeeded(o.Size)
	return data + wal
}

// build makes the data dir in the stage. The backend is written once, where it will be served.
func (o FreshOptions) build(ctx context.Context, opts Options, who identity) (Result, error) {
	scanner, err := o.backend(ctx, opts.Stage)
	if err != nil {
		return Result{}, err
	}
	if opts.Source, err = scanner.Finish(); err != nil {
		return Result{}, err
	}
	if got := opts.Source.Revision; o.Revision != 0 && got != o.Revision {
		return Result{}, fmt.Errorf("%w: want %d, got %d", ErrOtherRevision, o.Revision, got)
	}
	if err := opts.checkRevision(); err != nil {
		return Result{}, err
	}
	return build(ctx, opts, who, scanner)
}

// backend makes the backend file and gives the scanner that has seen all of it.
func (o FreshOptions) backend(ctx context.Context, stage datadir.Stage) (*snapshot.Scanner, error) {
	path := backendOf(stage)
	if o.Build != nil {
		work := filepath.Join(stage.Data, "build")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := os.Mkdir(work, 0o700); err != nil {
			return nil, err
		}
		if err := o.Build(ctx, path, work); err != nil {
			return nil, err
		}
		if err := os.RemoveAll(work); err != nil {
			return nil, err
		}
		return scanBuilt(ctx, path)
	}
	scanner := snapshot.NewScanner(snapshot.Options{Size: o.Size})
	return scanner, writeBackend(path, o.Size, scanner, durable.NewOverlapped, func(out io.Writer) error {
		return o.Fetch(ctx, out, scanner)
	})
}
