package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// vault is a repository of a run, in a folder on the disk of the lab.
type vault struct {
	*lab
	folder, identity string
}

// newVault makes an encrypted repository.
func (l *lab) newVault(ctx context.Context) (*vault, error) {
	v := &vault{lab: l, folder: filepath.Join(l.dir, "repository"), identity: filepath.Join(l.dir, "age-key.txt")}
	recipient, err := output(l.holdfast(ctx, "key", "generate", v.identity))
	if err != nil {
		return nil, err
	}
	_, err = output(v.run(ctx, "repo", "init", "--recipient", strings.TrimSpace(recipient), "--root-key", filepath.Join(l.dir, "root.key")))
	return v, err
}

// run is a command on the repository.
func (v *vault) run(ctx context.Context, args ...string) *exec.Cmd {
	cmd := v.holdfast(ctx, args...)
	cmd.Env = append(cmd.Env, "HOLDFAST_REPO=file://"+v.folder)
	return cmd
}

// backup makes one backup, of which the figures get the size.
func (v *vault) backup(ctx context.Context, d *deployed, f figures, more ...string) error {
	return d.withServer(f, func() error {
		args := append([]string{"backup", "--cluster", "bench", "--unit", d.application, "--quiet", "--output", "json"}, more...)
		cmd := v.run(ctx, args...)
		said, err := os.Create(filepath.Join(v.dir, "manifest.json"))
		if err != nil {
			return err
		}
		cmd.Stdout = said
		if err := errors.Join(tool(cmd, f, "backup"), said.Close()); err != nil {
			return err
		}
		object, err := v.stored()
		if err != nil {
			return err
		}
		return fileSize(object, f)
	})
}

// stored gives the object of the last backup.
func (v *vault) stored() (string, error) {
	text, err := os.ReadFile(filepath.Join(v.dir, "manifest.json"))
	if err != nil {
		return "", err
	}
	var manifest struct{ Object struct{ Name string } }
	if err := json.Unmarshal(text, &manifest); err != nil {
		return "", fmt.Errorf("read manifest: %w", err)
	}
	return filepath.Join(v.folder, manifest.Object.Name), nil
}

// drop removes the data of the last backup, so that the disk is as full as before. Its manifest stays.
func (v *vault) drop() error {
	object, err := v.stored()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.Remove(object))
}

// backupSpeed compares an unpaced backup into a folder with a bare save, and with the page's three commands.
func backupSpeed(ctx context.Context, l *lab, r *report) error {
	d, err := l.fill(ctx, r, "etcd", usual)
	if err != nil {
		return err
	}
	v, err := l.newVault(ctx)
	if err != nil {
		return err
	}
	err = l.alternate(ctx, r, []work{
		{name: "holdfast", do: func(f figures) error { return v.backup(ctx, d, f, "--max-rate", "0") }, clean: v.drop},
		{name: "fast", do: func(f figures) error { return v.backup(ctx, d, f, "--max-rate", "0", "--compression", "fast") }, clean: v.drop},
		{name: "etcdctl", do: func(f figures) error { return d.withServer(f, func() error { return l.save(ctx, d, f) }) }, clean: d.removeArchives},
		{name: "by hand", do: func(f figures) error { return l.snapshotByHand(ctx, d, f) }, clean: d.removeArchives},
	})
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes, "backup --max-rate 0 to a folder, encrypted with age; etcdctl snapshot save alone; by hand: etcdctl snapshot save, tar czf, sha256sum")
	r.gateRatio("wall_s", "holdfast", "etcdctl", 1.4)
	r.gateRatio("wall_s", "fast", "etcdctl", 1.15)
	r.gateRatio("wall_s", "holdfast", "by hand", 1.0/5)
	r.gateRatio("archive_bytes", "holdfast", "by hand", 1)
	return nil
}

