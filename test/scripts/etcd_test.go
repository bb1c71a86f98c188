package scripts

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// seed makes every run write the same keys.
const seed = 20180926

// saved is a keyspace that a script keeps to compare with.
type saved = keyspace.State

func (s *script) inventory(ts *testscript.TestScript) *inventory.Inventory {
	inv, err := inventory.Open(filepath.Join(s.home, "inventory.yaml")).View()
	ts.Check(err)
	return inv
}

// dial gives a client of all members of an application, or of one unit's.
func (s *script) dial(ts *testscript.TestScript, names ...unit.Name) *clientv3.Client {
	inv := s.inventory(ts)
	config, err := pki.ClientTLS(pki.Files(deploy.OperatorFolder(s.home), "etcd"))
	ts.Check(err)
	var endpoints []string
	for _, name := range names {
		record, err := inv.Unit(name)
		ts.Check(err)
		endpoints = append(endpoints, record.ClientURLs...)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: config, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	ts.Check(err)
	return client
}

func (s *script) units(ts *testscript.TestScript, application string) []unit.Name {
	names, err := s.inventory(ts).Units(application)
	ts.Check(err)
	return names
}

func cmdFill(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "fill APP OBJECTS")
	s := scriptOf(ts)
	objects, err := strconv.Atoi(args[1])
	ts.Check(err)
	client := s.dial(ts, s.units(ts, args[0])...)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stats, err := kubeload.Fill(ctx, client, kubeload.New(seed, objects))
	ts.Check(err)
	ts.Logf("wrote %+v", stats)
}

// read gives the keyspace of an application, or of one unit's member.
func (s *script) read(ts *testscript.TestScript, where string) keyspace.State {
	var names []unit.Name
	if name, err := unit.ParseName(where); err == nil {
		names = append(names, name)
	} else {
		names = s.units(ts, where)
	}
	client := s.dial(ts, names...)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	state, err := keyspace.Read(ctx, client)
	ts.Check(err)
	return state
}

func cmdSave(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "save NAME APP")
	s := scriptOf(ts)
	if s.saved == nil {
		s.saved = map[string]saved{}
	}
	state := s.read(ts, args[1])
	s.saved[args[0]] = state
	ts.Logf("%d keys and %d leases at revision %d", len(state.Keys), len(state.Leases), state.Revision)
}

// cmdCompare compares everything: keys, values, revisions, versions, leases, users and roles.
func cmdCompare(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, false, args, 2, "compare NAME APP")
	s := scriptOf(ts)
	want, found := s.saved[args[0]]
	if !found {
		ts.Fatalf("nothing was saved as %q", args[0])
	}
	got := s.read(ts, args[1])
	difference := keyspace.Diff(want, got)
	if (difference == "") == neg {
		ts.Fatalf("compare %s with %s: %d and %d keys; differences: %q", args[0], args[1], len(want.Keys), len(got.Keys), difference)
	}
	if got.Revision < want.Revision {
		ts.Fatalf("the revision went back from %d to %d", want.Revision, got.Revision)
	}
}

// cmdState prints what an operation that is none of etcd's business must not change: the etcd process, its membership and
// revision, its configuration. With data it is all that a restore that was refused must not change: the whole data dir too.
// A snapshot does change that a little, by making etcd write out what it has in memory.
func cmdState(data bool) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, neg, args, 1, "etcdstate|fingerprint UNIT")
		s := scriptOf(ts)
		// etcd writes a little on its own after its start; wait until it does not.
		before := s.state(ts, args[0], data)
		for end := time.Now().Add(patience); ; {
			time.Sleep(250 * time.Millisecond) // two batches of etcd's backend
			now := s.state(ts, args[0], data)
			if now == before {
				fmt.Fprint(ts.Stdout(), now)
				return
			}
			if time.Now().After(end) {
				ts.Fatalf("%s does not come to rest:\n%s%s", args[0], before, now)
			}
			before = now
		}
	}
}

func (s *script) state(ts *testscript.TestScript, unitName string, data bool) string {
	name, err := unit.ParseName(unitName)
	ts.Check(err)
	record, err := s.inventory(ts).Unit(name)
	ts.Check(err)
	var b strings.Builder
	etcd, err := s.process(unitName, "etcd")
	ts.Check(err)
	root := ""
	// An etcd that cannot start is a process for a moment, again and again; it ends while it is asked.
	member, err := "", error(nil)
	if etcd.running() {
		member, err = s.describeMember(ts, name, etcd)
	}
	if !etcd.running() {
		fmt.Fprintln(&b, "etcd does not run")
	} else {
		ts.Check(err)
		fmt.Fprintf(&b, "etcd %+v\n%s", etcd, member)
		root = fmt.Sprintf("/proc/%d/root", etcd.PID) // the same, unless the script gave it a disk of its own
	}
	if data {
		fmt.Fprintf(&b, "data %s\n", hashTree(ts, root+record.DataDir))
	}
	for _, file := range []string{filepath.Join("units", name.Dir(), "agent.yaml"), "inventory.yaml"} {
		info, err := os.Stat(filepath.Join(s.home, file))
		ts.Check(err)
		fmt.Fprintf(&b, "%s of %s\n", file, info.ModTime())
	}
	return b.String()
}

// describeMember asks the member that a process serves how it is, for as long as the process runs.
func (s *script) describeMember(ts *testscript.TestScript, name unit.Name, etcd process) (string, error) {
	client := s.dial(ts, name)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		for etcd.running() && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
		}
		cancel()
	})
	status, err := client.Status(ctx, client.Endpoints()[0])
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %x member %x revision %d raft %d/%d\n", status.Header.ClusterId, status.Header.MemberId,
		status.Header.Revision, status.RaftTerm, status.RaftIndex)
	members, err := client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		fmt.Fprintf(&b, "members: %v\n", err)
		return b.String(), nil
	}
	for _, m := range members.Members {
		fmt.Fprintf(&b, "member %x %q %v %v %v\n", m.ID, m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner)
	}
	return b.String(), nil
}

// hashTree sums names, modes and contents of everything in a folder.
func hashTree(ts *testscript.TestScript, folder string) string {
	sum := sha256.New()
	ts.Check(filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %s\n", path[len(folder):], info.Mode())
		if !entry.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		content := sha256.Sum256(data)
		sum.Write(content[:])
		return nil
	}))
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// cmdTidy fails when an action or a copy has left something unfinished on a unit.
func cmdTidy(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "tidy UNIT...")
	for _, word := range args {
		name, err := unit.ParseName(word)
		ts.Check(err)
		folder := filepath.Join(scriptOf(ts).home, "units", name.Dir())
		ts.Check(filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			base, inScratch := entry.Name(), filepath.Base(filepath.Dir(path)) == "scratch"
			if strings.Contains(base, ".part") || base == "holdfast-restore" || inScratch {
				ts.Fatalf("%s was left behind", path)
			}
			return nil
		}))
	}
}
