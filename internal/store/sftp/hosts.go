package sftp

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/holdfast-project/holdfast/internal/store"
)

// hostKeys knows which keys the server may have.
type hostKeys struct {
	file, host string
	check      ssh.HostKeyCallback
	// refused is why the server's key was not taken. It is set while the connection is made, by one goroutine.
	refused error
}

// newHostKeys reads the file of known hosts. One that is missing knows none.
func newHostKeys(file, host string) (*hostKeys, error) {
	check, err := knownhosts.New(file)
	if errors.Is(err, fs.ErrNotExist) {
		check, err = knownhosts.New()
	}
	if err != nil {
		return nil, store.Mark(fmt.Errorf("read known hosts: %w", err), store.ErrFinal)
	}
	return &hostKeys{file: file, host: host, check: check}, nil
}

// algorithms are those of the keys that are known for the server: it may have several keys, and must show one of these. nil
// means that none is known, so that any will do to be told of.
func (h *hostKeys) algorithms() ([]string, error) {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	other, err := ssh.NewPublicKey(public) // one that no server has
	if err != nil {
		return nil, err
	}
	known, is := errors.AsType[*knownhosts.KeyError](h.check(h.host, &net.TCPAddr{}, other))
	if !is {
		return nil, nil
	}
	var names []string
	for _, want := range known.Want {
		kind := want.Key.Type()
		if kind == ssh.KeyAlgoRSA { // the key's kind is also the name of a signature with SHA-1
			names = append(names, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		names = append(names, kind)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// verify is asked for the key that a server shows.
func (h *hostKeys) verify(_ string, remote net.Addr, key ssh.PublicKey) error {
	err := h.check(h.host, remote, key)
	if err == nil {
		return nil
	}
	shown := fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
	differs, is := errors.AsType[*knownhosts.KeyError](err)
	switch {
	case is && len(differs.Want) > 0:
		want := differs.Want[0]
		err = fmt.Errorf("the server shows another host key (%s) than line %d of %q has: somebody may be in between, or the server was set up anew",
			shown, want.Line, want.Filename)
	case is:
		host, port, splitErr := net.SplitHostPort(h.host)
		if splitErr != nil {
			return splitErr
		}
		scan := "ssh-keyscan -p " + port + " " + host
		if port == defaultPort {
			scan = "ssh-keyscan " + host
		}
		err = fmt.Errorf("the server's host key (%s) is not known; when it is the right one, add this line to %q, which is of those that %q prints: %s",
			shown, h.file, scan, strings.TrimSpace(knownhosts.Line([]string{h.host}, key)))
	default:
		err = fmt.Errorf("the server's host key (%s) is not taken: %w", shown, err)
	}
	h.refused = store.Mark(err, store.ErrFinal)
	return h.refused
}
