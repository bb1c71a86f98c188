package unitaction

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/restore"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// faulty is a service that fails in the way that a test wants.
type faulty struct {
	Service
	hold    error  // what Hold says instead of holding
	held    func() // what happens once it holds
	release func() // what Release does instead, once
}

func (f *faulty) Hold(ctx context.Context) error {
	if f.hold != nil {
		return f.hold
	}
	err := f.Service.Hold(ctx)
	if f.held != nil {
		f.held()
	}
	return err
}

func (f *faulty) Release() {
	if instead := f.release; instead != nil {
		f.release = nil
		instead()
		return
	}
	f.Service.Release()
}

// fingerprint is all that a restore that is refused or undone must leave as it was.
func (w *world) fingerprint(t *testing.T, withProcess bool) string {
	t.Helper()
	var text strings.Builder
	if withProcess {
		process, running, err := w.child.Running(t.Context())
		fmt.Fprintf(&text, "process %+v %v %v\n", process, running, err)
	}
	status, err := w.etcd(t).Status(t.Context(), w.Record.ClientURLs[0])
	must(t, err)
	members, err := w.etcd(t).MemberList(t.Context())
	must(t, err)
	fmt.Fprintf(&text, "cluster %x revision %d members %v\n", status.Header.ClusterId, status.Header.Revision, members.Members)
	must(t, filepath.WalkDir(w.Record.DataDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || strings.HasSuffix(path, ".tmp") { // etcd prepares its next WAL file when it likes
			return err
		}
		info, err := e.Info()
		fmt.Fprintln(&text, path, info.Mode())
		return err
	}))
	entries, err := os.ReadDir(w.Scratch)
	fmt.Fprintln(&text, "scratch", entries, errors.Is(err, nil) || errors.Is(err, fs.ErrNotExist), w.files(t))
	return text.String()
}

// TestRestore restores an archive of one etcd into another that has data of its own, with and without a bump, and every
// way in which it must be refused or undone before that.
func TestRestore(t *testing.T) {
	t.Parallel()
	source := newWorld(t, "3.7").serve(t)
	_, err := kubeload.Fill(t.Context(), source.etcd(t), kubeload.New(7, 60))
	must(t, err)
	lease, err := source.etcd(t).Grant(t.Context(), 3600)
	must(t, err)
	_, err = source.etcd(t).KeepAliveOnce(t.Context(), lease.ID)
	must(t, err)
	want, err := keyspace.Read(t.Context(), source.etcd(t))
	must(t, err)
	made := source.do(t, "snapshot", nil)
	archive, err := os.ReadFile(source.host(get(t, made, "snapshot.path")))
	must(t, err)
	must(t, source.child.Hold(t.Context()))

	w := newWorld(t, "3.7").serve(t)
	w.put(t, "old", "data")
	w.attached = filepath.Join(t.TempDir(), "snapshot-1")
	must(t, os.WriteFile(w.attached, archive, 0o600))
	w.attachedSHA256 = get(t, made, "snapshot.sha256")
	t.Run("refused", func(t *testing.T) { checkRefused(t, w, archive) })
	t.Run("undone", func(t *testing.T) { checkUndone(t, w) })
	t.Run("done", func(t *testing.T) { checkRestored(t, w, want) })
	t.Run("its backup restores the old", func(t *testing.T) { checkBackup(t, w) })
}

