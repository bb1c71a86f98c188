package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

const (
	// momentBytes is the size of the snapshot that a moment is reached from, momentEvents how many events come after it, and
	// manyEvents how many in the long variant.
	momentBytes  = 100_000_000
	momentEvents = 200_000
	manyEvents   = 1_000_000
)

// momentRestore compares a restore of a moment with writing all events to a server once more, as others do.
func momentRestore(ctx context.Context, l *lab, r *report) error {
	events := momentEvents
	if l.long {
		events = manyEvents
	}
	m, err := l.recordMoments(ctx, r, momentBytes, events)
	if err != nil {
		return err
	}
	t := &twoWays{moments: m, data: filepath.Join(l.dir, "restored"), deltaDir: filepath.Join(l.dir, "delta-restored")}
	err = l.alternate(ctx, r, []work{
		{name: "holdfast", do: func(f figures) error { return m.byHoldfast(ctx, t.data, f, "--no-bump") }, clean: func() error { return t.cleanOurs(ctx) }},
		{name: "deltas", do: func(f figures) (err error) {
			if err := os.Mkdir(t.deltaDir, 0o700); err != nil {
				return err
			}
			t.server, err = l.restoreDeltas(ctx, m.deltas, m.snapshot, t.deltaDir, f)
			return err
		}, clean: func() error { return t.cleanDeltas(ctx) }},
		{name: "replay", do: func(f figures) error { return t.replay(ctx, f) }},
	})
	if err == nil {
		err = t.compare()
	}
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes,
		"holdfast: restore --revision --no-bump out of a file:// repository, encrypted with age, to a data dir that is synced; deltas: etcdutl snapshot restore, etcd --unsafe-no-fsync, each revision as a transaction of a client on loopback; nothing is synced",
		"replay: the same in this process, from the repository to the backend file; records are events, divided by the processor time of all of it")
	gateCPU := 1.0 / 15
	if events != momentEvents {
		r.Notes = append(r.Notes, "the long variant: only its ratios count, and are no gate")
		gateCPU = 1
	}
	r.gateRatio("cpu_s", "holdfast", "deltas", gateCPU)
	r.gateMost("cpu-per-event_us", "replay", 10) // 100,000 a second and core
	return nil
}

// twoWays has what both ways of a restore left.
type twoWays struct {
	*moments
	data, deltaDir string
	server         *etcdtest.Server
	// ours and theirs are the contents that were served, of the first round.
	ours, theirs string
}

// cleanOurs serves what was restored in the first round, reads it, and removes it.
func (t *twoWays) cleanOurs(ctx context.Context) error {
	if t.ours != "" {
		return os.RemoveAll(t.data)
	}
	dir := t.data + ".served"
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	server, err := etcdtest.Launch(ctx, t.etcd, dir, etcdtest.Options{Name: "default", DataDir: t.data})
	if err == nil {
		t.ours, err = contents(ctx, server.Client)
		err = errors.Join(err, server.Close())
	}
	return errors.Join(err, os.RemoveAll(dir), os.RemoveAll(t.data))
}

func (t *twoWays) cleanDeltas(ctx context.Context) (err error) {
	if t.server != nil {
		if t.theirs == "" {
			t.theirs, err = contents(ctx, t.server.Client)
		}
		err = errors.Join(err, t.server.Close())
		t.server = nil
	}
	return errors.Join(err, os.RemoveAll(t.deltaDir))
}

// compare wants both ways to come to the same.
func (t *twoWays) compare() error {
	if t.ours != t.theirs {
		return fmt.Errorf("the two restores differ: %s, and of the deltas %s", t.ours, t.theirs)
	}
	t.say("both have served the same: %s", t.ours)
	return nil
}

// contents tells the revision, the number of keys and a sum of all that they have, but for leases, which deltas forget.
func contents(ctx context.Context, client *clientv3.Client) (string, error) {
	const page = 1000
	sum := sha256.New()
	key, keys, revision := "\x00", 0, int64(0)
	for {
		reply, err := client.Get(ctx, key, clientv3.WithFromKey(), clientv3.WithLimit(page), clientv3.WithRev(revision))
		if err != nil {
			return "", err
		}
		revision = reply.Header.Revision
		for _, kv := range reply.Kvs {
			fmt.Fprintf(sum, "%q %d %d %d %q\n", kv.Key, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Value)
		}
		keys += len(reply.Kvs)
		if !reply.More {
			return fmt.Sprintf("revision %d, %d keys, sum %x", revision, keys, sum.Sum(nil)[:8]), nil
		}
		key = string(reply.Kvs[len(reply.Kvs)-1].Key) + "\x00"
	}
}

// replay makes the backend file of the moment in this process.
func (t *twoWays) replay(ctx context.Context, f figures) (err error) {
	parts, chain, err := t.chain(ctx)
	if err != nil {
		return err
	}
	work := t.data + ".replay"
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	before, err := ownCPU()
	if err != nil {
		return err
	}
	result, err := parts.Backend(ctx, chain, filepath.Join(work, "db"), work)
	if err != nil {
		return err
	}
	after, err := ownCPU()
	for name, took := range map[string]time.Duration{"segments_s": result.SegmentsTime, "base_s": result.BaseTime, "write_s": result.WriteTime} {
		f[name] = took.Seconds()
	}
	f["records-per-second"] = result.RecordsPerSecond()
	f["cpu_s"] = after - before
	f["cpu-per-event_us"] = (after - before) * 1e6 / float64(result.Events)
	return err
}
