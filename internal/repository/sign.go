package repository

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// Fingerprint names a public key: the sha256 of its 32 bytes, in 64 hexadecimal digits.
type Fingerprint string

var fingerprintPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseFingerprint reads 64 hexadecimal digits.
func ParseFingerprint(text string) (Fingerprint, error) {
	if !fingerprintPattern.MatchString(text) {
		return "", fmt.Errorf("parse fingerprint %q: want 64 lower-case hexadecimal digits", text)
	}
	return Fingerprint(text), nil
}

// Short is enough for people to tell the keys of one repository apart.
func (f Fingerprint) Short() string { return string(f[:min(len(f), 16)]) }

// PublicKey is an ed25519 public key; its text form is base64.
type PublicKey []byte

// Fingerprint names the key.
func (k PublicKey) Fingerprint() Fingerprint {
	sum := sha256.Sum256(k)
	return Fingerprint(hex.EncodeToString(sum[:]))
}

// String is the text form.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k) }

func (k PublicKey) check() error {
	if len(k) != ed25519.PublicKeySize {
		return fmt.Errorf("public key has %d bytes, want %d", len(k), ed25519.PublicKeySize)
	}
	return nil
}

// Key is an ed25519 key pair that signs.
type Key struct{ private ed25519.PrivateKey }

// NewKey makes a key.
func NewKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(nil)
	return Key{private}, err
}

// Public gives the half of the key that others check with.
func (k Key) Public() PublicKey { return PublicKey(k.private.Public().(ed25519.PublicKey)) }

// keyBlock is the PEM type of PKCS #8, which openssl reads too.
const keyBlock = "PRIVATE KEY"

// MarshalPEM gives the secret key as a PKCS #8 PEM block.
func (k Key) MarshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// ParseKey reads what MarshalPEM wrote. Its errors never hold what it was given.
func ParseKey(text []byte) (Key, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != keyBlock || len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, errors.New("read signing key: it is no PEM file with one private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, errors.New("read signing key: it cannot be decoded")
	}
	private, is := parsed.(ed25519.PrivateKey)
	if !is {
		return Key{}, errors.New("read signing key: it is not an ed25519 key")
	}
	return Key{private}, nil
}

const (
	// mostSigned bounds a signed object, in bytes. A usual manifest has 2 kB.
	mostSigned = 1 << 20
	// mostRevocation bounds a revocation: 67 bytes for each object that stays believed, 250,000 of them. An archiver signs
	// 86,400 a day, until they are merged.
	mostRevocation = 16 << 20
)

// ErrForged is the class of signed objects that cannot be believed.
var ErrForged = errors.New("not to be trusted")

// signature is the second line of a signed object.
type signature struct {
	Signer    Fingerprint `json:"signer"`
	Signature []byte      `json:"signature"`
}

// sign encodes a document and signs it.
func sign(document any, key Key) ([]byte, error) { return signUpTo(document, key, mostSigned) }

func signUpTo(document any, key Key, most int) ([]byte, error) {
	line, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	second, err := json.Marshal(signature{Signer: key.Public().Fingerprint(), Signature: ed25519.Sign(key.private, line)})
	if err != nil {
		return nil, fmt.Errorf("encode signature: %w", err)
	}
	signed := append(append(append(line, '\n'), second...), '\n')
	if len(signed) > most {
		return nil, fmt.Errorf("document has %d bytes, above the limit of %d", len(signed), most)
	}
	return signed, nil
}

// split takes a signed object apart without believing any of it. How long it may be is seen to by who reads it.
func split(signed []byte) (document []byte, s signature, err error) {
	lines := bytes.SplitAfterN(signed, []byte("\n"), 4) // one more than there may be
	if len(lines) != 3 || len(lines[2]) != 0 {
		return nil, s, fmt.Errorf("%w: it is not a document and its signature, a line each", ErrForged)
	}
	if err := decodeStrict(lines[1], &s); err != nil {
		return nil, s, fmt.Errorf("%w: its signature cannot be read: %w", ErrForged, err)
	}
	// One signature has one form, so that a signed object is what it was, byte for byte.
	if again, err := json.Marshal(s); err != nil || !bytes.Equal(again, bytes.TrimSuffix(lines[1], []byte("\n"))) {
		return nil, s, fmt.Errorf("%w: its signature is not written as it was made", ErrForged)
	}
	return bytes.TrimSuffix(lines[0], []byte("\n")), s, nil
}

// verify checks the signature of a document by a key that is trusted for it.
func verify(document []byte, s signature, by PublicKey) error {
	if s.Signer != by.Fingerprint() || !ed25519.Verify(ed25519.PublicKey(by), document, s.Signature) {
		return fmt.Errorf("%w: the signature of key %s is not right", ErrForged, s.Signer.Short())
	}
	return nil
}

// decodeStrict decodes one JSON value with known fields only.
func decodeStrict(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind it")
	}
	return nil
}
