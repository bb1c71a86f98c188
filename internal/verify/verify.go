// Package verify finds out how good a stored snapshot is, at one of four depths: the stored bytes, all of their content, the
// database that they are, and an etcd that serves it; how good a segment is; and, by a drill, whether a moment between
// snapshots is what the live cluster had.
//
// It reads from a repository and is used by the command line and the agents' actions. Nothing that it looks at is changed.
// What a snapshot holds is hostile until checked: a database is opened only by a child process with limits, and an etcd is
// started only on what that child found sound. Everything may be called for several things at once.
//
// Not promised: that what no hash of the live cluster is recorded of is what that cluster had. Then a drill says that it was
// restored, and not compared.
package verify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/replay"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Options of Run.
type Options struct {
	// Identities open an encrypted snapshot.
	Identities []seal.Identity
	// Scratch is the folder for the levels replay and drill: the content is readable there while they run, in a folder of mode
	// 0700 that is gone afterwards. Run makes it.
	Scratch string
	// Program is this program, which is the child process as "PROGRAM inspect-backend …" and "PROGRAM etcd …".
	Program string
	// Observe, which may be nil, is given the stored bytes as they are read.
	Observe io.Writer
}

// Result is what Run found out: what can be recorded, and what is only for the person.
type Result struct {
	repository.Verification
	// Resources are the keys by the kind of Kubernetes object, at the levels replay and drill.
	Resources []Resource
}

// Run looks at a snapshot. What is wrong with it is in the result; the error is for what kept it from being looked at, such
// as a store that does not answer, a key that is missing (seal.ErrNoIdentity, seal.ErrEncrypted) or no space left.
func Run(ctx context.Context, repo *repository.Repository, read repository.Read, level repository.Level, o Options) (Result, error) {
	var result Result
	result.Level, result.Started = level, time.Now()
	if read.Err != nil {
		return result, read.Err
	}
	err := result.look(ctx, repo, read.Manifest, o)
	if ctx.Err() != nil {
		return result, context.Cause(ctx)
	}
	result.Seconds = time.Since(result.Started).Seconds()
	if !damage(err) {
		return result, err
	}
	if err != nil {
		result.Problem = err.Error()
	}
	result.Passed = err == nil
	return result, nil
}

// Finding is something wrong with the content of a snapshot, which only the deeper levels see.
type Finding struct{ What string }

// Error is one line for a person. It holds no key or value of the cluster.
func (f Finding) Error() string { return f.What }

func findf(format string, args ...any) error { return Finding{fmt.Sprintf(format, args...)} }

