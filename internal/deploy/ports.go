package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/holdfast-project/holdfast/internal/inventory"
)

// Ports are taken from below Linux's range for outgoing connections, which would use one while its etcd restarts.
const (
	firstPort = 20000
	lastPort  = 32000
)

// portsOfProcess is how many ports apart the searches of two processes start, so that one seldom takes those of another
// home whose units are down just now.
const portsOfProcess = 16

// listenTimeout is how long the ports of units that do not come up stay reserved. A start takes a second.
const listenTimeout = 10 * time.Second

// freePorts gives n addresses on loopback that nobody listens on and that no unit of the inventory has. They stay reserved
// until settle, or the end of this process.
func (p *Provider) freePorts(inv *inventory.Inventory, n int) ([]string, error) {
	if p.reserved == nil {
		p.reserved = map[string]io.Closer{}
	}
	taken := takenAddresses(inv)
	start := os.Getpid() * portsOfProcess
	var free []string
	for i := range lastPort - firstPort {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+(start+i)%(lastPort-firstPort)))
		if taken[address] {
			continue
		}
		// Only a port that is reserved is tried: the try would be in the way of somebody who is about to listen on it.
		reservation, err := reserve(address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reserve port: %w", err)
		}
		if !bindable(address) {
			if err := reservation.Close(); err != nil {
				return nil, fmt.Errorf("reserve port: %w", err)
			}
			continue
		}
		taken[address], p.reserved[address] = true, reservation
		if free = append(free, address); len(free) == n {
			return free, nil
		}
	}
	return nil, fmt.Errorf("find free ports: fewer than %d between %d and %d", n, firstPort, lastPort)
}

// reserve keeps a port from being chosen by another process, for another home, before somebody listens on it. It is a name
// of a socket that exists in the kernel only: once for all users of the same loopback, and gone when this process is.
func reserve(address string) (io.Closer, error) {
	return net.Listen("unix", "@holdfast/"+address)
}

// settle waits until somebody listens on every reserved port, or could have, and gives the reservations up.
func (p *Provider) settle(ctx context.Context) error {
	deadline := time.Now().Add(listenTimeout)
	for address, reservation := range p.reserved {
		for !listening(address) && time.Now().Before(deadline) {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(pollStep / 4):
			}
		}
		if err := reservation.Close(); err != nil {
			return fmt.Errorf("give up reserved port: %w", err)
		}
		delete(p.reserved, address)
	}
	return nil
}

// listening asks the kernel, because a call to the port would be a warning in somebody's log. State 0A is LISTEN.
func listening(address string) bool {
	_, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	table, err := os.ReadFile("/proc/net/tcp")
	return err == nil && regexp.MustCompile(fmt.Sprintf(`: [0-9A-F]{8}:%04X [0-9A-F]{8}:0000 0A `, number)).Match(table)
}

func takenAddresses(inv *inventory.Inventory) map[string]bool {
	taken := map[string]bool{}
	for _, application := range inv.Applications {
		for _, record := range application.Units {
			taken[record.Agent] = true
			for _, text := range append([]string{record.PeerURL}, record.ClientURLs...) {
				if parsed, err := url.Parse(text); err == nil {
					taken[parsed.Host] = true
				}
			}
		}
	}
	return taken
}

func bindable(address string) bool {
	listener, err := net.Listen("tcp", address)
	return err == nil && listener.Close() == nil
}
