package moment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/netns"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/segment"
)

const (
	// leaveTime is how long an archiver may take to go away from a member that says nothing any more. It is patient with one
	// for 30 s, then it looks at all of them, one of which does not answer.
	leaveTime = 3 * time.Minute
	// lostKey is written to a leader that nobody follows any more.
	lostKey = "/lost"
)

// site is a cluster of three members and an archiver, each on a host of its own.
type site struct {
	t        *testing.T
	network  *netns.Network
	members  []*siteMember
	beside   *netns.Host // where the archiver is
	place    *place
	archiver *archiver
	load     *load
}

// siteMember is a member that the test itself reaches over a socket, whatever the network does.
type siteMember struct {
	*etcdtest.Server
	host *netns.Host
	url  string // where others reach it
}

func newSite(t *testing.T, version etcdtest.Version, rnd *rand.Rand) *site {
	t.Helper()
	s := &site{t: t, network: netns.New(t, 4), place: newPlace(t)}
	hosts := s.network.Hosts[:3]
	s.beside = s.network.Hosts[3]
	secrets := etcdtest.NewTLS(t, hosts[0].Address, hosts[1].Address, hosts[2].Address)
	var peers, endpoints []string
	for i, h := range hosts {
		// Members see after 3 s that a connection is dead. Without this they may take as long again as the network was broken.
		s.network.Sysctl(h, "net/ipv4/tcp_retries2", "3")
		peers = append(peers, fmt.Sprintf("m%d=https://%s:2380", i+1, h.Address))
		endpoints = append(endpoints, fmt.Sprintf("https://%s:2379", h.Address))
	}
	var servers []*etcdtest.Server
	for i, h := range hosts {
		socket := "unixs://" + filepath.Join(t.TempDir(), "localhost")
		server := etcdtest.Start(t, version, etcdtest.Options{
			Name: fmt.Sprintf("m%d", i+1), ClientURL: socket, PeerURL: fmt.Sprintf("https://%s:2380", h.Address),
			InitialCluster: strings.Join(peers, ","), TLS: secrets, Command: h.Place, NoWait: true,
			Args: []string{"--listen-client-urls=" + socket + "," + endpoints[i], "--advertise-client-urls=" + endpoints[i]},
		})
		servers = append(servers, server)
		s.members = append(s.members, &siteMember{server, h, endpoints[i]})
	}
	s.healthy()
	s.archiver = newArchiver(t, s.place, "--endpoints", strings.Join(endpoints, ","), "--flush", "30ms", "--max-rate", "0",
		"--cacert", secrets.CA, "--cert", secrets.Cert, "--key", secrets.Key)
	s.archiver.place = s.beside.Place
	s.load = startLoad(t, servers, rnd)
	s.archiver.start(t)
	poll(t, "the archive begins, and the load", func() bool { return s.archiver.told(t, "snapshot") > 0 && s.load.confirmed() > 50 })
	s.settle()
	return s
}

// healthy waits until every member answers what a quorum agrees to.
func (s *site) healthy() {
	s.t.Helper()
	for _, m := range s.members {
		must(s.t, m.WaitHealthy(s.t.Context()))
	}
}

// TestPartition: a network that really breaks costs the archive nothing. The leader vanishes while it is read, with what it
// was told last; a member is cut off from its peers while the archiver still reaches it; and one hears its peers no more, but
// they hear it. Somebody writes all the time. In the end everything that any member ever confirmed is archived, as one line
// without a gap.
func TestPartition(t *testing.T) {
	const seed = 5
	rnd := rand.New(rand.NewPCG(seedOf(t, seed), 0))
	s := newSite(t, etcdtest.Get(t, "3.6"), rnd)

	read := s.leaderIsRead()
	_, _, term := read.says(t)
	s.network.Unplug(read.host)
	read.loses(t)
	s.deposed(read, term)
	if s.reaches(read, time.Second) {
		t.Error("the archiver still reaches a member whose cable is out")
	}
	s.elsewhere(read)
	s.heal()

	for _, harm := range []func(a, b *netns.Host){s.network.Cut, s.network.Drop} {
		read = s.read()
		for _, peer := range s.members {
			if peer != read {
				harm(peer.host, read.host)
			}
		}
		poll(t, read.Name+" has no leader", func() bool { _, leader, _ := read.says(t); return leader == 0 })
		if !s.reaches(read, patience) {
			t.Error("the archiver does not reach a member that is cut off from its peers alone")
		}
		s.elsewhere(read)
		s.heal()
	}

	s.load.stop()
	s.settle()
	s.archiver.end(t)
	s.check(rnd)
}

