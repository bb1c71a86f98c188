package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"time"

	"github.com/pkg/sftp"

	"github.com/holdfast-project/holdfast/internal/store"
)

// errLost marks errors after which nobody knows whether the server did what it was asked for.
var errLost = errors.New("the connection was lost")

var errClosed = errors.New("the server closed it")

// mostMessage bounds what is repeated of a server's words, in bytes.
const mostMessage = 300

// Codes of answers, as in draft-ietf-secsh-filexfer-13. OpenSSH knows those up to 8 only.
const (
	codeNoFile      = 2
	codeDenied      = 3
	codeFailure     = 4
	codeBadMessage  = 5
	codeNotConn     = 6
	codeConnLost    = 7
	codeUnsupported = 8
	codeNoPath      = 10
	codeExists      = 11
	codeReadOnly    = 12
	codeNoSpace     = 14
	codeQuota       = 15
)

// answer is a refusal by the server.
type answer struct {
	code  uint32
	text  string
	class error // nil when another try may help
}

// Error shows what the server says.
func (a *answer) Error() string { return "the server says " + a.text }

func (a *answer) Unwrap() error { return a.class }

// isAnswer tells whether an error is a refusal with one of the codes; with any when none is given.
func isAnswer(err error, codes ...uint32) bool {
	a, is := errors.AsType[*answer](err)
	if !is {
		return false
	}
	for _, code := range codes {
		if a.code == code {
			return true
		}
	}
	return len(codes) == 0
}

// classOf sorts what servers say. A failure without a reason, which is OpenSSH's word for a full disk and much else, may
// pass.
func classOf(code uint32) error {
	switch code {
	case codeNoFile, codeNoPath:
		return store.ErrNotFound
	case codeDenied, codeReadOnly:
		return store.ErrDenied
	case codeFailure:
		return nil
	}
	return store.ErrFinal
}

// explain puts an error of the client into the store's words and classes. Whatever is no answer ends the connection.
func (c *conn) explain(err error) error {
	if err == nil || isAnswer(err) {
		return err
	}
	status, is := errors.AsType[*sftp.StatusError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &answer{codeNoFile, "that there is no such file", store.ErrNotFound}
	case errors.Is(err, fs.ErrPermission):
		return &answer{codeDenied, "permission denied", store.ErrDenied}
	case is && status.Code != codeNotConn && status.Code != codeConnLost:
		text := status.Error() // it is quoted
		return &answer{status.Code, text[:min(len(text), mostMessage)], classOf(status.Code)}
	}
	if is || errors.Is(err, io.EOF) || errors.Is(err, sftp.ErrSSHFxConnectionLost) {
		err = errClosed
	}
	c.end(err)
	return fmt.Errorf("reach %s: %w: %w", c.store.host, errLost, c.cause())
}

// reached puts an error of the making of a connection into the store's words.
func (s *Store) reached(err error) error {
	err = fmt.Errorf("reach %s: %w", s.host, err)
	if dns, is := errors.AsType[*net.DNSError](err); is && dns.IsNotFound {
		return store.Mark(err, store.ErrFinal)
	}
	return err
}

// isNetwork tells whether an error is one of a connection, and not of what was said on it.
func isNetwork(err error) bool {
	_, is := errors.AsType[net.Error](err)
	return is || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// grace gives a context that ends some time after ctx does, or by the function: for what must not be left half done.
func grace(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(graceTime):
		case <-late.Done():
		}
		cancel(context.Cause(ctx))
	})
	return late, func() {
		stop()
		cancel(context.Canceled)
	}
}
