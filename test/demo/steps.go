package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
)

const (
	// seed makes every demo write the same objects.
	seed = 1
	// bump is what a restore adds to the revision.
	bump = 1_000_000_000
)

// step is one part of the demo.
type step struct {
	title string
	run   func(context.Context) error
}

func (d *demo) steps() []step {
	return []step{
		{"Three units of etcd", d.deploy},
		{"The keyspace of a Kubernetes cluster", d.fill},
		{"The snapshot", d.snapshot},
		{"Copy the archive and check it", d.copy},
		{"Restore is refused on three units", d.refusal},
		{"Restore into a new cluster of one unit", d.restore},
		{"Scale it to three units", d.scale},
		{"Compare the restored cluster with the source", d.compare},
		{"Clients are told to list anew", d.relist},
		{"Health", d.health},
	}
}

func (d *demo) deploy(ctx context.Context) error {
	d.say("A unit is an agent and the etcd that it looks after. All three are on this machine, with TLS on every port.")
	if _, err := d.run(ctx, "holdfast deploy etcd --units 3"); err != nil {
		return err
	}
	output, err := d.run(ctx, "holdfast status")
	if err != nil {
		return err
	}
	return d.check(wants(output, "Healthy with 3 known peers", "etcd/0", "etcd/1", "etcd/2"), "three units are up and form one cluster")
}

// wants says which of the texts a command's output lacks.
func wants(output string, texts ...string) string {
	for _, text := range texts {
		if !strings.Contains(output, text) {
			return fmt.Sprintf("the output lacks %q", text)
		}
	}
	return ""
}

func (d *demo) fill(ctx context.Context) error {
	d.say("etcd's own client writes what an API server would: pods, secrets, config maps, custom resources, and events with",
		"leases, created, updated and deleted. It also adds two users and turns authentication on.")
	return d.with(ctx, "etcd", func(c *clientv3.Client) error {
		stats, err := kubeload.Fill(ctx, c, kubeload.New(seed, d.objects))
		if err != nil {
			return err
		}
		if err := addUsers(ctx, c); err != nil {
			return fmt.Errorf("add users: %w", err)
		}
		if d.saved, err = readState(ctx, c); err != nil {
			return err
		}
		d.say("", fmt.Sprintf("Written: %s objects in %s puts and %s deletes, %s. etcd is at revision %d.",
			humanize.Comma(int64(stats.Objects)), humanize.Comma(int64(stats.Puts)), humanize.Comma(int64(stats.Deletes)),
			humanize.Bytes(uint64(stats.Bytes)), d.saved.Revision))
		problem := ""
		if len(d.saved.Keys) < d.objects/2 || len(d.saved.Leases) == 0 || !d.saved.AuthEnabled {
			problem = "it is less than what was written"
		}
		return d.check(problem, "the source holds %s", contents(d.saved.State))
	})
}

// contents counts what is in a state.
func contents(s keyspace.State) string {
	return fmt.Sprintf("%s, %s, %s and %s", english.Plural(len(s.Keys), "key", ""), english.Plural(len(s.Leases), "lease", ""),
		english.Plural(len(s.Users), "user", ""), english.Plural(len(s.Roles), "role", ""))
}

func (d *demo) snapshot(ctx context.Context) error {
	d.say("One command on any of the units. What it prints has the form that the backups page shows.")
	output, err := d.run(ctx, "juju run-action etcd/0 snapshot --wait")
	if err != nil {
		return err
	}
	taken, err := parseResult(output, "unit-etcd-0")
	if err != nil {
		return err
	}
	problem := ""
	if taken.Status != "completed" || taken.Results.Copy.Cmd == "" || len(taken.Results.Snapshot.SHA256) != 64 {
		problem = "the result is not complete"
	}
	if err := d.check(problem, "the snapshot is completed"); err != nil {
		return err
	}
	d.taken = taken

	d.say("", "The cluster goes on working: 100 more objects, which the snapshot does not have.")
	return d.with(ctx, "etcd", func(c *clientv3.Client) (err error) {
		if _, err := kubeload.Fill(ctx, c, kubeload.New(seed+1, 100)); err != nil {
			return err
		}
		d.moved, err = readState(ctx, c)
		return err
	})
}

