package verify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/scratch"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// What the member of a drill is called. Nobody can reach it by these URLs: it listens on sockets.
const (
	drillName   = "drill"
	drillPeer   = "http://localhost:2380"
	drillClient = "http://localhost:2379"
)

const (
	// startTime bounds the start of the etcd, which reads the whole database: about a second for 3 GB.
	startTime = 5 * time.Minute
	// serveTime bounds the time until it has elected itself and serves.
	serveTime = time.Minute
	// servePause is the pause between two looks whether it serves.
	servePause = 50 * time.Millisecond
)

// build makes the data dir of the drill as a restore does, with history and revision as they were, so that hashes compare.
// Users need not log in: nobody else can get in, and their passwords are not ours to know.
func (b *bench) build(ctx context.Context, info snapshot.Info) error {
	if err := os.Mkdir(b.data(), 0o700); err != nil {
		return err
	}
	_, err := restore.Build(ctx, restore.Options{
		Backend: b.backend(), Source: info, Stage: datadir.Stage{Data: b.data()}, Name: drillName, PeerURL: drillPeer,
		KeepRevision: true, AcceptCorrupt: true, WithoutAuth: true,
	})
	if err != nil {
		return fmt.Errorf("restore for a drill: %w", err)
	}
	return nil
}

// drill reads everything back through an etcd, and compares with what the child found in the file and with what the live
// cluster had.
func (r *Result) drill(ctx context.Context, m repository.Manifest, b *bench, program string, report Report) error {
	return b.serve(ctx, program, func(client *member.Client) error {
		if err := readBack(ctx, client, m.Content.Revision, report.keyspace()); err != nil {
			return err
		}
		return hashBack(ctx, client, report, m.Content.CompactRevision)
	})
}

// serve starts an etcd on the data dir and gives it to look, once it serves.
func (b *bench) serve(ctx context.Context, program string, look func(*member.Client) error) (err error) {
	etcd, err := scratch.Start(ctx, scratch.Options{
		Program: program, Run: b.run(), Timeout: startTime,
		Args: []string{
			"etcd", "--name=" + drillName, "--data-dir=" + b.data(), "--initial-cluster=" + drillName + "=" + drillPeer,
			"--advertise-client-urls=" + drillClient, "--initial-advertise-peer-urls=" + drillPeer,
			// Nothing may be compacted, and nothing that fits on the disk is too large.
			"--auto-compaction-retention=0", fmt.Sprintf("--quota-backend-bytes=%d", int64(1)<<40),
		},
	})
	if err != nil {
		return findf("etcd does not start on what was restored: %v", err)
	}
	defer func() { err = errors.Join(err, etcd.Stop()) }()
	client, err := etcd.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	if err := awaitServing(ctx, client); err != nil {
		return findf("etcd does not serve what was restored: %v", err)
	}
	return look(client)
}

// readBack reads a revision through etcd and compares it.
func readBack(ctx context.Context, client *member.Client, revision history.Revision, want member.Keyspace) error {
	got, err := client.ReadAll(ctx, revision)
	if err != nil {
		return findf("read back: %v", err)
	}
	if got == want {
		return nil
	}
	if got.Keys != want.Keys || got.Bytes != want.Bytes {
		return findf("etcd serves %d keys of %d bytes at revision %s, %d of %d were restored", got.Keys, got.Bytes, revision, want.Keys, want.Bytes)
	}
	return findf("etcd serves other content at revision %s than was restored", revision)
}

// hashBack lets etcd hash what it serves, compacted as a child had it, and compares with what that found. compacted is up to
// where the data is compacted already.
func hashBack(ctx context.Context, client *member.Client, report Report, compacted history.Revision) error {
	if report.HashCompactRevision > compacted {
		// The live cluster was compacted after the snapshot and before it gave its hash.
		if err := client.Compact(ctx, report.HashCompactRevision, true); err != nil {
			return findf("compact as the live cluster was: %v", err)
		}
	}
	hash, compact, err := client.HashKV(ctx, report.HashRevision)
	if err != nil {
		return findf("hash what was restored: %v", err)
	}
	if hash != report.Hash || compact != report.HashCompactRevision {
		return findf("etcd serves a keyspace with hash %d, compacted to %s; in the file it is %d, %s", hash, compact, report.Hash, report.HashCompactRevision)
	}
	return nil
}

// awaitServing waits until the only member has elected itself and answers.
func awaitServing(ctx context.Context, client *member.Client) error {
	ctx, cancel := context.WithTimeoutCause(ctx, serveTime, fmt.Errorf("it did not serve within %s", serveTime))
	defer cancel()
	for {
		err := client.Probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(servePause):
		}
	}
}
