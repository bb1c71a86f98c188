package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// mostRefusal bounds what is read of a server's words, in bytes.
const mostRefusal = 64 << 10

// answer is a refusal by the server.
type answer struct {
	status          int
	reason, message string
	class           error // nil when another try may help
}

// Error shows what the server says, without what it may have repeated of our secrets.
func (a *answer) Error() string {
	text := fmt.Sprintf("the store says %s (%d)", a.reason, a.status)
	if a.message != "" {
		text += ": " + a.message
	}
	return text
}

func (a *answer) Unwrap() error { return a.class }

func hasStatus(err error, statuses ...int) bool {
	a, is := errors.AsType[*answer](err)
	if is {
		for _, status := range statuses {
			if a.status == status {
				return true
			}
		}
	}
	return false
}

// refusal makes an error of an answer, and closes it.
func (s *Store) refusal(ctx context.Context, response *http.Response, hide []string) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, mostRefusal))
	_ = response.Body.Close() // what was read of it is enough
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var parsed struct {
		Error struct {
			Message string
			Errors  []struct{ Reason string }
		}
	}
	a := &answer{status: response.StatusCode, reason: http.StatusText(response.StatusCode)}
	kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	switch {
	case json.Unmarshal(text, &parsed) == nil && (parsed.Error.Message != "" || len(parsed.Error.Errors) > 0):
		a.message = discreet(parsed.Error.Message, hide)
		if len(parsed.Error.Errors) > 0 && parsed.Error.Errors[0].Reason != "" {
			a.reason = discreet(parsed.Error.Errors[0].Reason, hide)
		}
	case kind == "text/plain": // so do uploads and downloads; anything else is some page
		a.message = discreet(string(text), hide)
	}
	a.class = classOf(a)
	return a
}

// classOf sorts what the server says.
func classOf(a *answer) error {
	switch a.status {
	case http.StatusUnauthorized:
		return store.ErrDenied
	case http.StatusForbidden:
		if a.reason == "rateLimitExceeded" || a.reason == "userRateLimitExceeded" {
			return nil
		}
		return store.ErrDenied
	case http.StatusNotFound, http.StatusGone:
		return store.ErrNotFound
	case http.StatusPreconditionFailed:
		return store.ErrExists
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return store.ErrUnsupported
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return nil
	case http.StatusBadRequest:
		// Content that came to harm on its way has no reason of its own: Provided CRC32C "…" doesn't match calculated CRC32C "…".
		if strings.Contains(a.message, "match calculated") {
			return nil
		}
	}
	if a.status >= 500 {
		return nil
	}
	return store.ErrFinal
}

var errCut = errors.New("the connection was closed before all of the answer came")

// explain puts an error of a connection into the store's words and classes. What it gives holds no URL, as the query of one
// gives power over an upload.
func (s *Store) explain(ctx context.Context, err error, hide []string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = network.Bare(err)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCut
	}
	reached := fmt.Errorf("reach %s: %s", s.host, discreet(err.Error(), hide))
	if network.Hopeless(err) {
		return store.Mark(reached, store.ErrFinal)
	}
	return reached
}

// discreet makes one line of a server's words, without secrets that it may have repeated.
func discreet(text string, hide []string) string {
	for _, secret := range hide {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[secret]")
		}
	}
	lower := strings.ToLower(text)
	for _, sign := range []string{"bearer ", "upload_id", "ya29.", "access_token", "refresh_token", "client_secret", "private_key", "private key-", "assertion="} {
		if strings.Contains(lower, sign) {
			return "[not shown: it repeats something secret]"
		}
	}
	return network.Printable(text)
}