func (d *demo) copy(ctx context.Context) error {
	d.say("The copy command is in the result. Here it is pasted as it is.")
	if _, err := d.run(ctx, d.taken.Results.Copy.Cmd); err != nil {
		return err
	}
	d.archive = path.Base(d.taken.Results.Snapshot.Path)
	output, err := d.run(ctx, "sha256sum "+d.archive)
	if err != nil {
		return err
	}
	problem := ""
	want := d.taken.Results.Snapshot.SHA256
	if got, _, _ := strings.Cut(output, " "); got != want {
		problem = fmt.Sprintf("want %s, got %s", want, got)
	}
	if err := d.check(problem, "the copy has the sha256 that the snapshot printed"); err != nil {
		return err
	}
	d.say("", "The checksum says that the copy is whole. What is inside of it, and whether that is sound, verify says.")
	if output, err = d.run(ctx, "holdfast verify "+d.archive); err != nil {
		return err
	}
	return d.check(wants(output,
		fmt.Sprintf("revision   %d", d.saved.Revision),
		fmt.Sprintf("%d keys, %d leases, Kubernetes objects", len(d.saved.Keys), len(d.saved.Leases)),
	), "the archive holds the source as of revision %d", d.saved.Revision)
}

func (d *demo) refusal(ctx context.Context) error {
	d.say("The page warns of a restore while more than one unit of etcd is running. Holdfast refuses it.")
	if _, err := d.run(ctx, "juju attach-resource etcd snapshot=./"+d.archive); err != nil {
		return err
	}
	output, err := d.runRefused(ctx, "juju run-action etcd/0 restore --wait")
	if err != nil {
		return err
	}
	refused, err := parseResult(output, "unit-etcd-0")
	if err != nil {
		return err
	}
	problem := ""
	const want = "application etcd has 3 units (etcd/0, etcd/1, etcd/2)"
	if refused.Status != "failed" || !strings.Contains(refused.Message, want) {
		problem = fmt.Sprintf("want a message with %q, got %q", want, refused.Message)
	}
	if err := d.check(problem, "the restore on three units was refused, with the reason and exit code 1"); err != nil {
		return err
	}
	return d.sourceUntouched(ctx, "the refused restore touched nothing: all data, members and the revision are as before")
}

// sourceUntouched checks that the source is as it was after the last write.
func (d *demo) sourceUntouched(ctx context.Context, statement string) error {
	return d.with(ctx, "etcd", func(c *clientv3.Client) error {
		now, err := readState(ctx, c)
		if err != nil {
			return err
		}
		problem := keyspace.Diff(d.moved.State, now.State)
		if problem == "" && (now.Revision != d.moved.Revision || now.ClusterID != d.moved.ClusterID || !slices.Equal(now.Members, d.moved.Members)) {
			problem = fmt.Sprintf("want revision %d of cluster %x with members %x, got revision %d of %x with %x",
				d.moved.Revision, d.moved.ClusterID, d.moved.Members, now.Revision, now.ClusterID, now.Members)
		}
		return d.check(problem, "%s", statement)
	})
}

func (d *demo) restore(ctx context.Context) error {
	d.say("So the page restores into a new application of one unit, which then gets more units.")
	for _, line := range []string{"juju deploy etcd new-etcd", "juju attach-resource new-etcd snapshot=./" + d.archive} {
		if _, err := d.run(ctx, line); err != nil {
			return err
		}
	}
	output, err := d.run(ctx, "juju run-action new-etcd/0 restore --wait")
	if err != nil {
		return err
	}
	restored, err := parseResult(output, "unit-new-etcd-0")
	if err != nil {
		return err
	}
	problem := ""
	if keys := strconv.Itoa(len(d.saved.Keys)); restored.Status != "completed" || restored.Results.Restore.Keys != keys {
		problem = fmt.Sprintf("want %s keys, got %q, status %q", keys, restored.Results.Restore.Keys, restored.Status)
	}
	return d.check(problem, "the restore is completed, with %s", english.Plural(len(d.saved.Keys), "key", ""))
}

func (d *demo) scale(ctx context.Context) error {
	d.say("Each new unit joins as a learner and votes once it has all the data. etcd wants some seconds between the two.")
	if _, err := d.run(ctx, "juju add-unit new-etcd -n 2"); err != nil {
		return err
	}
	output, err := d.run(ctx, "holdfast status")
	if err != nil {
		return err
	}
	problem := wants(output, "new-etcd/0", "new-etcd/1", "new-etcd/2")
	// Once for each of two applications and six units.
	if healthy := strings.Count(output, "Healthy with 3 known peers"); problem == "" && healthy != 8 {
		problem = fmt.Sprintf("want all 8 lines healthy, got %d", healthy)
	}
	return d.check(problem, "the restored cluster has three units, and both clusters are healthy")
}

