package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
)

// Kind is a kind of age key, in the word that age writes into the objects that are encrypted to it.
type Kind string

const (
	// X25519 keys are age's usual ones: age1…
	X25519 Kind = "X25519"
	// Hybrid keys hold against quantum computers too: age1pq1… Stock tools read them from age 1.3 on.
	Hybrid Kind = "mlkem768x25519"
)

// maxRecipients is what age reads: an object for more could be written and never be opened.
const maxRecipients = 1024

// Recipient is a public age key: objects are encrypted to it. It is a plain value, safe for concurrent use; the zero
// value is nobody.
type Recipient struct {
	kind Kind
	text string
	key  age.Recipient
}

// ParseRecipient reads age1… or age1pq1…
func ParseRecipient(text string) (Recipient, error) {
	text = strings.TrimSpace(text)
	switch {
	case strings.Contains(strings.ToUpper(text), "AGE-SECRET-KEY-"):
		return Recipient{}, errors.New("parse recipient: this is a secret key; its recipient, age1…, is in the comment above it in its file")
	case !strings.HasPrefix(text, "age1"):
		// It may be anything, also a secret: it is not repeated.
		return Recipient{}, errors.New("parse recipient: want age1… or age1pq1…")
	case strings.HasPrefix(text, "age1pq1"):
		key, err := age.ParseHybridRecipient(text)
		if err != nil {
			return Recipient{}, malformed(text, err)
		}
		return Recipient{kind: Hybrid, text: key.String(), key: key}, nil
	}
	key, err := age.ParseX25519Recipient(text)
	if err != nil {
		return Recipient{}, malformed(text, err)
	}
	return Recipient{kind: X25519, text: key.String(), key: key}, nil
}

// malformed says age's reason with the text once, and short: a hybrid recipient has 1,959 characters.
func malformed(text string, err error) error {
	cause := strings.TrimPrefix(err.Error(), fmt.Sprintf("malformed recipient %q: ", text))
	if len(text) > 80 {
		text = text[:20] + "…"
	}
	return fmt.Errorf("parse recipient %q: %s", text, cause)
}

// String is what ParseRecipient reads.
func (r Recipient) String() string { return r.text }

// Kind tells what kind of key it is.
func (r Recipient) Kind() Kind { return r.kind }

// KeyID is a short name of the key for lists and messages: the first 16 hexadecimal digits, 8 bytes, of the sha256 of
// its text. It tells a person's few keys apart; it proves nothing.
func (r Recipient) KeyID() string {
	sum := sha256.Sum256([]byte(r.text))
	return hex.EncodeToString(sum[:8])
}

// CheckRecipients says whether one object can be encrypted to all of them: there is at least one, none is there twice,
// and all are of one kind.
func CheckRecipients(recipients []Recipient) error {
	switch {
	case len(recipients) == 0:
		return errors.New("check recipients: there is none, so nobody could read what is encrypted")
	case len(recipients) > maxRecipients:
		return fmt.Errorf("check recipients: there are %d, and age reads objects for %d at most", len(recipients), maxRecipients)
	}
	seen := map[string]bool{}
	for _, r := range recipients {
		switch {
		case r.key == nil:
			return errors.New("check recipients: one of them is empty")
		case seen[r.text]:
			return fmt.Errorf("check recipients: %q is there twice", r.text)
		case r.kind != recipients[0].kind:
			return fmt.Errorf("check recipients: %s and %s keys do not go together: the object would be as weak as the weaker kind, "+
				"so take keys of one kind", recipients[0].kind, r.kind)
		}
		seen[r.text] = true
	}
	return nil
}

func ageRecipients(recipients []Recipient) []age.Recipient {
	keys := make([]age.Recipient, len(recipients))
	for i, r := range recipients {
		keys[i] = r.key
	}
	return keys
}
