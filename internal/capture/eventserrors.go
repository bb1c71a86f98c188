package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Why events are refused, or end. Each of them may also come wrapped in a *Discontinuous, when it shows on an open stream.
var (
	// ErrAhead is that the member is not yet where the watch shall begin: etcd would wait in silence, and go on in whatever
	// history it comes to then.
	ErrAhead = errors.New("member has not come that far")
	// ErrOtherCluster is that the member belongs to another cluster than it should.
	ErrOtherCluster = errors.New("member is of another cluster")
	// ErrTermFell is that the member's raft term is lower than one that was seen: it has another life behind it.
	ErrTermFell = errors.New("raft term is lower than it was")
	// ErrSilent is that the member did not answer for as long as was waited for it.
	ErrSilent = errors.New("member does not answer")
	// ErrTooLarge is that the member sent more at once than is taken into memory.
	ErrTooLarge = errors.New("more at once than fits into memory")
	// ErrProtocol is that the member sent what no etcd sends.
	ErrProtocol = errors.New("not what an etcd member sends")
)

// Compacted is that the member dropped the revisions that the watch needs, or may have dropped parts of them.
type Compacted struct {
	// Compact is the member's compact revision. Deletes at it can be gone, so what is surely whole begins after it.
	Compact history.Revision
}

// Error names the compact revision.
func (c *Compacted) Error() string {
	return fmt.Sprintf("member is compacted at revision %s", c.Compact)
}

// Denied is that the member does not let this client watch all keys. It needs a role that may read every key.
type Denied struct {
	// Reason is etcd's own text.
	Reason string
}

// Error gives etcd's reason.
func (d *Denied) Error() string { return "member does not allow to watch all keys: " + d.Reason }

// Discontinuous is that a stream does not go on where it was. It says nothing about the history of the cluster yet: etcd has
// had errors that repeat, skip or rewind events on an open watch (its issues 15271, 17529, 18089, 20221). Another watch that begins at
// the last revision that came tells.
type Discontinuous struct {
	// Expected is the revision that should have come and Came the one that did. Where no event was wrong but the member, as Err
	// tells, Came is the revision that it says it is at.
	Expected, Came history.Revision
	// Err is ErrOtherCluster, ErrTermFell or nil.
	Err error
}

// Error names both revisions.
func (d *Discontinuous) Error() string {
	text := fmt.Sprintf("events do not go on: expected revision %s, came %s", d.Expected, d.Came)
	if d.Err != nil {
		text += ": " + d.Err.Error()
	}
	return text
}

// Unwrap gives Err.
func (d *Discontinuous) Unwrap() error { return d.Err }

// denials are etcd's texts for "you may not": a cancelled watch has only a text for a reason.
var denials = []error{rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken}

// cancelled tells why the member ended the watch by its own words.
func cancelled(reason string) error {
	const most = 200 // bytes; etcd's longest reason has 70
	for _, denial := range denials {
		if strings.HasSuffix(reason, denial.Error()) {
			return &Denied{Reason: denial.Error()}
		}
	}
	return fmt.Errorf("member cancelled the watch: %q", reason[:min(len(reason), most)])
}

// fromStatus makes our own errors of those of gRPC that somebody acts on.
func fromStatus(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch {
	case slices.ContainsFunc(denials, func(denial error) bool { return s.Message() == denial.Error() }):
		return &Denied{Reason: s.Message()}
	case s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "received message larger than max"):
		return fmt.Errorf("%w: %s", ErrTooLarge, s.Message()) // gRPC has no better sign of it than its text
	}
	return err
}