func (d *demo) compare(ctx context.Context) error {
	d.say("etcd's own client reads all of it from each member and compares it with what the source held when the snapshot was",
		"made: every key with its value, create and mod revision, version and lease, and every lease, user and role. Only the",
		fmt.Sprintf("cluster id must be new, and the revision must be the old one, %d, plus 1,000,000,000.", d.saved.Revision))
	d.line("")
	at, err := d.access(ctx, "new-etcd")
	if err != nil {
		return err
	}
	if len(at.endpoints) != 3 {
		return fmt.Errorf("want 3 endpoints of new-etcd, got %q", at.endpoints)
	}
	problem := ""
	for _, endpoint := range at.endpoints {
		if problem, err = d.compareMember(ctx, at, endpoint); err != nil {
			return fmt.Errorf("member at %s: %w", endpoint, err)
		}
		if problem != "" {
			problem = "member at " + endpoint + ": " + problem
			break
		}
	}
	err = d.check(problem, "all three members hold what the source held: %s", contents(d.saved.State))
	if err != nil {
		return err
	}
	problem, err = checkViewer(ctx, at)
	if err != nil {
		return err
	}
	if err := d.check(problem, "a user logs in with the old password, may read, and may still not write"); err != nil {
		return err
	}
	return d.sourceUntouched(ctx, "the source was not touched and still has what was written after the snapshot")
}

// compareMember says how what one member holds differs from what the source held.
func (d *demo) compareMember(ctx context.Context, at access, endpoint string) (problem string, err error) {
	c, err := at.dial([]string{endpoint}, "", "")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	got, err := readState(ctx, c)
	if err != nil {
		return "", err
	}
	problem = keyspace.Diff(d.saved.State, got.State)
	switch {
	case problem != "":
	case got.Revision != d.saved.Revision+bump:
		problem = fmt.Sprintf("want revision %d, got %d", d.saved.Revision+bump, got.Revision)
	case got.ClusterID == d.saved.ClusterID:
		problem = fmt.Sprintf("it has the source's cluster id, %x", got.ClusterID)
	}
	return problem, nil
}

func (d *demo) relist(ctx context.Context) error {
	seen := d.moved.Revision
	d.say(fmt.Sprintf("An API server has seen revision %d, which the snapshot does not have. If it went on from there, it would never", seen),
		"learn what the restore took back. That is why the revision was raised, and all that came before is compacted.")
	d.line("")
	return d.with(ctx, "new-etcd", func(c *clientv3.Client) error {
		_, err := watchFrom(ctx, c, seen+1, func() error { return nil })
		if err := d.check(wantCompacted(err), "a watch from revision %d on ends with \"compacted\", which tells the client to list anew", seen+1); err != nil {
			return err
		}
		if err := d.check(wantCompacted(listAt(ctx, c, seen)), "a list at revision %d ends so too", seen); err != nil {
			return err
		}
		list, err := c.Get(ctx, registry, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		next := list.Header.Revision + 1
		event, err := watchFrom(ctx, c, next, func() error {
			_, err := c.Put(ctx, registry+"configmaps/default/after-the-restore", "x")
			return err
		})
		problem := ""
		if err != nil {
			problem = err.Error()
		} else if event.Kv.ModRevision != next {
			problem = fmt.Sprintf("want an event of revision %d, got %d", next, event.Kv.ModRevision)
		}
		return d.check(problem, "a new list works, and a watch from it sees the next write, at revision %d", next)
	})
}

func wantCompacted(err error) string {
	if errors.Is(err, rpctypes.ErrCompacted) {
		return ""
	}
	return fmt.Sprintf("want the error %q, got %v", rpctypes.ErrCompacted, err)
}

func (d *demo) health(ctx context.Context) error {
	d.say("The page's last command.")
	output, err := d.run(ctx, "juju run-action new-etcd/0 health --wait")
	if err != nil {
		return err
	}
	checked, err := parseResult(output, "unit-new-etcd-0")
	if err != nil {
		return err
	}
	message := checked.Results.ResultMap.Message
	problem := wants(message, "cluster is healthy")
	if members := strings.Count(message, " is healthy: got healthy result from https://"); problem == "" && members != 3 {
		problem = fmt.Sprintf("want 3 healthy members, got %d", members)
	}
	return d.check(problem, "the restored cluster is healthy, with three members")
}
