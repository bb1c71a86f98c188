package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store/file"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// TestAgentsArchive: of the agents of an application one archives; one that dies without a word is followed by another, and
// finds its place when it is back; a unit that is removed hands over at once. No revision is lost while a client writes all
// the time.
func TestAgentsArchive(t *testing.T) {
	w := newWorld(t)
	repo := w.repository(t)
	must(t, os.WriteFile(filepath.Join(w.Home, config.MachineFile), fmt.Appendf(nil,
		"repository: {url: 'file://%s', cluster: prod}\narchive: {enabled: true, flush: 100ms, takeover: 3s}\n", filepath.Join(filepath.Dir(w.Home), "repo")), 0o600))
	names, err := w.Deploy(t.Context(), "etcd", 3, deploy.Options{})
	must(t, err)
	stopWriting := w.write(t, names)
	first := w.archiver(t, names, unit.Name{})

	must(t, syscall.Kill(w.agentPID(t, first), syscall.SIGKILL))
	others := without(names, first)
	second := w.archiver(t, others, first)
	_, err = w.Start(t.Context(), names)
	must(t, err)
	w.archiver(t, names, first) // the second one goes on, and the first waits
	if state, err := w.archiveOf(t, first); err != nil || state.Role != api.ArchiveStandby || state.Error != "" {
		t.Errorf("the one that died and is back: %+v, %v", state, err)
	}

	ordered, err := w.CheckRemovable(t.Context(), []unit.Name{second})
	must(t, err)
	_, err = w.RemoveUnit(t.Context(), ordered[0])
	must(t, err)
	third := w.archiver(t, without(names, second), second)
	last := stopWriting()
	eventually(t, func() error {
		if state, err := w.archiveOf(t, third); err != nil || state.Revision < last || state.LagRevisions != 0 || state.LagSeconds > 16 {
			return fmt.Errorf("revision %d is the last, the archiver is at %+v, %v", last, state, err)
		}
		return nil
	})
	list := timelines(t, repo)
	if len(list) != 1 || len(list[0].Gaps()) > 0 || len(list[0].Orphans) > 0 || int64(list[0].Last()) < last {
		t.Errorf("timelines %+v, the last revision is %d", list, last)
	}
	if points, _, err := repo.Points(t.Context(), "prod"); err != nil || len(points) < 2 || len(points) > 4 {
		t.Errorf("%d snapshots, want one for each that began: %v", len(points), err)
	}
}

// repository makes one beside the home, in which the home may sign.
func (w *world) repository(t *testing.T) *repository.Repository {
	t.Helper()
	folder := filepath.Join(filepath.Dir(w.Home), "repo")
	must(t, os.MkdirAll(w.Home, 0o700))
	s, err := file.Create(folder)
	must(t, err)
	root, err := repository.NewKey()
	must(t, err)
	repo, err := repository.Init(t.Context(), s, root, repository.None, nil)
	must(t, err)
	writer, err := repository.OpenWriter(filepath.Join(w.Home, config.SignerFolder))
	must(t, err)
	must(t, repo.Enroll(t.Context(), root, writer.Public(), repository.RoleBackup, "test"))
	return repo
}

// archiveOf asks a unit for its archiver.
func (w *world) archiveOf(t *testing.T, name unit.Name) (api.Archive, error) {
	t.Helper()
	state, err := w.client(t, name).Unit(t.Context())
	if err != nil || state.Archive == nil {
		return api.Archive{}, err
	}
	return *state.Archive, nil
}

// archiver waits until exactly one of the units archives, another one than before, with the store's word for what it stored;
// the others wait.
func (w *world) archiver(t *testing.T, names []unit.Name, before unit.Name) (found unit.Name) {
	t.Helper()
	eventually(t, func() error {
		found = unit.Name{}
		for _, name := range names {
			state, err := w.archiveOf(t, name)
			switch {
			case err != nil:
				return err
			case state.Role == api.ArchiveArchiver && found.IsZero() && name != before && state.Revision > 0 && !state.Confirmed.IsZero():
				found = name
			case state.Role != api.ArchiveStandby:
				return fmt.Errorf("unit %s: %+v", name, state)
			}
		}
		if found.IsZero() {
			return errors.New("nobody archives")
		}
		return nil
	})
	return found
}

func (w *world) agentPID(t *testing.T, name unit.Name) int {
	t.Helper()
	process, err := w.AgentProcess(t.Context(), name)
	must(t, err)
	return process.PID
}

func without(names []unit.Name, one unit.Name) (list []unit.Name) {
	for _, name := range names {
		if name != one {
			list = append(list, name)
		}
	}
	return list
}

// write writes to the units' cluster until stop is called, which gives the last revision.
func (w *world) write(t *testing.T, names []unit.Name) (stop func() int64) {
	t.Helper()
	tls, err := w.EtcdTLS()
	must(t, err)
	var endpoints []string
	for _, name := range names {
		endpoints = append(endpoints, w.record(t, name).ClientURLs...)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: tls, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	var writing sync.WaitGroup
	var last int64
	writing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			try, done := context.WithTimeout(context.Background(), 5*time.Second)
			// While a member goes, a write may fail; that it was done all the same is seen by the next.
			if reply, err := client.Put(try, fmt.Sprintf("/registry/key-%d", i%50), fmt.Sprint("value ", i)); err == nil {
				last = reply.Header.Revision
			}
			done()
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond): // the pace of the writes
			}
		}
	})
	return func() int64 {
		cancel()
		writing.Wait()
		return last
	}
}

func timelines(t *testing.T, repo *repository.Repository) []coverage.Timeline {
	t.Helper()
	reads, _, err := repo.Snapshots(t.Context(), "prod")
	must(t, err)
	var manifests []repository.Manifest
	for _, read := range reads {
		must(t, read.Err)
		manifests = append(manifests, read.Manifest)
	}
	points, _, err := repo.SegmentPoints(t.Context(), "prod", "")
	must(t, err)
	segments, err := repo.SegmentsOf(t.Context(), points)
	must(t, err)
	var list []repository.Segment
	for _, read := range segments {
		must(t, read.Err)
		list = append(list, read.Segment)
	}
	return coverage.Of(manifests, list, nil)
}
