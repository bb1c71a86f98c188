package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/file"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// archived is a home, and a repository in a folder that holds an archive.
type archived struct {
	t       *testing.T
	dir     string
	store   *file.Store
	repo    *repository.Repository
	writer  *repository.Writer
	owner   []seal.Identity
	server  *etcdtest.Server
	written []repository.Segment
}

// run runs a command, and gives its exit code and what it said.
func (w *archived) run(words ...string) (code int, out, talk string) {
	w.t.Helper()
	env := map[string]string{"HOLDFAST_HOME": filepath.Join(w.dir, "home"), "HOLDFAST_REPO": "file://" + filepath.Join(w.dir, "repo")}
	var stdout, stderr bytes.Buffer
	code = Run(w.t.Context(), Environment{Args: words, Program: "holdfast", Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
		Getenv: func(name string) string { return env[name] }})
	return code, stdout.String(), stderr.String()
}

// ok runs a command that must succeed.
func (w *archived) ok(words ...string) string {
	w.t.Helper()
	code, out, talk := w.run(words...)
	if code != 0 {
		w.t.Fatalf("holdfast %s: exit code %d\n%s%s", strings.Join(words, " "), code, out, talk)
	}
	return out
}

// newArchived has a cluster with 30 writes, each in a live segment of some days ago, a snapshot of today, and 10 segments after
// it. The key that the archiver had merged with is gone.
func newArchived(t *testing.T) *archived {
	w := &archived{t: t, dir: t.TempDir()}
	key := filepath.Join(w.dir, "key.txt")
	recipient := strings.TrimSpace(w.ok("key", "generate", key))
	w.ok("repo", "init", "--recipient", recipient, "--root-key", filepath.Join(w.dir, "root.key"))
	var err error
	w.owner, err = seal.ReadIdentities(key)
	must(t, err)
	s, err := file.Open(filepath.Join(w.dir, "repo"))
	must(t, err)
	a := &app{Environment: Environment{Getenv: func(string) string { return filepath.Join(w.dir, "home") }}}
	trust, err := a.trust()
	must(t, err)
	w.store = s
	w.repo, _, err = trust.Open(t.Context(), s, "file://"+filepath.Join(w.dir, "repo"), "")
	must(t, err)
	w.writer, err = a.writer()
	must(t, err)
	w.server = etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	for i := range 30 {
		_, err := w.server.Client.Put(t.Context(), fmt.Sprintf("/registry/pods/p%d", i%7), fmt.Sprint(i))
		must(t, err)
	}
	w.ok("backup", "--cluster", "prod", "--endpoints", w.server.Endpoint)
	points, _, err := w.repo.Points(t.Context(), "prod")
	must(t, err)
	old := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -20)
	for r := history.Revision(2); r <= 31; r++ {
		w.live(points[0].Timeline, r, old.Add(time.Duration(r)*4*time.Hour))
	}
	for r := history.Revision(32); r <= 41; r++ {
		w.live(points[0].Timeline, r, time.Now())
	}
	return w
}

// live stores a segment of one revision.
func (w *archived) live(t repository.Timeline, r history.Revision, came time.Time) {
	w.t.Helper()
	w.span(t, r, r, came)
}

