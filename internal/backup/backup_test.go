package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// target is an empty repository that the writer may sign in.
func target(t *testing.T) (*mem.Store, *repository.Repository, *repository.Writer) {
	t.Helper()
	root, err := repository.NewKey()
	must(t, err)
	stored := mem.New()
	repo, err := repository.Init(t.Context(), stored, root, repository.None, nil)
	must(t, err)
	writer, err := repository.OpenWriter(t.TempDir())
	must(t, err)
	must(t, repo.Enroll(t.Context(), root, writer.Public(), repository.RoleBackup, "test"))
	return stored, repo, writer
}

func dial(t *testing.T, endpoints ...string) []*member.Client {
	t.Helper()
	var clients []*member.Client
	for _, endpoint := range endpoints {
		client, err := member.Dial(endpoint, nil)
		must(t, err)
		t.Cleanup(func() { must(t, client.Close()) })
		clients = append(clients, client)
	}
	return clients
}

// nobody is an endpoint that refuses connections.
func nobody(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, listener.Close())
	return "http://" + listener.Addr().String()
}

func TestRun(t *testing.T) {
	stored, repo, writer := target(t)
	cluster := etcdtest.StartCluster(t, etcdtest.Get(t, "3.7"), 3, etcdtest.Options{})
	leading, err := cluster.Leader(t.Context())
	must(t, err)
	for range 5 {
		_, err := leading.Client.Put(t.Context(), "key", "value")
		must(t, err)
	}
	// The leader is given first, and one endpoint is dead: a follower is read all the same.
	clients := dial(t, append([]string{nobody(t), leading.Endpoint}, cluster.Endpoints()...)...)
	var skipped, chosen []string
	var passedOver []error
	var sent int64
	run := func(o Options, clients []*member.Client) (repository.Manifest, error) {
		skipped, chosen, passedOver, sent = nil, nil, nil, 0
		o.Observe = func(e Event) {
			switch {
			case e.Skipped != nil:
				skipped = append(skipped, e.Skipped.Why)
			case e.PassedOver != nil:
				passedOver = append(passedOver, e.PassedOver)
			case e.Chosen != nil:
				chosen = append(chosen, e.Chosen.Role)
			default:
				sent = e.Sent
			}
		}
		return Run(t.Context(), repo, writer, clients, o)
	}
	first, err := run(Options{Cluster: "prod"}, clients)
	must(t, err)
	if first.Source.Role != member.Follower || len(chosen) != 1 || len(skipped) != 1 || sent != first.Content.Size {
		t.Errorf("role %q, chosen %q, skipped %q, sent %d of %d", first.Source.Role, chosen, skipped, sent, first.Content.Size)
	}
	if first.Content.Revision != 6 || first.HashKV.Missing != "" || first.HashKV.Hash == 0 || first.HashKV.Revision != 6 {
		t.Errorf("revision %d, hash %+v", first.Content.Revision, first.HashKV)
	}
	var plain bytes.Buffer
	info, _, err := repo.Fetch(t.Context(), first, nil, &plain, nil)
	must(t, err)
	if repository.ContentOf(info) != first.Content {
		t.Errorf("content %+v", info)
	}
	second, err := run(Options{Cluster: "prod"}, dial(t, leading.Endpoint))
	must(t, err)
	if second.Timeline != first.Timeline || second.Source.Role != member.Leader {
		t.Errorf("second: timeline %s after %s, role %q", second.Timeline, first.Timeline, second.Source.Role)
	}

	// Another etcd must not go on in the same name, unless a person knows of it.
	other := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	if _, err := run(Options{Cluster: "prod"}, dial(t, other.Endpoint)); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("another cluster: %v", err)
	}
	if _, err := run(Options{Cluster: "new"}, dial(t, other.Endpoint, leading.Endpoint)); err == nil || !strings.Contains(err.Error(), "2 different etcd clusters") {
		t.Errorf("endpoints of two clusters: %v", err)
	}
	third, err := run(Options{Cluster: "prod", NewTimeline: true}, dial(t, other.Endpoint))
	must(t, err)
	if third.Timeline == first.Timeline || third.Source.Role != member.Alone {
		t.Errorf("a new timeline: %s, role %q", third.Timeline, third.Source.Role)
	}
	if _, err := run(Options{Cluster: "prod"}, dial(t, nobody(t), nobody(t))); err == nil || strings.Count(err.Error(), "connection refused") != 2 {
		t.Errorf("nobody there: %v", err)
	}
	stranger, err := repository.OpenWriter(t.TempDir())
	must(t, err)
	if _, err := Run(t.Context(), repo, stranger, clients, Options{Cluster: "prod"}); !errors.Is(err, repository.ErrNotEnrolled) {
		t.Errorf("a host that may not sign: %v", err)
	}
	// Rubbish under the name of a newer snapshot is told of, and keeps nobody from backing up.
	var last string
	for object, err := range stored.List(t.Context(), "clusters/prod/manifests/"+string(third.Timeline), "") {
		must(t, err)
		last = object.Name
	}
	rubbish := strings.Replace(last, "-0000000000000000000", "-0000000000000000009", 1)
	rubbish = strings.Replace(rubbish, "-0000000000000000000", "-0000000000000000009", 1)
	_, err = stored.Put(t.Context(), rubbish, strings.NewReader("rubbish"), store.PutOptions{})
	must(t, err)
	fourth, err := run(Options{Cluster: "prod"}, dial(t, other.Endpoint))
	must(t, err)
	if fourth.Timeline != third.Timeline || len(passedOver) != 1 || !errors.Is(passedOver[0], repository.ErrForged) {
		t.Errorf("after rubbish: timeline %s after %s, passed over %v", fourth.Timeline, third.Timeline, passedOver)
	}
	must(t, stored.Delete(t.Context(), rubbish))
	result, _, err := repo.Check(t.Context(), nil)
	must(t, err)
	if result.Snapshots != 4 || result.Unclaimed != 0 || len(result.Problems) > 0 {
		t.Errorf("check %+v", result)
	}
}

