package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// Moment is a revision to drill, and the hash that it is held against: one that the live cluster gave at or after it.
type Moment struct {
	Cluster string
	// Chain leads to the revision.
	Chain coverage.Chain
	// Compared leads on from the same snapshot to the revision of Hash. Without a hash it is the chain itself, and Hash says why
	// by what is Missing.
	Compared coverage.Chain
	Hash     repository.HashKV
}

// mostHashes is how many recorded hashes after a moment are looked at. One is taken every 10 minutes or so, and nearly always
// the first will do.
const mostHashes = 50

// FindHash finds the first recorded hash at or after a chain's revision that can be compared: on the same timeline, with
// nothing missing on the way, and not counted from before the snapshot's own history.
func FindHash(ctx context.Context, repo *repository.Repository, cluster string, t coverage.Timeline, chain coverage.Chain) (Moment, error) {
	m := Moment{Cluster: cluster, Chain: chain, Compared: chain}
	candidates, err := recordedHashes(ctx, repo, cluster, t, chain.Revision)
	if err != nil {
		return m, err
	}
	why := fmt.Sprintf("the live cluster gave no hash at revision %s or after it", chain.Revision)
	for _, hash := range candidates {
		onward, led := t.Onward(chain, hash.Revision)
		switch {
		case hash.Missing != "":
			why = fmt.Sprintf("the hash of revision %s cannot be compared: %s", hash.Revision, hash.Missing)
		case !led:
			why = fmt.Sprintf("no segments lead on to the hash of revision %s without a hole", hash.Revision)
		case hash.CompactRevision < chain.Base.Content.CompactRevision:
			why = fmt.Sprintf("the hash of revision %s counts from revision %s, and the history of the snapshot begins at %s", hash.Revision, hash.CompactRevision, chain.Base.Content.CompactRevision)
		default:
			m.Compared, m.Hash = onward, hash
			return m, nil
		}
	}
	m.Hash.Missing = why
	return m, nil
}

// recordedHashes are those of a timeline at or after a revision, in order: those that archivers noted, and those of snapshots.
func recordedHashes(ctx context.Context, repo *repository.Repository, cluster string, t coverage.Timeline, from history.Revision) ([]repository.HashKV, error) {
	reads, err := repo.HashesFrom(ctx, cluster, t.ID, from, mostHashes)
	if err != nil {
		return nil, err
	}
	var list []repository.HashKV
	for _, read := range reads {
		if read.Err == nil {
			list = append(list, agreed(read.Note))
		}
	}
	for _, m := range t.Snapshots {
		if m.HashKV.Missing == "" && m.HashKV.Revision >= from {
			list = append(list, m.HashKV)
		}
	}
	slices.SortStableFunc(list, func(a, b repository.HashKV) int { return cmp.Compare(a.Revision, b.Revision) })
	return list, nil
}

// agreed is what the members that nobody suspects said, of those with the most history.
func agreed(h repository.Hashes) repository.HashKV {
	found := repository.HashKV{Revision: h.Revision, Missing: "no member that can be believed gave one"}
	for _, m := range h.Members {
		if m.Missing != "" || slices.Contains(h.Suspects, m.MemberID) {
			continue
		}
		if found.Missing != "" || m.CompactRevision < found.CompactRevision {
			found = repository.HashKV{Hash: m.Hash, Revision: h.Revision, CompactRevision: m.CompactRevision}
		}
	}
	return found
}

// MomentResult is what a drill of a moment found.
type MomentResult struct {
	repository.Drill
	// Resources are the keys at the moment, by the kind of Kubernetes object.
	Resources []Resource
}

// RunMoment drills a moment. It restores the revision as a restore does, and restores the history up to the recorded hash into
// an etcd that starts. That etcd must serve, at the moment, what the first has; and must have the hash that the live cluster had.
// What is wrong is in the result, as with Run.
func RunMoment(ctx context.Context, repo *repository.Repository, m Moment, o Options) (MomentResult, error) {
	base := m.Chain.Base
	r := MomentResult{Drill: repository.Drill{
		Cluster: m.Cluster, Timeline: m.Chain.Timeline, Revision: m.Chain.Revision, Snapshot: base.ID, Segments: int64(len(m.Compared.Segments)),
		First: base.Point().First, Last: m.Compared.Revision, Started: time.Now(),
	}}
	bench, err := openBench(o.Scratch, m.space())
	if err == nil {
		err = errors.Join(r.onBench(ctx, repo, m, bench, o), bench.close())
	}
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	r.Seconds = time.Since(r.Started).Seconds()
	if !damage(err) {
		return r, err
	}
	if err != nil {
		r.Problem, r.Compared, r.Uncompared = err.Error(), false, ""
	}
	r.Passed = err == nil
	return r, nil
}

