// Package sftp is a store in a folder of an SSH server: an object is a file of its name.
//
// It is one of the drivers of a store; location makes it from an address. A Store is safe for concurrent use. All its calls
// share one connection, which is made when one is needed, kept for half a minute without use, and made anew when it broke.
//
// An object is written to a file in the folder ".tmp", part by part. Each part is synced before the next counts, so that a
// Put goes on at that place when the connection breaks. The whole file is then published by a hard link, which fails when
// the name is taken, also for several processes and machines; where the server has no hard links, by the rename of SFTP,
// which must refuse to replace a file, and is tried out first. Then the file's folder is synced. When the answer to the link
// was lost, a time that is set on the one name and seen on the other tells whose file is there. Folders are 0700 and files
// 0600.
//
// The server must be known by its host key: none is taken on trust. Symbolic links below the folder are not followed: what
// leads to an object is looked at once for each connection.
//
// Memory: a Put holds two parts of 16 MiB, one that is sent while the next is read; an open object 2 MiB.
//
// Not promised: that an object survives a crash of a server without fsync@openssh.com, or that its name does on one that
// does not sync folders: OpenSSH's does both. Nor host certificates, passwords, jump hosts or what else ~/.ssh/config says;
// a lock against deleting (RetainUntil is ErrUnsupported); that empty folders go away; that a killed Put leaves nothing
// behind, see Sweep.
package sftp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	// temporary is the folder of files on their way. No object has a name with a dot in front.
	temporary = ".tmp"
	// defaultPort is that of SSH.
	defaultPort = "22"
	// mostConnect bounds the making of a connection: some servers look up the name of the caller first, which takes a while.
	mostConnect = 30 * time.Second
	// idleTime is how long a connection is kept that nobody uses: the calls of one action come closer together.
	idleTime = 30 * time.Second
	// graceTime is what clean-up is given after a call has failed or its time is up.
	graceTime = 5 * time.Second
)

// Options say where a store is and how to reach it. Host, User and Path are required.
type Options struct {
	// Host is the server: HOST or HOST:PORT. An address of IPv6 is in brackets when a port follows. Without a port it is 22.
	Host string
	// User is who logs in.
	User string
	// Path is the folder on the server, absolute, and not the root folder.
	Path string
	// IdentityFile is a private key of SSH. It is the only one that is offered; when it is encrypted, the one of its public
	// key that an ssh-agent holds. "" means those of the ssh-agent that the variable SSH_AUTH_SOCK names, and then
	// ~/.ssh/id_ed25519, id_ecdsa and id_rsa as far as they are there. A file of this user that others can read is refused.
	IdentityFile string
	// KnownHosts has the keys of servers, in the form of OpenSSH; "" means ~/.ssh/known_hosts. It is read for each connection.
	KnownHosts string
	// Create makes the folder when it is missing. Without, every call is then store.ErrNotFound: a disk that is not mounted
	// must not become an empty store.
	Create bool
	// Retry is how often the steps of a Put are tried again. Reads are not: see store.Retry.
	Retry store.RetryOptions
	// Stall is how long the server may be silent while it is asked something before the connection is given up; 0 means two
	// minutes: a slow disk takes a while to sync a part. It bounds the making of a connection too, which may not take longer
	// than 30 seconds.
	Stall time.Duration
}

// Store keeps objects in a folder on a server.
type Store struct {
	options Options // with all defaults filled in
	host    string  // HOST:PORT
	root    string
	agent   string // the socket of the ssh-agent; "" when there is none

	mu sync.Mutex
	// live is the connection to use; nil when there is none. It may have broken meanwhile.
	live *conn
	// dialing is the one that is being made; nil when none is.
	dialing *dialing
	// renames tells that the server's rename is known to refuse to replace a file.
	renames bool
}

// New makes the store of a folder on a server. It does not reach for it yet, nor for the files of keys. What is wrong with
// the options is store.ErrFinal.
func New(o Options) (*Store, error) {
	s, err := newStore(o)
	if err != nil {
		return nil, fmt.Errorf("open folder %q on %q: %w", o.Path, o.Host, store.Mark(err, store.ErrFinal))
	}
	return s, nil
}

func newStore(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	host, port, err := address(o.Host)
	if err != nil {
		return nil, err
	}
	if o.KnownHosts == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("find known hosts: %w; name the file", err)
		}
		o.KnownHosts = filepath.Join(home, ".ssh", "known_hosts")
	}
	if o.Stall == 0 {
		o.Stall = 2 * time.Minute
	}
	return &Store{
		options: o, host: net.JoinHostPort(host, port), root: path.Clean(o.Path),
		// This is where ssh itself looks.
		agent: os.Getenv("SSH_AUTH_SOCK"),
	}, nil
}

// Validate names what is wrong with options, as far as that can be seen without looking anywhere.
func (o Options) Validate() error {
	var wrong []error
	if _, _, err := address(o.Host); err != nil {
		wrong = append(wrong, err)
	}
	if o.User == "" || strings.ContainsFunc(o.User, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		wrong = append(wrong, fmt.Errorf("user %q: want the name to log in with", o.User))
	}
	if !path.IsAbs(o.Path) || path.Clean(o.Path) == "/" || strings.ContainsRune(o.Path, 0) {
		wrong = append(wrong, fmt.Errorf("path %q: want an absolute one, and not the root folder", o.Path))
	}
	if o.Stall < 0 {
		wrong = append(wrong, fmt.Errorf("stall %s: it is negative", o.Stall))
	}
	return errors.Join(wrong...)
}

// address reads HOST or HOST:PORT.
func address(text string) (host, port string, err error) {
	wrong := func(why string) (string, string, error) {
		return "", "", fmt.Errorf("host %q: %s; want HOST or HOST:PORT", text, why)
	}
	host, port = text, defaultPort
	switch bare := strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"); {
	case net.ParseIP(bare) != nil: // of IPv6 too, with brackets or without
		host = bare
	case strings.Contains(text, ":"):
		if host, port, err = net.SplitHostPort(text); err != nil {
			return wrong("it cannot be read")
		}
	}
	if host == "" || strings.HasPrefix(host, "-") || strings.ContainsFunc(host, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || strings.ContainsRune(`/@,*?!"'[]`, r)
	}) {
		return wrong("it is no name of a server")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return wrong("its port is no number from 1 to 65535")
	}
	return host, port, nil
}

// path is that of something in the folder, by its name below it; "" is the folder itself.
func (s *Store) path(name string) string { return path.Join(s.root, name) }

// Close lets go of the connection, under calls that are still on their way. A later call makes a new one: whoever does not
// close a store only has it connected for half a minute more.
func (s *Store) Close() error {
	s.mu.Lock()
	dialing := s.dialing
	s.mu.Unlock()
	if dialing != nil {
		<-dialing.done
	}
	s.mu.Lock()
	c := s.live
	s.live = nil
	s.mu.Unlock()
	if c != nil {
		c.end(errors.New("the store was closed"))
		<-c.gone
	}
	return nil
}
