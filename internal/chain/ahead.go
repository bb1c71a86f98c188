package chain

import (
	"bytes"
	"context"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/holdfast-project/holdfast/internal/repository"
)

const (
	// aheadAtOnce is how many objects are read at the same time. A store that is far away answers after tens of milliseconds,
	// and an hour of live segments is 3,600 objects of some kB.
	aheadAtOnce = 8
	// aheadBytes bounds what was read and is waiting, or being replayed, in bytes.
	aheadBytes = 8 << 20
	// aheadLargest is the size up to which an object is read ahead, in bytes. The time that a larger one takes is not that
	// until the store answers.
	aheadLargest = aheadBytes / aheadAtOnce
)

// ahead reads the stored objects of segments before they are asked for, the newest first. What it has not begun with yet
// when it is asked for is opened then: so neither ever waits for the other for good.
type ahead struct {
	segments []repository.Segment
	from     func(context.Context, repository.Segment) (io.ReadCloser, error)
	parts    []part // one for each segment
	room     *semaphore.Weighted
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu sync.Mutex
}

// part is a segment on its way.
type part struct {
	// begun, which ahead.mu guards, tells that the object is being read or was asked for.
	begun bool
	// done is closed when content and err are there; nil when the object is not read ahead.
	done    chan struct{}
	content []byte
	err     error
}

// readAhead begins. Whoever calls it calls end.
func readAhead(ctx context.Context, segments []repository.Segment, from func(context.Context, repository.Segment) (io.ReadCloser, error)) *ahead {
	a := &ahead{segments: segments, from: from, parts: make([]part, len(segments)), room: semaphore.NewWeighted(aheadBytes)}
	ctx, a.cancel = context.WithCancel(ctx)
	a.running.Go(func() { a.run(ctx) })
	return a
}

// end gives up what was not asked for, and returns when nothing runs any more.
func (a *ahead) end() {
	a.cancel()
	a.running.Wait()
}

func (a *ahead) run(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(aheadAtOnce)
	for i := len(a.parts) - 1; i >= 0; i-- {
		size := a.segments[i].Object.Size
		if size > aheadLargest {
			continue
		}
		// Room is asked for here, in the order in which parts are taken, so that the first always gets it.
		if a.room.Acquire(ctx, size) != nil {
			break
		}
		p := &a.parts[i]
		if !a.begin(p, true) {
			a.room.Release(size)
			continue
		}
		group.Go(func() error {
			defer close(p.done)
			p.content, p.err = a.read(ctx, a.segments[i])
			return nil
		})
	}
	_ = group.Wait() // no error comes out of it
}

// begin tells whether nobody has begun with a part before.
func (a *ahead) begin(p *part, early bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.begun {
		return false
	}
	p.begun = true
	if early {
		p.done = make(chan struct{})
	}
	return true
}

// read reads an object, of which there is at most a byte too much.
func (a *ahead) read(ctx context.Context, s repository.Segment) (content []byte, err error) {
	object, err := a.from(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { _ = object.Close() }() // Only read from.
	content = make([]byte, s.Object.Size+1)
	n, err := io.ReadFull(object, content)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil // whoever unseals it finds out whether it is whole
	}
	return content[:n], err
}

// open gives the object of a segment, which must be closed.
func (a *ahead) open(ctx context.Context, i int) (io.ReadCloser, error) {
	p, s := &a.parts[i], a.segments[i]
	if a.begin(p, false) {
		return a.from(ctx, s)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	content, err := p.content, p.err
	if p.content = nil; err != nil {
		return nil, err
	}
	return &held{Reader: bytes.NewReader(content), release: func() { a.room.Release(s.Object.Size) }}, nil
}

// held is an object in memory, which makes room when it is closed.
type held struct {
	*bytes.Reader
	release func()
}

// Close makes room, once.
func (h *held) Close() error {
	if h.release != nil {
		h.release()
		h.Reader, h.release = bytes.NewReader(nil), nil
	}
	return nil
}