// checkRefused wants every refusal before anything is touched.
func checkRefused(t *testing.T, w *world, archive []byte) {
	write := func(name string, content []byte) string {
		must(t, os.MkdirAll(w.host("/srv"), 0o700))
		must(t, os.WriteFile(w.host("/srv/"+name), content, 0o600))
		return "/srv/" + name
	}
	flipped := bytes.Clone(archive)
	flipped[len(flipped)/2] ^= 1
	bad := map[string]string{
		"flipped": write("flipped", flipped), "cut": write("cut", archive[:len(archive)-1]), "longer": write("longer", append(bytes.Clone(archive), 0)),
		"empty": write("empty", nil), "text": write("text", []byte("no archive at all")), "whole": write("whole", archive),
	}
	must(t, os.Symlink("/etc/passwd", w.host("/srv/link")))
	must(t, os.WriteFile(w.host("/srv/cut.json"), []byte(`{"format":"holdfast-archive/1","sha256":"`+strings.Repeat("0", 64)+`"}`), 0o600))
	must(t, os.WriteFile(w.host("/srv/empty.json"), []byte(`{`), 0o600))
	must(t, os.WriteFile(w.host("/srv/whole.json"), []byte(`{"format":"holdfast-archive/1","sha256":"`+strings.Repeat("a", 64)+`","etcd-version":"3.6.1"}`), 0o600))
	for given, want := range map[string][2]string{"": {strings.Repeat("a", 64), "3.6.1"}, strings.Repeat("b", 64): {strings.Repeat("b", 64), ""}} {
		if s, err := w.fileSource(bad["whole"], given); err != nil || s.wantSHA256 != want[0] || s.version != want[1] {
			t.Errorf("asked for sum %q: want sum %q, version %q: %v", given, s.wantSHA256, s.version, err)
		}
	}
	attached, sum := w.attached, w.attachedSHA256
	before := w.fingerprint(t, true)
	for name, tt := range map[string]struct {
		params map[string]any
		change func()
		want   string
	}{
		"no resource":            {nil, func() { w.attached = "" }, "Missing snapshot: attach one with attach-resource etcd snapshot=FILE"},
		"a resource that rotted": {nil, func() { w.attachedSHA256 = strings.Repeat("0", 64) }, "restore refused: sha256 of the archive: expected " + strings.Repeat("0", 64) + ", actual " + sum},
		"a resource that went":   {nil, func() { w.attached += "x" }, "restore refused: open archive: "},
		"another sum":            {map[string]any{"sha256": strings.Repeat("1", 64)}, nil, "restore refused: sha256 of the archive: expected " + strings.Repeat("1", 64)},
		"no sum":                 {map[string]any{"sha256": "abc"}, nil, `sha256 must be 64 hexadecimal digits, given "abc"`},
		"flipped":                {map[string]any{"path": bad["flipped"]}, nil, "restore refused: "},
		"by its side file":       {map[string]any{"path": bad["cut"]}, nil, "restore refused: sha256 of the archive: expected 0000"},
		"longer":                 {map[string]any{"path": bad["longer"]}, nil, "restore refused: "},
		"bad side file":          {map[string]any{"path": bad["empty"]}, nil, `read side file "/srv/empty.json"`},
		"text":                   {map[string]any{"path": bad["text"]}, nil, "restore refused: neither a snapshot archive nor an etcd backend file"},
		"relative":               {map[string]any{"path": "srv/whole"}, nil, `path must be an absolute path, given "srv/whole": a path is one inside the unit's root `},
		"not there":              {map[string]any{"path": "/none"}, nil, `restore refused: no archive "/none" on unit etcd/0: a path is one inside the unit's root ` + w.Record.Root + "; scp FILE etcd/0: brings a file to /home/ubuntu, attach-resource etcd snapshot=FILE needs no path"},
		"a folder":               {map[string]any{"path": "/srv"}, nil, `restore refused: "/srv" on unit etcd/0 is a folder; path is that of an archive file in it`},
		"a link out":             {map[string]any{"path": "/srv/link"}, nil, "find archive: "},
		"out by dots":            {map[string]any{"path": "/../../../../etc/passwd"}, nil, "restore refused: no archive "},
		"newer":                  {map[string]any{"source-version": "3.8"}, nil, "restore refused: "},
		"no version":             {map[string]any{"source-version": "new"}, nil, "restore refused: "},
		"no duration":            {map[string]any{"health-timeout": "soon"}, nil, `health-timeout must be a duration such as 2m, given "soon"`},
		"no time":                {map[string]any{"health-timeout": "0s"}, nil, "health-timeout must be"},
		"relative target":        {map[string]any{"target": "x"}, nil, "target must be an absolute path"},
		"a target that is none":  {map[string]any{"target": "/srv/whole"}, nil, "archive the present data: "},
		"three units": {nil, func() {
			w.attached = "" // the units come first
			w.ApplicationUnits = func() ([]unit.Name, error) {
				return []unit.Name{{Application: "etcd"}, {Application: "etcd", Number: 1}, {Application: "etcd", Number: 2}}, nil
			}
		}, "restore refused: application etcd has 3 units (etcd/0, etcd/1, etcd/2); restore needs exactly one; deploy a new application of one unit, and restore there"},
		"no server": {nil, func() {
			w.ServerVersion = func(context.Context) (string, error) { return "", errors.New("no such program") }
		}, "no such program"},
		"older etcd":        {nil, func() { w.ServerVersion = func(context.Context) (string, error) { return "3.4.23", nil } }, "restore refused: "},
		"no room to unpack": {nil, func() { w.Scratch = "/dev/null/x" }, "restore refused: "},
		"given up":          {nil, nil, action.ErrCancelled.Error()},
	} {
		version, scratch := w.ServerVersion, w.Scratch
		if tt.change != nil {
			tt.change()
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		if name == "given up" {
			cancel(action.ErrCancelled)
		}
		call, err := w.run(ctx, "restore", tt.params)
		cancel(nil)
		w.attached, w.attachedSHA256, w.ApplicationUnits, w.ServerVersion, w.Scratch = attached, sum, nil, version, scratch
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasSuffix(err.Error(), "; the data of etcd was not touched") {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if call != nil && len(call.Results()) != 0 {
			t.Errorf("%s: results %v", name, call.Results())
		}
		if after := w.fingerprint(t, true); after != before {
			t.Errorf("%s: before\n%s\nafter\n%s", name, before, after)
		}
	}
}

// checkUndone lets a restore fail after the point where it touches the unit: the old data serves again.
func checkUndone(t *testing.T, w *world) {
	real := w.Service
	defer func() { w.Service = real }()
	skip := map[string]any{"skip-backup": true, "health-timeout": "2s"}
	before := w.fingerprint(t, true)
	w.Service = &faulty{Service: real, hold: errors.New("hold etcd: it does not end")}
	if _, err := w.run(t.Context(), "restore", skip); err == nil || err.Error() != "hold etcd: it does not end; the data of etcd was not touched" {
		t.Errorf("etcd does not stop: %v", err)
	}
	if after := w.fingerprint(t, true); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}

	before = w.fingerprint(t, false)
	undone := func(name string, ctx context.Context, begin, end string) {
		t.Helper()
		call, err := w.run(ctx, "restore", skip)
		if err == nil || !strings.HasPrefix(err.Error(), begin) || !strings.Contains(err.Error(), end) || strings.Contains(err.Error(), `{"level"`) {
			t.Errorf("%s: %v", name, err)
		}
		if len(call.Results()) != 0 || w.get(t, "old") != "data" {
			t.Errorf("%s: results %v", name, call.Results())
		}
		if after := w.fingerprint(t, false); after != before {
			t.Errorf("%s: before\n%s\nafter\n%s", name, before, after)
		}
	}
	const failed, back = "restored etcd failed: it did not serve within 2s: ", "; the old data was put back and is served again; etcd had said: "
	w.Service = &faulty{Service: real, release: func() {}}
	undone("etcd does not start", t.Context(), failed, back)
	ctx, cancel := context.WithCancelCause(t.Context())
	w.Service = &faulty{Service: real, held: func() { cancel(action.ErrCancelled) }}
	undone("cancelled before etcd is started", ctx, "cancelled on request; the old data was put back and is served again", "")
	ctx, cancel = context.WithCancelCause(t.Context())
	w.Service = &faulty{Service: real, release: func() { cancel(action.ErrCancelled) }}
	undone("cancelled when etcd was started, which does not serve", ctx, failed, "; the cancel came too late to stop it before that"+back)
	// The new data is spoilt in the moment before etcd starts on it.
	w.Service = &faulty{Service: real, release: func() {
		must(t, os.Truncate(filepath.Join(w.Record.DataDir, "member", "snap", "db"), 100))
		real.Release()
	}}
	undone("etcd dies", t.Context(), failed, back)
}

// TestCancelAfterTheStart cancels a restore when its etcd was started: clients may have written to it, and what they wrote
// stays. The same holds for the agent's stop.
func TestCancelAfterTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "3.7").serve(t)
	w.put(t, "old", "data")
	archive := get(t, w.do(t, "snapshot", nil), "snapshot.path")
	w.put(t, "old", "changed")
	real := w.Service
	for name, tt := range map[string]struct {
		cause error
		note  string
	}{
		"cancelled":       {action.ErrCancelled, "the cancel came too late: etcd had been started on the restored data"},
		"the agent stops": {errors.New("the agent stops"), ""},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		w.Service = &faulty{Service: real, release: func() {
			real.Release()
			must(t, w.awaitServing(t.Context(), time.Minute, 0))
			w.put(t, "written", name)
			cancel(tt.cause)
		}}
		call, err := w.run(ctx, "restore", map[string]any{"path": archive, "skip-backup": true})
		must(t, err)
		if w.get(t, "written") != name || w.get(t, "old") != "data" {
			t.Errorf("%s: written is %q, old is %q", name, w.get(t, "written"), w.get(t, "old"))
		}
		if note, _ := call.Results().Get("restore.note"); note != tt.note {
			t.Errorf("%s: note %q, want %q", name, note, tt.note)
		}
		if pending, err := mustDir(t, w).Pending(); pending || err != nil {
			t.Errorf("%s: not committed: %v", name, err)
		}
	}
}

