package azure

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// mostAnswer bounds what is read of an answer to find its message, in bytes.
const mostAnswer = 64 << 10

// answer is a refusal by the service.
type answer struct {
	status        int
	code, message string
	class         error // nil when another try may help
}

// Error shows what the service says, without what it may have repeated of our keys.
func (a *answer) Error() string {
	text := strings.TrimSpace(fmt.Sprintf("%s (%d)", a.code, a.status))
	if a.message != "" {
		text += ": " + a.message
	}
	return "the store says " + text
}

func (a *answer) Unwrap() error { return a.class }

// isAnswer tells whether an error is a refusal with one of the codes.
func isAnswer(err error, codes ...bloberror.Code) bool {
	a, is := errors.AsType[*answer](err)
	return is && slices.Contains(codes, bloberror.Code(a.code))
}

func hasStatus(err error, status int) bool {
	a, is := errors.AsType[*answer](err)
	return is && a.status == status
}

// reached is an error on the way to the service, with a text that is safe to show.
type reached struct {
	text string
	err  error
}

func (r reached) Error() string { return r.text }
func (r reached) Unwrap() error { return r.err }

// explain puts an error of the client into the store's words and classes. What it gives holds no URL, as the query of one
// may be a SAS token, and no keys.
func (s *Store) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if response, is := errors.AsType[*azcore.ResponseError](err); is {
		a := &answer{status: response.StatusCode, code: s.keys.clean(response.ErrorCode), message: s.keys.clean(message(response))}
		if a.code == "" { // not Azure's form: the message is some page
			a.code, a.message = http.StatusText(a.status), ""
		}
		a.class = classOf(a)
		return a
	}
	if unsigned, is := errors.AsType[noToken](err); is {
		return unsigned
	}
	bare := reached{fmt.Sprintf("reach %s: %s", s.host, s.keys.clean(err.Error())), err}
	if network.Hopeless(err) {
		return store.Mark(bare, store.ErrFinal)
	}
	return bare
}

// message is what an answer says beside its code. What follows it, such as the text that the service has signed to compare,
// is left out, and so is the line that has the request's number.
func message(response *azcore.ResponseError) string {
	if response.RawResponse == nil || response.RawResponse.Body == nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(response.RawResponse.Body, mostAnswer)) // the client has it in memory
	var said struct {
		Message string `xml:"Message"`
	}
	if err != nil || xml.Unmarshal([]byte(strings.TrimPrefix(string(text), "\ufeff")), &said) != nil {
		return ""
	}
	first, _, _ := strings.Cut(said.Message, "\nRequestId:")
	return first
}

// classOf sorts what the service says: by codes, and what has none of these by its status.
func classOf(a *answer) error {
	switch bloberror.Code(a.code) {
	case bloberror.BlobNotFound, bloberror.ContainerNotFound, bloberror.ResourceNotFound:
		return store.ErrNotFound
	case bloberror.BlobAlreadyExists, bloberror.ConditionNotMet, "TargetConditionNotMet", bloberror.ResourceAlreadyExists:
		return store.ErrExists
	case bloberror.UnsupportedHeader, bloberror.UnsupportedQueryParameter, bloberror.UnsupportedHTTPVerb, "APINotImplemented", "NotImplemented", "FeatureNotSupported":
		return store.ErrUnsupported
	case bloberror.AuthenticationFailed, bloberror.AuthorizationFailure, bloberror.AuthorizationPermissionMismatch,
		bloberror.InvalidAuthenticationInfo, bloberror.NoAuthenticationInformation, bloberror.InsufficientAccountPermissions,
		bloberror.AccountIsDisabled:
		return store.ErrDenied
	case bloberror.ServerBusy, bloberror.InternalError, bloberror.OperationTimedOut, bloberror.ContainerBeingDeleted, bloberror.AccountBeingCreated,
		// Content that came to harm on its way.
		bloberror.MD5Mismatch, bloberror.CRC64Mismatch,
		// Blocks that somebody else's commit has discarded.
		bloberror.InvalidBlockList:
		return nil
	case "InvalidOperation":
		if strings.Contains(a.message, "contentMD5") { // Azurite's word for a mismatch
			return nil
		}
	case bloberror.BlobImmutableDueToPolicy, bloberror.InvalidBlobType, bloberror.BlobArchived, bloberror.SnapshotsPresent,
		bloberror.LeaseIDMissing, bloberror.BlockCountExceedsLimit, bloberror.ContainerDisabled:
		return store.ErrFinal
	}
	switch {
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return store.ErrDenied
	case a.status == http.StatusNotFound:
		return store.ErrNotFound
	case a.status == http.StatusPreconditionFailed:
		return store.ErrExists
	case a.status == http.StatusNotImplemented:
		return store.ErrUnsupported
	case a.status == http.StatusConflict, a.status == http.StatusRequestTimeout, a.status == http.StatusTooManyRequests,
		a.status < 300, a.status >= 500:
		return nil
	}
	return store.ErrFinal
}
