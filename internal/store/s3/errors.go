package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// answer is a refusal by the server.
type answer struct {
	status        int
	code, message string
	class         error // nil when another try may help
}

// Error shows what the server says, without what it may have repeated of our keys.
func (a *answer) Error() string {
	text := a.code
	if a.status != 0 {
		text = strings.TrimSpace(fmt.Sprintf("%s (%d)", a.code, a.status))
	}
	if a.message != "" {
		text += ": " + a.message
	}
	return "the store says " + text
}

func (a *answer) Unwrap() error { return a.class }

// isAnswer tells whether an error is a refusal with one of the codes.
func isAnswer(err error, codes ...string) bool {
	a, is := errors.AsType[*answer](err)
	if is {
		for _, code := range codes {
			if a.code == code {
				return true
			}
		}
	}
	return false
}

func hasStatus(err error, status int) bool {
	a, is := errors.AsType[*answer](err)
	return is && a.status == status
}

// explain puts an error of the client into the store's words and classes. What it gives holds no URL, as the query of one
// tells of signatures and uploads, and no keys.
func (s *Store) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if response, is := errors.AsType[minio.ErrorResponse](err); is {
		a := &answer{status: response.StatusCode, code: s.keys.clean(response.Code), message: s.keys.clean(response.Message)}
		if strings.HasPrefix(a.code, fmt.Sprint(a.status)) { // not S3's form: the message is some page
			a.code, a.message = http.StatusText(a.status), ""
		}
		a.class = s.classOf(a)
		return a
	}
	if errors.Is(err, store.ErrDenied) { // no credentials were found
		return err
	}
	bare := network.Bare(err)
	reached := fmt.Errorf("reach %s: %w", s.host, bare)
	if network.Hopeless(bare) {
		return store.Mark(reached, store.ErrFinal)
	}
	return reached
}

// classOf sorts what servers say. Codes come first: some servers use a status of their own.
func (s *Store) classOf(a *answer) error {
	switch a.code {
	case "NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NoSuchUpload", "NotFound":
		return store.ErrNotFound
	case "PreconditionFailed":
		return store.ErrExists
	case "NotImplemented", "MethodNotAllowed":
		return store.ErrUnsupported
	case "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken":
		return store.ErrDenied
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestError",
		"Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled",
		// Content that came to harm on its way.
		"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody":
		return nil
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect", "TemporaryRedirect":
		if s.asksRegion { // the client has learned the region from this answer
			return nil
		}
	}
	switch {
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return store.ErrDenied
	case a.status == http.StatusNotFound:
		return store.ErrNotFound
	case a.status == http.StatusPreconditionFailed:
		return store.ErrExists
	case a.status == http.StatusConflict, a.status == http.StatusRequestTimeout, a.status == http.StatusTooManyRequests,
		a.status == http.StatusOK, // an error that came after the status
		a.status >= 500 && a.status != http.StatusNotImplemented:
		return nil
	}
	return store.ErrFinal
}