// span stores a segment of some revisions.
func (w *archived) span(t repository.Timeline, first, last history.Revision, came time.Time) {
	w.t.Helper()
	b := segment.NewBuilder()
	for r := first; r <= last; r++ {
		must(w.t, b.Add([]history.Event{{Revision: r, Key: fmt.Appendf(nil, "/registry/pods/p%d", r%7), Value: fmt.Append(nil, r), CreateRevision: 1, Version: int64(r)}}, came, came))
	}
	to, err := w.repo.SegmentSealTo(w.t.Context())
	must(w.t, err)
	var out bytes.Buffer
	sealer, err := seal.NewWriter(&out, seal.Options{Recipients: to})
	must(w.t, err)
	summary, err := b.Encode(sealer, nil)
	must(w.t, errors.Join(err, sealer.Close()))
	sum := sha256.Sum256(out.Bytes())
	stored := time.Now().Add(-3 * time.Hour)
	s := repository.Segment{Cluster: "prod", Timeline: t, First: first, Last: last, Events: int64(last-first) + 1, FirstTime: came, LastTime: came, Exact: true,
		Plain: repository.Plain{Size: summary.Size, SHA256: hex.EncodeToString(summary.SHA256[:])}, Started: stored, Completed: stored}
	s.Object, err = w.repo.NewSegmentData("prod", t, first, []string{to[0].KeyID(), "0123456789abcdef"})
	must(w.t, err)
	s.Object.Size, s.Object.SHA256 = int64(out.Len()), hex.EncodeToString(sum[:])
	s.Object, err = w.repo.PutSegmentData(w.t.Context(), s.Object, bytes.NewReader(out.Bytes()), time.Time{})
	must(w.t, err)
	s, err = w.repo.PublishSegment(w.t.Context(), w.writer, s)
	must(w.t, err)
	w.written = append(w.written, s)
}

// restored reads the events on the way to each revision from first on, as a restore would; missing ones are told.
func (w *archived) restored(first history.Revision) (all []string) {
	w.t.Helper()
	reads, _, err := w.repo.Snapshots(w.t.Context(), "prod")
	must(w.t, err)
	var manifests []repository.Manifest
	for _, read := range reads {
		must(w.t, read.Err)
		manifests = append(manifests, read.Manifest)
	}
	list := coverage.Of(manifests, w.segments(), nil)
	for r := first; r <= 41; r++ {
		c, err := coverage.Resolve(list, coverage.Target{Revision: r}, nil)
		if err != nil {
			all = append(all, err.Error())
			continue
		}
		all = append(all, fmt.Sprintf("%s from %s", r, c.Base.Content.Revision))
		for _, s := range c.Segments {
			content, err := w.repo.OpenSegment(w.t.Context(), s, w.owner)
			must(w.t, err)
			reader, err := segment.NewReader(content, s.Plain.Size)
			must(w.t, err)
			var events []string
			for {
				e, err := reader.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				must(w.t, err)
				events = append(events, fmt.Sprintf("%012d %q %q %d", e.Revision, e.Key, e.Value, e.Version))
			}
			must(w.t, content.Close())
			slices.Sort(events)
			all = append(all, events...)
		}
	}
	return all
}

func (w *archived) segments() (list []repository.Segment) {
	w.t.Helper()
	points, _, err := w.repo.SegmentPoints(w.t.Context(), "prod", "")
	must(w.t, err)
	reads, err := w.repo.SegmentsOf(w.t.Context(), points)
	must(w.t, err)
	for _, read := range reads {
		must(w.t, read.Err)
		list = append(list, read.Segment)
	}
	return list
}

