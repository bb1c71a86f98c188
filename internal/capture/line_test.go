package capture

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-project/holdfast/internal/history"
)

// readAll opens a stream at revision 10 and reads it to its end. It gives the revisions of each batch that has any.
func readAll(t *testing.T, w *watched, o EventsOptions) (batches [][]int64, opened bool, err error) {
	t.Helper()
	e, err := openEvents(t.Context(), w, 10, o)
	if err != nil {
		return nil, false, err
	}
	defer e.Close()
	next, sub := history.Revision(10), int64(0)
	for {
		batch, err := e.Next(t.Context())
		if err != nil {
			if _, again := e.Next(t.Context()); again == nil || again.Error() != err.Error() {
				t.Errorf("the next call gives %v after %v", again, err)
			}
			return batches, true, err
		}
		for i, event := range batch.Events {
			if i == 0 || event.Revision != batch.Events[i-1].Revision {
				sub = 0
				if event.Revision != next {
					t.Errorf("revision %s comes, not %s", event.Revision, next)
				}
				next++
			}
			if event.Sub != sub {
				t.Errorf("revision %s: sub %d, want %d", event.Revision, event.Sub, sub)
			}
			sub++
		}
		if len(batch.Events) > 0 {
			batches = append(batches, revisions(batch.Events))
		}
	}
}

