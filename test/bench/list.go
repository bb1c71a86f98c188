package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/internal/store/file"
)

// listed is how many snapshots the repository of listSpeed has: a year of one every hour, and some more.
const listed = 10_000

// listSpeed looks at the list of many snapshots, in a folder, and on an S3 server with and without what was read before.
func listSpeed(ctx context.Context, l *lab, r *report) error {
	data := filepath.Join(l.dir, "s3")
	bucket := filepath.Join(data, "bench")
	if err := l.manySnapshots(ctx, bucket); err != nil {
		return err
	}
	server, stop, err := l.startS3(ctx, data)
	if err != nil {
		return err
	}
	cache := filepath.Join(l.dir, "home", "cache")
	list := func(url string) func(f figures) error {
		return func(f figures) error {
			cmd := l.holdfast(ctx, "list", "--quiet", "--repo", url)
			cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID="+benchKey, "AWS_SECRET_ACCESS_KEY="+benchSecret)
			var out bytes.Buffer
			cmd.Stdout = &out
			if err := tool(cmd, f, "list"); err != nil {
				return err
			}
			if lines := bytes.Count(out.Bytes(), []byte("\n")); lines != listed+1 {
				return fmt.Errorf("the list has %d lines, want %d", lines, listed+1)
			}
			return nil
		}
	}
	inS3 := "s3://bench?endpoint=" + server
	err = l.alternate(ctx, r, []work{
		{name: "folder", do: list("file://" + bucket)},
		{name: "S3 cold", do: list(inS3), prepare: func() error { return os.RemoveAll(cache) }},
		{name: "S3 warm", do: list(inS3), prepare: func() error { return list(inS3)(figures{}) }},
	})
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	r.Notes = append(r.Notes, fmt.Sprintf("list of %d snapshots with all columns; the S3 server is on this machine", listed))
	r.gateMost("wall_s", "folder", 2)
	r.gateMost("wall_s", "S3 cold", 30)
	r.gateMost("wall_s", "S3 warm", 2)
	return nil
}

// manySnapshots makes a repository with many small snapshots.
func (l *lab) manySnapshots(ctx context.Context, folder string) error {
	l.say("making a repository of %d snapshots", listed)
	content, err := l.smallBackend(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	store, err := file.Create(folder)
	if err != nil {
		return err
	}
	root, err := repository.NewKey()
	if err != nil {
		return err
	}
	repo, err := repository.Init(ctx, store, root, repository.None, nil)
	if err != nil {
		return err
	}
	writer, err := repository.OpenWriter(filepath.Join(l.dir, "many-signer"))
	if err != nil {
		return err
	}
	if err := repo.Enroll(ctx, root, writer.Public(), repository.RoleBackup, "bench"); err != nil {
		return err
	}
	scanner := snapshot.NewScanner(snapshot.Options{})
	if _, err := scanner.Write(content); err != nil {
		return err
	}
	info, err := scanner.Finish()
	if err != nil {
		return err
	}
	manifest := repository.Manifest{Timeline: "0123456789abcdef", Content: repository.ContentOf(info), Source: repository.Source{EtcdVersion: "3.7.3"}}
	begun := time.Now().Add(-listed * time.Hour)
	for i := range listed {
		upload, err := repo.Upload(ctx, "bench", repository.UploadOptions{Taken: begun.Add(time.Duration(i) * time.Hour)})
		if err != nil {
			return err
		}
		if _, err := upload.Write(content); err != nil {
			return err
		}
		if err := upload.Finish(); err != nil {
			return err
		}
		if _, err := upload.Publish(ctx, writer, manifest); err != nil {
			return err
		}
	}
	return nil
}

// smallBackend is the snapshot of an etcd with next to nothing in it.
func (l *lab) smallBackend(ctx context.Context) ([]byte, error) {
	d, err := l.deploy(ctx, "small")
	if err != nil {
		return nil, err
	}
	stream, err := d.client.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(stream)
	return content, errors.Join(err, stream.Close(), l.destroy(d))
}

// Credentials of the S3 server of a run.
const (
	benchKey    = "benchkey"
	benchSecret = "benchsecret"
)

// startS3 runs an S3 server on a folder, whose folders are its buckets.
func (l *lab) startS3(ctx context.Context, folder string) (url string, stop func() error, err error) {
	found, err := filepath.Glob(".cache/servers/versitygw-*/versitygw")
	if err != nil || len(found) == 0 {
		return "", nil, errors.Join(err, errors.New("no S3 server: run make servers"))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return "", nil, err
	}
	cmd := exec.Command(found[len(found)-1], "--port", address, "posix", folder)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + l.dir, "ROOT_ACCESS_KEY_ID=" + benchKey, "ROOT_SECRET_ACCESS_KEY=" + benchSecret}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error {
		_ = cmd.Process.Kill() // It may have ended.
		if err := cmd.Wait(); err != nil && !strings.Contains(err.Error(), "killed") {
			return fmt.Errorf("S3 server: %w", err)
		}
		return nil
	}
	const patience = 30 * time.Second
	for began := time.Now(); ; {
		reply, err := http.Get("http://" + address)
		if err == nil {
			return "http://" + address, stop, reply.Body.Close()
		}
		if ctx.Err() != nil || time.Since(began) > patience {
			return "", nil, errors.Join(fmt.Errorf("S3 server does not answer: %w", err), stop())
		}
		time.Sleep(100 * time.Millisecond)
	}
}
