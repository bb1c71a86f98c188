package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
)

// packer makes segments of the batches of one watch: while one is filled, the one before is sealed into the spool. It holds
// two of them at most, each of twice the flush size or one batch above it.
type packer struct {
	*archiver
	source member.Candidate

	// memory is that of sealing, one segment after the other.
	memory seal.Memory

	mu      sync.Mutex
	filling *segment.Builder
	end     position // of what was added last
	begins  bool     // what is filled is the first after a snapshot
	since   time.Time
	room    sync.Cond // there is place in filling, or failed is set
	due     chan struct{}
	failed  error
	closed  bool
}

func (a *archiver) newPacker(source member.Candidate, end position, begins bool) *packer {
	p := &packer{archiver: a, source: source, filling: segment.NewBuilder(), end: end, begins: begins, due: make(chan struct{}, 1)}
	p.room.L = &p.mu
	return p
}

// add takes the events of a batch. It waits while the spool's disk is slower than the watch. Times are those of the
// events: from and to are the same when they were seen as they came.
func (p *packer) add(events []history.Event, batch capture.Batch, from, to time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.failed == nil && p.filling.Size() > 2*p.FlushSize {
		p.room.Wait()
	}
	if p.failed != nil {
		return p.failed
	}
	if p.filling.Events() == 0 {
		p.since = to
	}
	// Whatever the clock does, time along a timeline does not go back.
	if from.Before(p.end.Time) {
		from = p.end.Time
	}
	if to.Before(from) {
		to = from
	}
	if err := p.filling.Add(events, from, to); err != nil {
		return err
	}
	p.end = positionAt(events, batch, p.end)
	p.end.Time = to
	if p.filling.Size() >= p.FlushSize {
		select {
		case p.due <- struct{}{}:
		default: // it is known already
		}
	}
	return nil
}

// run makes segments until the packer is closed, and a last one then. Its error is also that of add from then on.
func (p *packer) run() error {
	ticker := time.NewTicker(p.Flush)
	defer ticker.Stop()
	spare := segment.NewBuilder()
	for {
		select {
		case <-ticker.C:
		case <-p.due:
		}
		var full *segment.Builder
		p.mu.Lock()
		end, since, closed := p.end, p.since, p.closed
		if p.filling.Events() > 0 {
			full, p.filling = p.filling, spare
		}
		p.room.Broadcast()
		p.mu.Unlock()
		if full != nil {
			if err := p.spoolSegment(full, end, since); err != nil {
				p.fail(err)
				return err
			}
			full.Reset()
			spare = full
		}
		if closed {
			return nil
		}
	}
}

func (p *packer) fail(err error) {
	p.mu.Lock()
	p.failed = err
	p.room.Broadcast()
	p.mu.Unlock()
}

// close lets run make what is there into a last segment, and end.
func (p *packer) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	select {
	case p.due <- struct{}{}:
	default:
	}
}

// spoolSegment seals a segment into the spool.
func (p *packer) spoolSegment(b *segment.Builder, end position, since time.Time) error {
	leases := p.leases(b.LeaseIDs())
	recipients, trouble := p.sealing.recipients()
	if trouble != nil {
		p.ail(Beside, fmt.Errorf("a segment will stay unmerged: %w", trouble))
	}
	d := draft{End: end, Begins: p.begins}
	p.begins = false
	d.Segment = repository.Segment{
		Cluster: p.Cluster, First: b.Range().First, Last: b.Range().Last,
		Started: since.UTC().Truncate(time.Millisecond), Term: end.Term, Source: p.sourceOf(p.source),
		Session: p.session,
	}
	return p.spool.add(d, func(out io.Writer, d *draft) error {
		stored := &counted{dst: out, sum: sha256.New()}
		sealer, err := seal.NewWriter(stored, seal.Options{Recipients: recipients, Concurrency: 1, FrameSize: segmentFrame, Memory: &p.memory})
		if err != nil {
			return err
		}
		summary, err := b.Encode(sealer, leases)
		if err != nil {
			sealer.Abort()
			return err
		}
		if err := sealer.Close(); err != nil {
			return err
		}
		s := &d.Segment
		s.Events, s.Leases = summary.Events, int64(len(summary.Leases))
		s.Exact = true
		for span := range summary.Times.All() {
			if span.First == s.First {
				s.FirstTime = span.From
			}
			s.LastTime, s.Exact = span.To, s.Exact && span.Exact()
		}
		s.Plain = repository.Plain{Size: summary.Size, SHA256: hex.EncodeToString(summary.SHA256[:])}
		s.Object.Size, s.Object.SHA256 = stored.size, hex.EncodeToString(stored.sum.Sum(nil))
		s.Object.Encryption = p.repo.Document().Encryption
		for _, r := range recipients {
			s.Object.Recipients = append(s.Object.Recipients, r.KeyID())
		}
		return nil
	})
}