func mustDir(t *testing.T, w *world) datadir.Dir {
	t.Helper()
	dir, err := datadir.At(w.Record.DataDir, w.Record.WALDir)
	must(t, err)
	return dir
}

func TestPlainLog(t *testing.T) {
	t.Parallel()
	const said = `{"level":"fatal","ts":"2026-11-22T18:15:27Z","caller":"x.go:1","msg":"discovery failed","error":"no such member","more":1}
killed {"level"
{"level":"info","msg":"closing"}`
	const want = "fatal: discovery failed: no such member\nkilled {\"level\"\ninfo: closing"
	if got := plainLog(said); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func checkRestored(t *testing.T, w *world, want keyspace.State) {
	status, err := w.etcd(t).Status(t.Context(), w.Record.ClientURLs[0])
	must(t, err)
	var log []string
	call := &action.Call{TaskID: "3d6a505e-07d7-4697-8471-60156f87b1b4", Unit: w.Name, Program: "juju", Log: func(line string) { log = append(log, line) }}
	call.Params, err = (&restoreAction{w.Unit}).Spec().Check(nil)
	must(t, err)
	must(t, (&restoreAction{w.Unit}).Run(t.Context(), call))
	got, err := keyspace.Read(t.Context(), w.etcd(t))
	must(t, err)
	if diff := keyspace.Diff(want, got); diff != "" {
		t.Errorf("it serves something else:\n%s", diff)
	}
	after, err := w.etcd(t).Status(t.Context(), w.Record.ClientURLs[0])
	must(t, err)
	results := call.Results()
	revision := max(want.Revision, status.Header.Revision) + restore.RevisionBump
	for key, value := range map[string]string{
		"restore.cluster-id": fmt.Sprintf("%x", after.Header.ClusterId), "restore.revision": fmt.Sprint(revision), "restore.source-revision": fmt.Sprint(want.Revision),
		"restore.source-version": "3.7", "restore.keys": fmt.Sprint(len(want.Keys)),
	} {
		if told := get(t, results, key); told != value {
			t.Errorf("%s is %q, want %q", key, told, value)
		}
	}
	if after.Header.Revision != revision || after.Header.ClusterId == status.Header.ClusterId {
		t.Errorf("revision %d, cluster %x", after.Header.Revision, after.Header.ClusterId)
	}
	kept := get(t, results, "restore.old-data")
	if info, err := os.Stat(w.host(kept)); err != nil || !strings.HasPrefix(kept, "/var/lib/etcd/member.before-restore-3d6a505e-") || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("old data %q: %v", kept, err)
	}
	all := strings.Join(log, "\n")
	for _, line := range []string{"the attached snapshot", w.attachedSHA256, "building the new data dir", "archiving the present data", "stopping etcd", "starting etcd on the restored data", kept} {
		if !strings.Contains(all, line) {
			t.Errorf("the log does not say %q:\n%s", line, all)
		}
	}
	if entries, err := os.ReadDir(w.Scratch); err != nil || len(entries) != 0 {
		t.Errorf("scratch folder %v: %v", entries, err)
	}
	// What is left of a run that was cut off after its end.
	if outcome, err := (&restoreAction{w.Unit}).Recover(t.Context(), call); err != nil || outcome != "the restored data is in place" {
		t.Errorf("recover: %q, %v", outcome, err)
	}
	other := &action.Call{TaskID: "11111111-07d7-4697-8471-60156f87b1b4", Params: call.Params}
	if outcome, err := (&restoreAction{w.Unit}).Recover(t.Context(), other); err != nil || outcome != "left-overs were removed; the data of etcd was not touched" {
		t.Errorf("recover of another: %q, %v", outcome, err)
	}
	if results := other.Results(); len(results) != 0 {
		t.Errorf("recover of another: results %v", results)
	}
	// A run that had made its archive when it was cut off names it.
	cut := &action.Call{TaskID: other.TaskID, Params: call.Params, Started: time.Now().Add(-time.Minute)}
	_, err = (&restoreAction{w.Unit}).Recover(t.Context(), cut)
	if made := get(t, cut.Results(), "backup.path"); err != nil || made != get(t, results, "backup.path") {
		t.Errorf("recover: archive %q, %v", made, err)
	}
	later := &action.Call{TaskID: other.TaskID, Params: call.Params, Started: time.Now().Add(time.Hour)}
	if _, err := (&restoreAction{w.Unit}).Recover(t.Context(), later); err != nil || len(later.Results()) != 0 {
		t.Errorf("recover of a later one: %v, %v", later.Results(), err)
	}
}

