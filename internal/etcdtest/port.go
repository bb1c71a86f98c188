package etcdtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports come from below the range that Linux takes outgoing ports from, so that a stopped server finds its port
// still free when it starts again. They are not those that "holdfast deploy" takes, which knows nothing of reservations.
const (
	firstPort = 10000
	lastPort  = 20000
)

// ReservePort gives a free TCP port of 127.0.0.1 that no other caller gets, in any process, until the test ends.
func ReservePort(t testing.TB) int {
	t.Helper()
	port, release, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// reservePort holds a port by a Unix socket in the abstract namespace that has its number: the port itself must be
// left to the server, and the socket is gone when the process is, however it dies.
func reservePort() (port int, release func(), err error) {
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		held, err := net.Listen("unix", fmt.Sprintf("@holdfast-etcdtest-port-%d", port))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil { // somebody else's
			_ = held.Close()
			continue
		}
		if err := l.Close(); err != nil {
			return 0, nil, errors.Join(err, held.Close())
		}
		return port, func() { _ = held.Close() }, nil
	}
	return 0, nil, fmt.Errorf("reserve port: none is free in %d-%d", firstPort, lastPort)
}