// damage tells whether an error, which may be nil, says something about the snapshot.
func damage(err error) bool {
	if _, is := errors.AsType[Finding](err); is || err == nil {
		return true
	}
	for _, class := range []error{
		repository.ErrDamaged, store.ErrNotFound, seal.ErrCorrupt, seal.ErrNotEncrypted, snapshot.ErrTrailer, snapshot.ErrCorrupt, snapshot.ErrNotBackend,
		repository.ErrForged, segment.ErrCorrupt, replay.ErrEvents,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// look does what the level asks for.
func (r *Result) look(ctx context.Context, repo *repository.Repository, m repository.Manifest, o Options) error {
	switch r.Level {
	case repository.LevelListing:
		return repo.CheckListed(ctx, m)
	case repository.LevelCiphertext:
		return repo.CheckStored(ctx, m, o.Observe)
	case repository.LevelChecksum:
		_, _, err := repo.Fetch(ctx, m, o.Identities, io.Discard, o.Observe)
		return err
	}
	data, wal := restore.SpaceNeeded(m.Content.Size)
	bench, err := openBench(o.Scratch, m.Content.Size+data+wal)
	if err != nil {
		return err
	}
	return errors.Join(r.onBench(ctx, repo, m, bench, o), bench.close())
}

// onBench fetches the backend and looks at it as a database, and for a drill also through an etcd.
func (r *Result) onBench(ctx context.Context, repo *repository.Repository, m repository.Manifest, b *bench, o Options) error {
	info, err := b.fetch(ctx, repo, m, o)
	if err != nil {
		return err
	}
	if r.Level == repository.LevelDrill {
		// The child below may write to the file, so the data dir is made first.
		if err := b.build(ctx, info); err != nil {
			return err
		}
	}
	report, err := inspectInChild(ctx, o.Program, b.backend(), askedOf(m))
	if err != nil {
		return err
	}
	if err := r.judge(m, report); err != nil || r.Level != repository.LevelDrill {
		return err
	}
	return r.drill(ctx, m, b, o.Program, report)
}

// askedOf tells what a child is to compute for a manifest: the hash that the live member gave, with the compaction that it
// had then.
func askedOf(m repository.Manifest) Question {
	q := Question{Revision: m.Content.Revision}
	if m.HashKV.Missing == "" {
		q.Revision, q.CompactRevision = m.HashKV.Revision, m.HashKV.CompactRevision
	}
	return q
}

// judge compares what etcd's own code found in the database with what the manifest says.
func (r *Result) judge(m repository.Manifest, report Report) error {
	r.Resources, r.Keys = report.Resources, report.Keys
	r.Hash, r.Revision, r.CompactRevision = report.Hash, report.HashRevision, report.HashCompactRevision
	switch c := m.Content; {
	case report.Revision != c.Revision:
		return findf("etcd reads revision %s from the database, the manifest says %s", report.Revision, c.Revision)
	case report.Records != c.Records:
		return findf("the database has %d records, the manifest says %d", report.Records, c.Records)
	}
	if r.Uncompared = uncomparable(m, report); r.Uncompared != "" {
		return nil
	}
	if report.Hash != m.HashKV.Hash {
		return findf("the hash of the keyspace at revision %s is %d; the live cluster had %d", report.HashRevision, report.Hash, m.HashKV.Hash)
	}
	r.Compared = true
	return nil
}

// uncomparable says why a hash cannot be compared with the live one; "" when it can.
func uncomparable(m repository.Manifest, report Report) string {
	switch {
	case m.HashKV.Missing != "":
		return "there is no hash of the live cluster: " + m.HashKV.Missing
	case m.HashKV.Revision != report.HashRevision || m.HashKV.CompactRevision != report.HashCompactRevision:
		return fmt.Sprintf("the live cluster was compacted to %s when it gave its hash, and the snapshot to %s", m.HashKV.CompactRevision, report.HashCompactRevision)
	}
	return ""
}

// bench is a folder for one look at a snapshot. Everything in it is readable, and goes.
type bench struct {
	scratch, folder string
	release         func() error
}

// benchPrefix begins the names of benches.
const benchPrefix = "verify-"

// openBench makes a folder below scratch, after it has removed those that a killed process left, and sees to it that there
// is space for so many bytes.
func openBench(scratch string, need int64) (_ *bench, err error) {
	if err := durable.MkdirAll(scratch, 0o700); err != nil {
		return nil, err
	}
	// Nobody may take a bench that was made and is not held yet, or is about to go, for one that was left.
	release, err := lockBenches(scratch)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := sweepBenches(scratch); err != nil {
		return nil, err
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(scratch, &stat); err != nil {
		return nil, fmt.Errorf("ask for free space of %q: %w", scratch, err)
	}
	if free := int64(stat.Bavail) * stat.Bsize; need > free {
		return nil, fmt.Errorf("no space left in %q: it needs %s, %s are free", scratch, humanize.Bytes(uint64(need)), humanize.Bytes(uint64(free)))
	}
	b := &bench{scratch: scratch, folder: filepath.Join(scratch, benchPrefix+rand.Text())}
	if err := os.Mkdir(b.folder, 0o700); err != nil {
		return nil, err
	}
	if b.release, err = durable.TryLock(b.lock()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.folder))
	}
	return b, nil
}

// lockBenches is held by whoever makes or removes a bench below scratch.
func lockBenches(scratch string) (release func() error, err error) {
	return durable.Lock(filepath.Join(scratch, ".lock"))
}

// sweepBenches removes folders that nobody holds: their process is gone.
func sweepBenches(scratch string) error {
	left, err := filepath.Glob(filepath.Join(scratch, benchPrefix+"*"))
	if err != nil {
		return err
	}
	for _, folder := range left {
		b := bench{folder: folder}
		release, err := durable.TryLock(b.lock())
		if errors.Is(err, durable.ErrLocked) || errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(folder), release()); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) lock() string    { return filepath.Join(b.folder, "lock") }
func (b *bench) backend() string { return filepath.Join(b.folder, "backend") }
func (b *bench) data() string    { return filepath.Join(b.folder, "data") }
func (b *bench) run() string     { return filepath.Join(b.folder, "run") }

func (b *bench) close() error {
	release, err := lockBenches(b.scratch)
	if err != nil {
		return errors.Join(err, b.release())
	}
	return errors.Join(os.RemoveAll(b.folder), b.release(), release())
}

func (b *bench) fetch(ctx context.Context, repo *repository.Repository, m repository.Manifest, o Options) (info snapshot.Info, err error) {
	out, err := os.OpenFile(b.backend(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	info, _, err = repo.Fetch(ctx, m, o.Identities, out, o.Observe)
	return info, err
}