// checkBackup restores the archive of the old data that a restore made.
func checkBackup(t *testing.T, w *world) {
	archives, err := filepath.Glob(w.host("/home/ubuntu/etcd-data-*.tar.gz"))
	must(t, err)
	if len(archives) != 1 {
		t.Fatalf("backups %q", archives)
	}
	content, err := os.ReadFile(archives[0])
	must(t, err)
	sum := sha256.Sum256(content)
	before, err := w.etcd(t).Status(t.Context(), w.Record.ClientURLs[0])
	must(t, err)
	results := w.do(t, "restore", map[string]any{
		"path": strings.TrimPrefix(archives[0], w.Record.Root), "sha256": strings.ToUpper(hex.EncodeToString(sum[:])), "bump": false, "target": "/mnt",
	})
	if w.get(t, "old") != "data" || get(t, results, "restore.keys") != "1" {
		t.Errorf("results %v", results)
	}
	after, err := w.etcd(t).Status(t.Context(), w.Record.ClientURLs[0])
	must(t, err)
	if after.Header.Revision != 2 || before.Header.Revision < restore.RevisionBump || get(t, results, "restore.revision") != "2" {
		t.Errorf("revision %d, without a bump", after.Header.Revision)
	}
	if backup := get(t, results, "backup.path"); filepath.Dir(backup) != "/mnt" {
		t.Errorf("backup %q", backup)
	} else if content, err := os.ReadFile(w.host(backup)); err != nil {
		t.Error(err)
	} else if sum := sha256.Sum256(content); get(t, results, "backup.sha256sum") != hex.EncodeToString(sum[:]) {
		t.Errorf("results %v", results)
	}
}

