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
	"github.com/holdfast-project/holdfast/internal/store"
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
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	in, err := file.Create(folder)
	if err != nil {
		return err
	}
	s, err := l.smallRepository(ctx, in)
	if err != nil {
		return err
	}
	begun := time.Now().Add(-listed * time.Hour)
	for i := range listed {
		if _, err := s.publish(ctx, begun.Add(time.Duration(i)*time.Hour)); err != nil {
			return err
		}
	}
	return nil
}

// smallRepository is a repository without encryption, and a snapshot to put into it.
type smallRepository struct {
	*repository.Repository
	writer   *repository.Writer
	content  []byte
	manifest repository.Manifest
}

// smallRepository makes one in a store.
func (l *lab) smallRepository(ctx context.Context, in store.Store) (s *smallRepository, err error) {
	s = &smallRepository{}
	if s.content, err = l.smallBackend(ctx); err != nil {
		return nil, err
	}
	root, err := repository.NewKey()
	if err != nil {
		return nil, err
	}
	if s.Repository, err = repository.Init(ctx, in, root, repository.None, nil); err != nil {
		return nil, err
	}
	if s.writer, err = repository.OpenWriter(filepath.Join(l.dir, "signer-"+s.Document().Repository)); err != nil {
		return nil, err
	}
	if err := s.Enroll(ctx, root, s.writer.Public(), repository.RoleBackup, "bench"); err != nil {
		return nil, err
	}
	scanner := snapshot.NewScanner(snapshot.Options{})
	if _, err := scanner.Write(s.content); err != nil {
		return nil, err
	}
	info, err := scanner.Finish()
	s.manifest = repository.Manifest{Timeline: "0123456789abcdef", Content: repository.ContentOf(info), Source: repository.Source{EtcdVersion: "3.7.3"}}
	return s, err
}

// publish puts the snapshot as one of a time.
func (s *smallRepository) publish(ctx context.Context, taken time.Time) (repository.Manifest, error) {
	upload, err := s.Upload(ctx, "bench", repository.UploadOptions{Taken: taken})
	if err != nil {
		return repository.Manifest{}, err
	}
	if _, err := upload.Write(s.content); err != nil {
		return repository.Manifest{}, err
	}
	if err := upload.Finish(); err != nil {
		return repository.Manifest{}, err
	}
	return upload.Publish(ctx, s.writer, s.manifest)
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
