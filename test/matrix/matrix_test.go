// Package matrix tests snapshot and restore, through the program, with real etcd servers of every supported version: each
// version's snapshots under load, restored by that version's own tools; each version's archives restored by Holdfast with
// one member and then three; the upgrades that are allowed and the downgrades that are refused.
package matrix

import (
	"os"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

func TestMain(m *testing.M) { os.Exit(home.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flavour is one kind of etcd that a unit can run.
type flavour struct {
	etcdtest.Version
	// embedded is the server inside the program; Version then has the tools of the same minor.
	embedded bool
	// auth asks for a source with authentication on: every client is then somebody.
	auth bool
}

// application names the applications of the flavour: those of other flavours have other names.
func (f flavour) application(prefix string) string {
	if f.embedded {
		return prefix + "-embedded"
	}
	return prefix + "-v" + strings.ReplaceAll(f.Minor, ".", "")
}

func (f flavour) String() string {
	if f.embedded {
		return "embedded"
	}
	return f.Minor
}

func flavours(t *testing.T) []flavour {
	var list []flavour
	for _, v := range etcdtest.Versions(t) {
		list = append(list, flavour{Version: v, auth: v.Minor == "3.5"})
	}
	return append(list, flavour{Version: etcdtest.Get(t, "3.7"), embedded: true})
}

// deploy makes an application of one unit and gives the unit's name.
func (f flavour) deploy(t *testing.T, h *home.Home, prefix string) string {
	t.Helper()
	application := f.application(prefix)
	args := []string{"deploy", "etcd", application}
	if !f.embedded {
		args = append(args, "--etcd-binary", f.Server)
	}
	h.Must(t, args...)
	return application + "/0"
}

// TestVersions goes from a snapshot of every flavour to a restore into every flavour.
func TestVersions(t *testing.T) {
	h := home.New(t)
	list := flavours(t)
	sources := make([]*source, len(list))
	t.Run("snapshot", func(t *testing.T) {
		for i, f := range list {
			t.Run(f.String(), func(t *testing.T) {
				t.Parallel()
				sources[i] = snapshotUnderLoad(t, h, f)
			})
		}
	})
	if slices.Contains(sources, nil) {
		t.Fatal("the restores need the archives of all versions")
	}
	t.Run("restore", func(t *testing.T) {
		for _, f := range list {
			t.Run(f.String(), func(t *testing.T) {
				t.Parallel()
				restoreAll(t, h, f, sources)
			})
		}
	})
}

// checkState compares what a member serves with what it must, in full.
func checkState(t *testing.T, c *clientv3.Client, want keyspace.State) keyspace.State {
	t.Helper()
	got, err := keyspace.Read(t.Context(), c)
	must(t, err)
	if d := keyspace.Diff(want, got); d != "" {
		t.Errorf("the restored keyspace differs:\n%s", d)
	}
	return got
}

// revision is the newest revision of the cluster, agreed on by a quorum.
func revision(t *testing.T, c *clientv3.Client) int64 {
	t.Helper()
	answer, err := c.Get(t.Context(), "no such key")
	must(t, err)
	return answer.Header.Revision
}
