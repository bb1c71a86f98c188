package capture

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/recorder"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
)

// soon is what a member is asked after within tests, and lost when it is given up.
const (
	soon = 100 * time.Millisecond
	lost = time.Minute
)

func dial(t *testing.T, endpoint string) *member.Client {
	t.Helper()
	client, err := member.Dial(endpoint, nil)
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	return client
}

// watch opens events that are closed with the test.
func watch(t *testing.T, client *member.Client, from history.Revision, o EventsOptions) *Events {
	t.Helper()
	e, err := OpenEvents(t.Context(), client, from, o)
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return e
}

// everywhere runs a test against each version of etcd.
func everywhere(t *testing.T, test func(t *testing.T, server *etcdtest.Server)) {
	for _, version := range etcdtest.Versions(t) {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			var o etcdtest.Options
			if version.Minor != "3.4" {
				o.Args = []string{"--unsafe-no-fsync"}
			}
			test(t, etcdtest.Start(t, version, o))
		})
	}
}

// TestRealEvents makes everything that can come about, and reads it three times: from a watch that was open before, that
// nobody read meanwhile; from the begin; and from the middle.
func TestRealEvents(t *testing.T) {
	everywhere(t, func(t *testing.T, server *etcdtest.Server) {
		proxy := recorder.Start(t, server.Endpoint, nil)
		client := dial(t, proxy.Endpoint())
		status, err := client.Status(t.Context())
		must(t, err)
		o := EventsOptions{ClusterID: status.ClusterID, Term: status.RaftTerm, Quiet: soon}
		before := watch(t, client, 2, o)
		m := newModel(t, server.Client)
		m.fill(2500)
		t.Run("open", func(t *testing.T) { m.compare(before, 2) })
		t.Run("from the begin", func(t *testing.T) {
			e := watch(t, client, 2, o)
			if e.Current() != m.now {
				t.Errorf("current is %s, not %s", e.Current(), m.now)
			}
			m.compare(e, 2)
		})
		t.Run("from the middle", func(t *testing.T) { m.compare(watch(t, client, 2400, o), 2400) })
		t.Run("from the last", func(t *testing.T) { m.compare(watch(t, client, m.now, o), m.now) })
		t.Run("what comes", func(t *testing.T) {
			e := watch(t, client, m.now+1, o)
			// There is nothing yet, and a sign of life all the same.
			if batch, err := e.Next(t.Context()); err != nil || len(batch.Events) != 0 || batch.Current != m.now {
				t.Errorf("nothing is %+v: %v", batch, err)
			}
			if batch, err := e.Next(t.Context()); err != nil || len(batch.Events) != 0 || batch.Current != m.now {
				t.Errorf("nothing is %+v: %v", batch, err)
			}
			first := m.now + 1
			m.write(clientv3.OpPut("x", "1"))
			m.write(clientv3.OpPut("x", "2"))
			m.compare(e, first)
		})
		calls := proxy.Methods()
		delete(calls, "/etcdserverpb.Maintenance/Status") // the test's own
		if len(calls) != 1 || calls["/etcdserverpb.Watch/Watch"] == 0 {
			t.Errorf("calls %v", calls)
		}
	})
}

// TestIdleFromTheStart wants a sign of life of a cluster that never had a write.
func TestIdleFromTheStart(t *testing.T) {
	everywhere(t, func(t *testing.T, server *etcdtest.Server) {
		e := watch(t, dial(t, server.Endpoint), 2, EventsOptions{Quiet: soon})
		for range 3 {
			if batch, err := e.Next(t.Context()); err != nil || len(batch.Events) != 0 || batch.Current != 1 {
				t.Errorf("nothing is %+v: %v", batch, err)
			}
		}
	})
}

// TestMemoryOfCatchingUp reads 60 MB that are there at once: etcd's own client holds it all in one response.
func TestMemoryOfCatchingUp(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{Args: []string{"--unsafe-no-fsync"}})
	value := strings.Repeat("v", 60_000)
	for range 1000 {
		_, err := server.Client.Put(t.Context(), "key", value)
		must(t, err)
	}
	client := dial(t, server.Endpoint)
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before, most := heap(), uint64(0)
	e := watch(t, client, 2, EventsOptions{})
	batches := 0
	for seen := history.Revision(1); seen < 1001; batches++ {
		batch, err := e.Next(t.Context())
		must(t, err)
		if n := len(batch.Events); n > 0 {
			seen = batch.Events[n-1].Revision
		}
		most = max(most, heap())
	}
	if most-min(before, most) > 20_000_000 || batches < 20 {
		t.Errorf("%d MB were in memory at once, in %d batches", (most-before)/1_000_000, batches)
	}
	t.Logf("%d kB at most, %d batches", (most-min(before, most))/1000, batches)
}

