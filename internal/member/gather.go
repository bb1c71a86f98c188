package member

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
)

const (
	// gatherTime is how long a gathering connection lets messages come before it looks again. Each look wakes several threads,
	// which costs more than all else that is done with a small message; whoever gathers does not mind to get it so much later.
	gatherTime = 20 * time.Millisecond
	// gatherBytes is how much one look takes. A connection that gave as much is looked at again at once.
	gatherBytes = 64 << 10
	// eagerTime is how long a new connection does not gather: until then it is being set up, in many small steps.
	eagerTime = time.Second
)

// Gathering gives another client of the same member, for a stream of many small messages that may come some milliseconds late:
// it reads from the network at most 50 times a second, unless there is much to read. The caller closes it. Where the environment
// has a proxy for the member it does not gather, as the way through a proxy is not its own.
func (c *Client) Gathering() (*Client, error) {
	if proxied(c.endpoint) {
		return Dial(c.endpoint, c.config)
	}
	return dialWith(c.endpoint, c.config, grpc.WithContextDialer(dialGathering))
}

// proxied tells whether the environment wants a proxy between here and an endpoint.
func proxied(endpoint string) bool {
	target, err := url.Parse(endpoint)
	if err != nil {
		return true // whatever it is, it is no case for this
	}
	// gRPC asks for the proxy of https in any case.
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: target.Host}})
	return proxy != nil || err != nil
}

func dialGathering(ctx context.Context, address string) (net.Conn, error) {
	network := "tcp"
	if path, is := strings.CutPrefix(address, "unix:"); is {
		network, address = "unix", strings.TrimPrefix(path, "//")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connect to member: %w", err)
	}
	return &gathering{Conn: conn, opened: time.Now(), buffer: make([]byte, gatherBytes)}, nil
}

// gathering is a connection that is read now and then.
type gathering struct {
	net.Conn
	opened time.Time

	// What follows belongs to the one goroutine that reads.
	buffer []byte
	rest   []byte // of buffer, what was not taken yet
	// looked is when the last look ended. more tells that it found as much as it could take.
	looked time.Time
	more   bool
}

// Read gives what there is, after a pause when the last look was a short while ago and left nothing.
func (g *gathering) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		if now := time.Now(); !g.more && now.Sub(g.opened) > eagerTime {
			time.Sleep(gatherTime - now.Sub(g.looked)) // not at all when that is over
		}
		n, err := g.Conn.Read(g.buffer)
		g.looked, g.more = time.Now(), n == len(g.buffer)
		if n == 0 {
			return 0, err
		}
		g.rest = g.buffer[:n] // an error comes again
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}
