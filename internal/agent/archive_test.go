package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store/file"
)

// vaulted gives the unit a home, and a repository beside it in which the home may not sign yet.
func (f *fixture) vaulted(t *testing.T) (repo *repository.Repository, enroll func()) {
	t.Helper()
	f.config.Home = filepath.Join(f.dir, "home")
	s, err := file.Create(filepath.Join(f.dir, "repo"))
	must(t, err)
	root, err := repository.NewKey()
	must(t, err)
	repo, err = repository.Init(t.Context(), s, root, repository.None, nil)
	must(t, err)
	writer, err := repository.OpenWriter(filepath.Join(f.config.Home, config.SignerFolder))
	must(t, err)
	return repo, func() { must(t, repo.Enroll(t.Context(), root, writer.Public(), repository.RoleBackup, "test")) }
}

// configure writes the configuration of the machine.
func (f *fixture) configure(t *testing.T, archive string) {
	t.Helper()
	text := fmt.Sprintf("repository: {url: 'file://%s', cluster: prod}\narchive: {%s}\n", filepath.Join(f.dir, "repo"), archive)
	// As an editor does: never half of it.
	temp := filepath.Join(f.dir, "new.yaml")
	must(t, os.WriteFile(temp, []byte(text), 0o600))
	must(t, os.Rename(temp, filepath.Join(f.config.Home, config.MachineFile)))
}

// archives waits until the unit's archiver is as it should be; nil is that none is wanted.
func (f *fixture) archives(t *testing.T, what string, enough func(*api.Archive) bool) (state *api.Archive) {
	t.Helper()
	client := f.operator(t)
	eventually(t, func() error {
		answer, err := client.Unit(t.Context())
		if err != nil {
			return err
		}
		if state = answer.Archive; !enough(state) {
			return fmt.Errorf("want %s: %+v", what, state)
		}
		return nil
	})
	return state
}

// stored waits until a revision is confirmed, on another timeline than before.
func (f *fixture) stored(t *testing.T, revision int64, before string) *api.Archive {
	t.Helper()
	return f.archives(t, fmt.Sprint("revision ", revision), func(a *api.Archive) bool {
		return a != nil && a.Role == api.ArchiveArchiver && a.Revision >= revision && a.Timeline != "" && a.Timeline != before && a.LagRevisions == 0
	})
}

func (f *fixture) put(t *testing.T, value string) int64 {
	t.Helper()
	reply, err := f.etcd(t).Put(t.Context(), "key", value)
	must(t, err)
	return reply.Header.Revision
}

// TestArchiverOfAUnit goes through what an archiver goes through on a unit that is alone: it is switched on, lacks rights, gets
// them, outlives its agent, begins a new timeline when the unit is restored, and is switched off.
func TestArchiverOfAUnit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	repo, enroll := f.vaulted(t)
	stop := f.run(t)
	f.healthy(t)
	if state := f.healthy(t); state.Archive != nil {
		t.Errorf("nobody wants an archive: %+v", state.Archive)
	}
	f.configure(t, "enabled: true, flush: 50ms, takeover: 3s")
	state := f.archives(t, "no rights", func(a *api.Archive) bool { return a != nil && a.Role == api.ArchiveFailed })
	if !state.Enabled || !strings.Contains(state.Error, "not enrolled") || !strings.Contains(state.Error, "key enroll") {
		t.Errorf("without rights: %+v", state)
	}
	enroll()
	first := f.stored(t, f.put(t, "in the archive"), "")
	if first.Cluster != "prod" || first.Error != "" || first.Snapshot == nil || first.Confirmed.IsZero() || time.Since(first.Confirmed) > time.Minute {
		t.Errorf("archiver %+v", first)
	}
	saved := result(t, f.do(t, "snapshot", nil), "snapshot.path")
	f.stored(t, f.put(t, "seen as it came"), "") // what proves that the line goes on

	begun := time.Now()
	stop()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the agent took %s to stop", took)
	}
	while := f.put(t, "while no agent ran")
	stop = f.run(t)
	second := f.stored(t, max(while, f.put(t, "and on")), "")
	if second.Timeline != first.Timeline || second.Snapshot != nil {
		t.Errorf("after a restart %+v, before %+v", second, first)
	}

	task := f.do(t, "restore", action.Params{"path": saved})
	if task.Status != action.Completed {
		t.Fatalf("restore: %s %s", task.Status, task.Message)
	}
	third := f.stored(t, f.put(t, "another life"), first.Timeline)
	if log := f.log.String(); strings.Count(log, "level=ERROR msg=\"the history that was archived does not go on: a new timeline begins\"") != 1 ||
		!strings.Contains(log, "cluster=prod unit=etcd/0") {
		t.Errorf("the log does not tell of the new timeline once:\n%s", log)
	}
	timelines, err := repo.Timelines(t.Context(), "prod")
	must(t, err)
	if len(timelines) != 2 || string(timelines[1]) != third.Timeline {
		t.Errorf("timelines %q, it writes %q", timelines, third.Timeline)
	}
	if last, err := repo.LastSegment(t.Context(), "prod", timelines[0]); err != nil || last == nil || int64(last.Last) < while {
		t.Errorf("the old timeline ends with %+v, %v", last, err)
	}

	f.configure(t, "enabled: false")
	f.archives(t, "none", func(a *api.Archive) bool { return a == nil })
	stop()
}

