package capture

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
)

// line holds the responses of one watch against the rule that each revision follows the one before, in full.
//
// When is a revision whole? etcd (3.4 to 3.7, mvcc/watchable_store.go) makes a response in two ways. A watcher that keeps up
// gets the events of one write transaction when it commits (notify). One that does not gets up to 1,000 revisions that are
// read back from the backend (syncWatchers), only ones that are committed, and the batch is closed where a revision begins
// and nowhere else (eventBatch.add). So a response always ends with the end of a revision, with one exception: asked for
// fragments, v3rpc/watch.go cuts a response of more than --max-request-bytes between any two events and marks all pieces but
// the last with Fragment. Its one send loop sends them one after the other. Hence the last revision of a response may go on
// exactly when the response is marked; then it is held back, and otherwise it is whole. A revision that goes on after a
// response without the mark is a repeat.
//
// Headers: the revision of one with events is that of the store when they were read, so at or after the events, and it may
// go down by a moment when the watcher falls behind. That of one without events is ahead of events that are still to come
// before etcd 3.4.25 and 3.5.8 (etcd issue 15220). So no header is a position.
//
// A line is not safe for concurrent use.
type line struct {
	cluster member.ID
	// id is that of the watch; responses to all watches of a stream have everyWatch.
	id int64
	// confirmed is the member's revision when it confirmed the watch.
	confirmed history.Revision
	// created is the raft term of that answer and latest the highest that came with events. They are kept apart because etcd
	// makes the answers to requests beside those with events: at an election one can come a term too late.
	created, latest uint64
	// next is the revision that must come when the one before is whole.
	next history.Revision
	// begun tells that a revision has come. Until then there may be the one before: see OpenEvents.
	begun bool
	// open tells that revision next-1 may have more events, of which sub is the next.
	open bool
	sub  int64
}

// everyWatch is the watch id of an answer to a progress request.
const everyWatch = -1

// confirm takes the first response of a stream, which must be that the watch was created.
func (l *line) confirm(reply *pb.WatchResponse, want member.ID, term uint64) error {
	header := reply.GetHeader()
	switch {
	case header == nil || !reply.Created || len(reply.Events) > 0:
		return fmt.Errorf("%w: the watch is not confirmed first", ErrProtocol)
	case want != 0 && member.ID(header.ClusterId) != want:
		return fmt.Errorf("%w: %s, not %s", ErrOtherCluster, member.ID(header.ClusterId), want)
	case reply.Canceled:
		return ended(reply)
	case header.RaftTerm < term:
		return fmt.Errorf("%w: %d, not %d", ErrTermFell, header.RaftTerm, term)
	case history.Revision(header.Revision) < l.next-1:
		return fmt.Errorf("%w: it is at revision %d, the watch is of %s", ErrAhead, header.Revision, l.next)
	}
	l.cluster, l.id = member.ID(header.ClusterId), reply.WatchId
	l.confirmed = history.Revision(header.Revision)
	l.created, l.latest = header.RaftTerm, header.RaftTerm
	return nil
}

// check takes what a response says of itself.
func (l *line) check(reply *pb.WatchResponse) error {
	header, events := reply.GetHeader(), len(reply.Events) > 0
	switch {
	case header == nil:
		return fmt.Errorf("%w: a response without a header", ErrProtocol)
	case member.ID(header.ClusterId) != l.cluster:
		return l.broken(history.Revision(header.Revision), ErrOtherCluster)
	case reply.WatchId != l.id && (reply.WatchId != everyWatch || events):
		return fmt.Errorf("%w: a response to watch %d", ErrProtocol, reply.WatchId)
	case reply.Canceled || reply.CompactRevision != 0:
		return ended(reply)
	case reply.Created:
		return fmt.Errorf("%w: the watch is confirmed twice", ErrProtocol)
	case events && header.RaftTerm < l.latest, header.RaftTerm < l.created:
		return l.broken(history.Revision(header.Revision), ErrTermFell)
	case !events && history.Revision(header.Revision) < l.confirmed:
		return l.broken(history.Revision(header.Revision), nil)
	}
	if events {
		l.latest = header.RaftTerm
	}
	return nil
}

// ended tells why the member ended the watch.
func ended(reply *pb.WatchResponse) error {
	if reply.CompactRevision != 0 {
		return &Compacted{Compact: history.Revision(reply.CompactRevision)}
	}
	return cancelled(reply.CancelReason)
}

func (l *line) broken(came history.Revision, err error) error {
	return &Discontinuous{Expected: l.next, Came: came, Err: err}
}

// add appends the events of a response. Keys and values are not copied.
func (l *line) add(to []history.Event, reply *pb.WatchResponse) ([]history.Event, error) {
	for _, event := range reply.Events {
		kv := event.GetKv()
		revision := history.Revision(kv.GetModRevision())
		switch {
		case l.open && revision == l.next-1:
		case revision == l.next:
			l.next, l.sub, l.open, l.begun = revision+1, 0, true, true
		case !l.begun && revision == l.next-1:
			continue
		default:
			return to, l.broken(revision, nil)
		}
		if err := wellFormed(event); err != nil {
			return to, fmt.Errorf("%w at revision %s", err, revision)
		}
		e := history.Event{Revision: revision, Sub: l.sub, Key: kv.Key}
		if e.Tombstone = event.Type == mvccpb.Event_DELETE; !e.Tombstone {
			e.Value, e.CreateRevision, e.Version, e.Lease = kv.Value, history.Revision(kv.CreateRevision), kv.Version, kv.Lease
		}
		to = append(to, e)
		l.sub++
	}
	if len(reply.Events) > 0 {
		l.open = l.open && reply.Fragment
	}
	return to, nil
}

// wellFormed refuses what cannot be an event of etcd.
func wellFormed(event *mvccpb.Event) error {
	kv := event.GetKv()
	switch {
	case len(kv.GetKey()) == 0:
		return fmt.Errorf("%w: an event without a key", ErrProtocol)
	case event.Type == mvccpb.Event_DELETE:
		return nil
	case event.Type != mvccpb.Event_PUT:
		return fmt.Errorf("%w: an event of type %d", ErrProtocol, event.Type)
	case kv.CreateRevision < 1 || kv.CreateRevision > kv.ModRevision || kv.Version < 1:
		return fmt.Errorf("%w: an event with create revision %d and version %d", ErrProtocol, kv.CreateRevision, kv.Version)
	}
	return nil
}
