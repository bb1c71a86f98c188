package archiver

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/member"
)

// askTimeout bounds the question for the membership to one member.
const askTimeout = 3 * time.Second

// Pool keeps a client for each member of a cluster, as the membership is when it is asked.
type Pool struct {
	own string
	tls *tls.Config

	mu      sync.Mutex
	clients []*member.Client // the one of own first
	closed  bool
}

// NewPool begins with one member, at its client URL; config may be nil for plain http. The caller closes the pool.
func NewPool(own string, config *tls.Config) (*Pool, error) {
	client, err := member.Dial(own, config)
	if err != nil {
		return nil, err
	}
	return &Pool{own: own, tls: config, clients: []*member.Client{client}}, nil
}

// errPoolClosed is that of a pool that was closed.
var errPoolClosed = errors.New("the clients of the members are closed")

// Members gives the clients, the own member's first. The first member that answers tells who the others are; while none does,
// they are those of before. Clients of members that are gone are closed. It is an archive.Members.
func (p *Pool) Members(ctx context.Context) ([]*member.Client, error) {
	p.mu.Lock()
	clients := slices.Clone(p.clients)
	p.mu.Unlock()
	for _, client := range clients {
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		members, err := client.KnownMembers(ask)
		cancel()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil {
			return p.follow(members)
		}
	}
	return clients, nil // whoever reads from them will say what is wrong
}

// follow dials who is new, and closes who is gone.
func (p *Pool) follow(members []member.Member) ([]*member.Client, error) {
	wanted := []string{p.own}
	for _, m := range members {
		// One without a URL has not started yet; the own one may be known by any of its URLs.
		if len(m.ClientURLs) > 0 && !slices.Contains(m.ClientURLs, p.own) {
			wanted = append(wanted, m.ClientURLs[0])
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errPoolClosed
	}
	var next []*member.Client
	for _, url := range wanted {
		i := slices.IndexFunc(p.clients, func(c *member.Client) bool { return c.Endpoint() == url })
		if i >= 0 {
			next = append(next, p.clients[i])
			continue
		}
		client, err := member.Dial(url, p.tls)
		if err != nil {
			continue // its URL is none; the others can be read
		}
		next = append(next, client)
	}
	for _, client := range p.clients {
		if !slices.Contains(next, client) {
			_ = client.Close() // nothing was written through it
		}
	}
	p.clients = next
	return slices.Clone(next), nil
}

// Close closes all clients.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed []error
	for _, client := range p.clients {
		failed = append(failed, client.Close())
	}
	p.clients, p.closed = nil, true
	return errors.Join(failed...)
}
