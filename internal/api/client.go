package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// limits are what a Client waits for and reads at most. Tests make them small.
type limits struct {
	// dial bounds the connection and, apart from it, the TLS handshake: a hung agent fails the latter.
	dial time.Duration
	// call bounds a call that an agent answers from memory, or from its member's answer, for which it waits 8 seconds.
	call time.Duration
	// idle ends a file transfer in which nothing moves.
	idle time.Duration
	// settle is how long an agent may take to answer after it has the whole of a file: it syncs it.
	settle time.Duration
	// answer bounds what is read of an answer, in bytes. A record of a task is below 1 MiB, mostly log lines, and an agent
	// keeps 1,000; a usual one is 2 kB.
	answer int64
}

func usualLimits() limits {
	return limits{dial: 4 * time.Second, call: 10 * time.Second, idle: 30 * time.Second, settle: 2 * time.Minute, answer: 64 << 20}
}

// mostRefusal bounds what is read of a refusal, in bytes.
const mostRefusal = 64 << 10

// ErrUnreachable is the class of errors of an agent that gave no answer, or broke off in the middle of one.
var ErrUnreachable = errors.New("agent does not answer")

// StatusError is an agent's refusal.
type StatusError struct {
	Code    int // the HTTP status
	Message string
}

// Error gives the agent's own words.
func (e *StatusError) Error() string { return e.Message }

// Client talks to the agent of one unit.
type Client struct {
	unit    unit.Name
	address string
	limits  limits
	http    *http.Client
}

// NewClient makes a client of the agent of a unit at address, a host:port. config carries the client's certificate.
func NewClient(name unit.Name, address string, config *tls.Config) *Client {
	return newClient(name, address, config, usualLimits())
}

func newClient(name unit.Name, address string, config *tls.Config, l limits) *Client {
	return &Client{unit: name, address: address, limits: l, http: &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: l.dial}).DialContext,
			TLSClientConfig:     config,
			TLSHandshakeTimeout: l.dial,
			// An upload that is refused is not sent, if the agent says so within this time.
			ExpectContinueTimeout: l.dial,
			MaxIdleConns:          4,
			IdleConnTimeout:       time.Minute,
		},
		// An agent does not redirect, and nobody else may.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Name is the unit that the client talks to.
func (c *Client) Name() unit.Name { return c.unit }

// Unit asks for the state of the unit.
func (c *Client) Unit(ctx context.Context) (u Unit, err error) {
	return u, c.call(ctx, c.limits.call, http.MethodGet, PathUnit, nil, nil, &u)
}

// Actions lists what the unit can do.
func (c *Client) Actions(ctx context.Context) ([]action.Spec, error) {
	var answer Actions
	err := c.call(ctx, c.limits.call, http.MethodGet, PathActions, nil, nil, &answer)
	return answer.Actions, err
}

// Tasks lists the unit's tasks in the order of arrival.
func (c *Client) Tasks(ctx context.Context) ([]action.Task, error) {
	var answer Tasks
	err := c.call(ctx, c.limits.call, http.MethodGet, PathTasks, nil, nil, &answer)
	return answer.Tasks, err
}

// Task gives a task once it is finished, or as it is after wait, of which LongestWait counts at most.
func (c *Client) Task(ctx context.Context, id string, wait time.Duration) (t action.Task, err error) {
	wait = min(wait, LongestWait)
	query := url.Values{"wait": {wait.String()}}
	return t, c.call(ctx, c.limits.call+wait, http.MethodGet, taskPath(PathTask, id), query, nil, &t)
}

// Enqueue asks for a task. On return the agent has it on disk.
func (c *Client) Enqueue(ctx context.Context, request TaskRequest) (t action.Task, err error) {
	return t, c.call(ctx, c.limits.call, http.MethodPost, PathTasks, nil, request, &t)
}

// Cancel asks for the end of a task and gives it as it is then.
func (c *Client) Cancel(ctx context.Context, id string) (t action.Task, err error) {
	return t, c.call(ctx, c.limits.call, http.MethodPost, taskPath(PathCancel, id), nil, struct{}{}, &t)
}

// call sends one small request and reads its JSON answer.
func (c *Client) call(ctx context.Context, limit time.Duration, method, path string, query url.Values, body, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("unit %q: encode request: %w", c.unit, err)
		}
		content = bytes.NewReader(encoded)
	}
	request, err := c.request(ctx, method, path, query, content)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := c.send(request)
	if err != nil {
		return err
	}
	return c.read(request, answer, into)
}

// request makes a request; path is escaped already.
func (c *Client) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	target := "https://" + c.address + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("unit %q: make request: %w", c.unit, err)
	}
	return request, nil
}

// send gives the answer of a request that the agent accepted; the caller closes its body.
func (c *Client) send(request *http.Request) (*http.Response, error) {
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, c.unreachable(request.Context(), err)
	}
	// The transport may still hand out what the agent wrote when it saw the caller go. That is no answer to the call.
	if err := request.Context().Err(); err != nil {
		return nil, errors.Join(c.unreachable(request.Context(), err), answer.Body.Close())
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	defer answer.Body.Close()
	var refusal Error
	text, err := io.ReadAll(io.LimitReader(answer.Body, mostRefusal))
	if err != nil {
		return nil, c.unreachable(request.Context(), err)
	}
	if err := json.Unmarshal(text, &refusal); err != nil || refusal.Message == "" {
		// It is not our agent that says so: a proxy, or another server that has the port now.
		refusal.Message = fmt.Sprintf("unit %q: %s answered %s and no agent's reason", c.unit, c.address, answer.Status)
	}
	return nil, &StatusError{Code: answer.StatusCode, Message: refusal.Message}
}

// read takes the JSON answer of a request and closes it. into may be nil.
func (c *Client) read(request *http.Request, answer *http.Response, into any) error {
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, c.limits.answer+1))
	switch {
	case err != nil:
		return c.unreachable(request.Context(), err)
	case int64(len(text)) > c.limits.answer:
		return fmt.Errorf("unit %q: read answer of its agent at %s: it is longer than %d bytes", c.unit, c.address, c.limits.answer)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		if request.Context().Err() != nil { // as in send
			return c.unreachable(request.Context(), err)
		}
		return fmt.Errorf("unit %q: read answer of its agent at %s: %w", c.unit, c.address, err)
	}
	return nil
}

// unreachable names the unit and tells why there is no answer. That the caller did not want it any more is no such error.
func (c *Client) unreachable(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) {
		return cause
	}
	if outer, is := errors.AsType[*url.Error](err); is {
		err = outer.Err // its text has the whole URL in it
	}
	if cause != nil {
		err = cause
	}
	return fmt.Errorf("unit %q: %w at %s: %w", c.unit, ErrUnreachable, c.address, err)
}

func taskPath(pattern, id string) string {
	return strings.Replace(pattern, "{id}", url.PathEscape(id), 1)
}
