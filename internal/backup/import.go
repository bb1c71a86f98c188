package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// ImportOptions of Import.
type ImportOptions struct {
	// Cluster is the name of the cluster in the repository; required.
	Cluster string
	// Timeline is that of the cluster, when a person knows it; "" for one of its own.
	Timeline repository.Timeline
	// File is what is known of the file; Checksum in it is filled in here. Node is the machine that was backed up, EtcdVersion
	// that of its etcd; both may be "".
	File              repository.File
	Node, EtcdVersion string
	// Size is that of the backend in bytes, -1 when it is not known.
	Size int64
	// RetainUntil locks the objects in stores that can.
	RetainUntil time.Time
	// Observe is told how many bytes of the backend are stored. It may be nil.
	Observe func(sent int64)
}

// Import stores the backend that a file gives as a snapshot, after every page of it was checked. It is put in the order of
// history by when the file says that it was taken, unless that is yet to come. A backend without etcd's checksum gets one, so
// that etcd's own tools read what is stored; the manifest says so.
func Import(ctx context.Context, repo *repository.Repository, writer *repository.Writer, content io.Reader, o ImportOptions) (repository.Manifest, error) {
	fail := func(err error) (repository.Manifest, error) {
		return repository.Manifest{}, fmt.Errorf("import %q: %w", o.File.Name, err)
	}
	if _, err := repo.Enrolled(ctx, writer.Public().Fingerprint(), repository.RoleBackup); err != nil {
		return fail(fmt.Errorf("signing key of this host: %w", err))
	}
	there, _, err := repo.Snapshots(ctx, o.Cluster)
	if err != nil {
		return fail(err)
	}
	upload, err := repo.Upload(ctx, o.Cluster, repository.UploadOptions{RetainUntil: o.RetainUntil, Taken: o.taken(time.Now())})
	if err != nil {
		return fail(err)
	}
	info, err := o.transfer(ctx, upload, content)
	if err == nil {
		err = known(there, hex.EncodeToString(info.SHA256[:]))
	}
	if err != nil {
		upload.Abort()
		return fail(err)
	}
	if err := upload.Finish(); err != nil {
		return fail(err)
	}
	version := o.EtcdVersion
	if version == "" {
		version, _ = snapshot.SourceVersion(info)
	}
	file := o.File
	file.Checksum = info.Trailer
	m := repository.Manifest{
		Timeline: o.Timeline, Content: repository.ContentOf(info), HashKV: repository.HashKV{Missing: "imported from a file"},
		Source: repository.Source{MemberName: o.Node, EtcdVersion: version, File: &file},
	}
	if !info.Trailer {
		m.Content.Trailer = true
		m.Content.Size += int64(len(info.SHA256))
	}
	manifest, err := upload.Publish(ctx, writer, m)
	if err != nil {
		return fail(err)
	}
	return manifest, nil
}

// ErrImported means that a snapshot with the very same content is stored already.
var ErrImported = errors.New("the same content is stored already")

func known(there []repository.Read, sum string) error {
	for _, read := range there {
		if read.Err == nil && read.Manifest.Content.SHA256 == sum {
			return fmt.Errorf("%w, as snapshot %s", ErrImported, read.Point.ID.Long())
		}
	}
	return nil
}

// taken is when the snapshot was taken; a time that is yet to come is not believed.
func (o ImportOptions) taken(now time.Time) time.Time {
	if o.File.Taken.After(now) {
		return time.Time{}
	}
	return o.File.Taken
}

// transfer copies the backend and checks it.
func (o ImportOptions) transfer(ctx context.Context, upload io.Writer, content io.Reader) (snapshot.Info, error) {
	scanner := snapshot.NewScanner(snapshot.Options{Size: max(o.Size, 0)})
	buffer := make([]byte, 128<<10)
	var sent int64
	for {
		if ctx.Err() != nil {
			return snapshot.Info{}, context.Cause(ctx)
		}
		n, err := content.Read(buffer)
		if n > 0 {
			if _, err := scanner.Write(buffer[:n]); err != nil {
				return snapshot.Info{}, err
			}
			if _, err := upload.Write(buffer[:n]); err != nil {
				return snapshot.Info{}, err
			}
			sent += int64(n)
			if o.Observe != nil {
				o.Observe(sent)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return snapshot.Info{}, err
		}
	}
	info, err := scanner.Finish()
	if err != nil {
		return info, err
	}
	if !info.Trailer {
		// A file that was copied has whole pages only. What is behind them is no checksum of these bytes.
		if extra := info.Size % int64(info.PageSize); extra != 0 {
			return info, fmt.Errorf("it has %d bytes behind its last page, which are not etcd's checksum", extra)
		}
		if _, err := upload.Write(info.SHA256[:]); err != nil {
			return info, err
		}
	}
	return info, nil
}
