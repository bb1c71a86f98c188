package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
)

// askEvery is how often the repository is asked whether its owners are still the same, and whether this host may still
// sign: a few small requests.
const askEvery = 2 * time.Minute

// sealing knows to whom segments are sealed: the owners, as the repository had them last, and the merge identity of the day.
// It is safe for concurrent use.
type sealing struct {
	keys *keyring // nil without encryption
	now  func() time.Time

	mu     sync.Mutex
	owners []seal.Recipient
	asked  bool
}

// set takes note of owners.
func (s *sealing) set(owners []seal.Recipient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners, s.asked = owners, true
}

// recipients are those of a segment that is sealed now. Without a merge identity, because the disk fails say, they are the
// owners: the segment will stay unmerged, and trouble says why. Nothing here waits for the store.
func (s *sealing) recipients() (to []seal.Recipient, trouble error) {
	s.mu.Lock()
	owners := s.owners
	s.mu.Unlock()
	if s.keys == nil || len(owners) == 0 {
		return owners, nil
	}
	merge, err := s.keys.recipient(s.now(), owners[0].Kind())
	if err != nil {
		return owners, err
	}
	all := append(owners[:len(owners):len(owners)], merge)
	return all, seal.CheckRecipients(all)
}

// ask finds out who the owners are now.
func (a *archiver) ask(ctx context.Context) error {
	owners, err := a.repo.SegmentSealTo(ctx)
	if err == nil {
		a.sealing.set(owners)
	}
	return err
}

// know asks unless it is known.
func (a *archiver) know(ctx context.Context) error {
	a.sealing.mu.Lock()
	asked := a.sealing.asked
	a.sealing.mu.Unlock()
	if asked {
		return nil
	}
	return a.ask(ctx)
}

// askAgain asks from time to time until ctx ends, or gives the error of a key that may sign no more: what it would publish
// then is not believed, and keeps others from its place.
func (a *archiver) askAgain(ctx context.Context) error {
	for wait(ctx, a.askEvery) {
		err := a.ask(ctx)
		if err == nil {
			_, err = a.repo.Fresh().Enrolled(ctx, a.writer.Public().Fingerprint(), repository.RoleBackup)
		}
		switch {
		case errors.Is(err, repository.ErrRevoked), errors.Is(err, repository.ErrNotEnrolled):
			return fmt.Errorf("signing key of this host: %w", err)
		case err != nil:
			a.trouble(ctx, fmt.Errorf("ask who may read and sign: %w", err))
		}
	}
	return nil
}
