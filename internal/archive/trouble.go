package archive

import (
	"context"
	"errors"
)

// Part is what of an archiver's work trouble keeps from going on. Each goes on by itself, and says so by itself: that segments
// are stored says nothing of whether the cluster is read.
type Part string

// The parts.
const (
	// Beginning is that leave to write is not there yet.
	Beginning Part = "beginning"
	// Reading is that the cluster is not read.
	Reading Part = "reading"
	// Covering is that the snapshot was not taken without which what is read does not count.
	Covering Part = "covering"
	// Storing is that what was read does not get into the repository, or a sign of life.
	Storing Part = "storing"
	// Beside is what the archive goes on without. Nobody tells when it is over.
	Beside Part = "beside"
)

// ail tells of trouble.
func (a *archiver) ail(part Part, err error) {
	if part != Beside {
		a.mu.Lock()
		if a.ill == nil {
			a.ill = map[Part]bool{}
		}
		a.ill[part] = true
		a.mu.Unlock()
	}
	a.Observe(Event{Trouble: err, Part: part})
}

// well tells that parts go on, of which there was trouble.
func (a *archiver) well(parts ...Part) {
	for _, part := range parts {
		a.mu.Lock()
		was := a.ill[part]
		delete(a.ill, part)
		a.mu.Unlock()
		if was {
			a.Observe(Event{Well: part})
		}
	}
}

// trouble tells of what the archive goes on without, unless the end of ctx is why.
func (a *archiver) trouble(ctx context.Context, err error) {
	if ctx.Err() == nil {
		a.ail(Beside, err)
	}
}

// notCovered is that a snapshot which is awaited was not taken.
type notCovered struct{ err error }

func (n *notCovered) Error() string { return n.err.Error() }
func (n *notCovered) Unwrap() error { return n.err }

// partOf is what an error of a watch is about.
func partOf(err error) Part {
	if _, is := errors.AsType[*notCovered](err); is {
		return Covering
	}
	return Reading
}