func TestLines(t *testing.T) {
	moved := func(expected, came history.Revision, err error) *Discontinuous {
		return &Discontinuous{Expected: expected, Came: came, Err: err}
	}
	wrongCluster := func(r *pb.WatchResponse) { r.Header.ClusterId++ }
	lowTerm := func(r *pb.WatchResponse) { r.Header.RaftTerm-- }
	for name, tt := range map[string]struct {
		replies []*pb.WatchResponse
		want    string // of the batches
		err     error  // io.EOF when nil
	}{
		"one by one":                     {[]*pb.WatchResponse{events(10), events(11), events(12)}, "[[10] [11] [12]]", nil},
		"with the revision before":       {[]*pb.WatchResponse{events(9, 9, 10), events(11)}, "[[10] [11]]", nil},
		"the revision before alone":      {[]*pb.WatchResponse{events(9, 9), events(10)}, "[[10]]", nil},
		"the revision before, cut":       {[]*pb.WatchResponse{events(9, 0), events(9, 10, 10, 0), events(10)}, "[[10 10 10]]", nil},
		"many of one":                    {[]*pb.WatchResponse{events(10, 10, 10), events(11, 11, 12, 12, 12)}, "[[10 10 10] [11 11 12 12 12]]", nil},
		"pieces":                         {[]*pb.WatchResponse{events(10, 11, 11, 0), events(11, 12, 0), events(12), events(13)}, "[[10] [11 11 11] [12 12] [13]]", nil},
		"a piece ends with its revision": {[]*pb.WatchResponse{events(10, 11, 0), events(12, 13)}, "[[10] [11 12 13]]", nil},
		"pieces of one revision":         {[]*pb.WatchResponse{events(10, 0), events(10, 0), events(10, 10), events(11)}, "[[10 10 10 10] [11]]", nil},
		"signs of life":                  {[]*pb.WatchResponse{progress(), events(10), progress(), events(11)}, "[[10] [11]]", nil},
		"progress of this watch":         {[]*pb.WatchResponse{events(10), change(progress(), func(r *pb.WatchResponse) { r.WatchId = 0 })}, "[[10]]", nil},
		"progress before events":         {[]*pb.WatchResponse{events(10), change(progress(), func(r *pb.WatchResponse) { r.Header.Revision = 5000 }), events(11)}, "[[10] [11]]", nil},
		"a sign of life within pieces":   {[]*pb.WatchResponse{events(10, 0), progress(), events(10)}, "[[10 10]]", nil},
		"a higher term":                  {[]*pb.WatchResponse{events(10), change(events(11), func(r *pb.WatchResponse) { r.Header.RaftTerm++ })}, "[[10] [11]]", nil},
		"a late answer of a term":        {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Header.RaftTerm++ }), progress()}, "[[10]]", nil},
		"events from behind":             {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Header.Revision = 10 })}, "[[10]]", nil},

		"begins too late":            {[]*pb.WatchResponse{events(11)}, "[]", moved(10, 11, nil)},
		"begins too early":           {[]*pb.WatchResponse{events(8, 9, 10)}, "[]", moved(10, 8, nil)},
		"skips":                      {[]*pb.WatchResponse{events(10), events(12)}, "[[10]]", moved(11, 12, nil)},
		"skips within a response":    {[]*pb.WatchResponse{events(10, 12)}, "[]", moved(11, 12, nil)},
		"skips after a piece":        {[]*pb.WatchResponse{events(10, 11, 0), events(13)}, "[[10]]", moved(12, 13, nil)},
		"repeats":                    {[]*pb.WatchResponse{events(10), events(11), events(10)}, "[[10] [11]]", moved(12, 10, nil)},
		"repeats the one before":     {[]*pb.WatchResponse{events(10), events(9)}, "[[10]]", moved(11, 9, nil)},
		"splits without a mark":      {[]*pb.WatchResponse{events(10, 11), events(11, 12)}, "[[10 11]]", moved(12, 11, nil)},
		"goes back":                  {[]*pb.WatchResponse{events(10, 11, 12, 11)}, "[]", moved(13, 11, nil)},
		"swaps":                      {[]*pb.WatchResponse{events(10, 12, 11)}, "[]", moved(11, 12, nil)},
		"of no revision":             {[]*pb.WatchResponse{events(-1)}, "[]", moved(10, -1, nil)},
		"another cluster":            {[]*pb.WatchResponse{events(10), change(events(11), wrongCluster)}, "[[10]]", moved(11, fakeNow, ErrOtherCluster)},
		"another cluster, silent":    {[]*pb.WatchResponse{events(10), change(progress(), wrongCluster)}, "[[10]]", moved(11, fakeNow, ErrOtherCluster)},
		"a lower term":               {[]*pb.WatchResponse{change(events(10), lowTerm)}, "[]", moved(10, fakeNow, ErrTermFell)},
		"a lower term than before":   {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Header.RaftTerm = 9 }), events(11)}, "[[10]]", moved(11, fakeNow, ErrTermFell)},
		"a lower term, silent":       {[]*pb.WatchResponse{change(progress(), lowTerm)}, "[]", moved(10, fakeNow, ErrTermFell)},
		"a member that lost history": {[]*pb.WatchResponse{events(10), change(progress(), func(r *pb.WatchResponse) { r.Header.Revision = 999 })}, "[[10]]", moved(11, 999, nil)},

		"an unknown watch":          {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.WatchId = 7 })}, "[]", ErrProtocol},
		"progress of an unknown":    {[]*pb.WatchResponse{change(progress(), func(r *pb.WatchResponse) { r.WatchId = 7 })}, "[]", ErrProtocol},
		"events of every watch":     {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.WatchId = -1 })}, "[]", ErrProtocol},
		"no header":                 {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Header = nil })}, "[]", ErrProtocol},
		"confirmed twice":           {[]*pb.WatchResponse{events(10), created()}, "[[10]]", ErrProtocol},
		"an event of nothing":       {[]*pb.WatchResponse{{Header: header(), Events: []*mvccpb.Event{{}}}}, "[]", moved(10, 0, nil)},
		"an event that is nil":      {[]*pb.WatchResponse{{Header: header(), Events: []*mvccpb.Event{nil}}}, "[]", moved(10, 0, nil)},
		"no key":                    {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Events[0].Kv.Key = nil })}, "[]", ErrProtocol},
		"an unknown kind of event":  {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Events[0].Type = 2 })}, "[]", ErrProtocol},
		"created after itself":      {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Events[0].Kv.CreateRevision = 11 })}, "[]", ErrProtocol},
		"never created":             {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Events[0].Kv.CreateRevision = 0 })}, "[]", ErrProtocol},
		"no version":                {[]*pb.WatchResponse{change(events(10), func(r *pb.WatchResponse) { r.Events[0].Kv.Version = 0 })}, "[]", ErrProtocol},
		"compacted":                 {[]*pb.WatchResponse{events(10), {Header: &pb.ResponseHeader{ClusterId: fakeCluster, RaftTerm: fakeTerm}, Canceled: true, CompactRevision: 77}}, "[[10]]", &Compacted{77}},
		"denied later":              {[]*pb.WatchResponse{events(10), {Header: header(), Canceled: true, CancelReason: "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"}}, "[[10]]", &Denied{"etcdserver: invalid auth token"}},
		"a piece, then compaction":  {[]*pb.WatchResponse{events(10, 0), {Header: header(), Canceled: true, CompactRevision: 77}}, "[]", &Compacted{77}},
		"ends within a revision":    {[]*pb.WatchResponse{events(10, 11, 0)}, "[[10]]", io.EOF},
		"pieces without a revision": {[]*pb.WatchResponse{events(0), events(10, 0), events(0), events(10)}, "[[10 10]]", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchOf(append([]*pb.WatchResponse{created()}, tt.replies...)...)
				close(w.replies)
				batches, _, err := readAll(t, w, EventsOptions{ClusterID: fakeCluster, Term: fakeTerm})
				if got := fmt.Sprint(batches); got != tt.want {
					t.Errorf("batches %s, want %s", got, tt.want)
				}
				checkError(t, err, tt.err)
			})
		})
	}
}