// segmentFrame is the content of a frame of a live segment, in bytes: most have less, and each is packed by itself.
const segmentFrame = 1 << 20

// sourceOf tells where events are from.
func (a *archiver) sourceOf(c member.Candidate) repository.Source {
	return repository.Source{
		ClusterID: c.Status.ClusterID.String(), MemberID: c.Status.MemberID.String(), MemberName: c.Name,
		Endpoint: c.Client.Endpoint(), EtcdVersion: c.Status.Version, CASHA256: a.CASHA256, Role: c.Role,
	}
}

// counted counts and hashes what goes through.
type counted struct {
	dst  io.Writer
	sum  hash.Hash
	size int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.dst.Write(b)
	c.sum.Write(b[:n])
	c.size += int64(n)
	return n, err
}

const (
	// lookUpTime bounds what is spent on looking up the leases of one segment.
	lookUpTime = 2 * time.Second
	// mostLeases bounds the leases that are remembered; each takes some 40 bytes.
	mostLeases = 200_000
)

// leases looks up what a watch does not tell: for how long each lease was granted. One that is gone, or a member that does
// not answer in time, leaves it unknown.
func (p *packer) leases(ids []int64) []history.Lease {
	ctx, cancel := context.WithTimeout(context.Background(), lookUpTime)
	defer cancel()
	list := make([]history.Lease, 0, len(ids))
	for _, id := range ids {
		ttl, known := p.ttl[id]
		if !known && ctx.Err() == nil {
			if granted, found, err := p.source.Client.LeaseTTL(ctx, id); err == nil && found {
				if len(p.ttl) >= mostLeases {
					clear(p.ttl)
				}
				p.ttl[id], ttl = granted, granted
			}
		}
		list = append(list, history.Lease{ID: id, TTL: ttl})
	}
	return list
}

// joint is where a watch joins the line.
type joint struct {
	// skip is the last revision that is archived already, whoever did it.
	skip history.Revision
	// there is the revision that the member had when the watch was opened, at the time opened: what is not after it came about
	// between since, the time of the last revision before, and then.
	there         history.Revision
	since, opened time.Time
}

// take packs one batch without what is archived already.
func (p *packer) take(batch capture.Batch, j joint) error {
	events := batch.Events
	if n := upTo(events, j.skip); n > 0 {
		p.pass(events[:n], batch)
		events = events[n:]
	}
	old := 0
	for old < len(events) && events[old].Revision <= j.there {
		old++
	}
	if old > 0 {
		from := j.since
		if from.IsZero() {
			from = j.opened
		}
		if err := p.add(events[:old], batch, from, j.opened); err != nil {
			return err
		}
	}
	if old < len(events) {
		return p.add(events[old:], batch, batch.Arrived, batch.Arrived)
	}
	return nil
}

// upTo counts the events at the begin that are not after a revision.
func upTo(events []history.Event, r history.Revision) (n int) {
	for n < len(events) && events[n].Revision <= r {
		n++
	}
	return n
}

// pass goes over events that are stored already: the line is at their end, as far as this archiver is concerned.
func (p *packer) pass(events []history.Event, batch capture.Batch) {
	p.mu.Lock()
	p.end = positionAt(events, batch, p.end)
	end := p.end
	p.mu.Unlock()
	p.archiver.mu.Lock()
	defer p.archiver.mu.Unlock()
	if p.state.Timeline == p.line && p.reading == onTheLine && end.Revision > p.state.Position.Revision {
		p.state.Position = end
	}
}

// positionAt is the position at the end of events, with the time of the one before.
func positionAt(events []history.Event, batch capture.Batch, before position) position {
	last := events[len(events)-1].Revision
	first := slices.IndexFunc(events, func(e history.Event) bool { return e.Revision == last })
	return position{Revision: last, Mark: markOf(events[first:]), ClusterID: before.ClusterID, Term: batch.Term, Time: before.Time}
}

// pump takes batches out of a watch until it ends.
func (p *packer) pump(ctx context.Context, events *capture.Events, j joint) error {
	for {
		batch, err := events.Next(ctx)
		if err != nil {
			return err
		}
		if err := p.take(batch, j); err != nil {
			return err
		}
		p.heard(batch)
		if p.spool.full() {
			return errFull
		}
	}
}

// heard takes note of a sign of life, and whether everything that the member had was read.
func (p *packer) heard(batch capture.Batch) {
	p.mu.Lock()
	end := p.end.Revision
	p.mu.Unlock()
	if p.Heard != nil {
		p.Heard(max(batch.Current, end), batch.Arrived)
	}
	if batch.Current <= end {
		p.archiver.mu.Lock()
		p.seen = seen{end, batch.Arrived}
		p.archiver.mu.Unlock()
	}
}

// errFull closes the watch while the store does not take what was read.
var errFull = fmt.Errorf("the spool is full: %w", errors.New("the store does not take segments as fast as the cluster writes"))