// space is about what a drill takes on the disk, in bytes: the moment, and then the history, what it is made from, and the data
// dir of it.
func (m Moment) space() int64 {
	history := m.Compared.Base.Content.Size
	for _, s := range m.Compared.Segments {
		history += s.Plain.Size
	}
	data, wal := restore.SpaceNeeded(history)
	return m.restored(false).Space() + 2*history + data + wal
}

// restored is the chain in the words of restore: of the moment, or with its history up to the hash.
func (m Moment) restored(withHistory bool) chain.Chain {
	c := m.Chain
	if withHistory {
		c = m.Compared
	}
	return chain.Chain{Base: c.Base, Segments: c.Segments, Revision: c.Revision, KeepHistory: withHistory}
}

func (r *MomentResult) onBench(ctx context.Context, repo *repository.Repository, m Moment, b *bench, o Options) error {
	parts := chain.Parts{Repository: repo, Identities: o.Identities, Observe: o.Observe}
	exact := filepath.Join(b.folder, "exact")
	if _, err := b.replay(ctx, parts, m.restored(false), exact); err != nil {
		return err
	}
	now, err := inspectInChild(ctx, o.Program, exact, Question{Revision: m.Chain.Revision})
	if err != nil {
		return err
	}
	if now.Revision != m.Chain.Revision {
		return findf("etcd reads revision %s from what was restored of revision %s", now.Revision, m.Chain.Revision)
	}
	r.Resources, r.Keys = now.Resources, now.Keys
	if err := os.Remove(exact); err != nil {
		return err
	}
	info, err := b.replay(ctx, parts, m.restored(true), b.backend())
	if err != nil {
		return err
	}
	// The child below may write to the file, so the data dir is made first.
	if err := b.build(ctx, info); err != nil {
		return err
	}
	question := Question{Revision: m.Compared.Revision}
	if m.Hash.Missing == "" {
		question.CompactRevision = m.Hash.CompactRevision
	}
	then, err := inspectInChild(ctx, o.Program, b.backend(), question)
	if err != nil {
		return err
	}
	if err := r.judge(m, then); err != nil {
		return err
	}
	return b.serve(ctx, o.Program, func(client *member.Client) error {
		// Before the compaction, which may be beyond the moment.
		if err := readBack(ctx, client, m.Chain.Revision, now.keyspace()); err != nil {
			return err
		}
		if err := readBack(ctx, client, m.Compared.Revision, then.keyspace()); err != nil {
			return err
		}
		return hashBack(ctx, client, then, info.CompactRevision)
	})
}

// replay makes a backend file of a chain and reads all of it again.
func (b *bench) replay(ctx context.Context, parts chain.Parts, to chain.Chain, path string) (info snapshot.Info, err error) {
	work := path + ".work"
	if err := os.Mkdir(work, 0o700); err != nil {
		return info, err
	}
	_, err = parts.Backend(ctx, to, path, work)
	if err := errors.Join(err, os.RemoveAll(work)); err != nil {
		return info, err
	}
	file, err := os.Open(path)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	scanner := snapshot.NewScanner(snapshot.Options{})
	if _, err := io.Copy(scanner, file); err != nil {
		return info, err
	}
	return scanner.Finish()
}

// judge compares what etcd's own code found in the restored history with what is recorded of the live cluster.
func (r *MomentResult) judge(m Moment, report Report) error {
	r.Hash, r.CompactRevision = report.Hash, report.HashCompactRevision
	switch {
	case report.Revision != m.Compared.Revision:
		return findf("etcd reads revision %s from what was restored of revision %s", report.Revision, m.Compared.Revision)
	case m.Hash.Missing != "":
		r.Uncompared = m.Hash.Missing
	case report.HashCompactRevision != m.Hash.CompactRevision:
		r.Uncompared = fmt.Sprintf("the live cluster was compacted to %s when it gave its hash, what was restored to %s", m.Hash.CompactRevision, report.HashCompactRevision)
	case report.Hash != m.Hash.Hash:
		return findf("the hash of the keyspace at revision %s is %d; the live cluster had %d", report.HashRevision, report.Hash, m.Hash.Hash)
	default:
		r.Compared = true
	}
	return nil
}
