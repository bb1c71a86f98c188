package sftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// conn is a connection that all calls share. It is for any number of goroutines.
type conn struct {
	store  *Store
	raw    net.Conn
	line   ssh.Conn
	client *sftp.Client
	// links, syncs and syncsFolders are what the server can.
	links, syncs, syncsFolders bool

	// heard is when the server sent something last, for watch.
	heard atomic.Pointer[time.Time]
	// helpers are the goroutines that end with the connection, but for calls and watch.
	helpers sync.WaitGroup
	once    sync.Once
	why     error         // set before ended is closed
	ended   chan struct{} // closed when the connection is of no more use
	gone    chan struct{} // closed when all of it has come to an end

	// users is how many calls and readers there are; unused is since when there are none. Both are the store's to guard.
	users  int
	unused time.Time

	mu sync.Mutex
	// folders are those that are known to be no links; true means that their names are durable, too.
	folders map[string]bool
}

// dialing is a connection on its way.
type dialing struct {
	done chan struct{}
	err  error // set before done is closed
}

// connect gives the connection, which the caller releases. When there is none it is made, once for all who ask for it; that
// goes on when ctx ends, for half a minute at most.
func (s *Store) connect(ctx context.Context) (*conn, error) {
	for range 3 { // times that the one that was made has ended by now
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.mu.Lock()
		if c := s.live; c != nil && !c.isOver() {
			c.users++
			s.mu.Unlock()
			return c, nil
		}
		d := s.dialing
		if d == nil {
			d = &dialing{done: make(chan struct{})}
			s.dialing = d
			go s.finish(d)
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-d.done:
			if d.err != nil {
				return nil, d.err
			}
		}
	}
	return nil, fmt.Errorf("reach %s: %w each time", s.host, errLost)
}

// finish makes a connection for those who wait for it.
func (s *Store) finish(d *dialing) {
	c, err := s.dial()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.live, c.unused = c, time.Now()
	}
	s.dialing, d.err = nil, err
	close(d.done)
}

func (c *conn) hold() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.users++
}

func (c *conn) release() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.users--
	c.unused = time.Now()
}

// isOver tells whether the connection has ended.
func (c *conn) isOver() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// end ends the connection, with all calls that are on their way. The first reason counts.
func (c *conn) end(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.ended)
		_ = c.raw.Close() // who asked for something hears why
	})
}

// cause is why the connection has ended.
func (c *conn) cause() error {
	<-c.ended
	return c.why
}

// watch ends a connection that nobody uses, and one whose server is silent while it is asked something: a question of its
// own, so that it does not matter what the calls wait for. It waits for what belongs to the connection.
func (c *conn) watch() {
	defer close(c.gone)
	stall := c.store.options.Stall
	tick := time.NewTicker(max(stall/8, time.Millisecond))
	defer tick.Stop()
	answered := make(chan struct{}, 1)
	var asked time.Time // zero when no question is open
	for {
		select {
		case <-c.ended:
			_ = c.client.Close() // these let go of what is left; the network connection is closed
			_ = c.line.Close()
			c.helpers.Wait()
			return
		case <-answered:
			asked = time.Time{}
		case <-tick.C:
		}
		idle, used := c.use()
		silent := time.Since(*c.heard.Load())
		switch {
		case idle:
			c.end(errors.New("nobody used it"))
		case !asked.IsZero() && silent > stall:
			c.end(fmt.Errorf("the server was silent for %s", stall))
		case asked.IsZero() && used && silent > stall/4:
			asked = time.Now()
			c.helpers.Go(func() {
				_, _ = c.client.RealPath(".") // any answer will do
				answered <- struct{}{}
			})
		}
	}
}

// use tells whether the connection is used, and when it has not been for long, lets go of it.
func (c *conn) use() (idle, used bool) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.users > 0 || c.unused.IsZero() { // or it is about to be
		return false, c.users > 0
	}
	if idle = time.Since(c.unused) > idleTime; idle && c.store.live == c {
		c.store.live = nil
	}
	return idle, false
}

// ask gives the server's answer to a question, which f puts. When ctx ends earlier, f goes on by itself, at most until the
// end of the connection.
func ask[T any](ctx context.Context, c *conn, f func() (T, error)) (T, error) {
	return askThen(ctx, c, f, func(T) {})
}

// askThen is ask with something to do about an answer that comes too late.
func askThen[T any](ctx context.Context, c *conn, f func() (T, error), late func(T)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	answers, left := make(chan answer), make(chan struct{})
	c.hold()
	go func() {
		defer c.release()
		value, err := f()
		select {
		case answers <- answer{value, err}:
		case <-left:
			if err == nil {
				late(value)
			}
		}
	}()
	select {
	case a := <-answers:
		return a.value, c.explain(a.err)
	case <-ctx.Done():
		close(left)
		return none, context.Cause(ctx)
	}
}

// tell is ask for what has no answer but that it is done.
func tell(ctx context.Context, c *conn, f func() error) error {
	_, err := ask(ctx, c, func() (struct{}, error) { return struct{}{}, f() })
	return err
}
