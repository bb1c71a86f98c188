package archive

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/recorder"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// without lets no watch see a revision.
func without(t *testing.T, revision int64) func(string, []byte) []byte {
	return func(method string, answer []byte) []byte {
		if method != "/etcdserverpb.Watch/Watch" {
			return answer
		}
		var reply pb.WatchResponse
		if err := proto.Unmarshal(answer, &reply); err != nil {
			t.Errorf("read a response: %v", err)
		}
		reply.Events = slices.DeleteFunc(reply.Events, func(e *mvccpb.Event) bool { return e.Kv.ModRevision == revision })
		altered, err := proto.Marshal(&reply)
		if err != nil {
			t.Errorf("write a response: %v", err)
		}
		return altered
	}
}

func isBroken(e Event) bool { return e.Broken != nil }

// TestBrokenStream: a member that never shows one revision is not asked for it for ever: a snapshot covers it, and that is
// told. One that shows it at the second try needs none.
func TestBrokenStream(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	seen := watchAll(t, server)
	proxy := recorder.Start(t, server.Endpoint, nil)
	w := newWorld(t, nil)
	h := w.host(t, proxy.Endpoint())
	r := h.start(t, nil)
	r.await("a snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	last := put(t, server, 10)
	r.storedSegment(last)

	proxy.Alter(without(t, last+5))
	last = put(t, server, 10)
	r.await("trouble", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Trouble != nil })
	})
	proxy.Alter(nil)
	r.storedSegment(last)
	if r.count(isSnapshot) != 1 || r.count(isBroken) != 0 {
		t.Errorf("it was there at the second try\n%s", r)
	}

	hidden := last + 5
	proxy.Alter(without(t, hidden))
	put(t, server, 10)
	r.await("a second snapshot", func(events []Event) bool { return strings.Count(fmt.Sprint(snapshotsOf(events)), "do not follow") == 1 })
	last = put(t, server, 10)
	r.storedSegment(last)
	r.stop()
	discontinuous := r.count(func(e Event) bool {
		_, is := errors.AsType[*capture.Discontinuous](e.Trouble)
		return is
	})
	if discontinuous != 1+mostBroken || mostBroken != 2 {
		t.Errorf("it broke %d times\n%s", discontinuous, r)
	}
	if r.count(isBroken) != 1 || r.count(isSnapshot) != 2 || r.count(isGap) != 0 {
		t.Errorf("the broken stream\n%s", r)
	}
	for _, s := range w.segments(t) {
		if s.Range().Contains(history.Revision(hidden)) {
			t.Errorf("segment %s says that it holds revision %d", s.Range(), hidden)
		}
	}
	w.whole(t, seen(last), last)
}

// TestClocks: a clock that is set a day forward and back again makes no time along the line go back, and what it told keeps
// nothing from being stored.
func TestClocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	client, err := member.Dial("http://127.0.0.1:1", nil) // nobody asks it
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	h := w.host(t)
	a := &archiver{Options: Options{Cluster: cluster, Dir: h.dir}.withDefaults(), repo: w.Repository, writer: h.writer, session: repository.NewSession()}
	a.merger, a.sealing.now = merge.NewMerger(w.Repository, h.writer, cluster), time.Now
	a.spool, err = openSpool(filepath.Join(h.dir, "spool"), 1<<20)
	must(t, err)
	must(t, a.spool.decide("0123456789abcdef"))
	began := time.Now().UTC().Truncate(time.Millisecond)
	p := a.newPacker(member.Candidate{Client: client}, position{Revision: 1, ClusterID: "1", Time: began}, true)
	next := history.Revision(2)
	for _, clock := range []time.Duration{0, time.Second, 24 * time.Hour, 2 * time.Second, -24 * time.Hour, 3 * time.Second, 25 * time.Hour, 4 * time.Second} {
		for range 2 {
			arrived := began.Add(clock)
			must(t, p.take(capture.Batch{Events: []history.Event{{Revision: next, Key: []byte("k"), Value: []byte("v"), CreateRevision: 2, Version: int64(next) - 1}}, Arrived: arrived}, joint{}))
			next++
		}
		must(t, p.spoolSegment(p.filling, p.end, p.since))
		p.filling.Reset()
		must(t, a.publish(t.Context()))
	}
	segments := w.segments(t)
	before := began
	for _, s := range segments {
		if s.FirstTime.Before(before) || s.LastTime.Before(s.FirstTime) || s.Completed.Before(s.Started) {
			t.Errorf("segment %s is from %s to %s, after %s; made from %s to %s", s.Range(), s.FirstTime, s.LastTime, before, s.Started, s.Completed)
		}
		before = s.LastTime
	}
	if len(segments) != 8 || before.Before(began.Add(25*time.Hour)) {
		t.Errorf("%d segments until %s", len(segments), before)
	}
}
