// Package moment holds the archive against a model: a cluster lives a random life while the real program archives it and is
// killed, paused, cut off and ended, and then states are restored, at random revisions and by every route that there is, and
// are held against what the cluster was seen to have. Another cluster lives in a network that breaks, with each member and the
// archiver in a network namespace of its own. The bound on the archiver's memory is here too.
//
// A failed run prints its seed. The seed decides what the cluster and the test do, and not when processes do it.
package moment

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store/file"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

func TestMain(m *testing.M) { os.Exit(home.Main(m)) }

const (
	cluster = "prod"
	// seedVariable gives the seed of a run; otherwise each version of etcd has one of its own.
	seedVariable = "HOLDFAST_TEST_SEED"
	// patience is how long anything may take that takes seconds at most on an idle machine. An archiver that could not reach
	// its member pauses for up to 15 s.
	patience = time.Minute
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// poll waits until a condition holds.
func poll(t testing.TB, what string, holds func() bool) {
	t.Helper()
	pollFor(t, patience, what, holds)
}

// pollFor is poll for what takes longer.
func pollFor(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not after %s: %s", limit, what)
		}
	}
}

// place is an encrypted repository in a folder, with the home of a machine that may write there.
type place struct {
	*home.Home
	*repository.Repository
	dir        string
	identities []seal.Identity
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{Home: home.New(t), dir: t.TempDir()}
	folder := p.in("repository")
	p.make(t, "HOLDFAST_REPO=file://"+folder)
	text, err := os.ReadFile(p.in("root.key"))
	must(t, err)
	root, err := repository.ParseKey(text)
	must(t, err)
	s, err := file.Open(folder)
	must(t, err)
	p.Repository, err = repository.Open(t.Context(), s, root.Public().Fingerprint())
	must(t, err)
	p.identities, err = seal.ReadIdentities(p.in("key.txt"))
	must(t, err)
	return p
}

// make makes a repository where the environment says.
func (p *place) make(t *testing.T, env ...string) {
	t.Helper()
	p.Env = append(env, "HOLDFAST_IDENTITY="+p.in("key.txt"))
	recipient := strings.TrimSpace(p.Must(t, "key", "generate", p.in("key.txt")))
	p.Must(t, "repo", "init", "--recipient", recipient, "--root-key", p.in("root.key"))
}

func (p *place) in(name string) string { return filepath.Join(p.dir, name) }

// archived is the last revision that the repository has.
func (p *place) archived(t testing.TB) (last history.Revision) {
	t.Helper()
	timelines, err := p.Timelines(t.Context(), cluster)
	must(t, err)
	for _, line := range timelines {
		segment, err := p.LastSegment(t.Context(), cluster, line)
		must(t, err)
		if segment != nil {
			last = max(last, segment.Last)
		}
	}
	points, _, err := p.Points(t.Context(), cluster)
	must(t, err)
	for _, point := range points {
		last = max(last, point.Last)
	}
	return last
}

// TestMoment: for every version of etcd, whatever happened to the archiver, each revision that is covered is restored as it
// was, by every route, and what is not covered is a hole that is told, and that a compaction has made while nobody read.
func TestMoment(t *testing.T) {
	for i, version := range etcdtest.Versions(t) {
		t.Run(version.Minor, func(t *testing.T) {
			t.Parallel()
			l := newLife(t, version, seedOf(t, uint64(i)+1))
			l.live(steps)
			l.settle()
			l.archiver.end(t)
			l.look()
			l.check()
		})
	}
}

// seedOf gives the seed of this run, and prints how to run it again when the test fails.
func seedOf(t *testing.T, seed uint64) uint64 {
	t.Helper()
	if text := os.Getenv(seedVariable); text != "" {
		given, err := strconv.ParseUint(text, 10, 64)
		must(t, err)
		seed = given
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d; again: %s=%d go test -race -run '^%s$' ./test/moment", seed, seedVariable, seed, strings.ReplaceAll(t.Name(), "/", "$/^"))
		}
	})
	return seed
}
