package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
)

// CopyOptions of Copy.
type CopyOptions struct {
	// From and To are the two repositories.
	From, To *repository.Repository
	// Cluster is the name in To.
	Cluster string
	// Reseal decrypts with Identities and encrypts to the recipients of To. Without it the stored bytes are copied as they
	// are, which needs no key: who could read them before can read them there.
	Reseal     bool
	Identities []seal.Identity
	// Retain is as in repository.UploadOptions.
	Retain repository.UploadOptions
	// Observe, which may be nil, is given the stored bytes as they are read.
	Observe io.Writer
}

var (
	// ErrOtherEncryption means that stored bytes cannot be copied as they are, as one repository is encrypted and the other
	// is not.
	ErrOtherEncryption = errors.New("one repository is encrypted and the other is not")
	// ErrOtherHistory means that the other repository has another cluster by that name.
	ErrOtherHistory = errors.New("the other repository has another history by that name")
)

// Copy stores a snapshot of one repository in another, with the same times, timeline and content, signed by writer, whose
// manifest says whose snapshot it is.
func Copy(ctx context.Context, writer *repository.Writer, read repository.Read, o CopyOptions) (repository.Manifest, error) {
	fail := func(err error) (repository.Manifest, error) {
		return repository.Manifest{}, fmt.Errorf("copy snapshot %s: %w", read.Point.ID.Long(), err)
	}
	if read.Err != nil {
		return fail(read.Err)
	}
	m := read.Manifest
	if !o.Reseal && m.Object.Encryption != o.To.Document().Encryption {
		return fail(ErrOtherEncryption)
	}
	if _, err := o.To.Enrolled(ctx, writer.Public().Fingerprint(), repository.RoleBackup); err != nil {
		return fail(fmt.Errorf("signing key of this host: %w", err))
	}
	opts := repository.UploadOptions{RetainUntil: o.Retain.RetainUntil, Taken: m.ID.Time}
	if m.Started.Truncate(time.Second).Equal(m.ID.Time) {
		opts.Taken = m.Started // to the millisecond, for what its revisions' times follow from
	}
	if !o.Reseal {
		opts.Verbatim = &m.Object
	}
	upload, err := o.To.Upload(ctx, o.Cluster, opts)
	if err != nil {
		return fail(err)
	}
	if o.Reseal {
		_, _, err = o.From.Fetch(ctx, m, o.Identities, upload, o.Observe)
	} else {
		err = o.From.CopyStored(ctx, m, upload, o.Observe)
	}
	if err != nil {
		upload.Abort()
		return fail(err)
	}
	if err := upload.Finish(); err != nil {
		return fail(err)
	}
	next := repository.Manifest{Timeline: m.Timeline, Source: m.Source, Content: m.Content, HashKV: m.HashKV, Completed: m.Completed}
	next.Source.Copied = &repository.Copied{Repository: m.Repository, Manifest: read.SHA256, Signer: m.Signer}
	copied, err := upload.Publish(ctx, writer, next)
	if err != nil {
		return fail(err)
	}
	return copied, nil
}

// Uncopied leaves those snapshots that the other repository has no copy of, and refuses when what it has by that name is of
// another history.
func Uncopied(ctx context.Context, reads []repository.Read, to *repository.Repository, cluster string) ([]repository.Read, error) {
	there, _, err := to.Snapshots(ctx, cluster)
	if err != nil {
		return nil, err
	}
	copies, related := map[string]bool{}, len(there) == 0
	for _, read := range there {
		if read.Err != nil {
			continue
		}
		if c := read.Manifest.Source.Copied; c != nil {
			copies[c.Manifest] = true
		}
		related = related || slices.ContainsFunc(reads, func(r repository.Read) bool { return r.Point.Timeline == read.Point.Timeline })
	}
	if !related {
		return nil, fmt.Errorf("copy to cluster %q: %w", cluster, ErrOtherHistory)
	}
	return slices.DeleteFunc(slices.Clone(reads), func(r repository.Read) bool { return copies[r.SHA256] }), nil
}