// firstError opens events and reads them to their error. It gives the last revision that came.
func firstError(t *testing.T, client *member.Client, from history.Revision, o EventsOptions) (history.Revision, error) {
	t.Helper()
	e, err := OpenEvents(t.Context(), client, from, o)
	if err != nil {
		return 0, err
	}
	defer e.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for last := history.Revision(0); ; {
		batch, err := e.Next(ctx)
		if err != nil {
			return last, err
		}
		if n := len(batch.Events); n > 0 {
			last = batch.Events[n-1].Revision
		}
	}
}

// TestRealCompaction opens watches around a compaction whose own revision is a delete, and has one overtake an open watch.
func TestRealCompaction(t *testing.T) {
	everywhere(t, func(t *testing.T, server *etcdtest.Server) {
		m := newModel(t, server.Client)
		client := dial(t, server.Endpoint)
		for range 50 {
			m.write(clientv3.OpPut("a", "1"), clientv3.OpPut("b", "1"))
			m.write(clientv3.OpPut("a", "2"), clientv3.OpDelete("b"))
		}
		at := m.now
		m.write(clientv3.OpPut("a", "3"))
		must(t, client.Compact(t.Context(), at, true))
		for _, from := range []history.Revision{2, 50, at - 1, at} {
			_, err := firstError(t, client, from, EventsOptions{})
			checkError(t, err, &Compacted{at})
			if !strings.HasPrefix(err.Error(), "open events of "+client.Endpoint()+": ") {
				t.Errorf("from %s: %v", from, err)
			}
		}
		m.compare(watch(t, client, at+1, EventsOptions{}), at+1)

		_, err := OpenEvents(t.Context(), client, m.now+2, EventsOptions{})
		if !errors.Is(err, ErrAhead) {
			t.Errorf("a revision of the future: %v", err)
		}

		proxy := recorder.Start(t, server.Endpoint, nil)
		e := watch(t, dial(t, proxy.Endpoint()), m.now, EventsOptions{})
		proxy.Pause()
		value := strings.Repeat("v", 100_000)
		for range 400 {
			_, err := server.Client.Put(t.Context(), "slow", value)
			must(t, err)
		}
		last := m.now + 400
		must(t, client.Compact(t.Context(), last, true))
		proxy.Resume()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for next := m.now; ; {
			batch, err := e.Next(ctx)
			if err != nil {
				checkError(t, err, &Compacted{last})
				break
			}
			for _, event := range batch.Events {
				if event.Revision != next {
					t.Fatalf("revision %s, not %s", event.Revision, next)
				}
				next++
			}
			if next > last {
				t.Fatal("no compaction came before the last revision: the watch was not slow")
			}
		}
	})
}

// TestRealEnds stops a server for a while, for longer than the patience, for good, and puts another cluster in its place.
func TestRealEnds(t *testing.T) {
	everywhere(t, func(t *testing.T, server *etcdtest.Server) {
		client := dial(t, server.Endpoint)
		m := newModel(t, server.Client)
		m.write(clientv3.OpPut("a", "1"))
		status, err := client.Status(t.Context())
		must(t, err)
		o := EventsOptions{ClusterID: status.ClusterID, Term: status.RaftTerm, Quiet: soon, Patience: lost}
		e := watch(t, client, 2, o)
		m.compare(e, 2)

		must(t, syscall.Kill(server.PID(), syscall.SIGSTOP))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		for err = nil; err == nil; { // an answer may have been on its way
			_, err = e.Next(ctx)
		}
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a server that is stopped for a while: %v", err)
		}
		must(t, syscall.Kill(server.PID(), syscall.SIGCONT))
		m.write(clientv3.OpPut("a", "2"))
		m.compare(e, 3)

		short := o
		short.Patience = 10 * soon
		silent := watch(t, client, 3, short)
		must(t, syscall.Kill(server.PID(), syscall.SIGSTOP))
		begun := time.Now()
		for err = nil; err == nil; {
			_, err = silent.Next(t.Context())
		}
		if waited := time.Since(begun); !errors.Is(err, ErrSilent) || waited < 5*soon || waited > 20*time.Second {
			t.Errorf("a server that is stopped: after %s: %v", waited, err)
		}
		if _, err := OpenEvents(t.Context(), client, 3, short); !errors.Is(err, ErrSilent) {
			t.Errorf("a watch of a server that is stopped: %v", err)
		}
		must(t, syscall.Kill(server.PID(), syscall.SIGCONT))
		must(t, server.WaitHealthy(t.Context()))
		m.compare(watch(t, client, 3, o), 3)

		for name, stop := range map[string]func() error{"stopped": server.Stop, "killed": server.Kill} {
			e := watch(t, client, 3, o)
			must(t, stop())
			begun := time.Now()
			for err = nil; err == nil; {
				_, err = e.Next(t.Context())
			}
			if errors.Is(err, ErrSilent) || time.Since(begun) > lost/2 || !strings.HasPrefix(err.Error(), "read events: ") {
				t.Errorf("%s: after %s: %v", name, time.Since(begun), err)
			}
			if _, err := OpenEvents(t.Context(), client, 3, o); err == nil || errors.Is(err, ErrSilent) {
				t.Errorf("%s: a watch of nobody: %v", name, err)
			}
			must(t, server.Restart(t.Context()))
			reopen(t, client, m, o)
		}

		must(t, server.Stop())
		etcdtest.Start(t, server.Version, etcdtest.Options{Name: "other", ClientURL: server.Endpoint})
		for {
			_, err := OpenEvents(t.Context(), client, 2, o)
			if errors.Is(err, ErrOtherCluster) {
				break
			}
			if err == nil || time.Since(begun) > 2*lost {
				t.Fatalf("another cluster: %v", err)
			}
		}
	})
}

