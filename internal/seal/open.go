package seal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
)

const (
	// intro begins what age encrypts.
	intro = "age-encryption.org/v1\n"
	// inBuffer is for reading headers in fewer pieces, in bytes. It is a little smaller than a piece that age decrypts,
	// which so is read past it.
	inBuffer = 64 << 10
)

// sourceError is an error of where the object comes from. It keeps it apart, through age, from what is wrong with the bytes.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// source marks the errors of a reader.
type source struct{ io.Reader }

func (s source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	return n, markSource(err)
}

// sourceAt is the same for random access.
type sourceAt struct{ io.ReaderAt }

func (s sourceAt) ReadAt(p []byte, offset int64) (int, error) {
	n, err := s.ReaderAt.ReadAt(p, offset)
	return n, markSource(err)
}

func markSource(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &sourceError{err}
}

// explain tells a source that failed from damage.
func explain(err error, offset int64) error {
	if failed, ok := errors.AsType[*sourceError](err); ok {
		return fmt.Errorf("unseal object: read: %w", failed.err)
	}
	switch {
	case errors.Is(err, io.ErrNoProgress):
		return fmt.Errorf("unseal object: read: %w", err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &Corrupt{What: "the object is cut off", Offset: offset}
	}
	// age repeats lines of the object, which may be long.
	const longest = 160
	return &Corrupt{What: fmt.Sprintf("decrypt: %.*s", longest, err), Offset: offset}
}

// content is the zstd stream of an object, decrypted where it is encrypted.
type content struct {
	r io.Reader
	n int64
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		err = explain(err, c.n)
	}
	return n, err
}

// open reads the start of an object and gives its zstd stream.
func open(src io.Reader, identities []Identity) (io.Reader, error) {
	buffered := bufio.NewReaderSize(source{src}, inBuffer)
	head, err := buffered.Peek(len(intro))
	if err != nil && err != io.EOF {
		return nil, explain(err, 0)
	}
	encrypted, err := checkHead(head, len(identities) > 0)
	if err != nil {
		return nil, err
	}
	if !encrypted {
		return &content{r: buffered}, nil
	}
	keys, err := ageIdentities(identities)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(buffered, keys...)
	if err != nil {
		return nil, explainHeader(err)
	}
	return &content{r: r}, nil
}

// openAt is the same for random access. It gives the size of the zstd stream, too.
func openAt(src io.ReaderAt, size int64, identities []Identity) (io.ReaderAt, int64, error) {
	src = sourceAt{src}
	head := make([]byte, min(max(size, 0), int64(len(intro))))
	if _, err := io.ReadFull(io.NewSectionReader(src, 0, size), head); err != nil {
		return nil, 0, explain(err, 0)
	}
	encrypted, err := checkHead(head, len(identities) > 0)
	if err != nil || !encrypted {
		return src, size, err
	}
	keys, err := ageIdentities(identities)
	if err != nil {
		return nil, 0, err
	}
	r, plain, err := age.DecryptReaderAt(src, size, keys...)
	if err != nil {
		return nil, 0, explainHeader(err)
	}
	return r, plain, nil
}

// checkHead tells from the first bytes whether an object is encrypted, and refuses one that is not as it must be.
func checkHead(head []byte, wantEncrypted bool) (encrypted bool, err error) {
	encrypted = len(head) > 0 && bytes.HasPrefix([]byte(intro), head)
	switch {
	case len(head) == 0:
		return false, &Corrupt{What: "the object is empty"}
	case encrypted && !wantEncrypted:
		return true, fmt.Errorf("unseal object: %w", ErrEncrypted)
	case !encrypted && wantEncrypted && len(head) >= 4 &&
		slices.Contains([]uint32{frameMagic, indexMagic}, binary.LittleEndian.Uint32(head)):
		return false, fmt.Errorf("unseal object: %w", ErrNotEncrypted)
	case !encrypted && wantEncrypted:
		return false, &Corrupt{What: "the object does not begin as age begins one"}
	}
	return encrypted, nil
}

// explainHeader tells what kept age from opening an object.
func explainHeader(err error) error {
	noMatch, ok := errors.AsType[*age.NoIdentityMatchError](err)
	if !ok {
		return explain(err, 0)
	}
	// The kinds come from the object, so they are quoted and not repeated at any length.
	const most, longest = 4, 32
	var kinds []string
	for _, kind := range noMatch.StanzaTypes {
		kind = fmt.Sprintf("%.*q", longest, kind)
		if !slices.Contains(kinds, kind) && len(kinds) < most {
			kinds = append(kinds, kind)
		}
	}
	return fmt.Errorf("unseal object: %w: it is encrypted to other keys, of kind %s", ErrNoIdentity, strings.Join(kinds, ", "))
}
