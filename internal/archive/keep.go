package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// snapshot takes a snapshot, one at a time, and tells of it.
func (a *archiver) snapshot(ctx context.Context, what Wanted, why string) (repository.Manifest, error) {
	a.snapshotting.Lock()
	defer a.snapshotting.Unlock()
	// Asked before, so that what changes meanwhile is a change that is seen.
	auth, _ := a.authRevision(ctx) // 0 when nobody tells
	m, err := a.Snapshot(ctx, what)
	if err != nil {
		return m, err
	}
	a.mu.Lock()
	a.lastSnapshot = time.Now()
	a.state.Auth = auth
	a.mu.Unlock()
	a.Observe(Event{Snapshot: &Base{Manifest: m, Why: why}})
	return m, nil
}

const (
	// lookEvery is how often is looked whether something is due.
	lookEvery = 15 * time.Second
	// authEvery is how often is asked for changes of users and roles. Each question goes through etcd's log.
	authEvery = 5 * time.Minute
)

// keep does what is due from time to time, until ctx ends: a snapshot when the last one is old, or when users or roles
// changed, which no watch tells; and the members' hashes. What fails is told, and due again. Its error is that somebody else
// has begun a newer timeline.
func (a *archiver) keep(ctx context.Context) error {
	hashed, asked := time.Now(), time.Now()
	for wait(ctx, min(lookEvery, a.SnapshotEvery, a.HashEvery, a.authEvery)) {
		if a.spool.awaiting() {
			continue // a snapshot is on its way
		}
		if err := a.checkLine(ctx); errors.Is(err, errSuperseded) {
			return err
		}
		why := ""
		if time.Since(asked) >= a.authEvery {
			asked = time.Now()
			if a.authChanged(ctx) {
				why = "users or roles were changed"
			}
		}
		if why == "" && a.sinceSnapshot(ctx) > a.SnapshotEvery {
			why = fmt.Sprintf("the last one is older than %s", a.SnapshotEvery)
		}
		if why != "" {
			if _, err := a.snapshot(ctx, Wanted{}, why); err != nil {
				a.trouble(ctx, fmt.Errorf("snapshot that is due: %w", err))
			}
		}
		if time.Since(hashed) >= a.HashEvery {
			hashed = time.Now()
			if err := a.hash(ctx); err != nil {
				a.trouble(ctx, fmt.Errorf("compare the members: %w", err))
			}
		}
	}
	return nil
}

// sinceSnapshot is the age of the newest snapshot of the line, whoever took it.
func (a *archiver) sinceSnapshot(ctx context.Context) time.Duration {
	a.mu.Lock()
	last, timeline := a.lastSnapshot, a.state.Timeline
	a.mu.Unlock()
	if last.IsZero() || time.Since(last) > a.SnapshotEvery {
		points, _, err := a.repo.Points(ctx, a.Cluster)
		if err != nil {
			return 0 // the next look may tell
		}
		for _, p := range points {
			if p.Timeline == timeline && p.ID.Time.After(last) {
				last = p.ID.Time
			}
		}
		a.mu.Lock()
		a.lastSnapshot = last
		a.mu.Unlock()
	}
	return time.Since(last)
}

// authChanged tells whether users or roles are others than in the last snapshot. Where nobody tells, they are not.
func (a *archiver) authChanged(ctx context.Context) bool {
	now, err := a.authRevision(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	return err == nil && a.state.Auth != 0 && now != a.state.Auth
}

// authRevision counts the changes of users and roles, by the first member that tells.
func (a *archiver) authRevision(ctx context.Context) (uint64, error) {
	clients, failed := a.members(ctx)
	for _, c := range clients {
		look, cancel := context.WithTimeout(ctx, lookTimeout)
		revision, _, err := c.AuthRevision(look)
		cancel()
		if err == nil {
			return revision, nil
		}
		failed = err
	}
	return 0, failed
}

// hashTimeout bounds the question for a hash: a member reads its whole keyspace for it.
const hashTimeout = time.Minute

// hash asks every member for its hash at the position, records the answers and tells of them.
func (a *archiver) hash(ctx context.Context) error {
	a.mu.Lock()
	at := a.state
	a.mu.Unlock()
	if at.Position.Revision == 0 {
		return nil
	}
	h := repository.Hashes{Cluster: a.Cluster, Timeline: at.Timeline, Revision: at.Position.Revision, Taken: time.Now()}
	clients, err := a.members(ctx)
	if err != nil {
		return err
	}
	for _, c := range clients {
		m, err := a.hashOf(ctx, c, at.Position.Revision)
		if err != nil {
			return err
		}
		if m.MemberID != "" && !slices.ContainsFunc(h.Members, func(o repository.MemberHash) bool { return o.MemberID == m.MemberID }) {
			h.Members = append(h.Members, m)
		}
	}
	if len(h.Members) == 0 {
		return member.ErrNoMember
	}
	h.Equal, h.Suspects = compareHashes(h.Members)
	h, err = a.repo.PutHashes(ctx, a.writer, h)
	if err != nil {
		return err
	}
	a.Observe(Event{Hashes: &h})
	return nil
}

// hashOf asks one member; its id is "" when it does not answer at all. The error is that of ctx.
func (a *archiver) hashOf(ctx context.Context, c *member.Client, at history.Revision) (m repository.MemberHash, err error) {
	ask, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	status, err := c.Status(ask)
	if err == nil {
		m.MemberID, m.Name = status.MemberID.String(), c.Endpoint()
		m.Hash, m.CompactRevision, err = c.HashKV(ask, at)
	}
	if ctx.Err() != nil {
		return m, context.Cause(ctx)
	}
	if err != nil {
		m.Missing = err.Error()
	}
	return m, nil
}

// compareHashes tells whether members agree, and who does not. Only those that were compacted at the same revision can be
// compared. Whoever is not of the largest group is suspect; when there is no largest, all are.
func compareHashes(members []repository.MemberHash) (equal bool, suspects []string) {
	type group struct{ largest, tied int }
	counts := map[history.Revision]map[uint32]int{}
	for _, m := range members {
		if m.Missing != "" {
			continue
		}
		if counts[m.CompactRevision] == nil {
			counts[m.CompactRevision] = map[uint32]int{}
		}
		counts[m.CompactRevision][m.Hash]++
	}
	groups := map[history.Revision]group{}
	for compact, hashes := range counts {
		g := group{}
		for _, n := range hashes {
			switch {
			case n > g.largest:
				g = group{n, 1}
			case n == g.largest:
				g.tied++
			}
		}
		groups[compact] = g
	}
	for _, m := range members {
		if g := groups[m.CompactRevision]; m.Missing == "" && (g.tied > 1 || counts[m.CompactRevision][m.Hash] < g.largest) {
			suspects = append(suspects, m.MemberID)
		}
	}
	return len(suspects) == 0, suspects
}
