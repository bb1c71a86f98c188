package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// bounds are the limits of a request. There is none on a whole file: archives are large and networks slow. Tests make
// them small.
type bounds struct {
	// header is how long a caller may take to send its headers, and its part of the TLS handshake.
	header time.Duration
	// idle is how long a caller may send, or take, nothing. It is above api.LongestWait, during which it does neither.
	idle time.Duration
	// stop is how long transfers may go on when the agent stops.
	stop time.Duration
	// headerBytes bounds the headers, roughly.
	headerBytes int
}

func usualBounds() bounds {
	return bounds{header: 10 * time.Second, idle: time.Minute, stop: 5 * time.Second, headerBytes: 64 << 10}
}

// flushTime is what an answer may take from its handler to the network when the agent stops.
const flushTime = 200 * time.Millisecond

// serve answers requests until ctx ends, and returns when the last one has been answered or cut off.
func (a *Agent) serve(ctx context.Context, listener net.Listener) error {
	handlers := newGate()
	server := &http.Server{
		Handler:           handlers.guard(a.handler()),
		ReadHeaderTimeout: a.bounds.header,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    a.bounds.headerBytes,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		err = errors.Join(fmt.Errorf("serve the agent API: %w", err), server.Close())
		<-handlers.shut()
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.bounds.stop)
	defer cancel()
	done := handlers.shut()
	go func() {
		// Shutdown would wait on for connections that have not asked for anything yet.
		select {
		case <-done:
			time.AfterFunc(flushTime, cancel)
		case <-grace.Done():
		}
	}()
	var err error
	if server.Shutdown(grace) != nil {
		err = server.Close() // transfers that go on are cut; their callers see it
	}
	<-done
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}

// gate counts handlers, so that somebody can wait for them: http.Server.Close leaves them running.
type gate struct {
	mu      sync.Mutex
	inside  int
	closing bool
	empty   chan struct{} // closed when it is closing and nobody is inside
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

func (g *gate) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.enter() {
			panic(http.ErrAbortHandler) // breaks the connection off: to the caller the agent is gone
		}
		defer g.leave()
		next.ServeHTTP(w, r)
	})
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closing {
		g.inside++
	}
	return !g.closing
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.closing && g.inside == 0 {
		close(g.empty)
	}
}

// shut lets nobody in any more and gives a channel that closes when the last one has left. It is called once.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing = true; g.inside == 0 {
		close(g.empty)
	}
	return g.empty
}

// setDeadlines gives the caller of a request its time to send the body and to take the answer.
func (a *Agent) setDeadlines(w http.ResponseWriter) error {
	if err := giveTime(http.NewResponseController(w), a.bounds.idle); err != nil {
		return fmt.Errorf("bound request: %w", err)
	}
	return nil
}

// giveTime starts the time anew. The answer comes after the body, and has as much again.
func giveTime(control *http.ResponseController, idle time.Duration) error {
	until := time.Now().Add(idle)
	return errors.Join(control.SetReadDeadline(until), control.SetWriteDeadline(until.Add(idle)))
}

// body is the body of a request, for a reader that takes as long as the caller keeps sending.
func (a *Agent) body(w http.ResponseWriter, r *http.Request) io.Reader {
	return &movingReader{body: r.Body, control: http.NewResponseController(w), idle: a.bounds.idle}
}

// movingReader gives the caller new time after each part. Its errors are refusals: they are the caller's doing.
type movingReader struct {
	body    io.Reader
	control *http.ResponseController
	idle    time.Duration
}

func (m *movingReader) Read(p []byte) (int, error) {
	if err := giveTime(m.control, m.idle); err != nil {
		return 0, err
	}
	n, err := m.body.Read(p)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = refusal{http.StatusRequestTimeout, fmt.Errorf("receive file: nothing came for %s", m.idle)}
	case err != nil && !errors.Is(err, io.EOF):
		err = badRequest("receive file: %w", err)
	}
	return n, err
}

// moving is a writer of an answer that takes as long as the caller keeps reading.
func (a *Agent) moving(w http.ResponseWriter) io.Writer {
	return &movingWriter{w: w, control: http.NewResponseController(w), idle: a.bounds.idle}
}

type movingWriter struct {
	w       io.Writer
	control *http.ResponseController
	idle    time.Duration
}

func (m *movingWriter) Write(p []byte) (int, error) {
	if err := m.control.SetWriteDeadline(time.Now().Add(m.idle)); err != nil {
		return 0, err
	}
	return m.w.Write(p)
}
