package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/holdfast-project/holdfast/internal/store"
)

// mostKey bounds a file with a private key, in bytes: an RSA key of 16384 bits takes 13,000.
const mostKey = 1 << 20

// errEncrypted means that a private key needs a passphrase.
type errEncrypted struct {
	file   string
	public ssh.PublicKey // nil when the file does not say
}

func (e *errEncrypted) Error() string {
	return fmt.Sprintf("private key %q is encrypted: hand it to an ssh-agent, by ssh-add %[1]q, and have SSH_AUTH_SOCK name the agent", e.file)
}

// signers are the keys to log in with, in the order in which they are offered. They may need the agent until done is
// called.
func (s *Store) signers(ctx context.Context) (keys []ssh.Signer, done func(), err error) {
	held, done := s.held(ctx)
	defer func() {
		if err != nil {
			done()
		}
	}()
	if file := s.options.IdentityFile; file != "" {
		key, err := readKey(file)
		locked, is := errors.AsType[*errEncrypted](err)
		if is && locked.public != nil {
			for _, other := range held {
				if bytes.Equal(other.PublicKey().Marshal(), locked.public.Marshal()) {
					return []ssh.Signer{other}, done, nil
				}
			}
		}
		if err != nil {
			return nil, done, store.Mark(err, store.ErrFinal)
		}
		return []ssh.Signer{key}, done, nil
	}
	keys = held
	var unusable []error
	home, err := os.UserHomeDir()
	if err != nil {
		unusable = append(unusable, err)
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		if home == "" {
			break
		}
		key, err := readKey(filepath.Join(home, ".ssh", name))
		switch {
		case err == nil:
			keys = append(keys, key)
		case !errors.Is(err, fs.ErrNotExist):
			unusable = append(unusable, err)
		}
	}
	if len(keys) == 0 {
		err := errors.New("find a key to log in with: there is none in ~/.ssh, and no ssh-agent has one")
		if len(unusable) > 0 {
			err = fmt.Errorf("find a key to log in with: %w", errors.Join(unusable...))
		}
		return nil, done, store.Mark(err, store.ErrDenied)
	}
	return keys, done, nil
}

// held are the keys of the ssh-agent; none when it cannot be asked, as it is one of several places.
func (s *Store) held(ctx context.Context) (keys []ssh.Signer, done func()) {
	if s.agent == "" {
		return nil, func() {}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.agent)
	if err != nil {
		return nil, func() {}
	}
	done = func() { _ = conn.Close() } // nothing is on its way
	if deadline, bounded := ctx.Deadline(); bounded {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, done
		}
	}
	keys, err = agent.NewClient(conn).Signers()
	if err != nil {
		return nil, done
	}
	return keys, done
}

// readKey reads a private key. As with ssh itself, others must not be able to read it when it is this user's: a file of
// somebody else, such as root, was made readable for this user on purpose.
func readKey(file string) (ssh.Signer, error) {
	opened, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular() || info.Size() > mostKey:
		return nil, fmt.Errorf("read private key: %q is no file of a key", file)
	case info.Mode().Perm()&0o077 != 0 && (!known || int(owner.Uid) == os.Getuid()):
		return nil, fmt.Errorf("read private key: %q has mode %#o, so that others may read it; run: chmod 600 %[1]q", file, info.Mode().Perm())
	}
	text := make([]byte, info.Size())
	defer clear(text)
	if _, err := opened.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if locked, is := errors.AsType[*ssh.PassphraseMissingError](err); is {
		return nil, &errEncrypted{file, locked.PublicKey}
	}
	if err != nil { // without the cause: it is about what is in the file
		return nil, fmt.Errorf("read private key: %q holds none that can be used", file)
	}
	return key, nil
}
