package seal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
)

// maxIdentityFile is far more than any number of keys that somebody has, in bytes.
const maxIdentityFile = 1 << 20

// Identity is a secret age key: it opens what is encrypted to its recipient. It is a plain value, safe for concurrent
// use, and no way of printing it gives the secret. The zero value opens nothing and is refused.
type Identity struct {
	recipient Recipient
	secret    age.Identity
}

// Recipient is the public half.
func (i Identity) Recipient() Recipient { return i.recipient }

// String names the key by its public half.
func (i Identity) String() string { return "identity of " + i.recipient.KeyID() }

// Format is for every verb what String is: %+v and %#v would print the secret.
func (i Identity) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, i.String()) }

// parseIdentity reads one secret key. Its error never has a part of the text.
func parseIdentity(text string) (Identity, error) {
	switch {
	case strings.HasPrefix(text, "AGE-SECRET-KEY-1"):
		key, err := age.ParseX25519Identity(text)
		if err != nil {
			return Identity{}, errors.New("is a damaged secret key")
		}
		recipient, err := ParseRecipient(key.Recipient().String())
		return Identity{recipient, key}, err
	case strings.HasPrefix(text, "AGE-SECRET-KEY-PQ-1"):
		key, err := age.ParseHybridIdentity(text)
		if err != nil {
			return Identity{}, errors.New("is a damaged secret key")
		}
		recipient, err := ParseRecipient(key.Recipient().String())
		return Identity{recipient, key}, err
	case strings.HasPrefix(text, "age-encryption.org/"), strings.HasPrefix(text, "-----BEGIN AGE"):
		return Identity{}, errors.New("begins encrypted data: decrypt the file with age -d first")
	}
	return Identity{}, errors.New("is no secret key as age-keygen makes them, AGE-SECRET-KEY-…")
}

// ReadIdentities reads a file in the form that age-keygen writes: secret keys in lines, comments, empty lines. It must be
// a regular file that only its owner has rights to, or others may have read the keys already.
func ReadIdentities(file string) (identities []Identity, err error) {
	// O_NONBLOCK is for a named pipe, which would wait for a writer and is refused anyway.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, fmt.Errorf("read identities %q: it is no regular file", file)
	case mode.Perm()&0o077 != 0:
		return nil, fmt.Errorf("read identities %q: others have rights to it, its mode is %#o: type: chmod 600 %s", file, mode.Perm(), shellWord(file))
	case info.Size() > maxIdentityFile:
		return nil, fmt.Errorf("read identities %q: it has %d bytes, a file of keys has %d at most", file, info.Size(), maxIdentityFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxIdentityFile))
	if err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	scanner := bufio.NewScanner(bytes.NewReader(text))
	scanner.Buffer(nil, maxIdentityFile+1)
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		identity, err := parseIdentity(line)
		if err != nil {
			return nil, fmt.Errorf("read identities %q: line %d %w", file, number, err)
		}
		identities = append(identities, identity)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read identities %q: %w", file, err)
	}
	if len(identities) == 0 {
		return nil, fmt.Errorf("read identities %q: it has no secret key", file)
	}
	return identities, nil
}

// shellWord makes a file name one word for a shell.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("/._-+:@,", r)
	}
	if s != "" && !strings.HasPrefix(s, "-") && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	if strings.HasPrefix(s, "-") {
		s = "./" + s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// GenerateIdentity makes a new key. The text is the whole content of a file as age-keygen writes it, and secret.
func GenerateIdentity(kind Kind) (text string, recipient Recipient, err error) {
	var secret, public string
	switch kind {
	case X25519:
		key, err := age.GenerateX25519Identity()
		if err != nil {
			return "", Recipient{}, fmt.Errorf("generate identity: %w", err)
		}
		secret, public = key.String(), key.Recipient().String()
	case Hybrid:
		key, err := age.GenerateHybridIdentity()
		if err != nil {
			return "", Recipient{}, fmt.Errorf("generate identity: %w", err)
		}
		secret, public = key.String(), key.Recipient().String()
	default:
		return "", Recipient{}, fmt.Errorf("generate identity: unknown kind %q, want %q or %q", kind, X25519, Hybrid)
	}
	if recipient, err = ParseRecipient(public); err != nil {
		return "", Recipient{}, fmt.Errorf("generate identity: %w", err)
	}
	text = fmt.Sprintf("# created: %s\n# public key: %s\n%s\n", time.Now().UTC().Format(time.RFC3339), public, secret)
	return text, recipient, nil
}

func ageIdentities(identities []Identity) ([]age.Identity, error) {
	keys := make([]age.Identity, len(identities))
	for i, identity := range identities {
		if identity.secret == nil {
			return nil, errors.New("unseal object: one of the identities is empty")
		}
		keys[i] = identity.secret
	}
	return keys, nil
}