// reopen waits until the client has found its server again: gRPC waits a second after a try that failed.
func reopen(t *testing.T, client *member.Client, m *model, o EventsOptions) {
	t.Helper()
	for deadline := time.Now().Add(lost); ; {
		e, err := OpenEvents(t.Context(), client, 3, o)
		if err == nil {
			m.compare(e, 3)
			must(t, e.Close())
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestRealAuth wants a role that reads all keys to be enough, and each other refusal told.
func TestRealAuth(t *testing.T) {
	for _, version := range etcdtest.Versions(t) {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			secrets := etcdtest.NewTLS(t)
			server := etcdtest.Start(t, version, etcdtest.Options{TLS: secrets})
			ctx, etcd := t.Context(), server.Client
			m := newModel(t, etcd)
			m.write(clientv3.OpPut("a", "1"))
			read := clientv3.PermissionType(clientv3.PermRead)
			_, err1 := etcd.RoleAdd(ctx, "all")
			_, err2 := etcd.RoleGrantPermission(ctx, "all", "\x00", "\x00", read)
			_, err3 := etcd.RoleAdd(ctx, "part")
			_, err4 := etcd.RoleGrantPermission(ctx, "part", "a", "z", read)
			must(t, errors.Join(err1, err2, err3, err4))
			for user, role := range map[string]string{"root": "root", "archiver": "all", "halfway": "part", "nothing": ""} {
				_, err := etcd.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true})
				must(t, err)
				if role != "" {
					_, err = etcd.UserGrantRole(ctx, user, role)
					must(t, err)
				}
			}
			_, err := etcd.AuthEnable(ctx)
			must(t, err)

			config := secrets.User(t, "archiver")
			client, err := member.Dial(server.Endpoint, config)
			must(t, err)
			defer client.Close()
			m.compare(watch(t, client, 2, EventsOptions{}), 2)
			for user, config := range map[string]string{"halfway": "halfway", "nothing": "nothing", "stranger": "stranger", "nobody": ""} {
				tls := secrets.Config
				if config != "" {
					tls = secrets.User(t, config)
				}
				client, err := member.Dial(server.Endpoint, tls)
				must(t, err)
				_, err = OpenEvents(ctx, client, 2, EventsOptions{})
				if denied, ok := errors.AsType[*Denied](err); !ok || !strings.Contains(err.Error(), "does not allow to watch all keys: etcdserver: ") || denied.Reason == "" {
					t.Errorf("%s: %v", user, err)
				}
				must(t, client.Close())
			}
		})
	}
}

// TestElection kills the leader under a watch of another member, which goes on in a higher term.
func TestElection(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, etcdtest.Get(t, "3.7"), 3, etcdtest.Options{})
	leader, err := cluster.Leader(t.Context())
	must(t, err)
	other := cluster.Members[0]
	if other == leader {
		other = cluster.Members[1]
	}
	m := newModel(t, other.Client)
	m.write(clientv3.OpPut("a", "1"))
	client := dial(t, other.Endpoint)
	status, err := client.Status(t.Context())
	must(t, err)
	e := watch(t, client, 2, EventsOptions{ClusterID: status.ClusterID, Term: status.RaftTerm, Quiet: soon})
	m.compare(e, 2)
	must(t, leader.Kill())
	must(t, other.WaitHealthy(t.Context()))
	m.write(clientv3.OpPut("a", "2"))
	for {
		batch, err := e.Next(t.Context())
		must(t, err)
		if len(batch.Events) == 1 {
			if batch.Term <= status.RaftTerm || batch.Events[0].Revision != m.now {
				t.Errorf("batch %+v after term %d", batch, status.RaftTerm)
			}
			return
		}
	}
}

// TestNoQuorum: a member that is cut off from the others ends its watch rather than going on in silence.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, etcdtest.Get(t, "3.6"), 3, etcdtest.Options{})
	m := newModel(t, cluster.Members[0].Client)
	m.write(clientv3.OpPut("a", "1"))
	e := watch(t, dial(t, cluster.Members[0].Endpoint), 2, EventsOptions{Quiet: soon, Patience: time.Minute})
	m.compare(e, 2)
	must(t, cluster.Members[1].Kill())
	must(t, cluster.Members[2].Kill())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err := e.Next(ctx); err != nil {
			if !strings.Contains(err.Error(), "no leader") {
				t.Errorf("the watch ended with %v", err)
			}
			return
		}
	}
}
