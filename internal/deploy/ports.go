package deploy

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"

	"github.com/holdfast-project/holdfast/internal/inventory"
)

// Ports are taken from below Linux's range for outgoing connections, which would use one while its etcd restarts.
const (
	firstPort = 20000
	lastPort  = 32000
)

// portsOfProcess is how many ports apart the searches of two processes start. Between the choice of a port and the start of
// who listens on it lies a second, in which a deploy for another home must not choose the same.
const portsOfProcess = 16

// freePorts gives n addresses on loopback that nobody listens on and that no unit of the inventory has.
func freePorts(inv *inventory.Inventory, n int) ([]string, error) {
	taken := takenAddresses(inv)
	start := os.Getpid() * portsOfProcess
	var free []string
	for i := range lastPort - firstPort {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+(start+i)%(lastPort-firstPort)))
		if taken[address] || !bindable(address) {
			continue
		}
		taken[address] = true
		if free = append(free, address); len(free) == n {
			return free, nil
		}
	}
	return nil, fmt.Errorf("find free ports: fewer than %d between %d and %d", n, firstPort, lastPort)
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