// TestMergeAndPrune: days are merged with the owner's key, prune says what it will do, does it, and everything in the window can
// be restored as before.
func TestMergeAndPrune(t *testing.T) {
	w := newArchived(t)
	key := filepath.Join(w.dir, "key.txt")
	all, window := w.restored(2), w.restored(31)

	// Without the key nothing can be read, and a plan changes nothing.
	if code, _, talk := w.run("merge"); code == 0 || !strings.Contains(talk, "--identity") {
		t.Errorf("without a key: exit code %d, %s", code, talk)
	}
	planned := w.ok("merge", "--identity", key, "--dry-run")
	if n := strings.Count(planned, "to merge\n"); n != 6 || !strings.HasPrefix(planned, "prod  day ") || len(w.segments()) != 40 {
		t.Errorf("planned %d\n%s", n, planned)
	}
	days := 0
	for text := range strings.Lines(w.ok("merge", "--identity", key, "--output", "json")) {
		var said merged
		must(t, json.Unmarshal([]byte(text), &said))
		days++
		if said.Action != mergeMerged || said.Level != repository.SegmentDay || said.Period.Hour() != 0 || said.Inputs < 1 || said.First > said.Last || said.Error != "" {
			t.Errorf("%+v", said)
		}
	}
	if days != 6 || len(w.segments()) != 46 {
		t.Errorf("%d days, %d segments", days, len(w.segments()))
	}
	if out := w.ok("merge", "--identity", key); out != "there is nothing to merge\n" {
		t.Errorf("again: %s", out)
	}
	if diff := cmp.Diff(all, w.restored(2)); diff != "" {
		t.Errorf("after merging: %s", diff)
	}
	if left, err := os.ReadDir(filepath.Join(w.dir, "home", "scratch")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}

	// A long window: only what was merged goes.
	var plan pruneResult
	must(t, json.Unmarshal([]byte(w.ok("prune", "--keep-archive", "2400h", "--output", "json")), &plan))
	counts := map[string]int{}
	for _, run := range plan.Segments {
		counts[fmt.Sprintf("%s %s: %.10s", levelName(run.Level), run.Action, run.Reason)] += run.Count
	}
	if want := map[string]int{"live remove: merged int": 30, "live keep: of the win": 10, "day keep: of the win": 6}; !cmp.Equal(counts, want) || plan.Done {
		t.Errorf("plan %v", counts)
	}
	if code, _, talk := w.run("prune", "--yes"); code != 1 || !strings.Contains(talk, "role prune") {
		t.Errorf("without leave: exit code %d, %s", code, talk)
	}
	w.ok("key", "enroll", "--root-key", filepath.Join(w.dir, "root.key"), "--role", "prune")

	// A merged segment that is damaged keeps what it was made of.
	day := w.segments()[40]
	if day.Level != repository.SegmentDay {
		t.Fatalf("%+v", day)
	}
	object := filepath.Join(w.dir, "repo", day.Object.Name)
	whole, err := os.ReadFile(object)
	must(t, err)
	must(t, os.Chmod(object, 0o600))
	must(t, os.WriteFile(object, append([]byte("X"), whole[1:]...), 0o600))
	code, out, talk := w.run("prune", "--keep-archive", "2400h", "--yes")
	if code != exitFindings || !strings.Contains(talk, "sha256") || !strings.Contains(out, "what it was merged into is damaged") {
		t.Errorf("exit code %d\n%s%s", code, out, talk)
	}
	must(t, os.WriteFile(object, whole, 0o600))
	if n := len(w.segments()); n != 16+int(day.Inputs) {
		t.Errorf("%d segments are left", n)
	}
	if diff := cmp.Diff(all, w.restored(2)); diff != "" {
		t.Errorf("after the first prune: %s", diff)
	}

	// The usual window: what is old goes too, and the snapshot stays as its base.
	out = w.ok("prune")
	if !strings.Contains(out, "base of the archive from revision ") || !strings.Contains(out, "older than the window") || !strings.Contains(out, "segments to remove, ") {
		t.Errorf("plan\n%s", out)
	}
	out = w.ok("prune", "--yes")
	if !strings.Contains(out, "segments removed, ") {
		t.Errorf("removed\n%s", out)
	}
	left := w.segments()
	if len(left) < 11 || len(left) > 13 || left[0].First < 20 {
		t.Errorf("%d segments are left", len(left))
	}
	if diff := cmp.Diff(window, w.restored(31)); diff != "" {
		t.Errorf("after the last prune: %s", diff)
	}
	if code, _, talk := w.run("repo", "check"); code != 0 {
		t.Errorf("repo check: %d %s", code, talk)
	}
	if out := w.ok("prune", "--yes", "--output", "json"); !strings.Contains(out, `"done":true`) || strings.Contains(out, pruneRemoved) {
		t.Errorf("again: %s", out)
	}
}