// TestRestoreOfAStandby: a unit whose archiver has never written knows from its journal that it was restored, so that nobody
// must say it again.
func TestRestoreOfAStandby(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, enroll := f.vaulted(t)
	enroll()
	f.configure(t, "")
	stop := f.run(t)
	f.healthy(t)
	f.put(t, "in the backup")
	if task := f.do(t, "create-backup", nil); task.Status != action.Completed {
		t.Fatalf("create-backup: %s %s", task.Status, task.Message)
	}
	saved := result(t, f.do(t, "snapshot", nil), "snapshot.path")
	f.configure(t, "enabled: true, flush: 50ms, takeover: 3s")
	first := f.stored(t, f.put(t, "archived"), "")
	f.configure(t, "")
	f.archives(t, "none", func(a *api.Archive) bool { return a == nil })
	if task := f.do(t, "restore", action.Params{"path": saved}); task.Status != action.Completed {
		t.Fatalf("restore: %s %s", task.Status, task.Message)
	}
	must(t, os.RemoveAll(filepath.Join(f.config.StateDir, "archive")))
	f.configure(t, "enabled: true, flush: 50ms, takeover: 3s")
	f.stored(t, f.put(t, "another life"), first.Timeline)
	if !strings.Contains(f.log.String(), "the unit was restored since the last snapshot: a new timeline begins") {
		t.Errorf("the log does not tell:\n%s", f.log)
	}
	stop()
}

// TestNothingIsReadDuringARestore: what a restore has started may be taken back.
func TestNothingIsReadDuringARestore(t *testing.T) {
	var tasks []action.Task
	members := unlessRestoring(func() []action.Task { return tasks }, archive.Fixed(nil))
	for _, tt := range []struct {
		action string
		status action.Status
		want   error
	}{
		{"restore", action.Pending, nil}, {"restore", action.Running, errRestoring}, {"restore", action.Aborting, errRestoring},
		{"restore", action.Completed, nil}, {"restore", action.Failed, nil}, {"snapshot", action.Running, nil},
	} {
		tasks = []action.Task{{Action: "restore", Status: action.Completed}, {Action: tt.action, Status: tt.status}}
		if _, err := members(t.Context()); !errors.Is(err, tt.want) {
			t.Errorf("%s %s: %v", tt.action, tt.status, err)
		}
	}
}

// TestTeller: the same trouble is logged once, and other trouble at once.
func TestTeller(t *testing.T) {
	f := &journalOfLog{}
	said := teller{log: textLogger(f)}
	for range 3 {
		said.tell(0, "trouble", "unit", "etcd/0", "err", errors.New("one"))
	}
	said.tell(0, "trouble", "unit", "etcd/0", "err", errors.New("two"))
	said.at = time.Now().Add(-sayAgain)
	said.tell(0, "trouble", "unit", "etcd/0", "err", errors.New("two"))
	if n := strings.Count(f.String(), "\n"); n != 3 {
		t.Errorf("%d lines:\n%s", n, f)
	}
}
