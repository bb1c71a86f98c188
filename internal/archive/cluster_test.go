package archive

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

// TestCluster: whatever happens to the member that is read, capture goes on over another one, and nothing is missing.
func TestCluster(t *testing.T) {
	t.Parallel()
	for _, minor := range []string{"3.5", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			m := startMesh(t, etcdtest.Get(t, minor), 3)
			var endpoints []string
			for _, s := range m.members {
				endpoints = append(endpoints, s.Endpoint)
			}
			w := newWorld(t, nil)
			h := w.host(t, endpoints...)
			r := h.start(t, func(o *Options) { o.HashEvery = time.Hour })
			r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
			// read is the member that is read, and other one that is not.
			read := func() (read, other *etcdtest.Server) {
				r.mu.Lock()
				defer r.mu.Unlock()
				for _, e := range r.events {
					if e.Watching != nil {
						read = m.members[slices.Index(endpoints, e.Watching.Endpoint)]
					}
				}
				return read, m.members[(slices.Index(m.members, read)+1)%3]
			}
			elsewhere := func(what string, from, other *etcdtest.Server) {
				t.Helper()
				last := write(t, other, 20)
				r.storedSegment(last)
				if now, _ := read(); now == from {
					t.Errorf("%s: %s is still read\n%s", what, from.Name, r)
				}
			}
			_, other := read()
			r.storedSegment(write(t, other, 20))

			member, other := read()
			must(t, member.Kill())
			elsewhere("killed", member, other)
			must(t, member.Restart(t.Context()))

			member, other = read()
			status, err := member.Client.Status(t.Context(), member.Endpoint)
			must(t, err)
			for _, s := range m.members {
				own, err := s.Client.Status(t.Context(), s.Endpoint)
				must(t, err)
				if leader := status.Leader; own.Header.MemberId == leader {
					to, err := other.Client.Status(t.Context(), other.Endpoint)
					must(t, err)
					if to.Header.MemberId == leader {
						to, err = member.Client.Status(t.Context(), member.Endpoint)
						must(t, err)
					}
					_, err = s.Client.MoveLeader(t.Context(), to.Header.MemberId)
					must(t, err)
					break
				}
			}
			r.storedSegment(write(t, other, 20))

			member, other = read()
			m.isolate(member)
			elsewhere("cut off from its peers", member, other)
			m.isolate(nil)
			must(t, member.WaitHealthy(t.Context()))

			member, other = read()
			must(t, syscall.Kill(member.PID(), syscall.SIGSTOP))
			elsewhere("stopped", member, other)
			must(t, syscall.Kill(member.PID(), syscall.SIGCONT))
			must(t, member.WaitHealthy(t.Context()))

			last := write(t, member, 5)
			r.storedSegment(last)
			r.stop()
			if r.count(isSnapshot) != 1 || r.count(isGap) != 0 || r.count(isLife) != 0 {
				t.Errorf("it is one line\n%s", r)
			}
			w.whole(t, watchAll(t, other)(last), last)
			h.wantDrained(t)
		})
	}
}

// write is put for a cluster that may have no leader just now: what fails is tried again.
func write(t testing.TB, server *etcdtest.Server, n int) (revision int64) {
	t.Helper()
	for i := range n {
		poll(t, "the cluster takes a write", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			reply, err := server.Client.Do(ctx, clientv3.OpPut(fmt.Sprintf("/registry/key-%d", i%7), fmt.Sprintf("value %d", i)))
			if err != nil {
				return false
			}
			revision = reply.Put().Header.Revision
			return true
		})
	}
	return revision
}