// backupMemory looks at the memory of the command while it backs up as fast as it can.
func backupMemory(ctx context.Context, l *lab, r *report) error {
	v, err := l.newVault(ctx)
	if err != nil {
		return err
	}
	var sides []work
	for _, size := range []struct {
		name  string
		bytes int64
	}{{"usual", usual}, {"large", large}} {
		d, err := l.fill(ctx, r, size.name, size.bytes)
		if err != nil {
			return err
		}
		sides = append(sides, work{name: size.name, clean: v.drop, do: func(f figures) error {
			return v.backup(ctx, d, f, "--max-rate", "0", "--cluster", size.name)
		}})
	}
	if err := l.alternate(ctx, r, sides); err != nil {
		return err
	}
	r.gateMost("memory_bytes", "usual", 128<<20)
	r.gateMost("memory_bytes", "large", 128<<20+large/100)
	return nil
}

// backupLatency is snapshotLatency for a backup.
func backupLatency(ctx context.Context, l *lab, r *report) error {
	d, err := l.fill(ctx, r, "etcd", usual)
	if err != nil {
		return err
	}
	v, err := l.newVault(ctx)
	if err != nil {
		return err
	}
	return l.latency(ctx, r, d, work{do: func(f figures) error { return v.backup(ctx, d, f) }, clean: v.drop}, 0.4)
}

// madeBackup makes one backup of a usual database, and destroys the database.
func (l *lab) madeBackup(ctx context.Context, r *report) (*vault, error) {
	d, err := l.fill(ctx, r, "etcd", usual)
	if err != nil {
		return nil, err
	}
	v, err := l.newVault(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.backup(ctx, d, figures{}, "--max-rate", "0"); err != nil {
		return nil, err
	}
	return v, l.destroy(d)
}

// verifySpeed compares a verification down to every page with unzstd alone.
func verifySpeed(ctx context.Context, l *lab, r *report) error {
	v, err := l.madeBackup(ctx, r)
	if err != nil {
		return err
	}
	object, err := v.stored()
	if err != nil {
		return err
	}
	packed := filepath.Join(l.dir, "packed.zst")
	if _, err := output(exec.CommandContext(ctx, "age", "-d", "-i", v.identity, "-o", packed, object)); err != nil {
		return err
	}
	err = l.alternate(ctx, r, []work{
		{name: "holdfast", do: func(f figures) error {
			return tool(v.run(ctx, "verify", "--level", "checksum", "--identity", v.identity, "--no-record", "--quiet"), f, "verify")
		}},
		{name: "unzstd", do: func(f figures) error {
			return tool(exec.CommandContext(ctx, "unzstd", "-q", "-f", "-o", "/dev/null", packed), f, "unzstd")
		}},
	})
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes, "verify --level checksum --identity: sha256, age, zstd, every page, etcd's sha256; unzstd of the same, decrypted before, to /dev/null")
	r.gateRatio("wall_s", "holdfast", "unzstd", 2)
	return nil
}

// repositoryRestore compares a restore out of a repository with etcdutl on the plain file.
func repositoryRestore(ctx context.Context, l *lab, r *report) error {
	v, err := l.madeBackup(ctx, r)
	if err != nil {
		return err
	}
	plain, data := filepath.Join(l.dir, "plain.db"), filepath.Join(l.dir, "data")
	if _, err := output(v.run(ctx, "export", "--identity", v.identity, "--quiet", plain)); err != nil {
		return err
	}
	clean := func() error { return os.RemoveAll(data) }
	err = l.alternate(ctx, r, []work{
		{name: "holdfast", clean: clean, do: func(f figures) error {
			return tool(v.run(ctx, "restore", "--identity", v.identity, "--quiet", "--data-dir", data), f, "restore")
		}},
		{name: "etcdutl", clean: clean, do: func(f figures) error {
			// As ours is, the data dir is good when the command has ended, also after a power cut.
			began := time.Now()
			if err := tool(l.etcd.RestoreCommand(ctx, plain, data, "--bump-revision=1000000000", "--mark-compacted"), f, "etcdutl"); err != nil {
				return err
			}
			f["etcdutl_s"] = time.Since(began).Seconds()
			return nil
		}},
	})
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes, "restore --data-dir out of a repository: decrypted, decompressed, every page checked, what was changed checked again; etcdutl snapshot restore of the plain file, both with a bumped revision")
	r.gateRatio("wall_s", "holdfast", "etcdutl", 1)
	return nil
}