// heal ends what is broken, and waits until the cluster and the archive are well.
func (s *site) heal() {
	s.t.Helper()
	s.network.Heal()
	s.healthy()
	s.settle()
}

// settle waits until all that was confirmed up to now is archived.
func (s *site) settle() {
	s.t.Helper()
	target := s.load.confirmed()
	poll(s.t, fmt.Sprintf("revision %d is archived", target), func() bool { return int64(s.place.archived(s.t)) >= target })
	s.load.mark()
}

// read is the member that the archiver reads.
func (s *site) read() *siteMember {
	s.t.Helper()
	endpoint := s.archiver.reads(s.t)
	i := slices.IndexFunc(s.members, func(m *siteMember) bool { return m.url == endpoint })
	if i < 0 {
		s.t.Fatalf("the archiver reads %q", endpoint)
	}
	return s.members[i]
}

// leaderIsRead hands leadership to the member that is read. An archiver would choose a follower.
func (s *site) leaderIsRead() (read *siteMember) {
	s.t.Helper()
	poll(s.t, "the member that is read leads", func() bool {
		read = s.read()
		own, leader, _ := read.says(s.t)
		for _, m := range s.members {
			if id, _, _ := m.says(s.t); own != leader && id == leader {
				ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
				_, _ = m.Client.MoveLeader(ctx, own) // the next look tells
				cancel()
			}
		}
		return own == leader
	})
	return read
}

// says gives a member's own id, who leads by its word, 0 for nobody, and its term.
func (m *siteMember) says(t *testing.T) (own, leader, term uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	status, err := m.Client.Status(ctx, m.Endpoint)
	must(t, err)
	return status.Header.MemberId, status.Leader, status.RaftTerm
}

// loses writes to a leader that nobody hears: it takes the write into its log, and can never confirm it.
func (m *siteMember) loses(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := m.Client.Put(ctx, lostKey, "x"); err == nil {
		t.Error("a leader without peers has confirmed a write")
	}
}

// deposed waits until a leader sees that it leads no more, and the others have another one, of a later term.
func (s *site) deposed(old *siteMember, term uint64) {
	s.t.Helper()
	poll(s.t, "the leader that was cut off has lost its leadership", func() bool {
		own, leader, _ := old.says(s.t)
		if leader == own {
			return false
		}
		var words []uint64
		for _, m := range s.members {
			if _, leader, now := m.says(s.t); m != old && leader != 0 && leader != own && now > term {
				words = append(words, leader)
			}
		}
		return len(words) == 2 && words[0] == words[1]
	})
}

// reaches tells whether a member answers somebody who is where the archiver is, within some time.
func (s *site) reaches(m *siteMember, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*patience)
	defer cancel()
	cmd := m.Version.CtlCommand(ctx, append(m.CtlEnv(), "ETCDCTL_ENDPOINTS="+m.url), "endpoint", "status",
		"--command-timeout="+within.String(), "--dial-timeout="+within.String())
	s.beside.Place(cmd)
	return cmd.Run() == nil
}

// elsewhere waits until the archiver reads another member, and until what is written meanwhile is archived from there.
func (s *site) elsewhere(from *siteMember) {
	t := s.t
	t.Helper()
	began, written := time.Now(), s.load.confirmed()
	pollFor(t, leaveTime, "the archiver reads another member than "+from.Name, func() bool { return s.read() != from })
	t.Logf("it left %s after %s", from.Name, time.Since(began).Round(100*time.Millisecond))
	poll(t, "the others are written to", func() bool { return s.load.confirmed() > written+20 })
	s.settle()
	if s.read() == from {
		t.Errorf("%s is cut off, and read again", from.Name)
	}
}

