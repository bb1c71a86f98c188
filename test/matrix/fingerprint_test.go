package matrix

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fingerprint is everything of a unit that a refused restore must leave alone, as text: each file below the unit's root,
// data dir included, the scratch folder, the etcd process, the members and the revision.
func (u target) fingerprint(t *testing.T) string {
	t.Helper()
	state, err := u.home.Agent(t, u.name).Unit(t.Context())
	must(t, err)
	if state.Etcd.Error != "" {
		t.Fatalf("etcd of %s: %s", u.name, state.Etcd.Error)
	}
	members, err := u.client.MemberList(t.Context())
	must(t, err)
	var text strings.Builder
	fmt.Fprintf(&text, "etcd %d since %d, revision %d, cluster %s\n", state.Etcd.PID, state.Etcd.Started, state.Etcd.Revision, state.Etcd.ClusterID)
	for _, m := range members.Members {
		fmt.Fprintf(&text, "member %x %s %q %q\n", m.ID, m.Name, m.PeerURLs, m.ClientURLs)
	}
	text.WriteString(u.quietTree(t))
	return text.String()
}

// quietTree is the tree of the unit's files once etcd has written what it still has to: it puts acknowledged writes into
// its backend some time after the acknowledgement, and its own version some seconds after its start.
func (u target) quietTree(t *testing.T) string {
	t.Helper()
	// More than the time after which etcd commits its backend.
	const step, patience = 250 * time.Millisecond, 30 * time.Second
	tick := time.NewTicker(step)
	defer tick.Stop()
	last := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		now := tree(t, filepath.Join(u.home.Folder(t, u.name), "root")) + tree(t, filepath.Join(u.home.Folder(t, u.name), "state", "scratch"))
		if now == last {
			return now
		}
		last = now
	}
	t.Fatalf("the files of %s have changed all the time for %s", u.name, patience)
	return ""
}

// tree lists everything below a folder with modes, sizes, and sums of the content. An absent folder has as much as an
// empty one.
func tree(t *testing.T, root string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s %s", strings.TrimPrefix(path, root), info.Mode())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&text, " %d %x", len(content), sha256.Sum256(content))
		}
		text.WriteString("\n")
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return text.String()
}
