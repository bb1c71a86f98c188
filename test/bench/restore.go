package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

// restoreSpeed compares the restore action, up to a member that serves, with tar, etcdutl and a start of etcd by hand.
func restoreSpeed(ctx context.Context, l *lab, r *report) error {
	archive, keys, err := l.madeArchive(ctx, r)
	if err != nil {
		return err
	}
	if err := l.alternate(ctx, r, []work{l.restoreAction(ctx, archive, keys), l.restoreByHand(ctx, archive, keys)}); err != nil {
		return err
	}
	r.Notes = append(r.Notes, "restore --wait skip-backup=true on a new unit; by hand: tar xzf, etcdutl snapshot restore, etcd until it serves")
	r.gateRatio("wall_s", "holdfast", "by hand", 1.3)
	return nil
}

// madeArchive makes an archive of a usual database, and gives the number of its keys.
func (l *lab) madeArchive(ctx context.Context, r *report) (archive string, keys int64, err error) {
	source, err := l.fill(ctx, r, "etcd", usual)
	if err != nil {
		return "", 0, err
	}
	if keys, err = countKeys(ctx, source.client); err != nil {
		return "", 0, err
	}
	if err := l.snapshot(ctx, source, figures{}, "max-rate=0"); err != nil {
		return "", 0, err
	}
	made, err := source.archive()
	if err != nil {
		return "", 0, err
	}
	archive = filepath.Join(l.dir, "etcd-snapshot.tar.gz")
	if err := os.Rename(made, archive); err != nil {
		return "", 0, err
	}
	// From here on the source would only take memory and processor time.
	return archive, keys, l.destroy(source)
}

// countKeys counts the keys that a client can read.
func countKeys(ctx context.Context, client *clientv3.Client) (int64, error) {
	reply, err := client.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("count keys: %w", err)
	}
	return reply.Count, nil
}

// serves checks that a restored member has every key.
func serves(ctx context.Context, client *clientv3.Client, want int64) error {
	got, err := countKeys(ctx, client)
	if err == nil && got != want {
		err = fmt.Errorf("restored member has %d keys, the source %d", got, want)
	}
	return err
}

// restoreAction restores on a new unit each time, to which the archive was attached.
func (l *lab) restoreAction(ctx context.Context, archive string, keys int64) work {
	var d *deployed
	return work{
		name: "holdfast",
		prepare: func() (err error) {
			if d, err = l.deploy(ctx, "new-etcd"); err != nil {
				return err
			}
			_, err = output(l.holdfast(ctx, "attach-resource", d.application, "snapshot="+archive))
			return err
		},
		do: func(f figures) error { return l.action(ctx, d, f, "restore", "skip-backup=true") },
		clean: func() error {
			if d == nil {
				return nil
			}
			return errors.Join(serves(ctx, d.client, keys), l.destroy(d))
		},
	}
}

// restoreByHand uses etcd's own tools and server.
func (l *lab) restoreByHand(ctx context.Context, archive string, keys int64) work {
	dir := filepath.Join(l.dir, "by-hand")
	var server *etcdtest.Server
	return work{
		name:    "by hand",
		prepare: func() error { return os.Mkdir(dir, 0o700) },
		do: func(f figures) (err error) {
			if err := tool(exec.CommandContext(ctx, "tar", "xzf", archive, "-C", dir), f, "tar"); err != nil {
				return err
			}
			data := filepath.Join(dir, "data")
			restore := l.etcd.RestoreCommand(ctx, filepath.Join(dir, "db"), data, "--name=m1", "--initial-cluster=m1=http://localhost:2380")
			if err := tool(restore, f, "etcdutl"); err != nil {
				return err
			}
			began := time.Now()
			server, err = etcdtest.Launch(ctx, l.etcd, dir, etcdtest.Options{DataDir: data})
			f["start_s"] = time.Since(began).Seconds()
			return err
		},
		clean: func() error {
			var err error
			if server != nil {
				err = errors.Join(serves(ctx, server.Client, keys), server.Close())
			}
			server = nil
			return errors.Join(err, os.RemoveAll(dir))
		},
	}
}
