package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/seal"
)

const (
	keySuffix = ".key"
	dayLayout = time.DateOnly
	// mostKeyAge is how old a merge identity becomes, whatever was merged with it, counted from the end of its day.
	mostKeyAge = 7 * 24 * time.Hour
	// keyRest is how long after its day an identity stays at least: a segment may be being sealed to it.
	keyRest = 10 * time.Minute
)

// keyring is the folder of merge identities: secret keys in a file for each UTC day, such as 2026-11-26.key, which open the
// segments that were sealed on that day and are to be merged. It is safe for concurrent use.
type keyring struct {
	folder string

	mu   sync.Mutex
	days map[string][]seal.Identity
}

// openKeyring reads what is there. A file that cannot be used is left alone, and told by bad.
func openKeyring(folder string) (k *keyring, bad []error, err error) {
	if err := durable.MkdirAll(folder, 0o700); err != nil {
		return nil, nil, err
	}
	k = &keyring{folder: folder, days: map[string][]seal.Identity{}}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		day, is := strings.CutSuffix(e.Name(), keySuffix)
		if _, err := time.Parse(dayLayout, day); !is || err != nil {
			continue // what a crash left of a write is not named so
		}
		identities, err := seal.ReadIdentities(k.file(day))
		if err != nil {
			bad = append(bad, fmt.Errorf("merge identity of %s: %w", day, err))
		}
		k.days[day] = identities
	}
	return k, bad, nil
}

func (k *keyring) file(day string) string { return filepath.Join(k.folder, day+keySuffix) }

// recipient gives the identity of a day, by its public half. It is made when there is none of that kind yet, and is on the
// disk for good then.
func (k *keyring) recipient(now time.Time, kind seal.Kind) (seal.Recipient, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	day := now.UTC().Format(dayLayout)
	for _, identity := range k.days[day] {
		if identity.Recipient().Kind() == kind {
			return identity.Recipient(), nil
		}
	}
	fail := func(err error) (seal.Recipient, error) {
		return seal.Recipient{}, fmt.Errorf("make merge identity of %s: %w", day, err)
	}
	text, recipient, err := seal.GenerateIdentity(kind)
	if err != nil {
		return fail(err)
	}
	// The owners' kind of key may have changed in the middle of a day; then its file holds both.
	before, err := os.ReadFile(k.file(day))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	if len(k.days[day]) == 0 {
		before = nil // nothing in it can be used
	}
	if err := durable.WriteFile(k.file(day), append(before, text...), 0o600); err != nil {
		return fail(err)
	}
	identities, err := seal.ReadIdentities(k.file(day))
	if err != nil {
		return fail(err)
	}
	k.days[day] = identities
	return recipient, nil
}

// identities gives all of them.
func (k *keyring) identities() (all []seal.Identity) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, identities := range k.days {
		all = append(all, identities...)
	}
	return all
}

// oldKeys are the identities of a day that is over, and whether they are too old to be kept.
type oldKeys struct {
	day        string
	at         time.Time
	identities []seal.Identity
	expired    bool
}

// old gives the days that are over, for longer than keyRest.
func (k *keyring) old(now time.Time) (list []oldKeys) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for day, identities := range k.days {
		at, err := time.Parse(dayLayout, day)
		if age := now.Sub(at.Add(24 * time.Hour)); err == nil && age > keyRest {
			list = append(list, oldKeys{day: day, at: at, identities: identities, expired: age > mostKeyAge})
		}
	}
	return list
}

// destroy removes the identities of a day. What was sealed to them is for the owners alone from then on.
func (k *keyring) destroy(day string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.Remove(k.file(day)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("destroy merge identity of %s: %w", day, err)
	}
	if err := durable.SyncDir(k.folder); err != nil {
		return fmt.Errorf("destroy merge identity of %s: %w", day, err)
	}
	delete(k.days, day)
	return nil
}