// TestPruneUnreadBase: a snapshot that only could not be read, or whose manifest is missing, may be the base of the archive,
// so nothing old goes.
func TestPruneUnreadBase(t *testing.T) {
	w := newArchived(t)
	w.ok("backup", "--cluster", "prod", "--endpoints", w.server.Endpoint)
	faults := faultstore.New(w.store)
	repo, err := repository.Open(t.Context(), faults, w.repo.Root())
	must(t, err)
	rules := pruneRules{archive: 168 * time.Hour, grace: time.Hour}
	for _, folder := range []string{"manifests", "archive"} {
		faults.Add(faultstore.Fault{On: faultstore.Open, Name: "clusters/prod/" + folder + "/", Times: -1})
		plan := pruneResult{unclaimed: map[string][]repository.Unclaimed{}}
		if err := plan.add(t.Context(), repo, "prod", rules); !errors.Is(err, faultstore.ErrInjected) {
			t.Errorf("%s: %v, %d segments to remove", folder, err, plan.segmentVictims())
		}
		faults.Clear()
	}
	plan := pruneResult{unclaimed: map[string][]repository.Unclaimed{}}
	if err := plan.add(t.Context(), repo, "prod", rules); err != nil || plan.segmentVictims() == 0 {
		t.Errorf("%v, %d segments to remove", err, plan.segmentVictims())
	}
	manifests, err := filepath.Glob(filepath.Join(w.dir, "repo/clusters/prod/manifests/*/*.json"))
	must(t, err)
	must(t, os.Remove(manifests[0]))
	if out := w.ok("prune"); !strings.Contains(out, "0 segments to remove") || !strings.Contains(out, "in doubt: repo check has something to say") {
		t.Errorf("with a manifest missing: %s", out)
	}
	for words, want := range map[string]string{
		"prune --keep-archive 59m": "--keep-archive must be an hour",
		"prune --keep-last -1":     "negative",
		"prune --cluster none":     "no rule says what to keep",
		"merge --cluster none --identity " + filepath.Join(w.dir, "none"): "none",
	} {
		if code, _, talk := w.run(strings.Fields(words)...); code == 0 || !strings.Contains(talk, want) {
			t.Errorf("%s: exit code %d, %s", words, code, talk)
		}
	}
}

// TestLostMerged: a merged segment whose object is gone does not hide the segments that it was made of.
func TestLostMerged(t *testing.T) {
	w := newArchived(t)
	w.ok("merge", "--identity", filepath.Join(w.dir, "key.txt"))
	points, _, err := w.repo.SegmentPoints(t.Context(), "prod", "")
	must(t, err)
	count := func() (levels map[int]int, strange []error) {
		t.Helper()
		segments, strange, err := listedSegments(t.Context(), w.repo, slices.Clone(points))
		must(t, err)
		levels = map[int]int{}
		for _, s := range segments {
			levels[s.Level]++
		}
		return levels, strange
	}
	if levels, strange := count(); !cmp.Equal(levels, map[int]int{repository.SegmentDay: 6, repository.SegmentLive: 10}) || len(strange) > 0 {
		t.Errorf("all there: %v, %v", levels, strange)
	}
	day := w.segments()[40]
	must(t, os.Remove(filepath.Join(w.dir, "repo", filepath.FromSlash(day.Object.Name))))
	levels, strange := count()
	if want := map[int]int{repository.SegmentDay: 5, repository.SegmentLive: 10 + int(day.Range().Len())}; !cmp.Equal(levels, want) {
		t.Errorf("one gone: %v, want %v", levels, want)
	}
	if len(strange) != 1 || !errors.Is(strange[0], store.ErrNotFound) {
		t.Errorf("told: %v", strange)
	}
	code, _, talk := w.run("list")
	if code != 3 || !strings.Contains(talk, "segment "+day.Range().String()+": object not found") {
		t.Errorf("list: exit code %d, %s", code, talk)
	}
}