// checkError wants an error of the same class, and of the same values where it has some.
func checkError(t *testing.T, err, want error) {
	t.Helper()
	if want == nil {
		want = io.EOF
	}
	found := errors.Is(err, want)
	for e := err; e != nil && !found; e = errors.Unwrap(e) {
		found = reflect.DeepEqual(e, want)
	}
	if !found {
		t.Errorf("error %v, want %v", err, want)
	}
	if moved, ok := errors.AsType[*Discontinuous](want); ok && moved.Err != nil && !errors.Is(err, moved.Err) {
		t.Errorf("error %v is not %v", err, moved.Err)
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("a secret in %q", err)
	}
}

func TestRefusals(t *testing.T) {
	refused := func(reason string) *pb.WatchResponse {
		return &pb.WatchResponse{Header: header(), WatchId: -1, Created: true, Canceled: true, CancelReason: reason}
	}
	long := strings.Repeat("x", 100_000)
	for name, tt := range map[string]struct {
		first   *pb.WatchResponse
		second  *pb.WatchResponse
		o       EventsOptions
		want    error
		wantEnd string
	}{
		"any cluster":        {first: created()},
		"at the end":         {first: change(created(), func(r *pb.WatchResponse) { r.Header.Revision = 9 })},
		"ahead":              {first: change(created(), func(r *pb.WatchResponse) { r.Header.Revision = 8 }), want: ErrAhead, wantEnd: "it is at revision 8, the watch is of 10"},
		"another cluster":    {first: created(), o: EventsOptions{ClusterID: 7}, want: ErrOtherCluster, wantEnd: "c1, not 7"},
		"a lower term":       {first: created(), o: EventsOptions{Term: 6}, want: ErrTermFell, wantEnd: "5, not 6"},
		"no permission":      {first: refused("rpc error: code = PermissionDenied desc = etcdserver: permission denied"), want: &Denied{"etcdserver: permission denied"}},
		"nobody":             {first: refused("rpc error: code = InvalidArgument desc = etcdserver: user name is empty"), want: &Denied{"etcdserver: user name is empty"}},
		"another reason":     {first: refused("too hot today"), wantEnd: `member cancelled the watch: "too hot today"`},
		"a long reason":      {first: refused(long), wantEnd: long[:200] + `"`},
		"of another, denied": {first: refused("etcdserver: permission denied"), o: EventsOptions{ClusterID: 7}, want: ErrOtherCluster},
		"events first":       {first: events(10), want: ErrProtocol},
		"events with it":     {first: change(events(10), func(r *pb.WatchResponse) { r.Created = true }), want: ErrProtocol},
		"progress first":     {first: progress(), want: ErrProtocol},
		"no header":          {first: &pb.WatchResponse{Created: true}, want: ErrProtocol},
		"compacted":          {first: created(), second: &pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: fakeCluster, RaftTerm: fakeTerm}, Canceled: true, CompactRevision: 500}, want: &Compacted{500}},
		"silly patience":     {first: created(), o: EventsOptions{Quiet: PatienceTime}, wantEnd: "do not fit together"},
		"silly bytes":        {first: created(), o: EventsOptions{MostBytes: -1}, wantEnd: "do not fit together"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watchOf(tt.first)
				if tt.second != nil {
					w.replies <- tt.second
				}
				e, err := openEvents(t.Context(), w, 10, tt.o)
				if tt.want == nil && tt.wantEnd == "" {
					must(t, err)
					if e.Current() != history.Revision(tt.first.Header.Revision) {
						t.Errorf("current is %s", e.Current())
					}
					must(t, e.Close())
					return
				}
				if tt.want != nil {
					checkError(t, err, tt.want)
				}
				if err == nil || !strings.HasSuffix(err.Error(), tt.wantEnd) || len(err.Error()) > 300 {
					t.Errorf("error %v", err)
				}
			})
		})
	}
	for _, from := range []history.Revision{-1, 0, 1} {
		if _, err := openEvents(t.Context(), watchOf(), from, EventsOptions{}); err == nil {
			t.Errorf("events begin at revision %s", from)
		}
	}
}