// TestRestoreOntoNothing restores into a unit whose etcd never ran, and into one whose etcd is down.
func TestRestoreOntoNothing(t *testing.T) {
	t.Parallel()
	source := newWorld(t, "3.7").serve(t)
	source.put(t, "key", "value")
	file := get(t, source.do(t, "snapshot", nil), "snapshot.path")
	source.put(t, "key", "later")
	must(t, source.child.Hold(t.Context()))
	// Down: its present data is archived from the file.
	results := source.do(t, "restore", map[string]any{"path": file})
	if got := source.get(t, "key"); got != "value" {
		t.Errorf("the key is %q", got)
	}
	_, contents := untar(t, source.host(get(t, results, "backup.path")))
	kept, err := os.ReadFile(filepath.Join(source.host(get(t, results, "restore.old-data")), "snap", "db"))
	if err != nil || !bytes.Equal(contents["./db"], kept) {
		t.Errorf("%d bytes were archived, %d kept: %v", len(contents["./db"]), len(kept), err)
	}

	w := newWorld(t, "3.7")
	w.attached = source.host(file)
	must(t, w.child.Hold(t.Context()))
	w.supervise(t)
	results = w.do(t, "restore", map[string]any{"health-timeout": "1m"})
	if got := w.get(t, "key"); got != "value" {
		t.Errorf("the key is %q", got)
	}
	for _, key := range []string{"backup.path", "restore.old-data"} {
		if value, found := results.Get(key); found {
			t.Errorf("%s is %q where there was nothing", key, value)
		}
	}
}

// TestRecoverData empties the scratch folder, which holds secrets, and leaves data that nobody was about to replace.
func TestRecoverData(t *testing.T) {
	w := newWorld(t, "3.7")
	must(t, os.MkdirAll(filepath.Join(w.Scratch, "sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(w.Scratch, "sub", "backend"), []byte("secret"), 0o600))
	w.Service = &faulty{Service: w.Service, hold: errors.New("nobody may stop the etcd")}
	begun := time.Now()
	for range 2 {
		must(t, w.RecoverData(t.Context()))
		if _, err := os.Stat(w.Scratch); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("scratch folder: %v", err)
		}
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}