// TestFirstTimeline: two first backups at once are of one timeline; where revisions are archived in it whose snapshots are
// gone, nobody can tell whether the line goes on, and it is another one.
func TestFirstTimeline(t *testing.T) {
	stored, repo, writer := target(t)
	clients := dial(t, etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{}).Endpoint)
	waiting, both := make(chan struct{}, 2), make(chan struct{})
	manifests, failed := make([]repository.Manifest, 2), make([]error, 2)
	var group sync.WaitGroup
	for i := range manifests {
		group.Go(func() {
			manifests[i], failed[i] = Run(t.Context(), repo, writer, clients, Options{Cluster: "prod", Observe: func(e Event) {
				if e.Chosen != nil { // each has looked for earlier ones, and neither has put anything
					waiting <- struct{}{}
					<-both
				}
			}})
		})
	}
	<-waiting
	<-waiting
	close(both)
	group.Wait()
	must(t, errors.Join(failed...))
	first := manifests[0].Timeline
	if first != manifests[1].Timeline || first != repo.FirstTimeline("prod", manifests[0].Source.ClusterID) || first == repo.FirstTimeline("test", manifests[0].Source.ClusterID) {
		t.Errorf("timelines %s and %s", first, manifests[1].Timeline)
	}
	recipients, err := repo.SegmentSealTo(t.Context())
	must(t, err)
	var sealed bytes.Buffer
	sealer, err := seal.NewWriter(&sealed, seal.Options{Recipients: recipients})
	must(t, errors.Join(err, sealer.Close()))
	object, err := repo.NewSegmentData("prod", first, 2, nil)
	must(t, err)
	sum := sha256.Sum256(sealed.Bytes())
	object.Size, object.SHA256 = int64(sealed.Len()), hex.EncodeToString(sum[:])
	object, err = repo.PutSegmentData(t.Context(), object, bytes.NewReader(sealed.Bytes()), time.Time{})
	must(t, err)
	now := time.Now()
	_, err = repo.PublishSegment(t.Context(), writer, repository.Segment{
		Cluster: "prod", Timeline: first, First: 2, Last: 2, Events: 1, FirstTime: now, LastTime: now, Started: now, Completed: now,
		Plain: repository.Plain{Size: 1, SHA256: object.SHA256}, Object: object, Source: manifests[0].Source,
	})
	must(t, err)
	for object, err := range stored.List(t.Context(), "clusters/prod/manifests/", "") {
		must(t, err)
		must(t, stored.Delete(t.Context(), object.Name))
	}
	m, err := Run(t.Context(), repo, writer, clients, Options{Cluster: "prod"})
	must(t, err)
	if m.Timeline == first {
		t.Error("it goes on in an archive whose snapshots are gone")
	}
}

func TestContinues(t *testing.T) {
	last := &repository.Manifest{Timeline: "0123456789abcdef"}
	last.Source.ClusterID = "a1"
	last.Content.Revision, last.Content.RaftTerm, last.Content.RaftIndex = 100, 5, 1000
	at := func(revision, term, index int64) []member.Candidate {
		status := member.Status{ClusterID: 0xa1, Revision: history.Revision(revision), RaftTerm: uint64(term), RaftIndex: uint64(index)}
		return []member.Candidate{{Status: status}, {Status: member.Status{ClusterID: 0xa1, RaftIndex: 1}}} // one lags
	}
	for name, tt := range map[string]struct {
		members []member.Candidate
		want    error
	}{
		"nothing new":      {at(100, 5, 1000), nil},
		"further":          {at(200, 6, 2000), nil},
		"lower revision":   {at(99, 6, 2000), ErrWentBack},
		"lower term":       {at(200, 4, 2000), ErrWentBack},
		"lower raft index": {at(200, 6, 999), ErrWentBack},
	} {
		timeline, err := continues(last, tt.members, Options{})
		if !errors.Is(err, tt.want) || err == nil && timeline != last.Timeline {
			t.Errorf("%s: %q, %v", name, timeline, err)
		}
		if timeline, err := continues(last, tt.members, Options{NewTimeline: true}); timeline != "" || err != nil {
			t.Errorf("%s, known: %q, %v", name, timeline, err)
		}
	}
	if timeline, err := continues(nil, at(1, 1, 1), Options{}); timeline != "" || err != nil {
		t.Errorf("the first backup: %q, %v", timeline, err)
	}
}
