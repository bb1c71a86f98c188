package datadir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

// show writes members as "NAME PEER-URLS", with "learner" behind.
func show(members []Member) []string {
	var lines []string
	for _, m := range members {
		line := fmt.Sprintf("%s %s", m.Name, strings.Join(m.PeerURLs, ","))
		if m.Learner {
			line += " learner"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func checkMembers(t *testing.T, when string, d Dir, want ...string) {
	t.Helper()
	members, err := d.Members()
	if got := show(members); err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: members %q, %v; want %q", when, got, err, want)
	}
}

// copyFile copies what may be the backend of a stopped etcd.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestMembersOfEveryVersion reads the membership that real servers leave on disk, from a backend that is up to date and
// from one that has seen nothing of the changes, so that only the WAL tells of them.
func TestMembersOfEveryVersion(t *testing.T) {
	const learner = "http://127.0.0.1:1"
	for _, v := range etcdtest.Versions(t) {
		t.Run(v.Minor, func(t *testing.T) {
			t.Parallel()
			walDir := filepath.Join(t.TempDir(), "wal")
			s := etcdtest.Start(t, v, etcdtest.Options{Args: []string{"--wal-dir=" + walDir}})
			d, old := mustAt(t, s.DataDir, walDir), filepath.Join(t.TempDir(), "db")
			step := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			alone := "m1 " + s.PeerURL
			if _, err := d.Members(); !errors.Is(err, ErrInUse) {
				t.Errorf("members of a running etcd: %v, want ErrInUse", err)
			}
			step(s.Stop())
			checkMembers(t, "at first", d, alone)
			copyFile(t, d.backend(), old)

			step(s.Restart(t.Context()))
			added, err := s.Client.MemberAddAsLearner(t.Context(), []string{learner})
			step(err)
			step(s.Kill())
			withLearner := []string{" " + learner + " learner", alone}
			checkMembers(t, "learner added", d, withLearner...)
			// etcd stops; what it serves is put back afterwards.
			current := old + ".current"
			copyFile(t, d.backend(), current)
			copyFile(t, old, d.backend())
			checkMembers(t, "learner added, old backend", d, withLearner...)
			copyFile(t, current, d.backend())

			step(s.Restart(t.Context()))
			_, err = s.Client.MemberRemove(t.Context(), added.Member.ID)
			step(err)
			step(s.Stop()) // A killed one may not have noted yet that the removal was committed.
			checkMembers(t, "learner removed", d, alone)
			copyFile(t, old, d.backend())
			checkMembers(t, "learner removed, old backend", d, alone)
		})
	}
}

// TestMembersOfThree is the case that the guard of a restore is about: one of three data dirs while all are down.
func TestMembersOfThree(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, etcdtest.Get(t, "3.4"), 3, etcdtest.Options{})
	var want []string
	for _, m := range c.Members {
		want = append(want, m.Name+" "+m.PeerURL)
	}
	for _, m := range c.Members {
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.Members {
		checkMembers(t, m.Name, mustAt(t, m.DataDir, ""), want...)
	}
}

func TestNoMembers(t *testing.T) {
	root := t.TempDir()
	checkMembers(t, "absent", mustAt(t, filepath.Join(root, "absent"), ""))
	checkMembers(t, "empty", mustAt(t, root, ""))
	if err := os.MkdirAll(filepath.Join(root, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	checkMembers(t, "never started", mustAt(t, root, ""))
	if entries, err := os.ReadDir(filepath.Join(root, "member", "snap")); len(entries) != 0 || err != nil {
		t.Errorf("reading left %v, %v", entries, err)
	}
}

// TestMembersOfDamaged damages a data dir in the ways that a bad disk does. None may end the process, as a fault in a
// mapped file would, and none may leave a lock behind.
func TestMembersOfDamaged(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	for i := range 200 { // So that the members are not in the first pages.
		if _, err := s.Client.Put(context.Background(), fmt.Sprint("key", i), strings.Repeat("x", 4000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	d := mustAt(t, s.DataDir, "")
	whole, err := os.ReadFile(d.backend())
	if err != nil {
		t.Fatal(err)
	}
	segments, err := walSegments(d.walDir())
	if err != nil || len(segments) == 0 {
		t.Fatalf("WAL: %v, %v", segments, err)
	}
	write := func(path string, data []byte) func() error {
		return func() error { return os.WriteFile(path, data, 0o600) }
	}
	wal, err := os.ReadFile(segments[0].path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(wal)
	flipped[100] ^= 1
	for _, tt := range []struct {
		name   string
		damage func() error
		// sound tells that nothing is lost that membership hangs on.
		sound bool
	}{
		{name: "backend empty", damage: write(d.backend(), nil)},
		{name: "backend is text", damage: write(d.backend(), []byte(strings.Repeat("no backend\n", 4000)))},
		{name: "backend cut after the meta pages", damage: write(d.backend(), whole[:8192])},
		{name: "backend cut in the middle of a page", damage: write(d.backend(), whole[:8192+100])},
		{name: "backend zeroed behind the meta pages", damage: write(d.backend(), append(slices.Clone(whole[:8192]), make([]byte, len(whole)-8192)...))},
		{name: "backend missing", damage: func() error { return os.Remove(d.backend()) }},
		{name: "bit flipped in the WAL", damage: write(segments[0].path, flipped)},
		{name: "WAL cut off", damage: write(segments[0].path, wal[:200]), sound: true},
		{name: "WAL begins too late", damage: func() error {
			return os.Rename(segments[0].path, filepath.Join(d.walDir(), "0000000000000009-00000000000fffff.wal"))
		}},
		{name: "WAL with a bad name", damage: func() error { return os.Rename(segments[0].path, filepath.Join(d.walDir(), "x.wal")) }},
	} {
		if err := errors.Join(os.RemoveAll(d.walDir()), os.Mkdir(d.walDir(), 0o700), write(segments[0].path, wal)(), write(d.backend(), whole)()); err != nil {
			t.Fatal(err)
		}
		checkMembers(t, "before: "+tt.name, d, "m1 "+s.PeerURL)
		if err := tt.damage(); err != nil {
			t.Fatal(err)
		}
		if members, err := d.Members(); tt.sound && err != nil || !tt.sound && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: members %q, %v; want ErrDamaged: %v", tt.name, show(members), err, !tt.sound)
		}
		if err := d.checkUnused(); err != nil {
			t.Errorf("%s: after reading: %v", tt.name, err)
		}
	}
}

// TestUncommittedChanges is about entries that no etcd of ours can be made to leave behind on purpose.
func TestUncommittedChanges(t *testing.T) {
	two := func() map[uint64]Member {
		return map[uint64]Member{1: {ID: 1, Name: "a"}, 2: {ID: 2, Name: "b", Learner: true}}
	}
	for name, tt := range map[string]struct {
		change change
		want   []string
	}{
		"add":             {change{kind: raftpb.ConfChangeAddNode, member: Member{ID: 3, Name: "c"}}, []string{"a ", "b  learner", "c "}},
		"add known":       {change{kind: raftpb.ConfChangeAddNode, member: Member{ID: 1, Name: "x"}}, []string{"a ", "b  learner"}},
		"promote":         {change{kind: raftpb.ConfChangeAddNode, promote: true, member: Member{ID: 2}}, []string{"a ", "b "}},
		"update":          {change{kind: raftpb.ConfChangeUpdateNode, member: Member{ID: 1, PeerURLs: []string{"u"}}}, []string{"a u", "b  learner"}},
		"remove":          {change{kind: raftpb.ConfChangeRemoveNode, member: Member{ID: 1}}, []string{"a ", "b  learner"}},
		"remove for good": {change{kind: raftpb.ConfChangeRemoveNode, committed: true, member: Member{ID: 1}}, []string{"b  learner"}},
	} {
		members := two()
		tt.change.apply(members)
		var list []Member
		for _, m := range members {
			list = append(list, m)
		}
		if got := show(list); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
