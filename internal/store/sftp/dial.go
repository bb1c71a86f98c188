package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Extensions of OpenSSH, with the version that is known here.
const (
	linkExtension = "hardlink@openssh.com"
	syncExtension = "fsync@openssh.com"
)

var (
	errRefused = store.Mark(errors.New("the server does not let this user in with these keys"), store.ErrDenied)
	errNoKeys  = store.Mark(errors.New("the server does not take keys to log in with"), store.ErrDenied)
)

// dial makes a connection, and has looked at the folder.
func (s *Store) dial() (*conn, error) {
	within := min(mostConnect, s.options.Stall)
	ctx, cancel := context.WithTimeoutCause(context.Background(), within, fmt.Errorf("it is not ready after %s", within))
	defer cancel()
	keys, done, err := s.signers(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	hosts, err := newHostKeys(s.options.KnownHosts, s.host)
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.host)
	if err != nil {
		return nil, s.reached(err)
	}
	// Nothing in the libraries below ends by itself, but with the connection.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c, err := s.handshake(raw, keys, hosts)
	if err != nil {
		_ = raw.Close() // the reason is known
	} else if err = c.inspect(ctx); err != nil {
		c.end(err)
		<-c.gone
	}
	if !stop() {
		if err == nil { // it was closed at the last moment
			c.end(context.Cause(ctx))
			<-c.gone
		}
		err = s.reached(context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// handshake makes an SFTP session of a network connection.
func (s *Store) handshake(raw net.Conn, keys []ssh.Signer, hosts *hostKeys) (*conn, error) {
	algorithms, err := hosts.algorithms()
	if err != nil {
		return nil, err
	}
	asked := false // for the keys, so that the server has shown its own
	line, channels, requests, err := ssh.NewClientConn(raw, s.host, &ssh.ClientConfig{
		User:              s.options.User,
		HostKeyCallback:   hosts.verify,
		HostKeyAlgorithms: algorithms,
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			asked = true
			return keys, nil
		})},
		// It is called after each method that did not let us in, at first after "none".
		AuthCallback: func(at *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
			switch {
			case slices.Contains(at.TriedMethods, "publickey"), slices.Contains(at.PartialSuccessMethods, "publickey"):
				return nil, errRefused
			case !slices.Contains(at.AllowedMethods, "publickey"):
				return nil, errNoKeys
			}
			return nil, nil
		},
	})
	switch {
	case err == nil:
	case hosts.refused != nil:
		return nil, s.reached(hosts.refused)
	case errors.Is(err, store.ErrDenied):
		return nil, s.reached(fmt.Errorf("log in as %q: %w", s.options.User, err))
	case asked && !isNetwork(err): // such as: too many keys
		return nil, s.reached(store.Mark(fmt.Errorf("log in as %q: %w", s.options.User, err), store.ErrDenied))
	default:
		return nil, s.reached(err)
	}
	c := &conn{store: s, raw: raw, line: line, ended: make(chan struct{}), gone: make(chan struct{}), folders: map[string]bool{}}
	if err := c.start(ssh.NewClient(line, channels, requests)); err != nil {
		_ = line.Close() // the reason is known
		c.helpers.Wait()
		return nil, s.reached(err)
	}
	return c, nil
}

// start begins the SFTP session, and what looks after it.
func (c *conn) start(client *ssh.Client) error {
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	in, inErr := session.StdinPipe()
	out, outErr := session.StdoutPipe()
	talk, talkErr := session.StderrPipe()
	if err := errors.Join(inErr, outErr, talkErr); err != nil {
		return err
	}
	if err := session.RequestSubsystem("sftp"); err != nil {
		if isNetwork(err) {
			return err
		}
		return store.Mark(fmt.Errorf("the server offers no SFTP: %w", err), store.ErrFinal)
	}
	c.helpers.Go(func() { _, _ = io.Copy(io.Discard, talk) }) // what is not read would fill the window in the end
	c.hear()
	c.client, err = sftp.NewClientPipe(&listener{out, c}, in, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true))
	if err != nil {
		return err
	}
	links, _ := c.client.HasExtension(linkExtension)
	syncs, _ := c.client.HasExtension(syncExtension)
	c.links, c.syncs = links == "1", syncs == "1"
	c.helpers.Go(func() {
		_ = c.client.Wait() // it gives no reason that means something
		c.end(errClosed)
	})
	go c.watch()
	return nil
}

// inspect looks at the folder of the store, and whether folders can be synced.
func (c *conn) inspect(ctx context.Context) error {
	root := c.store.root
	folder, err := ask(ctx, c, func() (bool, error) {
		info, err := c.client.Stat(root) // it may be a link to where the disk is
		return err == nil && info.IsDir(), err
	})
	switch {
	case errors.Is(err, store.ErrNotFound) && c.store.options.Create:
		if err := c.makeRoot(ctx, root); err != nil {
			return fmt.Errorf("make folder %q: %w", root, err)
		}
	case err != nil:
		return fmt.Errorf("look at folder %q of the store: %w", root, err)
	case !folder:
		return store.Mark(fmt.Errorf("look at folder %q of the store: it is no folder", root), store.ErrFinal)
	}
	if !c.syncs {
		return nil
	}
	err = c.syncPath(ctx, root)
	if err != nil && !isAnswer(err) {
		return err
	}
	c.syncsFolders = err == nil
	return nil
}

// makeRoot makes the folder of the store, and those above it.
func (c *conn) makeRoot(ctx context.Context, folder string) error {
	there, err := ask(ctx, c, func() (bool, error) {
		info, err := c.client.Stat(folder)
		return err == nil && info.IsDir(), err
	})
	if err == nil && there || folder == "/" {
		return err
	}
	if err := c.makeRoot(ctx, path.Dir(folder)); err != nil {
		return err
	}
	if err := c.mkdir(ctx, folder); err != nil {
		return err
	}
	// A server that cannot do this is found out later.
	if err := c.syncPath(ctx, path.Dir(folder)); err != nil && !isAnswer(err) {
		return err
	}
	return nil
}

// listener notes when the server was heard last.
type listener struct {
	io.Reader
	conn *conn
}

func (l *listener) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if n > 0 {
		l.conn.hear()
	}
	return n, err
}

func (c *conn) hear() {
	now := time.Now()
	c.heard.Store(&now)
}
