// Package backup carries a snapshot of a live cluster into a repository in one pass: it chooses a member, streams its
// backend, checks it page by page while it is sealed and sent, and has it signed.
//
// It sits between member and capture, which read from etcd, and repository. Run may be called for several clusters at once.
// It writes nothing to etcd and nothing to the local disk. Not promised: that the member that was read agrees with the
// others; HashKV in the manifest lets a later check find out.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// Options of Run. The zero value of those that are not required is the documented default.
type Options struct {
	// Cluster is the name of the cluster in the repository; required.
	Cluster string
	// Rate is the pace of the stream.
	Rate capture.Rate
	// NewTimeline says that the cluster was restored or replaced since its last backup, and that this is known.
	NewTimeline bool
	// CASHA256 is the fingerprint of the authority that the members' certificates were checked with.
	CASHA256 string
	// RetainUntil locks the objects in stores that can.
	RetainUntil time.Time
	// Fast compresses faster, and less.
	Fast bool
	// Observe is told what happens. It may be nil.
	Observe func(Event)
}

// Event is something that happened on the way. Exactly one of its fields is set.
type Event struct {
	// Chosen is the member whose backend is read from here on.
	Chosen *member.Candidate
	// Skipped is a member that was not taken, and Why.
	Skipped *member.Candidate
	// PassedOver is why an earlier snapshot cannot be believed, so that this backup is not compared with it.
	PassedOver error
	// Gone is how many manifests this host has signed in a repository that holds none any more.
	Gone int64
	// Sent counts bytes of the backend, of Of.
	Sent, Of int64
}

// Run makes one backup. clients are those of the members that can be reached, or could be; the best one is read, and the
// next one when it fails. The caller closes them.
func Run(ctx context.Context, repo *repository.Repository, writer *repository.Writer, clients []*member.Client, opts Options) (repository.Manifest, error) {
	if opts.Observe == nil {
		opts.Observe = func(Event) {}
	}
	if _, err := repo.Enrolled(ctx, writer.Public().Fingerprint(), repository.RoleBackup); err != nil {
		return repository.Manifest{}, fmt.Errorf("back up cluster %q: signing key of this host: %w", opts.Cluster, err)
	}
	last, err := repo.NewestLive(ctx, opts.Cluster, func(err error) { opts.Observe(Event{PassedOver: err}) })
	if err != nil {
		return repository.Manifest{}, fmt.Errorf("back up cluster %q: %w", opts.Cluster, err)
	}
	if seen := writer.Head(repo).Sequence; last == nil && seen > 0 {
		clusters, err := repo.Clusters(ctx)
		if err != nil {
			return repository.Manifest{}, fmt.Errorf("back up cluster %q: %w", opts.Cluster, err)
		}
		if len(clusters) == 0 {
			opts.Observe(Event{Gone: seen})
		}
	}
	candidates, skipped, err := member.Choose(ctx, clients)
	for i := range skipped {
		opts.Observe(Event{Skipped: &skipped[i]})
	}
	if err != nil {
		return repository.Manifest{}, fmt.Errorf("back up cluster %q: %w", opts.Cluster, err)
	}
	timeline, err := continues(last, candidates, opts)
	if last == nil && !opts.NewTimeline {
		timeline, err = begins(ctx, repo, opts.Cluster, candidates[0])
	}
	if err != nil {
		return repository.Manifest{}, fmt.Errorf("back up cluster %q: %w", opts.Cluster, err)
	}
	var failed []error
	for i := range candidates {
		c := &candidates[i]
		opts.Observe(Event{Chosen: c})
		manifest, err := from(ctx, repo, writer, *c, timeline, opts)
		if err == nil {
			return manifest, nil
		}
		if ctx.Err() != nil {
			return repository.Manifest{}, fmt.Errorf("back up cluster %q: %w", opts.Cluster, context.Cause(ctx))
		}
		if !errors.Is(err, errMember) {
			return repository.Manifest{}, fmt.Errorf("back up cluster %q: %w", opts.Cluster, err) // another member would not help
		}
		failed = append(failed, fmt.Errorf("member at %s: %w", c.Client.Endpoint(), err))
		c.Why = err.Error()
		opts.Observe(Event{Skipped: c})
	}
	return repository.Manifest{}, fmt.Errorf("back up cluster %q: %w", opts.Cluster, errors.Join(failed...))
}

