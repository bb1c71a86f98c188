package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Recipients is the root key's word to whom data is encrypted from now on. They are numbered from 1; the highest counts, and
// without one it is the repository's own document.
type Recipients struct {
	Format     string    `json:"format"`
	Repository string    `json:"repository"`
	Number     int       `json:"number"`
	Recipients []string  `json:"recipients"`
	Made       time.Time `json:"made"`
}

// mostRecipientChanges bounds how many changes are looked for: each is a request.
const mostRecipientChanges = 10_000

func recipientsName(number int) string { return fmt.Sprintf("%s%08d.json", recipientsFolder, number) }

// Recipients gives to whom data is encrypted now, in age's form; nil without encryption. It asks the store for each number
// in turn, as a listing may lag behind.
func (r *Repository) Recipients(ctx context.Context) ([]string, error) {
	texts, _, err := r.currentRecipients(ctx)
	return texts, err
}

func (r *Repository) currentRecipients(ctx context.Context) (texts []string, number int, err error) {
	texts = r.document.Recipients
	if r.document.Encryption == None {
		return nil, 0, nil
	}
	for number = 0; number < mostRecipientChanges; number++ {
		name := recipientsName(number + 1)
		signed, err := readSmall(ctx, r.store, name)
		if errors.Is(err, store.ErrNotFound) {
			return texts, number, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read recipients: %w", err)
		}
		var v Recipients
		if err := r.openRootSigned(signed, recipientsFormat, &v); err != nil {
			return nil, 0, fmt.Errorf("recipients %q: %w", name, err)
		}
		if v.Repository != r.document.Repository || v.Number != number+1 {
			return nil, 0, fmt.Errorf("recipients %q: %w: they do not belong there", name, ErrForged)
		}
		texts = v.Recipients
	}
	return nil, 0, fmt.Errorf("recipients were changed more than %d times", mostRecipientChanges)
}

// SealTo gives the recipients that new data is encrypted to; nil without encryption.
func (r *Repository) SealTo(ctx context.Context) ([]seal.Recipient, error) {
	texts, err := r.Recipients(ctx)
	if err != nil || r.document.Encryption == None {
		return nil, err
	}
	return parseRecipients(texts)
}

func parseRecipients(texts []string) ([]seal.Recipient, error) {
	var list []seal.Recipient
	for _, text := range texts {
		recipient, err := seal.ParseRecipient(text)
		if err != nil {
			return nil, err
		}
		list = append(list, recipient)
	}
	return list, seal.CheckRecipients(list)
}

// ErrNoEncryption means that a repository without encryption has no recipients.
var ErrNoEncryption = errors.New("the repository is without encryption")

// SetRecipients changes to whom data is encrypted from now on. What is stored already is not touched: it stays readable for
// those who could read it, and only for them.
func (r *Repository) SetRecipients(ctx context.Context, root Key, change func(now []string) ([]string, error)) error {
	fail := func(err error) error { return fmt.Errorf("change recipients: %w", err) }
	if err := r.checkRoot(root); err != nil {
		return fail(err)
	}
	if r.document.Encryption == None {
		return fail(ErrNoEncryption)
	}
	now, number, err := r.currentRecipients(ctx)
	if err != nil {
		return fail(err)
	}
	next, err := change(slices.Clone(now))
	if err != nil {
		return fail(err)
	}
	if _, err := parseRecipients(next); err != nil {
		return fail(err)
	}
	signed, err := sign(Recipients{
		Format: recipientsFormat, Repository: r.document.Repository, Number: number + 1, Recipients: next,
		Made: time.Now().UTC().Truncate(time.Second),
	}, root)
	if err != nil {
		return fail(err)
	}
	if _, err := store.PutBytes(ctx, r.store, recipientsName(number+1), signed, store.PutOptions{}); err != nil {
		return fail(err) // ErrExists: somebody else was faster, and knows other recipients
	}
	return nil
}
