package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/pki"
)

// route is one line of the API: who may call what, and what answers.
type route struct {
	method, path string
	// roles may call it.
	roles  []pki.Role
	handle func(a *Agent, w http.ResponseWriter, r *http.Request) (any, error)
}

// routes is the whole API. A reader sees states and results; file contents are secrets, so they are for operators.
func routes() []route {
	everybody := []pki.Role{pki.Operator, pki.Agent, pki.Reader}
	operators := []pki.Role{pki.Operator}
	return []route{
		{http.MethodGet, api.PathUnit, everybody, (*Agent).getUnit},
		{http.MethodGet, api.PathActions, everybody, (*Agent).getActions},
		{http.MethodGet, api.PathTasks, everybody, (*Agent).getTasks},
		{http.MethodPost, api.PathTasks, operators, (*Agent).postTask},
		{http.MethodGet, api.PathTask, everybody, (*Agent).getTask},
		{http.MethodPost, api.PathCancel, operators, (*Agent).postCancel},
		{http.MethodGet, api.PathFiles, operators, (*Agent).getFile},
		{http.MethodPut, api.PathFiles, operators, (*Agent).putFile},
		{http.MethodPut, api.PathResource, operators, (*Agent).putResource},
	}
}

// mostRequest bounds the body of a JSON request, in bytes. Parameters are short.
const mostRequest = 1 << 20

// handler serves the routes to callers with a fitting role.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	for _, route := range routes() {
		mux.HandleFunc(route.method+" "+route.path, func(w http.ResponseWriter, r *http.Request) {
			if err := a.answer(route, w, r); err != nil {
				a.refuse(w, r, err)
			}
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.refuse(w, r, refusal{http.StatusNotFound, fmt.Errorf("unit %q has no %s %s; is its agent of another version?", a.config.Unit, r.Method, r.URL.Path)})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Before anything else: also what nobody reads of a body is waited for.
		if err := a.setDeadlines(w); err != nil {
			a.refuse(w, r, err)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// answer lets a route answer a request. With an error nothing was written.
func (a *Agent) answer(route route, w http.ResponseWriter, r *http.Request) error {
	if err := authorize(r, route.roles); err != nil {
		return err
	}
	answer, err := route.handle(a, w, r)
	if err == nil && answer != nil {
		writeJSON(w, http.StatusOK, answer)
	}
	return err
}

// refusal is an error with its HTTP status.
type refusal struct {
	status int
	error
}

func (r refusal) Unwrap() error { return r.error }

func badRequest(format string, args ...any) error {
	return refusal{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// authorize checks the role in the caller's certificate, which TLS has already verified.
func authorize(r *http.Request, roles []pki.Role) error {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return refusal{http.StatusUnauthorized, errors.New("a client certificate is required")}
	}
	role, err := pki.RoleOf(r.TLS.PeerCertificates[0])
	if err != nil {
		return refusal{http.StatusForbidden, err}
	}
	for _, allowed := range roles {
		if role == allowed {
			return nil
		}
	}
	return refusal{http.StatusForbidden, fmt.Errorf("role %q may not %s %s", role, r.Method, r.URL.Path)}
}

// refuse answers with an error. Only what the agent itself got wrong is logged.
func (a *Agent) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status == http.StatusInternalServerError {
		a.log.Error("answer request", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	writeJSON(w, status, api.Error{Message: err.Error()})
}

func statusOf(err error) int {
	if refused, is := errors.AsType[refusal](err); is {
		return refused.status
	}
	if _, is := errors.AsType[*action.UnknownActionError](err); is {
		return http.StatusNotFound
	}
	if _, is := errors.AsType[*action.ParamsError](err); is {
		return http.StatusBadRequest
	}
	switch {
	case errors.Is(err, action.ErrTaskNotFound):
		return http.StatusNotFound
	case errors.Is(err, action.ErrQueueFull):
		return http.StatusTooManyRequests
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return http.StatusInsufficientStorage
	default:
		return http.StatusInternalServerError
	}
}

func writeJSON(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A caller that has gone away is no concern of the agent's.
	_ = json.NewEncoder(w).Encode(answer)
}

// readJSON reads a small request body strictly.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostRequest))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		if _, end := decoder.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("there is more than one value in it")
		}
	}
	if tooLong, is := errors.AsType[*http.MaxBytesError](err); is {
		return refusal{http.StatusRequestEntityTooLarge, fmt.Errorf("read request: it is longer than %d bytes", tooLong.Limit)}
	}
	if err != nil {
		return badRequest("read request: %w", err)
	}
	return nil
}

func (a *Agent) getActions(http.ResponseWriter, *http.Request) (any, error) {
	return api.Actions{Actions: a.runner.Specs()}, nil
}

func (a *Agent) getTasks(http.ResponseWriter, *http.Request) (any, error) {
	return api.Tasks{Tasks: a.runner.Tasks()}, nil
}

// getTask answers when the task is finished, or as it is after the wait that was asked for.
func (a *Agent) getTask(_ http.ResponseWriter, r *http.Request) (any, error) {
	wait := time.Duration(0)
	if text := r.URL.Query().Get("wait"); text != "" {
		asked, err := time.ParseDuration(text)
		if err != nil || asked < 0 {
			return nil, badRequest("wait %q is no duration", text)
		}
		wait = min(asked, api.LongestWait)
	}
	if wait == 0 {
		return a.runner.Task(r.PathValue("id"))
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	task, err := a.runner.Wait(ctx, r.PathValue("id"))
	if err != nil && ctx.Err() != nil {
		return task, nil // the time is up, the caller has gone, or the agent stops
	}
	return task, err
}

func (a *Agent) postTask(w http.ResponseWriter, r *http.Request) (any, error) {
	var request api.TaskRequest
	if err := readJSON(w, r, &request); err != nil {
		return nil, err
	}
	if request.Key == "" {
		return nil, badRequest("read request: key is missing")
	}
	return a.runner.Enqueue(action.Request{
		Key: request.Key, Action: request.Action, Params: request.Params, Program: request.Program,
		Number: request.Number, Operation: request.Operation,
	})
}

func (a *Agent) postCancel(_ http.ResponseWriter, r *http.Request) (any, error) {
	return a.runner.Cancel(r.PathValue("id"))
}