// check is what all of it was for. Restored are the revisions at which something was broken or healed, one out of the history
// of the snapshot, and some at random.
func (s *site) check(rnd *rand.Rand) {
	t := s.t
	t.Helper()
	for event, most := range map[string]int{"gap": 0, "new-timeline": 0, "broken": 0, "hashes-differ": 0, "snapshot": 1} {
		if n := s.archiver.told(t, event); n > most {
			t.Errorf("the archiver told %d times of %s", n, event)
		}
	}
	w := newWitness(t, s.members[0].Client)
	now := history.Revision(w.now())
	stored := s.place.read(t)
	gaps, strange, err := s.place.Gaps(t.Context(), cluster, stored.line.ID)
	must(t, err)
	if whole := []history.Range{{First: 1, Last: now}}; !slices.Equal(stored.line.Covered, whole) || len(gaps)+len(strange) > 0 {
		t.Errorf("covered %v, want %v; gaps %v, strange objects %q", stored.line.Covered, whole, gaps, strange)
	}
	s.load.check(w)
	for at, c := range w.changes {
		if _, is := c.puts[lostKey]; is {
			t.Errorf("revision %d is what a leader without peers was told", at)
		}
	}
	s.checkEvents(stored, w)
	revisions := append(s.load.marks, int64(now), int64(stored.manifests[0].Content.Revision)/2)
	for range 3 {
		revisions = append(revisions, 2+rnd.Int64N(int64(now)-2))
	}
	slices.Sort(revisions)
	s.checkRestores(slices.Compact(revisions), w)
}

// checkEvents holds every event of the segments against what etcd itself says happened.
func (s *site) checkEvents(stored stored, w *witness) {
	t := s.t
	t.Helper()
	n := 0
	for _, segmented := range stored.segments {
		content, err := s.place.OpenSegment(t.Context(), segmented, s.place.identities)
		must(t, err)
		reader, err := segment.NewReader(content, segmented.Plain.Size)
		must(t, err)
		got := map[int64]*change{}
		for {
			e, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			at := int64(e.Revision)
			if got[at] == nil {
				got[at] = &change{puts: state{}}
			}
			if e.Tombstone {
				got[at].deletes = append(got[at].deletes, string(e.Key))
			} else {
				got[at].puts[string(e.Key)] = record{string(e.Value), int64(e.CreateRevision), at, e.Version, e.Lease}
			}
		}
		must(t, content.Close())
		for at := int64(segmented.First); at <= int64(segmented.Last); at++ {
			n++
			if diff := w.changes[at].diff(got[at]); diff != "" {
				t.Errorf("revision %d in segment %s: %s", at, segmented.Range(), diff)
			}
		}
	}
	t.Logf("%d revisions compared, in %d segments", n, len(stored.segments))
}

// diff says how another change differs, without values; "" when it does not.
func (c *change) diff(other *change) string {
	if c == nil || other == nil {
		return fmt.Sprintf("it is in etcd: %t; in the archive: %t", c != nil, other != nil)
	}
	if !slices.Equal(slices.Sorted(slices.Values(c.deletes)), slices.Sorted(slices.Values(other.deletes))) {
		return fmt.Sprintf("it deletes %q, want %q", other.deletes, c.deletes)
	}
	return c.puts.diff(other.puts)
}

// checkRestores restores revisions by the program, the last one for a server. Etcd can tell of all of them itself.
func (s *site) checkRestores(revisions []int64, w *witness) {
	t := s.t
	t.Helper()
	now := revisions[len(revisions)-1]
	var last state
	restore := func(at int64) (dataDir, peers string) {
		dataDir, peers = filepath.Join(t.TempDir(), "data"), fmt.Sprintf("http://127.0.0.1:%d", etcdtest.ReservePort(t))
		s.place.Must(t, "restore", "--revision", fmt.Sprint(at), "--no-bump", "--data-dir", dataDir, "--name", "m1", "--initial-advertise-peer-urls", peers)
		return dataDir, peers
	}
	w.model(revisions, func(at int64, want state) {
		said, err := read(t.Context(), s.members[1].Client, at)
		must(t, err)
		if diff := said.diff(want); diff != "" {
			t.Errorf("the test's own watch and etcd's own answer at revision %d differ: %s", at, diff)
		}
		if at == now {
			last = maps.Clone(want)
			return
		}
		dataDir, _ := restore(at)
		got, err := readBackend(t, filepath.Join(dataDir, "member", "snap", "db"), at)
		must(t, err)
		if diff := want.diff(got); diff != "" {
			t.Errorf("revision %d: %s", at, diff)
		}
	})
	dataDir, peers := restore(now)
	served(t, s.members[0].Version, "holdfast restore", now, last, dataDir, peers)
	t.Logf("restored %v", revisions)
}
