package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
)

// What EventsOptions stand for when they are zero.
const (
	// QuietTime is how long nothing may come before the member is asked for a sign of life.
	QuietTime = 5 * time.Second
	// PatienceTime is how long nothing may come before the stream is given up. An election takes a few seconds.
	PatienceTime = 30 * time.Second
	// MostEventBytes bounds one response, and one revision. Responses are cut into pieces of about 2 MiB (the server's
	// --max-request-bytes); only a race in etcd at the very begin sends one in one piece. A revision is at most a request of 1.5 MiB,
	// unless --max-request-bytes was raised, or one transaction touches many big values without sending them (ignore_value).
	MostEventBytes = 64 << 20
)

// settleTime is how long OpenEvents waits for a first response. A watch that begins in the past gets it within 100 ms, or
// none if its revisions hold no event.
const settleTime = time.Second

// EventsOptions say what the events must belong to, and how long and how much is waited for. The zero value takes any
// cluster.
type EventsOptions struct {
	// ClusterID is the cluster that the member must be of; 0 takes any.
	ClusterID member.ID
	// Term is the raft term that the member must have come to.
	Term uint64
	// Quiet and Patience are QuietTime and PatienceTime when zero. Patience must be the longer one.
	Quiet, Patience time.Duration
	// MostBytes is MostEventBytes when zero. Up to four times as much is in memory when the member sends the most that is
	// taken: a revision that waits for its rest, a response, and the next one in both its forms. (Events with next to nothing in
	// them take some 300 bytes each, which is more than on the wire.) With usual settings it is 10 MiB.
	MostBytes int
	// Now is the clock of arrival times; nil means time.Now.
	Now func() time.Time
}

