package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// ReadFile opens a file of the unit, by its path inside the unit's root. The caller closes it; size is in bytes. A read
// ends in io.EOF only after all of them.
func (c *Client) ReadFile(ctx context.Context, path string) (content io.ReadCloser, size int64, err error) {
	watch := watchTransfer(ctx, c.limits.idle)
	defer func() {
		if err != nil {
			watch.end()
		}
	}()
	request, err := c.request(watch.ctx(), http.MethodGet, PathFiles, url.Values{"path": {path}}, nil)
	if err != nil {
		return nil, 0, err
	}
	answer, err := c.send(request)
	if err != nil {
		return nil, 0, err
	}
	size = answer.ContentLength
	if size < 0 {
		err = fmt.Errorf("unit %q: its agent at %s does not say how long the file is", c.unit, c.address)
		return nil, 0, errors.Join(err, answer.Body.Close())
	}
	return &download{client: c, body: answer.Body, watch: watch}, size, nil
}

// WriteFile makes a file of the unit from size bytes of content. It replaces an existing one only with overwrite. Content
// is not read any more on return.
func (c *Client) WriteFile(ctx context.Context, path string, content io.Reader, size int64, overwrite bool) error {
	query := url.Values{"path": {path}}
	if overwrite {
		query.Set("overwrite", "true")
	}
	return c.put(ctx, PathFiles, query, content, size, nil)
}

// PutResource attaches size bytes of content to the unit under a name. Content is not read any more on return.
func (c *Client) PutResource(ctx context.Context, name string, content io.Reader, size int64) (r Resource, err error) {
	return r, c.put(ctx, strings.Replace(PathResource, "{name}", url.PathEscape(name), 1), nil, content, size, &r)
}

func (c *Client) put(ctx context.Context, path string, query url.Values, content io.Reader, size int64, into any) error {
	watch := watchTransfer(ctx, c.limits.idle)
	defer watch.end()
	request, err := c.request(watch.ctx(), http.MethodPut, path, query, nil)
	if err != nil {
		return err
	}
	body := &upload{content: content, watch: watch, left: size, settle: c.limits.settle, closed: make(chan struct{})}
	request.Header.Set("Content-Type", "application/octet-stream")
	if request.Body, request.ContentLength = body, size; size == 0 {
		request.Body = http.NoBody // a body of length 0 would mean one of unknown length
		body.sent()
	} else {
		request.Header.Set("Expect", "100-continue")
	}
	answer, err := c.send(request)
	if err == nil {
		err = c.read(request, answer, into)
	}
	if size > 0 {
		watch.end()
		<-body.closed // the transport may send on after an early answer; from here on content is the caller's again
	}
	if body.failed != nil {
		return fmt.Errorf("unit %q: send file: %w", c.unit, body.failed)
	}
	return err
}

// watchdog gives up a transfer that stands still.
type watchdog struct {
	ctx   func() context.Context
	end   func()
	limit time.Duration
	timer *time.Timer
}

// watchTransfer starts to watch. The transfer goes on under the watchdog's context; end lets go of it.
func watchTransfer(ctx context.Context, limit time.Duration) *watchdog {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{ctx: func() context.Context { return ctx }, limit: limit}
	w.timer = time.AfterFunc(limit, func() { cancel(fmt.Errorf("nothing moved for %s", limit)) })
	w.end = func() {
		w.timer.Stop()
		cancel(nil)
	}
	return w
}

// moved tells that the transfer is alive.
func (w *watchdog) moved() { w.timer.Reset(w.limit) }

// download is the body of an answer. net/http sees to it that its end is an error before its announced size.
type download struct {
	client *Client
	body   io.ReadCloser
	watch  *watchdog
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	d.watch.moved()
	if err != nil && !errors.Is(err, io.EOF) {
		err = d.client.unreachable(d.watch.ctx(), err)
	}
	return n, err
}

func (d *download) Close() error {
	err := d.body.Close()
	d.watch.end()
	return err
}

// upload is the body of a request. The transport reads and closes it from a goroutine of its own.
type upload struct {
	content io.Reader
	watch   *watchdog
	left    int64
	settle  time.Duration
	// failed is what kept the content from being read. It is for others once closed is closed.
	failed error
	closed chan struct{}
	once   sync.Once
}

func (u *upload) Read(p []byte) (int, error) {
	if u.left == 0 {
		return 0, io.EOF
	}
	n, err := u.content.Read(p[:min(int64(len(p)), u.left)])
	u.left -= int64(n)
	u.watch.moved()
	switch {
	case u.left == 0:
		u.sent()
		err = io.EOF
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("it ended %d bytes early: %w", u.left, io.ErrUnexpectedEOF)
		fallthrough
	case err != nil:
		u.failed = err
	}
	return n, err
}

// sent gives the agent its time to make the file durable.
func (u *upload) sent() { u.watch.timer.Reset(u.settle) }

func (u *upload) Close() error {
	u.once.Do(func() { close(u.closed) })
	return nil
}