// errMember is the class of failures that another member may not have.
var errMember = errors.New("its snapshot failed")

// from backs up one member.
func from(ctx context.Context, repo *repository.Repository, writer *repository.Writer, c member.Candidate, timeline repository.Timeline, opts Options) (repository.Manifest, error) {
	catchUp(ctx, c)
	stream, err := capture.Open(ctx, c.Client, opts.Rate)
	if err != nil {
		return repository.Manifest{}, fmt.Errorf("%w: %w", errMember, err)
	}
	defer stream.Close()
	upload, err := repo.Upload(ctx, opts.Cluster, repository.UploadOptions{RetainUntil: opts.RetainUntil, Fast: opts.Fast})
	if err != nil {
		return repository.Manifest{}, err
	}
	info, err := transfer(upload, stream, opts.Observe)
	if err != nil {
		upload.Abort()
		return repository.Manifest{}, err
	}
	if err := upload.Finish(); err != nil {
		return repository.Manifest{}, err
	}
	content := repository.ContentOf(info)
	return upload.Publish(ctx, writer, repository.Manifest{
		Timeline: timeline, Content: content, HashKV: hashKV(ctx, c.Client, content),
		Source: repository.Source{
			ClusterID: c.Status.ClusterID.String(), MemberID: c.Status.MemberID.String(), MemberName: c.Name,
			Endpoint: c.Client.Endpoint(), EtcdVersion: c.Status.Version, CASHA256: opts.CASHA256, Role: c.Role,
		},
	})
}

// catchUpTimeout bounds the wait for a member that is behind.
const catchUpTimeout = 5 * time.Second

// catchUp brings the member to everything that the cluster had acknowledged before the backup began, as a follower may be a
// moment behind: a read through the leader waits for that. Where there is no quorum there is no such read, and what the
// member has is better than nothing.
func catchUp(ctx context.Context, c member.Candidate) {
	if c.Status.Leader == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	_ = c.Client.Probe(ctx)
}

// transfer copies the stream and checks it.
func transfer(upload io.Writer, stream *capture.Stream, observe func(Event)) (snapshot.Info, error) {
	scanner := snapshot.NewScanner(snapshot.Options{Size: stream.Size()})
	buffer := make([]byte, 128<<10)
	var sent int64
	for {
		n, err := stream.Read(buffer)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return snapshot.Info{}, fmt.Errorf("%w: %w", errMember, err)
		}
		if _, err := scanner.Write(buffer[:n]); err != nil {
			return snapshot.Info{}, fmt.Errorf("%w: check snapshot stream: %w", errMember, err)
		}
		if _, err := upload.Write(buffer[:n]); err != nil {
			return snapshot.Info{}, err
		}
		sent += int64(n)
		observe(Event{Sent: sent, Of: stream.Size()})
	}
	info, err := scanner.Finish()
	if err == nil && !info.Trailer {
		err = errors.New("it has no checksum at its end")
	}
	if err != nil {
		return snapshot.Info{}, fmt.Errorf("%w: check snapshot stream: %w", errMember, err)
	}
	return info, nil
}

// hashTimeout bounds the question for a hash: the member reads its whole keyspace for it, a second for 3 GB.
const hashTimeout = time.Minute

// hashKV asks the member for its hash at the revision of the snapshot. It is a help for later checks, so that there is none
// is no failure.
func hashKV(ctx context.Context, client *member.Client, content repository.Content) repository.HashKV {
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	hash, compact, err := client.HashKV(ctx, content.Revision)
	if err != nil {
		return repository.HashKV{Missing: err.Error()}
	}
	return repository.HashKV{Hash: hash, Revision: content.Revision, CompactRevision: compact}
}