// TestStatuses wants errors of the call itself told apart.
func TestStatuses(t *testing.T) {
	for _, tt := range []struct {
		end  error
		want error
	}{
		{status.Error(codes.PermissionDenied, "etcdserver: permission denied"), &Denied{"etcdserver: permission denied"}},
		{status.Error(codes.InvalidArgument, "etcdserver: user name is empty"), &Denied{"etcdserver: user name is empty"}},
		{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (9 vs. 5)"), ErrTooLarge},
		{io.ErrUnexpectedEOF, io.ErrUnexpectedEOF},
	} {
		for _, replies := range [][]*pb.WatchResponse{nil, {created()}, {created(), events(10)}} {
			w := watchOf(replies...)
			w.end = tt.end
			close(w.replies)
			_, _, err := readAll(t, w, EventsOptions{})
			checkError(t, err, tt.want)
		}
	}
	unavailable := status.Error(codes.Unavailable, "etcdserver: server stopped")
	w := watchOf(created(), events(10))
	w.end = unavailable
	close(w.replies)
	if _, _, err := readAll(t, w, EventsOptions{}); status.Code(errors.Unwrap(err)) != codes.Unavailable {
		t.Errorf("a broken connection is %v", err)
	}
}

// TestRequest wants a watch of everything, without what hurts etcd.
func TestRequest(t *testing.T) {
	w := watchOf(created(), events(10))
	e, err := openEvents(t.Context(), w, 10, EventsOptions{})
	must(t, err)
	defer e.Close()
	got := w.sent[0].GetCreateRequest()
	if len(w.sent) != 1 || string(got.Key) != "\x00" || string(got.RangeEnd) != "\x00" || got.StartRevision != 9 || !got.ProgressNotify || !got.Fragment || got.PrevKv || len(got.Filters) != 0 {
		t.Errorf("asked for %v", w.sent)
	}
	if len(w.options) != 1 {
		t.Errorf("call options %v", w.options)
	}
}

// TestEventFields wants everything taken over, and nothing of a tombstone but its key.
func TestEventFields(t *testing.T) {
	put := &mvccpb.KeyValue{Key: []byte("k\x00\xff"), Value: []byte("v"), CreateRevision: 3, ModRevision: 10, Version: 4, Lease: 5}
	empty := &mvccpb.KeyValue{Key: []byte("e"), CreateRevision: 10, ModRevision: 10, Version: 1}
	gone := &mvccpb.KeyValue{Key: []byte("g"), ModRevision: 10, Value: []byte("never"), Lease: 9, Version: 3}
	e, err := openEvents(t.Context(), watchOf(created(), &pb.WatchResponse{Header: header(), Events: []*mvccpb.Event{{Kv: put}, {Kv: empty}, {Type: mvccpb.Event_DELETE, Kv: gone}}}), 10, EventsOptions{})
	must(t, err)
	defer e.Close()
	batch, err := e.Next(t.Context())
	must(t, err)
	want := []history.Event{
		{Revision: 10, Sub: 0, Key: put.Key, Value: put.Value, CreateRevision: 3, Version: 4, Lease: 5},
		{Revision: 10, Sub: 1, Key: empty.Key, CreateRevision: 10, Version: 1},
		{Revision: 10, Sub: 2, Tombstone: true, Key: gone.Key},
	}
	if !reflect.DeepEqual(batch.Events, want) || batch.Current != fakeNow || batch.Term != fakeTerm {
		t.Errorf("batch %+v", batch)
	}
	if !slices.Equal(revisions(batch.Events), []int64{10, 10, 10}) {
		t.Errorf("revisions %v", revisions(batch.Events))
	}
}