// filled puts the defaults in.
func (o EventsOptions) filled() (EventsOptions, error) {
	if o.Quiet == 0 {
		o.Quiet = QuietTime
	}
	if o.Patience == 0 {
		o.Patience = PatienceTime
	}
	if o.MostBytes == 0 {
		o.MostBytes = MostEventBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Quiet < 0 || o.Patience <= o.Quiet || o.MostBytes < 0 {
		return o, fmt.Errorf("quiet %s, patience %s and %d bytes do not fit together", o.Quiet, o.Patience, o.MostBytes)
	}
	return o, nil
}

// Batch is what one response of the member gave.
type Batch struct {
	// Events are of whole revisions, in order, and without a hole to those of the batch before. None is a sign of life. They
	// and what they point to are valid until the next call of Next.
	Events []history.Event
	// Current is the revision that the member was at when it made the response, for a lag to be told. It is no position: it
	// can be ahead of events that are still to come, and can fall.
	Current history.Revision
	// Term is the member's raft term then.
	Term uint64
	// Arrived is when the response was there; of a revision in several pieces, the last one.
	Arrived time.Time
}

// Events are the changes of a whole keyspace as they come about, from one revision on: each revision in full, and each one
// more than the one before, or an error.
//
// They belong to one goroutine; only Close may be called from another. The member is read ahead by one response and no
// further: when nobody calls Next, etcd has to keep the rest. Not promised: that a revision is whole whose deletes a
// compaction at exactly that revision removed while the watch was behind it (etcd before the fix of its issue 19179 does so). Who
// keeps up, and starts no watch far back, is never there.
type Events struct {
	o    EventsOptions
	line line

	// ctx is that of the whole stream, which outlives the call that opened it; cancel ends it.
	ctx    context.Context
	cancel context.CancelCauseFunc
	stream pb.Watch_WatchClient
	// connection is what the stream is on, to be closed after it; nil when it is the caller's.
	connection io.Closer
	closing    sync.Once
	closed     error // what closing it gave
	// arrivals come from receive, which closes done when it has ended.
	arrivals chan arrival
	done     chan struct{}
	// early is what arrived while the watch was opened.
	early *arrival

	// heard is when something came last, asked when progress was asked for since then: at first and last.
	heard             time.Time
	firstAsked, asked time.Time
	timer             *time.Timer
	events            []history.Event
	held, heldBytes   int   // how many at the end of events wait for the rest of their revision
	err               error // what every Next gives from then on
}

// arrival is a response, or why there are no more.
type arrival struct {
	reply *pb.WatchResponse
	at    time.Time
	err   error
}

// OpenEvents watches all keys of a member and waits until it confirmed that. The first revision that comes is from, which is 2
// or more: a keyspace begins with its revision 2. ctx bounds the whole stream; the caller closes it.
//
// etcd is asked for the revision before as well, and that one is dropped, for two reasons. A watch from there is refused when
// the member is compacted at from, where deletes of from can be gone already. And a watch that begins after the member's
// current revision gets no answer to questions for progress.
//
// Refusals are *Compacted, *Denied, ErrAhead, ErrOtherCluster and ErrTermFell; ErrSilent when there is no answer. A member
// that takes longer than a second to see that it is compacted says so at the first Next.
//
// It makes a connection of its own, which gathers events for some milliseconds: see member.Client.Gathering.
func OpenEvents(ctx context.Context, client *member.Client, from history.Revision, o EventsOptions) (*Events, error) {
	own, err := client.Gathering()
	if err != nil {
		return nil, err
	}
	e, err := openEvents(ctx, pb.NewWatchClient(own.Conn()), from, o)
	if err != nil {
		err = fmt.Errorf("open events of %s: %w", client.Endpoint(), err)
		if closing := own.Close(); closing != nil {
			err = errors.Join(err, closing)
		}
		return nil, err
	}
	e.connection = own
	return e, nil
}

func openEvents(ctx context.Context, watch pb.WatchClient, from history.Revision, o EventsOptions) (_ *Events, err error) {
	if o, err = o.filled(); err != nil {
		return nil, err
	}
	if from < 2 {
		return nil, fmt.Errorf("no events begin at revision %s", from)
	}
	e := &Events{o: o, line: line{next: from}, arrivals: make(chan arrival), done: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancelCause(ctx)
	receiving := false
	defer func() {
		if err == nil {
			return
		}
		err = e.explain(err)
		if !receiving {
			close(e.done)
		}
		e.Close()
	}()
	if err := e.create(watch, from-1); err != nil {
		return nil, err
	}
	receiving = true
	go e.receive()
	e.timer = time.NewTimer(settleTime)
	return e, e.settle()
}

// create opens the watch and waits for the member's confirmation.
func (e *Events) create(watch pb.WatchClient, from history.Revision) (err error) {
	stall := time.AfterFunc(e.o.Patience, func() { e.cancel(ErrSilent) })
	defer stall.Stop()
	// A member that finds itself without a leader, cut off or after an election that fails, would go on in silence with what it
	// has. So it is asked to end the watch then.
	ctx := clientv3.WithRequireLeader(e.ctx)
	// Without fragments etcd sends up to 1,000 revisions in one message, however many bytes they are.
	if e.stream, err = watch.Watch(ctx, grpc.MaxCallRecvMsgSize(e.o.MostBytes)); err != nil {
		return err
	}
	request := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: int64(from), ProgressNotify: true, Fragment: true}
	// io.EOF is that the stream has ended; why is what Recv tells.
	if err := e.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	reply, err := e.stream.Recv()
	if err != nil {
		return err
	}
	return e.line.confirm(reply, e.o.ClusterID, e.o.Term)
}

// settle waits whether the watch is ended at once: a member tells only after it confirmed a watch that it is compacted.
func (e *Events) settle() error {
	e.heard = time.Now()
	select {
	case a := <-e.arrivals:
		e.heard, e.early = time.Now(), &a
		if a.err != nil {
			return a.err
		}
		if a.reply.Canceled {
			return e.line.check(a.reply)
		}
	case <-e.timer.C:
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
	return nil
}

// receive reads the stream to its end.
func (e *Events) receive() {
	defer close(e.done)
	for {
		reply, err := e.stream.Recv()
		select {
		case e.arrivals <- arrival{reply: reply, at: e.o.Now(), err: err}:
		case <-e.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// Current is the revision that the member was at when it confirmed the watch.
func (e *Events) Current() history.Revision { return e.line.confirmed }

// Next waits for the next response. When ctx ends it gives the cause, and the stream goes on. Any other error ends the
// stream, and each further call gives it again: *Discontinuous, *Compacted, *Denied, ErrSilent, ErrTooLarge, ErrProtocol, or what
// broke the connection.
func (e *Events) Next(ctx context.Context) (Batch, error) {
	for e.err == nil {
		a, err := e.await(ctx)
		if a == nil && err == nil {
			return Batch{}, fmt.Errorf("read events: %w", context.Cause(ctx))
		}
		var batch Batch
		if err == nil {
			batch, err = e.take(a)
		}
		if err != nil {
			e.err = fmt.Errorf("read events: %w", e.explain(err))
			e.cancel(e.err)
		} else if len(batch.Events) > 0 || e.held == 0 {
			return batch, nil
		}
	}
	return Batch{}, e.err
}

// await gives the next response, and asks for progress when there is none for long. It gives nothing when ctx ends.
func (e *Events) await(ctx context.Context) (*arrival, error) {
	if a := e.early; a != nil {
		e.early = nil
		return a, a.err
	}
	select { // a response that is there needs no timer
	case a := <-e.arrivals:
		return e.hear(a)
	default:
	}
	for {
		due, err := e.wake()
		if err != nil {
			return nil, err
		}
		e.timer.Reset(due)
		select {
		case a := <-e.arrivals:
			e.timer.Stop()
			return e.hear(a)
		case <-e.timer.C:
		case <-e.ctx.Done():
			return nil, e.ctx.Err()
		case <-ctx.Done():
			return nil, nil
		}
	}
}

func (e *Events) hear(a arrival) (*arrival, error) {
	e.heard, e.firstAsked, e.asked = time.Now(), time.Time{}, time.Time{}
	return &a, a.err
}

// wake does what is due in a silence and tells how long it is until the next thing is. That nobody called Next for long is no
// silence of the member: it is given up only after it was asked, and had the rest of the patience to answer.
func (e *Events) wake() (time.Duration, error) {
	now, since := time.Now(), e.heard
	if !e.asked.IsZero() {
		since = e.asked
	}
	if patience := e.o.Patience - e.o.Quiet; !e.firstAsked.IsZero() && now.Sub(e.firstAsked) >= patience {
		return 0, fmt.Errorf("%w for %s", ErrSilent, now.Sub(e.heard).Round(time.Millisecond))
	}
	if now.Sub(since) >= e.o.Quiet {
		request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		if err := e.stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if e.asked = now; e.firstAsked.IsZero() {
			e.firstAsked = now
		}
		since = now
	}
	due := since.Add(e.o.Quiet)
	if end := e.firstAsked.Add(e.o.Patience - e.o.Quiet); !e.firstAsked.IsZero() && end.Before(due) {
		due = end
	}
	return due.Sub(now), nil
}

// take makes a batch of a response.
func (e *Events) take(a *arrival) (Batch, error) {
	if err := e.line.check(a.reply); err != nil {
		return Batch{}, err
	}
	// What was given is forgotten, so that its values can go.
	given := len(e.events) - e.held
	copy(e.events, e.events[given:])
	clear(e.events[e.held:])
	events, err := e.line.add(e.events[:e.held], a.reply)
	if e.events = events; err != nil {
		return Batch{}, err
	}
	if err := e.hold(); err != nil {
		return Batch{}, err
	}
	header := a.reply.Header
	whole := events[: len(events)-e.held : len(events)-e.held]
	return Batch{Events: whole, Current: history.Revision(header.Revision), Term: header.RaftTerm, Arrived: a.at}, nil
}

// eventSize is about what an event takes beside its key and value: ours and etcd's form of it.
const eventSize = 256

// hold counts the events at the end that may not be all of their revision. Those that were held before are at the front.
func (e *Events) hold() error {
	if !e.line.open {
		e.held, e.heldBytes = 0, 0
		return nil
	}
	revision, first, size := e.line.next-1, len(e.events), 0
	known := e.held
	if known > 0 && e.events[0].Revision == revision {
		size = e.heldBytes
	} else {
		known = 0
	}
	for first > known && e.events[first-1].Revision == revision {
		first--
		size += eventSize + len(e.events[first].Key) + len(e.events[first].Value)
	}
	if known > 0 {
		first = 0
	}
	e.held, e.heldBytes = len(e.events)-first, size
	if size > e.o.MostBytes {
		return fmt.Errorf("%w: revision %s takes more than %d bytes", ErrTooLarge, revision, e.o.MostBytes)
	}
	return nil
}

// Close ends the watch. Nothing of it runs when it returns.
func (e *Events) Close() error {
	e.cancel(context.Canceled)
	<-e.done
	e.closing.Do(func() {
		if e.connection != nil {
			e.closed = e.connection.Close()
		}
	})
	return e.closed
}

// explain puts the cause of a cancelled stream in the place of gRPC's word for it.
func (e *Events) explain(err error) error {
	if cause := context.Cause(e.ctx); cause != nil {
		return cause
	}
	return fromStatus(err)
}
